"""
Run a suite: algorithms on environments over games and seeds, into one table, with its figures.

    python -m sb3_cora.zoo.benchmark matrix --quick
    python -m sb3_cora.zoo.benchmark differential --workers 8
    python -m sb3_cora.zoo.benchmark my_suite.yml --output my_results.csv
    python -m sb3_cora.zoo.benchmark mujoco --ray auto
    python -m sb3_cora.zoo.benchmark vmas --dry-run

SUITE is one of this project's (benchmarks/suites/) or a YAML file of one's own; how to write one stands in
docs/benchmarking.md. A run goes to the table as soon as it has finished, and what the table has is not repeated: a benchmark
that was interrupted, by whatever, goes on with the same command. A run that fails becomes a row of its own, the others go on,
and it is tried again by the next call. A changed configuration is a new run; a change of the code is not, but every row has
its commit.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from sb3_cora.zoo import results, tables
from sb3_cora.zoo.algos import register_algorithms
from sb3_cora.zoo.benchmark.missing import expected_seconds, lacking, tidy
from sb3_cora.zoo.benchmark.ray_cluster import run_on_ray
from sb3_cora.zoo.benchmark.suites import Task, find_suite, read_suite
from sb3_cora.zoo.benchmark.workers import n_cores, run_locally
from sb3_cora.zoo.mistakes import OneLineParser, at_work, check_numbers, refusals
from sb3_cora.zoo.plot import main as plot
from sb3_cora.zoo.results import Row
from sb3_cora.zoo.whole_files import write_whole


def duration(seconds: float) -> str:
    """
    :param seconds: How long something takes.
    :return: The same in the unit that suits it.
    """
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def show_plan(tasks: Sequence[Task], missing: Sequence[Task], rows: Sequence[Row], n_workers: int, lists: bool) -> None:
    """
    Print how many runs there are to do, and how long that should take.

    :param tasks: The runs of the suite.
    :param missing: Those that the table lacks.
    :param rows: Of the table.
    :param n_workers: Number of runs at once.
    :param lists: Whether to print a line for each of them, too.
    """
    expected = expected_seconds(missing, rows)
    known = [seconds for seconds in expected if seconds is not None]
    if lists:
        for task, seconds in zip(missing, expected, strict=True):
            judgment = "no run to judge from" if seconds is None else duration(seconds)
            print(f"{task.run}: {task.n_timesteps} timesteps, {judgment}")
    print(f"{len(missing)} of {len(tasks)} runs to do, {n_workers} at once", end="")
    if known:
        guessed = "" if len(known) == len(missing) else " (those unknown are taken for the mean of the others)"
        print(f", about {duration(mean(known) * len(missing) / n_workers)}{guessed}", end="")
    print(".")


def write_configs(tasks: Sequence[Task], path: Path) -> None:
    """
    Write what the digests of a table stand for.

    :param tasks: The runs of the suite.
    :param path: The YAML file, in which the configurations of runs that the suite no longer has remain.
    """
    before = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    configs = {**before, **{task.run.config: task.config for task in tasks}}
    if configs != before:
        text = yaml.safe_dump(configs, sort_keys=True)
        write_whole({path: partial(Path.write_text, data=text, encoding="utf-8")})


def run_missing(missing: Sequence[Task], runs: Iterator[list[Row]], table: Path) -> int:
    """
    Add the rows of runs to the table as they come.

    :param missing: The runs.
    :param runs: Executes them.
    :param table: The table.
    :return: Number of runs that failed.
    """
    n_failed = 0
    with tqdm(total=len(missing), unit="run", smoothing=0) as bar:
        for rows in runs:
            tables.append(rows, table)
            last = rows[-1]
            if last.kind == "failed":
                n_failed += 1
                bar.write(f"{last.run} has failed: {last.message}")
            else:
                bar.write(f"{last.run}: {last.mean_return:.2f} in {duration(last.wall_seconds)}")
            bar.update()
    return n_failed


def arguments() -> argparse.Namespace:
    """
    :return: The command line's.
    """
    parser = OneLineParser(
        prog="python -m sb3_cora.zoo.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", metavar="SUITE", help="name of a suite, or a YAML file")
    parser.add_argument("--quick", action="store_true", help="a small form of the suite, to see that everything works")
    parser.add_argument("--dry-run", action="store_true", help="run nothing: list what would run, and how long it should take")
    parser.add_argument("--workers", type=int, default=n_cores(), help="runs at once on this machine (default: one a core)")
    parser.add_argument("--ray", metavar="ADDRESS", help="run on the Ray cluster there instead (auto, host:port, local)")
    parser.add_argument("--output", type=Path, help="the table (default: benchmarks/results/SUITE.csv)")
    parser.add_argument("--log-folder", type=Path, default=Path("logs", "benchmarks"), help="folder of the trained models")
    parser.add_argument("--no-plots", action="store_true", help="make no figures and print no scores at the end")
    parser.add_argument("--gym-packages", default=[], nargs="+", help="modules to import: environments, algorithms")
    args = parser.parse_args()
    check_numbers(args, {"workers": 1})
    return args


def run_suite(tasks: Sequence[Task], table: Path, args: argparse.Namespace) -> int:
    """
    Run what the table lacks.

    :param tasks: The runs of the suite.
    :param table: The table, which nothing else may write to.
    :param args: The command line's flags.
    :return: Number of runs that failed.
    """
    rows = tidy(table, tasks)
    missing = lacking(tasks, rows)
    show_plan(tasks, missing, rows, args.workers, lists=False)
    write_configs(tasks, table.with_suffix(".configs.yml"))
    if not missing:
        return 0
    if args.ray is None:
        runs = run_locally(missing, args.workers, args.log_folder, args.gym_packages)
    else:
        runs = run_on_ray(missing, args.ray, args.log_folder, args.gym_packages)
    with at_work(), contextlib.closing(runs):
        n_failed = run_missing(missing, runs, table)
    tidy(table, tasks)
    return n_failed


@refusals()
def main() -> None:
    """Run what the command line names, as far as the table lacks it."""
    args = arguments()
    register_algorithms()
    # As upon Ctrl-C: the trainings end with the benchmark.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tasks = read_suite(find_suite(args.suite), args.quick)
        table = args.output or Path("benchmarks", "results", f"{tasks[0].run.suite}.csv")
        if not table.suffix:
            raise ValueError(
                f"--output {table}: give the table a name like {table}.csv, beside which its figures get a folder."
            )
        if args.dry_run:
            rows = results.read(table)
            show_plan(tasks, lacking(tasks, rows), rows, args.workers, lists=True)
            return
        trainings = args.log_folder / tasks[0].run.suite
        for folder in (table.parent, args.log_folder):
            folder.mkdir(parents=True, exist_ok=True)
        # Two benchmarks with tables of their own would still train in the same folders.
        with FileLock(f"{table}.lock").acquire(timeout=0), FileLock(f"{trainings}.lock").acquire(timeout=0):
            n_failed = run_suite(tasks, table, args)
    except Timeout:
        sys.exit(
            f"Another benchmark writes to {table}, or trains in {trainings}: wait for its end, or name another table with "
            "--output and another folder with --log-folder."
        )
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on with the runs that are missing.")
    print(f"Table: {table}")
    if not args.no_plots and any(row.kind == "final" for row in results.read(table)):
        plot([str(table), "--output", str(table.with_suffix(""))])
    if n_failed:
        sys.exit(f"{n_failed} runs have failed. The same command tries them again.")
