"""
Memory and time of long and of large trainings.

    python -m benchmarks.endurance

Each training runs in a process of its own, through the ``learn()`` that users call. Its lines are appended to
``benchmarks/results/endurance.csv`` as they come, and replace those that the file has of it:

- ``training``: its name, see ``TRAININGS``
- ``iteration`` and ``timesteps``: how far it is
- ``rss_mib``: memory of the process, from ``/proc``, so it takes Linux
- ``peak_mib``: the most that it has been so far
- ``cpu_ms``: CPU time of an iteration, mean of those since the line before; it counts little what else the machine does

What is printed and plotted of them, in ``endurance.png``: slopes of straight lines through all but the first tenth.
"""

import argparse
import multiprocessing
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.endurance.trainings import TRAININGS, Row, measure
from benchmarks.tools.folders import RESULTS
from sb3_cora.zoo import tables

MEBIBYTE = 2**20
# Part of the lines that lie before the slopes: caches fill, and the learning changes what the solver has to do.
WARM_UP = 0.1


class Slopes(NamedTuple):
    """
    How memory and time grow in a training.

    :param training: Its name
    :param iterations: Number of iterations
    :param timesteps: Number of team steps
    :param peak_mib: The most memory
    :param bytes_per_iteration: Growth of memory
    :param cpu_ms: Mean CPU time of an iteration
    :param cpu_ms_per_1000: Growth of it in a thousand iterations
    """

    training: str
    iterations: int
    timesteps: int
    peak_mib: float
    bytes_per_iteration: float
    cpu_ms: float
    cpu_ms_per_1000: float

    @classmethod
    def of(cls, rows: list[Row]) -> "Slopes":
        """
        :param rows: At least three lines of one training
        :return: What they show
        """
        last = rows[-1]
        late = [row for row in rows if row.iteration > WARM_UP * last.iteration]
        iterations = [row.iteration for row in late]
        memory = np.polyfit(iterations, [row.rss_mib for row in late], 1)[0] * MEBIBYTE
        duration = np.polyfit(iterations, [row.cpu_ms for row in late], 1)[0] * 1000
        mean = float(np.mean([row.cpu_ms for row in late]))
        return cls(last.training, last.iteration, last.timesteps, last.peak_mib, float(memory), mean, float(duration))


def by_training(rows: list[Row]) -> dict[str, list[Row]]:
    """
    :param rows: The table
    :return: The lines of each training
    """
    return {name: own for name in TRAININGS if (own := [row for row in rows if row.training == name])}


def plot(rows: dict[str, list[Row]], path: Path) -> None:
    """
    :param rows: The lines of each training
    :param path: The picture
    """
    figure = Figure(figsize=(4 * len(rows), 5), layout="constrained")
    axes = figure.subplots(2, len(rows), squeeze=False, sharex="col")
    for (above, below), (name, own) in zip(axes.T, rows.items(), strict=True):
        iterations = [row.iteration for row in own]
        above.plot(iterations, [row.rss_mib for row in own])
        below.plot(iterations, [row.cpu_ms for row in own], linewidth=0.8)
        above.set(title=name, ylim=(0, 1.2 * own[-1].peak_mib))
        below.set(xlabel="iteration", ylim=(0, None))
        for axis in (above, below):
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("memory in MiB")
    axes[1, 0].set_ylabel("CPU ms an iteration")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print and plot."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.endurance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainings", nargs="*", choices=TRAININGS, default=list(TRAININGS), help="which (none: plot only)")
    parser.add_argument("--shorter", type=int, default=1, help="divides the lengths: a try, not a measurement")
    parser.add_argument("--output", type=Path, default=RESULTS / "endurance.csv", help="where the CSV goes")
    args = parser.parse_args()
    others = [row for row in tables.read(Row, args.output) if row.training not in args.trainings]
    args.output.unlink(missing_ok=True)
    if others:
        tables.write(others, args.output, default=".6g")
    for name in args.trainings:
        # A new process, because the peak of the memory is that of a process.
        arguments = (name, TRAININGS[name].n_timesteps // args.shorter, args.output)
        process = multiprocessing.get_context("spawn").Process(target=measure, args=arguments)
        process.start()
        process.join()
        if process.exitcode != 0:
            sys.exit(f"The training {name!r} has failed")
    rows = by_training(tables.read(Row, args.output))
    tables.show([Slopes.of(own) for own in rows.values()])
    plot(rows, args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
