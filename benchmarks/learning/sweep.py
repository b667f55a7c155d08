"""Trains and evaluates runs, each in a process of its own, several at a time."""

import csv
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from benchmarks.learning.runs import ROOT, Row, Run, append

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


def explained_variances(progress: Path, timesteps: Iterable[int]) -> list[float | None]:
    """
    :param progress: Log of a training, as Stable-Baselines3 writes it
    :param timesteps: Of evaluations
    :return: For each the Q-critics' explained variance in the latest update before it, None where there was none
    """
    name = "train/q_explained_variance"
    with progress.open(newline="", encoding="utf-8") as file:
        # What an update has recorded is written with the next evaluation or rollout, so before or with the one asked for
        logged = [(int(line["time/total_timesteps"]), float(line[name])) for line in csv.DictReader(file) if line.get(name)]
    return [[None, *(value for logged_at, value in logged if logged_at <= step)][-1] for step in timesteps]


def train(run: Run, folder: Path) -> None:
    """
    Train one model, in this process. A training that has finished is not repeated.

    :param run: What to train
    :param folder: The run's own, for everything that the training writes
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

    :param run: What was trained
    :param folder: The run's own
    :return: The rows of the run
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

    :param run: What to train
    :param folder: The run's own
    :param sender: Where to send them
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
        :param run: What to train
        :return: Where its rows will arrive, and the process
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
        :param receiver: Where rows, or the end of the process, have arrived
        :param job: Whose they are
        :return: Whether the run has succeeded and is now in the results
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
        :param runs: What to train
        :return: The number of runs that failed
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
    :param env: Id of an environment
    :return: Whether it is one of VMAS
    """
    # Costs seconds, which a report does not have to wait for
    import sb3_cora.envs  # noqa: F401  registers the environments

    return env in gym.registry and str(gym.registry[env].entry_point).startswith("sb3_cora.envs.vmas:")
