"""
Train algorithms on one environment over several seeds, and compare their returns.

    python benchmarks/learning.py --algo cora_ppo mappo --env give_way --seeds 0 1 2 3 4 --jobs 2
    python benchmarks/learning.py --algo cora_ppo --env give_way -- -n 1000000 -params variance_weight:0
    python benchmarks/learning.py --env give_way --report

Each run is ``zoo/train.py`` in a process of its own, followed by ``zoo/enjoy.py`` on the trained model and on the best of the
evaluations during the training: 100 deterministic episodes each, from a seed that no training has. What follows ``--`` is
handed to ``zoo/train.py``.

A finished run goes at once to ``benchmarks/results/learning_<env>.csv``, and a run that the file has is not repeated, so an
interrupted sweep continues where it was. A run is known by its algorithm, its seed, the arguments after ``--`` and its
entry in ``hyperparams/<algo>.yml``: change the arguments or the entry, and the runs are new, with figures of their own in the
report. A change of the code goes unnoticed; delete the rows that it concerns.

The report, also printed at the end of a sweep, has the figures of every seed and the interquartile mean (the mean without the
best and the worst quarter of the seeds) with its 95 % bootstrap interval over the seeds (Agarwal et al. 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice"; on a single environment there is a single stratum). The
learning curves go to ``learning_<env>.png`` beside the CSV.
"""

import argparse
import asyncio
import csv
import hashlib
import io
import json
import os
import re
import shlex
import signal
import sys
import textwrap
import time
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rliable import metrics
from rliable.library import get_interval_estimates

ROOT = Path(__file__).resolve().parent.parent
N_EPISODES = 100
# Of the closing evaluations: the best model was chosen on the episodes of the training's own seed
EVALUATION_SEED = 1_000_000
# File in the folder of a run with the seconds of its training, there from the end of the training until the run is in the CSV
FINISHED = "wall_seconds.txt"


class Row(NamedTuple):
    """
    A line of the CSV: the episodes of one evaluation.

    - ``algo``, ``env``, ``seed``, ``arguments``: the run, the last being what ``zoo/train.py`` was given besides
    - ``settings``: digest of the algorithm's entry in ``hyperparams/``
    - ``kind``: ``"curve"`` for an evaluation during the training, ``"best"`` and ``"final"`` for the closing ones
    - ``timesteps``: steps of all worlds together that the evaluated model had seen
    - ``return_mean``, ``return_min``, ``return_max``, ``return_std``: over the episodes (team reward, not discounted)
    - ``wall_seconds``: duration of the whole ``zoo/train.py``, the same in all rows of a run
    """

    algo: str
    env: str
    seed: int
    arguments: str
    settings: str
    kind: str
    timesteps: int
    return_mean: float
    return_min: float
    return_max: float
    return_std: float
    wall_seconds: float


class Run(NamedTuple):
    """What tells runs apart: the first fields of :class:`Row`."""

    algo: str
    env: str
    seed: int
    arguments: str
    settings: str

    def row(self, kind: str, timesteps: int, returns: np.ndarray, wall_seconds: float) -> Row:
        """
        :param kind: of the evaluation
        :param timesteps: that the evaluated model had seen
        :param returns: of the evaluation's episodes, ``(n_episodes,)``
        :param wall_seconds: duration of the training
        :return: the evaluation's line in the CSV
        """
        figures = (returns.mean(), returns.min(), returns.max(), returns.std(), wall_seconds)
        return Row(*self, kind, timesteps, *(round(float(figure), 4) for figure in figures))


def settings_digest(algo: str, env: str) -> str:
    """
    :param algo: name of the algorithm
    :param env: id of the environment
    :return: eight digits that change with the settings of ``hyperparams/<algo>.yml``, empty where there is no such file
    """
    path = ROOT / "hyperparams" / f"{algo}.yml"
    if not path.is_file():
        return ""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    entry = entries.get(env, entries["default"])
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:8]


def read(path: Path) -> list[Row]:
    """
    :param path: the CSV, which need not exist
    :return: its rows
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{name: convert(line[name]) for name, convert in Row.__annotations__.items()})
            for line in csv.DictReader(file)
        ]


def append(rows: Iterable[Row], path: Path) -> None:
    """
    :param rows: the rows of a finished run
    :param path: the CSV, begun where it does not exist
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not path.is_file():
        writer.writerow(Row._fields)
    writer.writerows(rows)
    # In one piece, so that no part of a run is left behind by whatever stops the sweep
    with path.open("a", newline="", encoding="utf-8") as file:
        file.write(text.getvalue())


async def execute(script: str, arguments: Sequence[str], log: Path, n_threads: int) -> str:
    """
    Run a script of the zoo to its end.

    :param script: its file name
    :param arguments: its command line
    :param log: file for what it prints
    :param n_threads: number of threads that its numerical libraries may use
    :return: what it printed
    :raises RuntimeError: if it fails
    """
    with log.open("w", encoding="utf-8") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "zoo" / script), *arguments),
            env={**os.environ, "OMP_NUM_THREADS": str(n_threads)},
            stdout=file,
            stderr=asyncio.subprocess.STDOUT,
            # Ctrl-C would reach the training too, which then saves its model as if it had finished
            start_new_session=True,
        )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    output = log.read_text(encoding="utf-8")
    if process.returncode != 0:
        raise RuntimeError(f"{script} failed with exit code {process.returncode}. The end of {log}:\n{output[-2000:]}")
    return output


async def train(run: Run, folder: Path, n_threads: int) -> list[Row]:
    """
    Train one model, and evaluate it.

    :param run: what to train
    :param folder: the run's own, for everything that the training writes; a training that finished in it is not repeated
    :param n_threads: number of threads for it
    :return: the rows of the run
    :raises RuntimeError: if the training or an evaluation fails
    """
    model = ("--algo", run.algo, "--env", run.env, "-f", str(folder))
    finished = folder / FINISHED
    if not finished.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        # Ours come last because the last one wins
        arguments = (*shlex.split(run.arguments), *model, "--seed", str(run.seed))
        await execute("train.py", arguments, folder / "train.log", n_threads)
        finished.write_text(f"{time.perf_counter() - start:.4f}")
    wall_seconds = float(finished.read_text())

    rows = []
    # <env>_<number>, the highest number being the latest; a name of rl_zoo3's, which replaces what does not suit a file name
    saved = max((folder / run.algo).iterdir(), key=lambda path: int(path.name.rpartition("_")[2]))
    if (saved / "evaluations.npz").is_file():
        with np.load(saved / "evaluations.npz") as data:
            evaluations = zip(data["timesteps"].tolist(), data["results"], strict=True)
            rows += [run.row("curve", timesteps, returns, wall_seconds) for timesteps, returns in evaluations]
    models = {"best": saved / "best_model.zip", "final": saved / f"{saved.name.rpartition('_')[0]}.zip"}
    for kind, path in models.items():
        if not path.is_file():
            continue  # without evaluations during the training there is no best model
        flags = f"--eval-episodes {N_EPISODES} --n-envs {N_EPISODES} --seed {EVALUATION_SEED}".split()
        if kind == "best":
            flags.append("--load-best")
        output = await execute("enjoy.py", (*model, *flags), folder / f"{kind}.log", n_threads)
        returns = np.array(re.findall(r"^Episode return (\S+),", output, re.MULTILINE), dtype=float)
        if len(returns) != N_EPISODES:
            raise RuntimeError(f"{folder / f'{kind}.log'} has the returns of {len(returns)} episodes instead of {N_EPISODES}.")
        with zipfile.ZipFile(path) as archive:
            timesteps = json.loads(archive.read("data"))["num_timesteps"]
        rows.append(run.row(kind, timesteps, returns, wall_seconds))
    return rows


async def sweep(runs: Iterable[Run], results: Path, log_folder: Path, n_jobs: int) -> int:
    """
    Train all that is missing in the results.

    :param runs: what to train
    :param results: the CSV
    :param log_folder: folder in which every run gets a folder of its own
    :param n_jobs: number of trainings at once
    :return: the number of runs that failed
    """
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = asyncio.Semaphore(n_jobs)

    async def train_and_record(run: Run) -> bool:
        async with free:
            # One each, because concurrent trainings in one log folder could settle on the same number for themselves
            digest = hashlib.sha256(repr(run).encode()).hexdigest()[:8]
            folder = log_folder / f"{run.algo}_seed{run.seed}_{digest}"
            print(f"{run.algo}, seed {run.seed}: training, see {folder / 'train.log'}", flush=True)
            try:
                rows = await train(run, folder, max(n_cores // n_jobs, 1))
            except RuntimeError as error:
                print(f"{run.algo}, seed {run.seed}: {error}", file=sys.stderr, flush=True)
                return False
            append(rows, results)
            (folder / FINISHED).unlink()
            print(f"{run.algo}, seed {run.seed}: {rows[-1].return_mean:.2f} in {rows[-1].wall_seconds:.0f} s", flush=True)
            return True

    if sys.platform != "win32":
        # As upon Ctrl-C: the trainings end with the sweep
        task = asyncio.current_task()
        assert task is not None, "inside a coroutine"
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    finished = await asyncio.gather(*map(train_and_record, runs))
    return finished.count(False)


def interquartile_means(scores: np.ndarray) -> np.ndarray:
    """
    :param scores: of the runs, ``(n_runs, n_columns)``
    :return: each column's mean without the lowest and the highest quarter of the runs, ``(n_columns,)``
    """
    return np.array([metrics.aggregate_iqm(column) for column in scores.T])


def bootstrap_interval(scores: np.ndarray, n_resamples: int = 20_000) -> tuple[float, float]:
    """
    :param scores: of the runs, ``(n_runs,)``
    :param n_resamples: number of times that as many runs are drawn from them, with replacement
    :return: the bounds of the 95 % percentile interval of their interquartile mean
    """
    by_task = {"": scores[:, None]}
    # rliable takes the old kind of generator
    generator = np.random.RandomState(0)
    with warnings.catch_warnings():
        # Of arch, about the argument through which rliable hands the generator on
        warnings.simplefilter("ignore", FutureWarning)
        _, intervals = get_interval_estimates(by_task, interquartile_means, reps=n_resamples, random_state=generator)
    low, high = intervals[""].ravel()
    return float(low), float(high)


def draw(rows: Iterable[Row], label: str, axes: Axes) -> None:
    """
    Draw the interquartile mean of the runs' learning curves and, shaded, everything between the worst and the best run.

    :param rows: of the kind "curve", of runs that differ in nothing but the seed
    :param label: what the legend calls them
    :param axes: where to draw
    """
    curves: dict[int, dict[int, float]] = {}
    for row in rows:
        curves.setdefault(row.seed, {})[row.timesteps] = row.return_mean
    if not curves:
        return
    timesteps = sorted(set.intersection(*map(set, curves.values())))
    means = np.array([[curve[step] for step in timesteps] for curve in curves.values()])
    (line,) = axes.plot(timesteps, interquartile_means(means), label=textwrap.fill(f"{label}, seeds: {len(curves)}", 60))
    axes.fill_between(timesteps, means.min(axis=0), means.max(axis=0), color=line.get_color(), alpha=0.15)
    axes.plot(timesteps, means.T, color=line.get_color(), alpha=0.4, linewidth=0.5)


def report(rows: Iterable[Row], picture: Path) -> None:
    """
    Print the figures of every group of runs that differ in nothing but the seed, and draw their learning curves.

    :param rows: of the CSV
    :param picture: the PNG file to write
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows):
        groups.setdefault((row.algo, row.env, row.arguments, row.settings), []).append(row)
    # Not through pyplot, which keeps figures alive and looks for a display
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for (algo, env, arguments, settings), members in groups.items():
        label = " ".join(filter(None, (algo, arguments, f"[{settings}]")))
        print(f"\n{label} on {env}")
        print(f"{'':>6}{'seed':>6}{'mean':>9}{'min':>9}{'max':>9}{'std':>9}{'timesteps':>12}{'minutes':>9}")
        for kind in ("final", "best"):
            evaluations = [row for row in members if row.kind == kind]
            for row in evaluations:
                figures = (row.return_mean, row.return_min, row.return_max, row.return_std)
                returns = "".join(f"{value:>9.2f}" for value in figures)
                print(f"{kind:>6}{row.seed:>6}{returns}{row.timesteps:>12}{row.wall_seconds / 60:>9.1f}")
            if evaluations:
                means = np.array([row.return_mean for row in evaluations])
                low, high = bootstrap_interval(means)
                print(f"{kind:>6}{'IQM':>6}{metrics.aggregate_iqm(means):>9.2f}   95 % interval {low:.2f} to {high:.2f}")
        draw((row for row in members if row.kind == "curve"), label, axes)
    axes.set(xlabel="timesteps, all worlds together", ylabel="mean return of an evaluation's episodes")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="x-small")
    figure.savefig(picture, dpi=150)
    print(f"\nLearning curves: {picture}")


def main() -> None:
    """Parse the command line, train what is missing, and report."""
    # argparse would take the flags of the training for its own where they share a beginning
    own = sys.argv[1:]
    rest: list[str] = []
    if "--" in own:
        rest = own[own.index("--") + 1 :]
        own = own[: own.index("--")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", nargs="+", default=["cora_ppo", "mappo"], help="algorithms")
    parser.add_argument("--env", default="give_way", help="environment id")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="seeds of the trainings")
    parser.add_argument("--jobs", type=int, default=1, help="number of trainings at once, which share the cores")
    parser.add_argument("--log-folder", type=Path, default=ROOT / "logs" / "learning", help="folder for the trainings' files")
    parser.add_argument("--output", type=Path, help="CSV file, benchmarks/results/learning_<env>.csv when not given")
    parser.add_argument("--report", action="store_true", help="train nothing, report what the CSV file has")
    args = parser.parse_args(own)
    results = args.output or ROOT / "benchmarks" / "results" / f"learning_{args.env.replace('/', '-')}.csv"

    n_failed = 0
    if not args.report:
        finished = {row[: len(Run._fields)] for row in read(results)}
        # Seed by seed, so that an interrupted sweep has seen every algorithm
        runs = [
            Run(algo, args.env, seed, shlex.join(rest), settings_digest(algo, args.env))
            for seed in args.seeds
            for algo in args.algo
        ]
        missing = [run for run in runs if run not in finished]
        print(f"{len(runs)} runs, {len(runs) - len(missing)} of them in {results}", flush=True)
        try:
            n_failed = asyncio.run(sweep(missing, results, args.log_folder, args.jobs))
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit("Stopped. The same command continues with the runs that are missing.")
    rows = read(results)
    if rows:
        report(rows, results.with_suffix(".png"))
    if n_failed or not rows:
        sys.exit(f"{n_failed} runs failed." if n_failed else f"{results} has no runs to report.")


if __name__ == "__main__":
    main()
