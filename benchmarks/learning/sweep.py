"""
Train algorithms on environments over several games and seeds, and compare their returns.

    python -m benchmarks.learning --algo cora_ppo mappo --env give_way --seeds 0 1 2 3 4 --jobs 2
    python -m benchmarks.learning --algo cora_ppo cora_ppo:credit=shared,eta=0.0 --env multi_peak:n_actions=8 --game-seeds 0 1
    python -m benchmarks.learning --algo cora_ppo --env give_way -- -n 1000000 -params variance_weight:0
    python -m benchmarks.learning --env give_way --report

An algorithm may carry hyperparameters, which makes it a variant with figures of its own, and an environment may carry
arguments; values are read as ``zoo/train.py`` reads those of ``-params``: words are text. ``--game-seeds`` gives every
environment each of these numbers as its argument ``game_seed``, for games that draw their rewards. What follows ``--`` is
handed to ``zoo/train.py`` for all runs.

Each run is a process of its own: ``zoo/train.py``, without checkpoints and an evaluation at its end, followed by
``zoo/enjoy.py`` on the trained model and on the best of the evaluations during the training: 100 deterministic episodes each,
from a seed that no training has, and a single episode where nothing is random. The processes are forked from one that has
imported everything, because imports would take longer than the small trainings.

A finished run goes at once to the CSV, ``benchmarks/results/learning_<env>.csv`` unless ``--output`` says otherwise, and a run
that the file has is not repeated, so an interrupted sweep continues where it was. A run is known by its algorithm and
environment with what they carry, its game seed and seed, the arguments after ``--`` and its entry in
``hyperparams/<algo>.yml``: change any of them, and the runs are new, with figures of their own in the report. A change of the
code goes unnoticed; delete the rows that it concerns.

The report, also printed at the end of a sweep, has a table for each environment with a line for each variant: the
interquartile mean over its runs (the mean without the best and the worst quarter) with its 95 % bootstrap interval (Agarwal et
al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"), of the trained model's return and of the
area under the learning curve, both divided by the best return possible where the environment knows it. The runs are a single
stratum, so the interval speaks of other games as well as of other seeds. The learning curves go to a PNG file beside the CSV.
"""

import argparse
import csv
import hashlib
import inspect
import io
import json
import multiprocessing
import os
import re
import shlex
import signal
import sys
import textwrap
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, get_args

import gymnasium as gym
import numpy as np
import yaml
from gymnasium.envs.registration import load_env_creator
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rliable import metrics
from rliable.library import get_interval_estimates

ROOT = Path(__file__).resolve().parents[2]
N_EPISODES = 100
# Of the closing evaluations: the best model was chosen on the episodes of the training's own seed
EVALUATION_SEED = 1_000_000
# File in the folder of a run with the seconds of its training, there from the end of the training until the run is in the CSV
FINISHED = "wall_seconds.txt"
# File in the folder of a run for all that it prints
LOG = "run.log"
# What a run imports, once for all runs: the zoo's scripts, this module, in which each process finds its target, and what the
# first optimizer and the first picture import
PRELOADED = (
    *("sb3_cora.zoo.train", "sb3_cora.zoo.enjoy", "benchmarks.learning.sweep"),
    *("torch._dynamo", "matplotlib.backends.backend_agg"),
)
# Parts of the training at whose end the report looks at the Q-critics
FRACTIONS = (0.1, 0.25, 0.5, 1.0)
# Of a bootstrap: the bounds of a handful of runs jump from value to value, and with a quarter as many to the wrong one
N_RESAMPLES = 20_000
# Share of the best return possible from which on a run counts as having found the optimum
OPTIMAL = 0.99


class Run(NamedTuple):
    """
    What tells runs apart.

    - ``algo``: the algorithm, with the hyperparameters it carries (``"cora_ppo:credit=shared,eta=0.0"``)
    - ``env``, ``env_arguments``: the environment and what it carries (``"n_agents=3"``)
    - ``game_seed``: seed of what the environment draws once and for all, if it was given one
    - ``seed``: of the training
    - ``arguments``: what ``zoo/train.py`` was given besides
    - ``settings``: digest of the algorithm's entry in ``hyperparams/``
    """

    algo: str
    env: str
    env_arguments: str
    game_seed: int | None
    seed: int
    arguments: str
    settings: str

    def __str__(self) -> str:
        game = "" if self.game_seed is None else f", game seed {self.game_seed}"
        return f"{self.algo} on {joined(self.env, self.env_arguments)}{game}, seed {self.seed}"

    @property
    def seeds(self) -> str:
        """Game seed, where there is one, and seed."""
        return f"{self.seed}" if self.game_seed is None else f"{self.game_seed}/{self.seed}"

    def training_flags(self) -> list[str]:
        """
        :return: the command line of ``zoo/train.py``, all but its folder
        """
        # Of a flag given twice the zoo takes the last, so what this run carries has to join what is given for all
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("-params", "--hyperparams", nargs="+", action="extend", default=[])
        parser.add_argument("--env-kwargs", nargs="+", action="extend", default=[])
        given, rest = parser.parse_known_args(shlex.split(self.arguments))
        algo, _, overrides = self.algo.partition(":")
        hyperparams = [*given.hyperparams, *zoo_settings(overrides)]
        env_kwargs = [*given.env_kwargs, *zoo_settings(self.env_arguments)]
        if self.game_seed is not None:
            env_kwargs.append(f"game_seed:{self.game_seed}")
        flags = ["--final-eval-episodes", "-1", "--save-freq", "-1", *rest]
        if hyperparams:
            flags += ["-params", *hyperparams]
        if env_kwargs:
            flags += ["--env-kwargs", *env_kwargs]
        # Ours come last because the last one wins
        return [*flags, "--algo", algo, "--env", self.env, "--seed", str(self.seed)]


class Row(NamedTuple):
    """
    A line of the CSV, where the fields of the run come first: the episodes of one evaluation.

    - ``run``: what was evaluated
    - ``kind``: ``"curve"`` for an evaluation during the training, ``"best"`` and ``"final"`` for the closing ones
    - ``timesteps``: steps of all worlds together that the evaluated model had seen
    - ``return_mean``, ``return_min``, ``return_max``, ``return_std``: over the episodes (team reward, not discounted)
    - ``optimal_return``: the best return possible, where the environment knows it
    - ``q_explained_variance``: where the algorithm has Q-critics and ``kind`` is ``"curve"``, the training's
      ``train/q_explained_variance`` of the latest update before the evaluation
    - ``wall_seconds``: duration of the whole training, the same in all rows of a run
    """

    run: Run
    kind: str
    timesteps: int
    return_mean: float
    return_min: float
    return_max: float
    return_std: float
    optimal_return: float | None
    q_explained_variance: float | None
    wall_seconds: float


COLUMNS = (*Run._fields, *Row._fields[1:])


def joined(name: str, settings: str) -> str:
    """
    :param name: of an algorithm or an environment
    :param settings: what it carries, may be empty
    :return: both as on the command line
    """
    return f"{name}:{settings}" if settings else name


def single_settings(settings: str) -> list[str]:
    """
    :param settings: ``setting=value,...``
    :return: each ``setting=value``
    """
    # Not at the commas within a value, such as (-10,10)
    return re.split(r",(?=\w+=)", settings)


def variant(text: str) -> tuple[str, str]:
    """
    :param text: ``name`` or ``name:setting=value,...`` of the command line
    :return: the name, and its settings in the order of their names, as ``setting=value,...``
    :raises argparse.ArgumentTypeError: if it is neither
    """
    name, colon, carried = text.partition(":")
    settings = sorted(single_settings(carried)) if colon else []
    names = [setting.partition("=")[0] for setting in settings]
    if not name or not all(re.fullmatch(r"[^\W\d]\w*=.+", setting) for setting in settings):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a name nor name:setting=value,..., e.g. cora_ppo:eta=0.0")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} has a setting twice")
    return name, ",".join(settings)


def zoo_settings(settings: str) -> list[str]:
    """
    :param settings: of :func:`variant`
    :return: the same as arguments of the zoo's ``-params`` and ``--env-kwargs``
    """
    return [setting.replace("=", ":", 1) for setting in single_settings(settings)] if settings else []


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
    :raises ValueError: if it has other columns
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        if tuple(lines.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has the columns {lines.fieldnames}, expected {COLUMNS}: name another with --output.")
        return [parse_row(line) for line in lines]


def parse_row(line: dict[str, str]) -> Row:
    """
    :param line: of the CSV, by column
    :return: the row
    """
    kinds = Run.__annotations__ | Row.__annotations__
    values = [parse_value(line[name], kinds[name]) for name in COLUMNS]
    n_of_run = len(Run._fields)
    return Row(Run(*values[:n_of_run]), *values[n_of_run:])


def parse_value(text: str, annotation: Any) -> Any:
    """
    :param text: a value in the CSV
    :param annotation: of its field
    :return: the value, None for empty text in a field that may be None
    """
    kind, *others = get_args(annotation) or (annotation,)
    return None if others and not text else kind(text)


def append(rows: Iterable[Row], path: Path) -> None:
    """
    :param rows: the rows of a finished run
    :param path: the CSV, begun where it does not exist
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not path.is_file():
        writer.writerow(COLUMNS)
    writer.writerows((*row.run, *row[1:]) for row in rows)
    # In one piece, so that no part of a run is left behind by whatever stops the sweep
    with path.open("a", newline="", encoding="utf-8") as file:
        file.write(text.getvalue())


def explained_variances(progress: Path, timesteps: Iterable[int]) -> list[float | None]:
    """
    :param progress: log of a training, as Stable-Baselines3 writes it
    :param timesteps: of evaluations
    :return: for each the Q-critics' explained variance in the latest update before it, None where there was none
    """
    name = "train/q_explained_variance"
    with progress.open(newline="", encoding="utf-8") as file:
        # What an update has recorded is written with the next evaluation or rollout, so before or with the one asked for
        logged = [(int(line["time/total_timesteps"]), float(line[name])) for line in csv.DictReader(file) if line.get(name)]
    return [[None, *(value for logged_at, value in logged if logged_at <= step)][-1] for step in timesteps]


def train(run: Run, folder: Path) -> None:
    """
    Train one model, in this process. A training that has finished is not repeated.

    :param run: what to train
    :param folder: the run's own, for everything that the training writes
    """
    # Costs seconds, which the process that only starts trainings does not have to wait for
    from sb3_cora.zoo.train import main as train_main

    finished = folder / FINISHED
    if finished.is_file():
        return
    start = time.perf_counter()
    # The second is what rl_zoo3 keeps as the command of the run
    sys.argv = [str(ROOT / "zoo" / "train.py"), *run.training_flags(), "-f", str(folder)]
    sys.orig_argv = [sys.executable, *sys.argv]
    train_main()
    finished.write_text(f"{time.perf_counter() - start:.4f}")


def evaluate(run: Run, folder: Path) -> list[Row]:
    """
    Evaluate a model that :func:`train` has trained, in this process.

    :param run: what was trained
    :param folder: the run's own
    :return: the rows of the run
    """
    from sb3_cora.envs.batched_game import GameEnv
    from sb3_cora.zoo.enjoy import main as enjoy_main
    from sb3_cora.zoo.saved_run import saved_settings

    algo = run.algo.partition(":")[0]
    # <env>_<number>, the highest number being the latest; a name of rl_zoo3's, which replaces what does not suit a file name
    saved = max((folder / algo).iterdir(), key=lambda path: int(path.name.rpartition("_")[2]))
    name = saved.name.rpartition("_")[0]
    env = gym.make(run.env, disable_env_checker=True, **saved_settings(saved / name)["env_kwargs"]).unwrapped
    optimal_return = getattr(env, "optimal_return", None)
    n_episodes = 1 if isinstance(env, GameEnv) else N_EPISODES
    env.close()
    wall_seconds = float((folder / FINISHED).read_text())

    def row(kind: str, timesteps: int, returns: np.ndarray, explained: float | None = None) -> Row:
        figures = (returns.mean(), returns.min(), returns.max(), returns.std(), optimal_return, explained, wall_seconds)
        rounded = (None if figure is None else round(float(figure), 4) for figure in figures)
        return Row._make((run, kind, timesteps, *rounded))

    rows = []
    if (saved / "evaluations.npz").is_file():
        with np.load(saved / "evaluations.npz") as data:
            timesteps, results = data["timesteps"].tolist(), data["results"]
        explained = explained_variances(saved / "progress.csv", timesteps)
        rows += [row("curve", *evaluation) for evaluation in zip(timesteps, results, explained, strict=True)]
    models = {"best": saved / "best_model.zip", "final": saved / f"{name}.zip"}
    for kind, path in models.items():
        if not path.is_file():
            continue  # without evaluations during the training there is no best model
        flags = f"--eval-episodes {n_episodes} --n-envs {n_episodes} --seed {EVALUATION_SEED}".split()
        if kind == "best":
            flags.append("--load-best")
        sys.argv = [str(ROOT / "zoo" / "enjoy.py"), "--algo", algo, "--env", run.env, "-f", str(folder), *flags]
        returns = enjoy_main().returns
        with zipfile.ZipFile(path) as archive:
            rows.append(row(kind, json.loads(archive.read("data"))["num_timesteps"], returns))
    return rows


def run_in_process(run: Run, folder: Path, sender: Connection) -> None:
    """
    Train a model, evaluate it, and send the rows of the run.

    :param run: what to train
    :param folder: the run's own
    :param sender: where to send them
    """
    with (folder / LOG).open("a", encoding="utf-8") as log:
        # The descriptors, so that what libraries written in C print goes there too
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    train(run, folder)
    sender.send(evaluate(run, folder))


@contextmanager
def deferred_signals() -> Iterator[None]:
    """
    Have Ctrl-C and SIGTERM wait: a process that is being started is not yet among those that end with the sweep.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Job(NamedTuple):
    """A run that goes on: its folder and its process."""

    run: Run
    folder: Path
    process: BaseProcess


class Sweep:
    """
    Trains, several at a time, and records.

    :param results: The CSV
    :param log_folder: Folder in which every run gets a folder of its own
    :param envs: Environments, by their ids
    :param n_jobs: Number of trainings at once
    """

    def __init__(self, results: Path, log_folder: Path, envs: Iterable[str], n_jobs: int) -> None:
        self.results = results
        self.log_folder = log_folder
        self.n_jobs = n_jobs
        # Windows cannot fork
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self.context: Any = multiprocessing.get_context(method)
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ["OMP_NUM_THREADS"] = str(max(n_cores // n_jobs, 1))
        if method == "forkserver":
            # Until Python 3.13 the process that is forked does not get our path
            os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
            vmas = ["sb3_cora.envs.vmas"] if any(map(is_vmas, envs)) else []
            self.context.set_forkserver_preload([*PRELOADED, *vmas])
            # Ctrl-C would reach the trainings too, which then save their models as if they had finished. They inherit this
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            forkserver.ensure_running()
            signal.signal(signal.SIGINT, handler)

    def start(self, run: Run) -> tuple[Connection, Job]:
        """
        :param run: what to train
        :return: where its rows will arrive, and the process
        """
        # One each, because concurrent trainings in one log folder could settle on the same number for themselves
        digest = hashlib.sha256(repr(run).encode()).hexdigest()[:8]
        folder = self.log_folder / f"{run.algo.partition(':')[0]}_{run.env.replace('/', '-')}_seed{run.seed}_{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{run}: training, see {folder / LOG}", flush=True)
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=run_in_process, args=(run, folder, sender))
        process.start()
        # So that the end of the process ends the receiving
        sender.close()
        return receiver, Job(run, folder, process)

    def record(self, receiver: Connection, job: Job) -> bool:
        """
        :param receiver: where rows, or the end of the process, have arrived
        :param job: whose they are
        :return: whether the run has succeeded and is now in the results
        """
        try:
            rows = receiver.recv()
        except EOFError:
            job.process.join()
            end = (job.folder / LOG).read_text(encoding="utf-8")[-2000:] if (job.folder / LOG).is_file() else ""
            message = f"failed with exit code {job.process.exitcode}. The end of {job.folder / LOG}:\n{end}"
            print(f"{job.run}: {message}", file=sys.stderr, flush=True)
            return False
        append(rows, self.results)
        (job.folder / FINISHED).unlink()
        print(f"{job.run}: {rows[-1].return_mean:.2f} in {rows[-1].wall_seconds:.0f} s", flush=True)
        job.process.join()
        return True

    def execute(self, runs: Sequence[Run]) -> int:
        """
        :param runs: what to train
        :return: the number of runs that failed
        """
        waiting = list(reversed(runs))
        going: dict[Connection, Job] = {}
        n_failed = 0
        try:
            while waiting or going:
                while waiting and len(going) < self.n_jobs:
                    with deferred_signals():
                        receiver, job = self.start(waiting.pop())
                        going[receiver] = job
                for ready in wait(list(going)):
                    assert isinstance(ready, Connection)
                    n_failed += not self.record(ready, going[ready])
                    del going[ready]
        finally:
            for job in going.values():
                job.process.kill()
                job.process.join()
        return n_failed


def is_vmas(env: str) -> bool:
    """
    :param env: id of an environment
    :return: whether it is one of VMAS
    """
    # Costs seconds, which a report does not have to wait for
    import sb3_cora.envs  # noqa: F401  registers the environments

    return env in gym.registry and str(gym.registry[env].entry_point).startswith("sb3_cora.envs.vmas:")


def draws_a_game(env: str) -> bool:
    """
    :param env: id of an environment
    :return: whether it takes a ``game_seed``; True where it is unknown here, because it may be registered in the training
    """
    import sb3_cora.envs  # noqa: F401  registers the environments
    from sb3_cora.envs.registration import GAMES

    if env not in gym.registry:
        return True
    entry_point: Any = GAMES.get(env, gym.registry[env].entry_point)
    made = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return "game_seed" in inspect.signature(made).parameters


def interquartile_means(scores: np.ndarray) -> np.ndarray:
    """
    :param scores: of the runs, ``(n_runs, n_columns)``
    :return: each column's mean without the lowest and the highest quarter of the runs, ``(n_columns,)``
    """
    return np.array([metrics.aggregate_iqm(column) for column in scores.T])


def bootstrap_interval(scores: np.ndarray) -> tuple[float, float]:
    """
    :param scores: of the runs, ``(n_runs,)``
    :return: the bounds of the 95 % percentile interval of their interquartile mean
    """
    # Its generator is NumPy's global one, also where it is given another
    np.random.seed(0)  # noqa: NPY002 - what rliable uses
    _, intervals = get_interval_estimates({"": scores[:, None]}, interquartile_means, reps=N_RESAMPLES)
    low, high = intervals[""].ravel()
    return float(low), float(high)


class Result(NamedTuple):
    """
    What the report says of a run.

    - ``final``: return of the trained model
    - ``area``: mean of the learning curve over the timesteps, NaN without evaluations during the training
    - ``explained``: explained variance of the Q-critics at the end of each of ``FRACTIONS`` of the training, NaN where unknown
    - ``minutes``: duration of the training
    """

    final: float
    area: float
    explained: list[float]
    minutes: float

    @classmethod
    def of_run(cls, rows: Sequence[Row], is_normalized: bool) -> "Result":
        """
        :param rows: of the run
        :param is_normalized: whether to divide returns by the best return possible
        :return: its figures
        """
        final = next(row for row in rows if row.kind == "final")
        timesteps, returns = learning_curve(rows, is_normalized)
        area = np.nan
        if len(timesteps) == 1:
            area = returns[0]
        elif len(timesteps) > 1:
            area = np.trapezoid(returns, timesteps) / (timesteps[-1] - timesteps[0])
        curve = [row for row in rows if row.kind == "curve"]
        explained = [
            [None, *(row.q_explained_variance for row in curve if row.timesteps <= fraction * final.timesteps)][-1]
            for fraction in FRACTIONS
        ]
        return cls(
            scaled_return(final, is_normalized),
            float(area),
            [np.nan if value is None else value for value in explained],
            final.wall_seconds / 60,
        )


def scaled_return(row: Row, is_normalized: bool) -> float:
    """
    :param row: an evaluation
    :param is_normalized: whether to divide its return by the best return possible
    :return: its mean return
    """
    if not is_normalized:
        return row.return_mean
    assert row.optimal_return is not None
    return row.return_mean / row.optimal_return


def learning_curve(rows: Iterable[Row], is_normalized: bool) -> tuple[np.ndarray, np.ndarray]:
    """
    :param rows: of a run
    :param is_normalized: whether to divide returns by the best return possible
    :return: timesteps and mean returns of the evaluations during the training, ``(n_evaluations,)`` each
    """
    curve = [(row.timesteps, scaled_return(row, is_normalized)) for row in rows if row.kind == "curve"]
    timesteps, returns = np.array(curve).reshape(-1, 2).T
    return timesteps, returns


def mean_and_interval(scores: np.ndarray, n_digits: int) -> str:
    """
    :param scores: of the runs, ``(n_runs,)``
    :param n_digits: number of decimal places
    :return: their interquartile mean and its interval, "-" if a run has none
    """
    if np.isnan(scores).any():
        return "-"
    mean, (low, high) = metrics.aggregate_iqm(scores), bootstrap_interval(scores)
    return f"{mean:.{n_digits}f} ({low:.{n_digits}f} to {high:.{n_digits}f})"


def table_line(results: Sequence[Result], is_normalized: bool) -> str:
    """
    :param results: of the runs of one variant
    :param is_normalized: whether their returns are shares of the best return possible
    :return: the variant's line of the table, but for its label
    """
    n_digits = 3 if is_normalized else 2
    finals = np.array([result.final for result in results])
    areas = np.array([result.area for result in results])
    found = f"{(finals >= OPTIMAL).mean():.0%}" if is_normalized else "-"
    explained = ""
    for values in zip(*(result.explained for result in results), strict=True):
        known = [value for value in values if not np.isnan(value)]
        explained += f"{f'{np.median(known):.2f}' if known else '-':>7}"
    minutes = np.median([result.minutes for result in results])
    return (
        f"{len(results):>4}{mean_and_interval(finals, n_digits):>26}{mean_and_interval(areas, n_digits):>26}"
        f"{found:>8}{explained}{minutes:>9.1f}"
    )


def draw(runs: Sequence[Sequence[Row]], label: str, is_normalized: bool, axes: Axes) -> None:
    """
    Draw the interquartile mean of the runs' learning curves and, shaded, everything between the worst and the best run.

    :param runs: the rows of each run of one variant
    :param label: what the legend calls them
    :param is_normalized: whether to divide returns by the best return possible
    :param axes: where to draw
    """
    curves = [dict(zip(*learning_curve(rows, is_normalized), strict=True)) for rows in runs]
    timesteps = sorted(set.intersection(*map(set, curves)))
    if not timesteps:
        return
    means = np.array([[curve[step] for step in timesteps] for curve in curves])
    (line,) = axes.plot(timesteps, interquartile_means(means), label=textwrap.fill(f"{label}, runs: {len(runs)}", 60))
    axes.fill_between(timesteps, means.min(axis=0), means.max(axis=0), color=line.get_color(), alpha=0.15)
    axes.plot(timesteps, means.T, color=line.get_color(), alpha=0.4, linewidth=0.5)


def report(rows: Iterable[Row], picture: Path) -> None:
    """
    Print a table for each environment, with a line for each group of runs that differ in nothing but the seeds, and draw
    their learning curves.

    :param rows: of the CSV
    :param picture: the PNG file to write
    """
    runs: dict[Run, list[Row]] = {}
    for row in rows:
        runs.setdefault(row.run, []).append(row)
    panels: dict[str, dict[str, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: (*run[:3], *run[5:], -1 if run.game_seed is None else run.game_seed, run.seed)):
        label = " ".join(filter(None, (run.algo, run.arguments, f"[{run.settings}]")))
        panels.setdefault(joined(run.env, run.env_arguments), {}).setdefault(label, []).append(run)
    # Not through pyplot, which keeps figures alive and looks for a display
    figure = Figure(figsize=(9, 6 * len(panels)), layout="constrained")
    for (env, variants), axes in zip(panels.items(), figure.subplots(len(panels), squeeze=False)[:, 0], strict=True):
        optima = [row.optimal_return for group in variants.values() for run in group for row in runs[run]]
        # A share of what is not positive would rank nothing
        is_normalized = all(optimum is not None and optimum > 0 for optimum in optima)
        unit = "share of the best return possible" if is_normalized else "return"
        print(f"\n{env}: {unit}, interquartile mean (95 % interval); median Q explained variance at parts of the training")
        explained = "".join(f"{f'Q {fraction:.0%}':>7}" for fraction in FRACTIONS)
        print(f"{'runs':>4}{'final':>26}{'area under curve':>26}{f'>={OPTIMAL:.0%}':>8}{explained}{'minutes':>9}  algorithm")
        results = {label: [Result.of_run(runs[run], is_normalized) for run in group] for label, group in variants.items()}
        for label in variants:
            print(f"{table_line(results[label], is_normalized)}  {label}")
        print("Final returns, (game seed/)seed: return")
        for label, group in variants.items():
            finals = (next(row.return_mean for row in runs[run] if row.kind == "final") for run in group)
            print(f"  {label}  " + "  ".join(f"{run.seeds}: {value:.2f}" for run, value in zip(group, finals, strict=True)))
            draw([runs[run] for run in group], label, is_normalized, axes)
        axes.set(title=env, xlabel="timesteps, all worlds together", ylabel=f"{unit}, mean of an evaluation's episodes")
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
    algos, envs = [("cora_ppo", ""), ("mappo", "")], [("give_way", "")]
    parser.add_argument("--algo", nargs="+", type=variant, default=algos, help="algorithms, as name or name:setting=value,...")
    parser.add_argument("--env", nargs="+", type=variant, default=envs, help="environments, as id or id:argument=value,...")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="seeds of the trainings")
    parser.add_argument("--game-seeds", nargs="+", type=int, default=[None], help="game_seed of the environments")
    parser.add_argument("--jobs", type=int, default=1, help="number of trainings at once, which share the cores")
    parser.add_argument("--log-folder", type=Path, default=ROOT / "logs" / "learning", help="folder for the trainings' files")
    parser.add_argument("--output", type=Path, help="CSV file, benchmarks/results/learning_<env>.csv when not given")
    parser.add_argument("--report", action="store_true", help="train nothing, report what the CSV file has")
    args = parser.parse_args(own)
    names = list(dict.fromkeys(env.replace("/", "-") for env, _ in args.env))
    results = args.output or ROOT / "benchmarks" / "results" / f"learning_{'_'.join(names)}.csv"

    n_failed = 0
    if not args.report:
        if args.game_seeds != [None]:
            for env, env_arguments in args.env:
                if any(setting.startswith("game_seed=") for setting in single_settings(env_arguments)):
                    parser.error(f"{joined(env, env_arguments)} has a game_seed already: leave it or --game-seeds out")
                if not draws_a_game(env):
                    parser.error(f"{env} takes no game_seed, because it draws nothing: leave --game-seeds out, use --seeds")
        finished = {row.run for row in read(results)}
        # Seed by seed, so that an interrupted sweep has seen every algorithm
        runs = [
            Run(joined(algo, overrides), env, env_arguments, game_seed, seed, shlex.join(rest), settings_digest(algo, env))
            for seed in args.seeds
            for game_seed in args.game_seeds
            for env, env_arguments in args.env
            for algo, overrides in args.algo
        ]
        missing = [run for run in runs if run not in finished]
        print(f"{len(runs)} runs, {len(runs) - len(missing)} of them in {results}", flush=True)
        # As upon Ctrl-C: the trainings end with the sweep
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            if missing:
                n_failed = Sweep(results, args.log_folder, {run.env for run in missing}, args.jobs).execute(missing)
        except KeyboardInterrupt:
            sys.exit("Stopped. The same command continues with the runs that are missing.")
    rows = read(results)
    if rows:
        report(rows, results.with_suffix(".png"))
    if n_failed or not rows:
        sys.exit(f"{n_failed} runs failed." if n_failed else f"{results} has no runs to report.")


if __name__ == "__main__":
    main()
