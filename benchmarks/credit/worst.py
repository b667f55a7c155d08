"""Worst figures of the core program's solver by kind of game; ``accuracy`` measures them."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes

from benchmarks.credit import accuracy
from benchmarks.credit.accuracy import Row

FIGURES = ("efficiency", "feasibility", "gap", "above_reference")
QUICK_TABLES = {3: None}


class Worst(NamedTuple):
    """
    The worst figures of one kind of game over all numbers of agents and weights; see ``accuracy`` for what they are.
    """

    game: str
    n_games: int
    efficiency: float
    feasibility: float
    gap: float
    unconverged: int
    n_references: int
    above_reference: float


def rows(quick: bool, n_games: int, n_references: int) -> Iterator[Row]:
    """
    :param quick: few small games, for tests
    :param n_games: games a row
    :param n_references: how many of them are solved by Clarabel too
    :return: the rows of the table
    """
    if quick:
        yield from accuracy.rows(50, 3, QUICK_TABLES)
    else:
        yield from accuracy.rows(n_games, n_references)


def worst(rows: Sequence[Row]) -> list[Worst]:
    """
    :param rows: of the table
    :return: a row for each kind of game
    """
    kinds = {game: [row for row in rows if row.game == game] for game in dict.fromkeys(row.game for row in rows)}
    return [
        Worst(
            game=game,
            n_games=sum(row.n_games for row in members),
            unconverged=sum(row.unconverged for row in members),
            n_references=sum(row.n_references for row in members),
            **{name: max(getattr(row, name) for row in members) for name in FIGURES},
        )
        for game, members in kinds.items()
    ]


def write(rows: Sequence[Row], path: Path) -> None:
    """
    Write the rows, unless there are fewer games in them than a full run has: the file is to stay that of a full run.

    :param rows: of the table
    :param path: the CSV file
    """
    if rows[0].n_games < accuracy.N_GAMES:
        print(f"Not written, because a full run has {accuracy.N_GAMES} games a row.")
        return
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(row.written() for row in rows)


def draw(rows: Sequence[Row], axes: Axes) -> None:
    """
    Draw the worst figures of every kind of game; one of rounding's size or better stands at the lower end.

    :param rows: of the table
    :param axes: where to draw
    """
    table = worst(rows)
    for number, name in enumerate(FIGURES):
        places = [place + 0.2 * (number - 1.5) for place in range(len(table))]
        axes.bar(places, [max(getattr(row, name), 1e-17) for row in table], 0.19, label=name.replace("_", " "))
    axes.axhline(accuracy.TARGET, color="black", linestyle="--", label="target")
    axes.set_xticks(range(len(table)), [row.game.replace("_", " ") for row in table], rotation=40, ha="right")
    n_games = sum(row.n_games for row in table)
    axes.set(title=f"Accuracy, worst of {n_games} programs", ylabel="relative to the game", yscale="log", ylim=(None, 1e-6))
    axes.legend(fontsize=7, ncols=3)
