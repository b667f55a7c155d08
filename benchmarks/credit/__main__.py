"""
The credit programs: how fast and how exactly they are solved, what sampled coalitions lose, and how it grows with the team.

    python -m benchmarks.credit
    python -m benchmarks.credit --parts speed samples

prints a table for each part and writes it to ``benchmarks/results/credit_<part>.csv``. What the columns mean stands at the
``Row`` of each part in its module.

- ``speed``: time per program of ``allocate``, beside cvxpylayers over diffcp (Clarabel) and over moreau, as far as they
  are installed. All are given the same games in double precision and take turns on one core with one thread; each time is
  the least of its repetitions. cvxpylayers is timed without gradients and with its layer built beforehand.
- ``accuracy``: as ``python -m benchmarks.credit.accuracy``, with fewer games; only a run with as many replaces its CSV.
- ``samples``: the program over sampled coalitions against the one over all of them, ten agents (CORA, figure 7).
- ``scaling``: 5 to 50 agents, 254 sampled coalitions, up to 100 000 samples: time and memory.

``benchmarks/results/credit.png`` shows all parts, those that have not been run this time as their CSV has them.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from matplotlib.figure import Figure

from benchmarks.credit import accuracy, samples, scaling, speed
from benchmarks.tools.folders import RESULTS
from benchmarks.tools.timing import use_one_core
from sb3_cora.zoo import tables


class Part(NamedTuple):
    """
    :param row_type: What its rows are
    :param measure: Yields the rows
    :param plot: Plots them
    :param n_panels: In so many panels
    """

    row_type: Any
    measure: Callable[[argparse.Namespace], Iterable[Any]]
    plot: Callable[..., None]
    n_panels: int


PARTS = {
    "speed": Part(speed.Row, lambda args: speed.rows(args.quick, args.device), speed.plot, 1),
    "accuracy": Part(accuracy.Row, lambda args: accuracy.rows(args.quick, args.n_games, args.n_references), accuracy.plot, 1),
    "samples": Part(samples.Row, lambda args: samples.rows(args.quick), samples.plot, 2),
    "scaling": Part(scaling.Row, lambda args: scaling.rows(args.quick), scaling.plot, 2),
}


def file_of(part: str, folder: Path) -> Path:
    """
    :param part: Its name
    :param folder: Where results go
    :return: The part's CSV file
    """
    return folder / f"credit_{part}.csv"


def run(name: str, args: argparse.Namespace) -> list[Any]:
    """
    Measure one part, print its table and write it.

    :param name: Of the part
    :param args: Of the command line
    :return: The rows
    """
    print(f"\n{name}", flush=True)
    rows = list(PARTS[name].measure(args))
    tables.show(accuracy.worst(rows) if name == "accuracy" else rows)
    if name == "accuracy" and rows[0].n_games < accuracy.N_GAMES:
        print(f"Not written, so that the file stays that of a full run, which has {accuracy.N_GAMES} games a row.")
    else:
        tables.write(rows, file_of(name, args.output), accuracy.FORMATS if name == "accuracy" else {})
    return rows


def picture(results: dict[str, list[Any]], path: Path) -> None:
    """
    Plot all parts that have rows.

    :param results: Rows by part
    :param path: The PNG file to write
    """
    parts = [name for name, rows in results.items() if rows]
    n_panels = sum(PARTS[name].n_panels for name in parts)
    # Not through pyplot, which keeps figures alive and looks for a display
    figure = Figure(figsize=(6.5 * ((n_panels + 1) // 2), 9 if n_panels > 1 else 4.5), layout="constrained")
    panels = list(figure.subplots(min(n_panels, 2), (n_panels + 1) // 2, squeeze=False).flat)
    for name in parts:
        mine, panels = panels[: PARTS[name].n_panels], panels[PARTS[name].n_panels :]
        PARTS[name].plot(results[name], *mine)
        for axes in mine:
            axes.grid(alpha=0.3)
    for axes in panels:
        axes.remove()
    figure.savefig(path, dpi=130)
    print(f"\nPicture: {path}")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.credit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to run")
    parser.add_argument("--quick", action="store_true", help="few and small games: a test, not a measurement")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cuda: time a GPU too, where there is one")
    parser.add_argument("--core", type=int, help="core to use, the last one allowed when not given (Linux)")
    parser.add_argument("--n-games", type=int, default=2000, help="of accuracy: games a row")
    parser.add_argument("--n-references", type=int, default=20, help="of accuracy: games a row that Clarabel solves too")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for CSVs and picture")
    args = parser.parse_args()

    th.set_num_threads(1)
    use_one_core(args.core)
    args.output.mkdir(parents=True, exist_ok=True)
    measured = {name: run(name, args) for name in PARTS if name in args.parts}
    results = {name: measured.get(name) or tables.read(PARTS[name].row_type, file_of(name, args.output)) for name in PARTS}
    picture(results, args.output / "credit.png")


if __name__ == "__main__":
    main()
