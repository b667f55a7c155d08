"""
Bad input at random: games through ``allocate``, and joint environments through ``check_joint_env`` and every algorithm.

    python -m benchmarks.fuzz --games 100000 --envs 300 --seed 0

Counts of answers and refusals go to ``benchmarks/results/fuzz.csv`` block by block, and the same command goes on behind the
last one. Each defect is printed with the number of its call, by which ``play`` of ``games.py`` or ``envs.py`` repeats it. It
exits
with an error if there is one.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch as th

from benchmarks.fuzz import envs, games
from benchmarks.fuzz.outcomes import Outcome
from benchmarks.tools.folders import RESULTS
from sb3_cora.zoo import tables

GAME_CALLS, ENVS = 2000, 50
"""Size of a block: calls of ``allocate``, each with up to 30 games, and environments."""


class Row(NamedTuple):
    """
    What a block has come to; see ``Outcome``.

    :param part: ``"games"`` or ``"envs"``.
    :param seed: Of the fuzz.
    :param last: Number of the block's last call or environment.
    :param outcome: See ``Outcome``, as the next three.
    :param kind: See above.
    :param n_cases: See above. Of environments one for the check and one for each algorithm.
    :param worst: See above.
    """

    part: str
    seed: int
    last: int
    outcome: str
    kind: str
    n_cases: int
    worst: float


def block(part: str, seed: int, first: int, last: int, play: Callable[[int, int], Iterator[Outcome]]) -> list[Row]:
    """
    :param part: ``"games"`` or ``"envs"``.
    :param seed: Of the fuzz.
    :param first: Number of the first call or environment.
    :param last: Of the last.
    :param play: What plays one.
    :return: The rows.
    """
    rows: dict[tuple[str, str], Row] = {}
    for call in range(first, last + 1):
        for found in play(seed, call):
            if found.outcome == "defect":
                print(f"DEFECT {found.kind}", flush=True)
            before = rows.get(found[:2], Row(part, seed, last, found.outcome, found.kind, 0, 0.0))
            n_cases, worst = before.n_cases + found.n_cases, max(before.worst, found.worst)
            rows[found[:2]] = before._replace(n_cases=n_cases, worst=worst)
    return sorted(rows.values())


def totals(rows: list[Row]) -> list[Row]:
    """
    :param rows: Of the table.
    :return: The same, all blocks of a part and seed together.
    """
    found: dict[tuple[str, int, str, str], Row] = {}
    for row in rows:
        key = (row.part, row.seed, row.outcome, row.kind)
        before = found.get(key, row._replace(n_cases=0, worst=0.0))
        found[key] = row._replace(n_cases=before.n_cases + row.n_cases, worst=max(before.worst, row.worst))
    return sorted(found.values())


def main() -> None:
    """Play as many games and environments as the table lacks, and show what all have come to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", type=int, default=0, help="games, in blocks of calls")
    parser.add_argument("--envs", type=int, default=0, help="environments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "fuzz.csv", help="where the CSV goes")
    args = parser.parse_args()
    th.set_num_threads(1)

    rows = [row for row in tables.read(Row, args.output) if row.seed == args.seed]

    def last(part: str) -> int:
        return max((row.last for row in rows if row.part == part), default=-1)

    def add(new: list[Row]) -> None:
        rows.extend(new)
        tables.append(new, args.output)

    while sum(row.n_cases for row in rows if row.part == "games") < args.games:
        first = last("games") + 1
        add(block("games", args.seed, first, first + GAME_CALLS - 1, games.play))
    while (first := last("envs") + 1) < args.envs:
        add(block("envs", args.seed, first, min(first + ENVS, args.envs) - 1, envs.play))
    if rows:
        tables.show(totals(rows))
    defects = sum(row.n_cases for row in rows if row.outcome == "defect")
    if defects:
        sys.exit(f"{defects} cases are defects.")


if __name__ == "__main__":
    main()
