"""
Accuracy of the core program's default solver on every kind of game, beside Clarabel.

    python -m benchmarks.credit.accuracy

prints one row per number of agents, kind of game and variance weight (0 is the least core), and writes them to
``benchmarks/results/credit_accuracy.csv``. Every figure is the worst over the games of a row:

- ``efficiency``: how far the credits are from summing to the grand value, and ``feasibility``: what the worst-off coalition
  lacks beyond epsilon; both relative to the largest number in the game;
- ``gap``: the certified duality gap, relative to the largest excess at the equal split;
- ``above_reference``: the objective less Clarabel's, relative to the same. Negative where Clarabel's is the higher one. Both
  are evaluated at the credits with the least epsilon they need;
- ``unconverged``: samples whose certificate missed the solver's tolerance.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import clarabel
import numpy as np
import torch as th
from matplotlib.axes import Axes
from scipy import sparse

from benchmarks.credit.games import GAMES
from benchmarks.tools.folders import RESULTS
from sb3_cora.credit import all_coalitions, allocate, draw_coalitions
from sb3_cora.zoo import tables

TARGET = 1e-9
N_GAMES = 20_000
WEIGHTS = (0.0, 1e-3, 0.1, 1.0, 10.0)
SIZES: dict[int, int | None] = {2: None, 3: None, 4: None, 6: None, 8: None, 10: 100, 20: 200}
"""Number of agents, and how many coalitions are sampled; all of them where ``None``."""

FIGURES = ("efficiency", "feasibility", "gap", "above_reference")
FORMATS = {**dict.fromkeys(FIGURES, ".1e"), "variance_weight": ""}
"""Measured figures to two digits, which is what they are good for."""


class Row(NamedTuple):
    """One line of the table; see the top of this file."""

    game: str
    n_agents: int
    n_coalitions: int
    variance_weight: float
    n_games: int
    efficiency: float
    feasibility: float
    gap: float
    unconverged: int
    n_references: int
    above_reference: float

    def misses_target(self) -> bool:
        """
        :return: Whether any figure is worse than ``TARGET``
        """
        return self.unconverged > 0 or not all(getattr(self, figure) <= TARGET for figure in FIGURES)


class Worst(NamedTuple):
    """
    The worst figures of one kind of game over all numbers of agents and weights; see the top of this file.
    """

    game: str
    n_games: int
    efficiency: float
    feasibility: float
    gap: float
    unconverged: int
    n_references: int
    above_reference: float


def clarabel_deviations(excesses: np.ndarray, masks: np.ndarray, variance_weight: float) -> np.ndarray | None:
    """
    Solve one core program in reduced form (see ``CoreSolver``) with Clarabel at tolerance 1e-12.

    :param excesses: ``(n_coalitions,)``, of order one
    :param masks: ``(n_coalitions, n_agents)``
    :param variance_weight: Positive
    :return: What each agent gets beyond the equal share ``(n_agents,)``; ``None`` where Clarabel gives up
    """
    n_coalitions, n_agents = masks.shape
    quadratic = sparse.diags(np.append(np.full(n_agents, 2 * variance_weight / n_agents), 0.0), format="csc")
    linear = np.append(np.zeros(n_agents), 1.0)
    equality = np.append(np.ones(n_agents), 0.0)[None]
    rationality = -np.concatenate([masks, np.ones((n_coalitions, 1))], axis=1)
    bound = -linear[None]
    constraints = sparse.csc_matrix(np.concatenate([equality, rationality, bound]))
    right_hand_side = np.concatenate([[0.0], -excesses, [0.0]])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n_coalitions + 1)]
    solution = clarabel.DefaultSolver(quadratic, linear, constraints, right_hand_side, cones, settings).solve()
    if str(solution.status) not in ("Solved", "AlmostSolved"):
        return None
    deviations = np.array(solution.x)[:n_agents]
    return deviations - deviations.mean()


def measure(name: str, masks: th.Tensor, variance_weight: float, n_games: int, n_references: int, seed: int = 0) -> Row:
    """
    Solve games of one kind and compare the first of them to Clarabel.

    :param name: Key of ``GAMES``
    :param masks: Boolean ``(n_coalitions, n_agents)``
    :param variance_weight: 0 for the least core
    :param n_games: How many games to solve
    :param n_references: How many of them to solve again with Clarabel
    :param seed: Of the games
    :return: The row of the table
    """
    n_coalitions, n_agents = masks.shape
    members = masks.numpy().astype(float)
    values, grand_value = GAMES[name](np.random.default_rng(seed), n_games, masks.numpy())
    result = allocate(th.from_numpy(values), masks, th.from_numpy(grand_value), variance_weight=variance_weight, check=False)
    credits, epsilon, gap = result.credits.numpy(), result.epsilon.numpy(), result.gap.numpy()

    largest = np.maximum(np.abs(values).max(axis=1), np.abs(grand_value))
    largest[largest == 0] = 1
    excesses = values - members.sum(axis=1) * grand_value[:, None] / n_agents
    size = excesses.max(axis=1).clip(min=0)
    size[size == 0] = 1

    def objective(deviations: np.ndarray, sample: int, weight: float) -> float:
        lacking = (excesses[sample] / size[sample] - members @ deviations).max()
        return max(0.0, lacking) + weight * (deviations**2).mean()

    above_reference, n_compared = -np.inf, 0
    for sample in range(n_references):
        weight = max(variance_weight * size[sample], 1e-3)
        reference = clarabel_deviations(excesses[sample] / size[sample], members, weight)
        if reference is not None:
            deviations = (credits[sample] - grand_value[sample] / n_agents) / size[sample]
            n_compared += 1
            above_reference = max(
                above_reference, objective(deviations, sample, weight) - objective(reference, sample, weight)
            )
    return Row(
        game=name,
        n_agents=n_agents,
        n_coalitions=n_coalitions,
        variance_weight=variance_weight,
        n_games=n_games,
        efficiency=float((np.abs(credits.sum(axis=1) - grand_value) / largest).max()),
        feasibility=float(((values - credits @ members.T - epsilon[:, None]) / largest[:, None]).max()),
        gap=float((gap / size).max()),
        unconverged=int((~result.converged.numpy()).sum()),
        n_references=n_compared,
        above_reference=float(above_reference),
    )


def rows(quick: bool, n_games: int, n_references: int) -> Iterator[Row]:
    """
    :param quick: Few small games, for tests
    :param n_games: Games a row
    :param n_references: How many of them are solved by Clarabel too
    :return: The rows of the table
    """
    sizes = SIZES
    if quick:
        sizes, n_games, n_references = {3: None}, 50, 3
    for n_agents, n_coalitions in sizes.items():
        if n_coalitions is None:
            masks = all_coalitions(n_agents)
        else:
            masks = draw_coalitions(n_agents, n_coalitions, generator=th.Generator().manual_seed(0)).masks
        for name in GAMES:
            for variance_weight in WEIGHTS:
                yield measure(name, masks, variance_weight, n_games, min(n_games, n_references))


def worst(rows: Sequence[Row]) -> list[Worst]:
    """
    :param rows: Of the table
    :return: A row for each kind of game
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


def plot(rows: Sequence[Row], axes: Axes) -> None:
    """
    Plot the worst figures of every kind of game; one of rounding's size or better stands at the lower end.

    :param rows: Of the table
    :param axes: Where to plot
    """
    table = worst(rows)
    for number, name in enumerate(FIGURES):
        places = [place + 0.2 * (number - 1.5) for place in range(len(table))]
        axes.bar(places, [max(getattr(row, name), 1e-17) for row in table], 0.19, label=name.replace("_", " "))
    axes.axhline(TARGET, color="black", linestyle="--", label="target")
    axes.set_xticks(range(len(table)), [row.game.replace("_", " ") for row in table], rotation=40, ha="right")
    n_games = sum(row.n_games for row in table)
    axes.set(title=f"Accuracy, worst of {n_games} programs", ylabel="relative to the game", yscale="log", ylim=(None, 1e-6))
    axes.legend(fontsize=7, ncols=3)


def main() -> None:
    """Print the table, write it, and say which rows miss the target."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.credit.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-games", type=int, default=N_GAMES, help="games a row")
    parser.add_argument("--n-references", type=int, default=200, help="games a row that Clarabel solves too")
    parser.add_argument("--output", type=Path, default=RESULTS / "credit_accuracy.csv", help="where the CSV goes")
    args = parser.parse_args()

    table: list[Row] = []
    for _, group in groupby(rows(False, args.n_games, args.n_references), attrgetter("n_agents")):
        of_size = list(group)
        tables.show(of_size, FORMATS, note=lambda row: "  MISSES TARGET" if row.misses_target() else "")
        table += of_size
        # Each time, so that whatever stops the benchmark leaves what it has measured
        tables.write(table, args.output, FORMATS)
    missed = [row for row in table if row.misses_target()]
    print(
        f"{sum(row.n_games for row in table)} programs solved, {sum(row.n_references for row in table)} of them compared to "
        f"Clarabel, {len(missed)} of {len(table)} rows miss the target of {TARGET:g}. Written to {args.output}."
    )


if __name__ == "__main__":
    main()
