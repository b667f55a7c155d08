"""What is killed: trainings, searches and benchmarks, each started by the command that users start it with."""

import csv
import hashlib
import importlib
import multiprocessing
import os
import pickle
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch as th
import yaml
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize

from sb3_cora.common.training_state.files import read_latest_state, state_files
from sb3_cora.zoo import results
from sb3_cora.zoo.results import Row
from sb3_cora.zoo.tuning.storage import open_storage
from sb3_cora.zoo.tuning.trials import is_abandoned

Traces = dict[str, tuple[int, int]]
"""Size and time of files, by name."""

# What the processes that are killed import, once for all of them.
PRELOADED = (
    *("benchmarks.kills.subjects", "sb3_cora.zoo.train", "sb3_cora.zoo.tune", "sb3_cora.zoo.benchmark", "sb3_cora.envs.vmas"),
    *("torch._dynamo", "matplotlib.backends.backend_agg"),
)
# Columns of logs that differ from run to run.
TIMES = ("time/fps", "time/time_elapsed", "t")


def context() -> Any:
    """
    :return: Makes processes, forked from one that has imported everything.
    """
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(list(PRELOADED))
    return made


def run(module: str, arguments: tuple[str, ...], folder: Path) -> None:
    """
    Run a command of the zoo in this process. What it prints is added to ``output.log``.

    :param module: Its module
    :param arguments: What is passed to it
    :param folder: The folder to run in
    """
    with (folder / "output.log").open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    th.set_num_threads(1)
    sys.argv = [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    importlib.import_module(module).main()


def children(pid: int) -> list[int]:
    """
    :param pid: Of a process
    :return: Of the processes that it has started and that run
    """
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything; then come the state and the parent.
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(status.parent.name))
    return found


def digest(path: Path) -> str:
    """
    :param path: A file of a run
    :return: What is the same if the file says the same, to the last bit, but for times
    """
    content = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for key, value in part.items():
                add((key, value))
        elif isinstance(part, list | tuple):
            for value in part:
                add(value)
        elif isinstance(part, th.Tensor | np.ndarray):
            array = np.asarray(part)
            content.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        elif isinstance(part, VecNormalize | RunningMeanStd):
            add(vars(part))
        else:
            content.update(repr(part).encode())

    match path.suffix:
        case ".zip":
            # Weights, and the moments of optimizers.
            add(load_from_zip_file(path, device="cpu")[1])
        case ".pkl":
            # Normalization. Bytes of pickles depend on which of the equal objects in them are one.
            with path.open("rb") as file:
                add(pickle.load(file))
        case ".npz":
            add(dict(np.load(path)))
        case ".csv":
            lines = list(csv.reader(path.read_text().splitlines()[path.name.endswith("monitor.csv") :]))
            # The order of the columns is that of a set.
            columns = sorted((name, index) for index, name in enumerate(lines[0]) if name not in TIMES)
            add([[line[index] for _, index in columns] for line in lines])
        case _:
            content.update(path.read_bytes())
    return content.hexdigest()


def looked_at(folder: Path, paths: Iterable[Path]) -> Traces:
    """
    :param folder: A folder
    :param paths: Files in it, which may be gone
    :return: What they look like
    """
    found = {}
    for path in paths:
        with suppress(FileNotFoundError):
            state = path.stat()
            found[str(path.relative_to(folder))] = state.st_size, state.st_mtime_ns
    return found


class Subject(ABC):
    """
    Something that can be killed, and started again.

    :param name: What it is
    :param most_kills: How often one is killed before it may come to its end
    """

    # What a kill is aimed at, in turn: ``None`` for the process that was started.
    targets: tuple[str | None, ...] = (None,)

    def __init__(self, name: str, most_kills: int) -> None:
        self.name = name
        self.most_kills = most_kills

    def start(self, folder: Path) -> BaseProcess | None:
        """
        :param folder: Its folder
        :return: The process, started anew or going on; None if the one before had come to its end when it was killed
        """
        folder.mkdir(parents=True, exist_ok=True)
        command = self.command(folder)
        if command is None:
            return None
        process = context().Process(target=run, args=(*command, folder))
        process.start()
        return process

    @abstractmethod
    def command(self, folder: Path) -> tuple[str, tuple[str, ...]] | None:
        """
        :param folder: Its folder
        :return: Module and arguments, None if there is nothing left to do
        """

    @abstractmethod
    def saves(self, folder: Path) -> Traces:
        """
        :param folder: Its folder
        :return: Traces of saves that go on, or of which a killed process was in the middle
        """

    @abstractmethod
    def progress(self, folder: Path) -> int:
        """
        :param folder: Its folder
        :return: How far it is: what would not be lost if it were killed now
        """

    @abstractmethod
    def outcome(self, folder: Path) -> dict[Any, Any]:
        """
        :param folder: Its folder, after its end
        :return: What it has come to
        """

    def victims(self, process: BaseProcess, target: str | None) -> list[int]:
        """
        :param process: The process that was started
        :param target: One of ``targets``
        :return: The processes, of which one is killed
        """
        return [process.pid or 0]


class TrainingSubject(Subject):
    """
    ``train.py``, which saves its state after each rollout, and ``train.py --resume``.

    :param algo: The algorithm
    :param env: The environment
    :param flags: Further flags
    """

    def __init__(self, algo: str, env: str, *flags: str) -> None:
        super().__init__(f"training {algo} {env}", most_kills=12)
        self.names = ("--algo", algo, "--env", env)
        self.flags = flags

    def command(self, folder: Path) -> tuple[str, tuple[str, ...]] | None:
        module = "sb3_cora.zoo.train"
        for one in self._runs(folder):
            if state_files(one / "training_state"):
                return module, (*self.names, "--resume")
            if list(one.glob("*.zip")):
                return None
        return module, (*self.names, "--state-interval", "0", "--seed", "1", *self.flags)

    def saves(self, folder: Path) -> Traces:
        # Of the state, and of models with their normalization.
        paths = [path for one in self._runs(folder) for path in (*one.glob("*.unfinished"), *one.glob("*/*.unfinished"))]
        return looked_at(folder, paths)

    def progress(self, folder: Path) -> int:
        for one in self._runs(folder):
            for path in state_files(one / "training_state"):
                return int(read_latest_state(path)["num_timesteps"])
        return 0

    def outcome(self, folder: Path) -> dict[Any, Any]:
        last = self._runs(folder)[0]
        return {str(path.relative_to(last)): digest(path) for path in sorted(last.rglob("*")) if path.is_file()}

    def _runs(self, folder: Path) -> list[Path]:
        """The latest first: one that was killed before its first state is begun anew, in a folder of its own."""
        return sorted(folder.glob("logs/*/*_*"), key=lambda path: int(path.name.rpartition("_")[2]), reverse=True)


class TuningSubject(Subject):
    """
    ``tune.py`` with a journal.

    :param algo: The algorithm
    :param env: The environment
    :param n_trials: Number of trials
    :param flags: Further flags
    """

    def __init__(self, algo: str, env: str, n_trials: int, *flags: str) -> None:
        # A trial that was killed a fourth time is given up, because its hyperparameters may be what kills it.
        super().__init__(f"tuning {algo} {env}", most_kills=3)
        self.arguments = ("--algo", algo, "--env", env, "--n-trials", str(n_trials), "--grace-period", "2", *flags)
        self.study_name = f"{env}-{algo}"

    def command(self, folder: Path) -> tuple[str, tuple[str, ...]] | None:
        return "sb3_cora.zoo.tune", (*self.arguments, "--storage", "journal.log")

    def saves(self, folder: Path) -> Traces:
        found = looked_at(folder, [folder / "journal.log.lock"])
        journal = folder / "journal.log"
        if journal.is_file() and not journal.read_bytes().endswith(b"\n"):
            found["half a line"] = journal.stat().st_size, 0
        return found

    def progress(self, folder: Path) -> int:
        # The journal is not opened, because that takes the lock that a killed process may have left behind.
        path = folder / "journal.log"
        return len(re.findall(rb'"values": ?\[', path.read_bytes())) if path.is_file() else 0

    def outcome(self, folder: Path) -> dict[Any, Any]:
        study = optuna.load_study(study_name=self.study_name, storage=open_storage(str(folder / "journal.log")))
        finished = [trial for trial in study.trials if trial.state.is_finished() and not is_abandoned(trial)]
        # In any order: while nobody can know yet that a trial was killed, the next one is begun.
        told = sorted(
            repr((trial.state.name, trial.values, trial.params, trial.intermediate_values, trial.user_attrs))
            for trial in finished
        )
        return dict(enumerate(told))


class BenchmarkSubject(Subject):
    """
    ``benchmark.py`` with two workers.

    :param suite: The suite
    """

    targets = ("runner", "worker")

    def __init__(self, suite: dict[str, Any]) -> None:
        super().__init__("benchmark", most_kills=10)
        self.suite = suite

    def command(self, folder: Path) -> tuple[str, tuple[str, ...]] | None:
        (folder / "small.yml").write_text(yaml.safe_dump(self.suite, sort_keys=False))
        return "sb3_cora.zoo.benchmark.command", (
            *("small.yml", "--workers", "2", "--no-plots", "--output", "table.csv", "--log-folder", "logs"),
        )

    def saves(self, folder: Path) -> Traces:
        return looked_at(folder, folder.glob("logs/**/*.unfinished"))

    def progress(self, folder: Path) -> int:
        return len({row.run for row in results.read(folder / "table.csv")})

    def outcome(self, folder: Path) -> dict[Any, Any]:
        rows: list[Row] = [row._replace(wall_seconds=0.0) for row in results.read(folder / "table.csv")]
        return {f"row {number}": row for number, row in enumerate(rows)}

    def victims(self, process: BaseProcess, target: str | None) -> list[int]:
        if target == "runner":
            return super().victims(process, target)
        # Those that train are children of the one that forks, and come after its imports.
        return [worker for forks in children(process.pid or 0) for worker in children(forks)]


SUBJECTS: dict[str, list[Subject]] = {
    "training": [
        TrainingSubject(
            *("cora_ppo", "climbing", "-n", "400", "--eval-freq", "80", "--eval-episodes", "4", "--final-eval-episodes", "4"),
            *("-params", "n_envs:8", "n_steps:5", "batch_size:40", "n_epochs:2", "normalize:True", "learning_rate:lin_1e-3"),
        ),
        TrainingSubject(
            *("mappo", "give_way", "-n", "192", "--eval-freq", "64", "--eval-episodes", "4", "--final-eval-episodes", "4"),
            *("--env-kwargs", "max_steps:8"),
            *("-params", "n_envs:4", "n_steps:8", "batch_size:32", "n_epochs:2", "normalize:True", "learning_rate:lin_1e-3"),
        ),
    ],
    "tuning": [
        TuningSubject(
            *("mappo", "climbing", 4, "-n", "240", "--n-evaluations", "3", "--eval-episodes", "4"),
            *("-params", "n_envs:8", "n_steps:5", "batch_size:40", "n_epochs:2"),
        )
    ],
    # Both kinds of environment that a benchmark has: with games, and with seeds alone.
    "benchmark": [
        BenchmarkSubject(
            {
                "seeds": 1,
                "n_timesteps": 600,
                "hyperparams": {"n_envs": 4, "n_steps": 25, "batch_size": 50, "n_epochs": 2},
                "eval_freq": 200,
                "environments": {
                    "climbing": {"env": "climbing"},
                    "multi_peak": {"env": "multi_peak", "env_kwargs": {"n_actions": 3}, "game_seeds": 2},
                },
                "algorithms": {"CORA": {"algo": "cora_ppo"}, "MAPPO": {"algo": "mappo"}},
            }
        )
    ],
}
