"""One run of a benchmark: training and evaluation, in this process."""

import contextlib
import json
import os
import re
import shutil
import sys
import time
import traceback
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml

import sb3_cora
from sb3_cora.common.training_state.files import read_latest_state, state_files
from sb3_cora.envs.batched_game import GameEnv
from sb3_cora.zoo import training_log
from sb3_cora.zoo.algos import register_algorithms
from sb3_cora.zoo.benchmark.suites import Task
from sb3_cora.zoo.enjoy import main as enjoy_main
from sb3_cora.zoo.mistakes import Refused
from sb3_cora.zoo.results import Row
from sb3_cora.zoo.resuming import states_folder
from sb3_cora.zoo.train import main as train_main

SCRIPTS = Path(sb3_cora.__file__).parent / "zoo"
# Of the closing evaluations: the best model was chosen on the episodes of the training's own seed.
EVALUATION_SEED = 1_000_000
# How often a run is started that neither finishes nor fails, because its process or machine ends.
N_ATTEMPTS = 5
# File in the folder of a run with the seconds of its training, from its end until the run has been evaluated.
FINISHED = "wall_seconds.txt"
# File in the folder of a run for all that it prints.
LOG = "run.log"


class EndedEarly(RuntimeError):
    """A training was ended by a signal, with its state saved."""


def run_folder(task: Task, log_folder: Path) -> Path:
    """
    :param task: A run.
    :param log_folder: Folder of all runs.
    :return: Folder of this one. Concurrent trainings in one folder could give themselves the same number.
    """
    run = task.run
    game = "" if run.game_seed is None else f"_game{run.game_seed}"
    name = re.sub(r"[^\w.=-]+", "-", f"{run.algo}_{run.env}") + f"{game}_seed{run.seed}_{run.config}"
    return log_folder / run.suite / name


def execute(task: Task, log_folder: Path, commit: str, packages: Sequence[str]) -> list[Row]:
    """
    Train a model and evaluate it. What a killed process has left of the training is gone on with.

    :param task: The run.
    :param log_folder: Folder of all runs.
    :param commit: Version of the code.
    :param packages: Modules that register environments and algorithms of the suite, as of ``--gym-packages``.
    :return: The rows of the run, or a single one of the kind ``"failed"`` if it raised an error.
    """
    folder = run_folder(task, log_folder)
    interrupted = interrupted_run(task, folder)
    if interrupted is None and not (folder / FINISHED).is_file():
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with redirected_output(folder / LOG):
        try:
            wall_seconds = train(task, folder, interrupted, packages)
            rows = evaluate(task, folder, commit, wall_seconds, packages)
            (folder / FINISHED).unlink()
            return rows
        # SystemExit is how a command line refuses, which has the error as its cause.
        except (Exception, SystemExit) as stop:
            error = stop.__cause__ if isinstance(stop, Refused) and stop.__cause__ is not None else stop
            traceback.print_exc()
            # The next attempt begins anew, unless the training was interrupted. What it was resumed from may have failed.
            (folder / FINISHED).unlink(missing_ok=True)
            if interrupted is not None and not isinstance(error, EndedEarly):
                shutil.rmtree(states_folder(interrupted), ignore_errors=True)
            return [failed(task, commit, f"{type(error).__name__}: {error}", time.perf_counter() - start)]


def interrupted_run(task: Task, folder: Path) -> Path | None:
    """
    :param task: A run.
    :param folder: Its folder.
    :return: The folder of its training if that can be resumed.
    """
    trainings = (folder / task.algo).glob("*/")
    return next((training for training in trainings if state_files(states_folder(training))), None)


@contextlib.contextmanager
def redirected_output(path: Path) -> Iterator[None]:
    """
    Write all that this process prints to a file.

    :param path: The file.
    """
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    with path.open("a", encoding="utf-8") as log:
        # The descriptors, so that what libraries written in C print goes there too.
        for descriptor in kept:
            os.dup2(log.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in kept.items():
                os.dup2(copy, descriptor)
                os.close(copy)


def failed(task: Task, commit: str, message: str, wall_seconds: float) -> Row:
    """
    :param task: A run.
    :param commit: Version of the code.
    :param message: Why it failed.
    :param wall_seconds: After how long.
    :return: Its only row.
    """
    seconds = round(wall_seconds, 4)
    # A line of a table, so no line breaks; all of it is in the run's log.
    line = " ".join(message.split())[:500]
    return Row(*task.run, commit, "failed", 0, seconds, None, None, None, None, None, None, None, line)


def imports(packages: Sequence[str]) -> list[str]:
    """
    :param packages: See ``execute``.
    :return: The flag of the command line that names them, if there are any.
    """
    return ["--gym-packages", *packages] if packages else []


def train(task: Task, folder: Path, interrupted: Path | None, packages: Sequence[str]) -> float:
    """
    Train as ``zoo/train.py`` does, unless that has been done.

    :param task: The run.
    :param folder: Its folder.
    :param interrupted: Folder of the training to resume, if any.
    :param packages: See ``execute``.
    :return: Duration of the training in seconds, without what was lost by an interruption.
    """
    finished = folder / FINISHED
    if finished.is_file():
        return float(finished.read_text())
    start, before = time.perf_counter(), 0.0
    if interrupted is None:
        # A file instead of flags, in which every value would be text to be read. The run may be resumed from another folder.
        config = (folder / "hyperparams.yml").absolute()
        config.write_text(yaml.safe_dump({task.env: task.hyperparams}, sort_keys=False), encoding="utf-8")
        evaluations = task.evaluations
        flags: dict[str, Any] = {
            **{"--algo": task.algo, "--env": task.env, "--seed": task.run.seed, "--conf-file": config, "-f": folder},
            **{"--eval-freq": evaluations.eval_freq, "--eval-episodes": evaluations.eval_episodes},
            **{"--final-eval-episodes": -1, "--save-freq": -1},
        }
    else:
        before = read_latest_state(states_folder(interrupted))["elapsed"] / 1e9
        flags = {"--resume": interrupted}
    sys.argv = [str(SCRIPTS / "train.py"), *(str(part) for flag in flags.items() for part in flag), *imports(packages)]
    # What rl_zoo3 keeps as the command of the run.
    sys.orig_argv = [sys.executable, *sys.argv]
    train_main()
    seconds = before + time.perf_counter() - start
    finished.write_text(f"{seconds:.4f}")
    return seconds


def evaluate(task: Task, folder: Path, commit: str, wall_seconds: float, packages: Sequence[str]) -> list[Row]:
    """
    Evaluate a trained model, and the best of its training, as ``zoo/enjoy.py`` does.

    :param task: The run.
    :param folder: Its folder.
    :param commit: Version of the code.
    :param wall_seconds: Duration of the training.
    :param packages: See ``execute``.
    :return: The rows of the run.
    :raises EndedEarly: If the training was ended early.
    """
    # If the training was done by an earlier process, nothing has imported them in this one.
    register_algorithms(packages)
    (saved,) = (path for path in (folder / task.algo).iterdir() if path.is_dir())
    # A name of rl_zoo3's, which replaces what does not suit a file name.
    name = saved.name.rpartition("_")[0]
    env = gym.make(task.env, disable_env_checker=True, **task.hyperparams["env_kwargs"]).unwrapped
    optimum = getattr(env, "optimal_return", None)
    # Episodes of a game under the most likely actions are all the same.
    n_episodes = 1 if isinstance(env, GameEnv) else task.evaluations.final_eval_episodes
    env.close()

    def row(
        kind: str, timesteps: int, returns: np.ndarray, explained: float | None = None, rollout_return: float | None = None
    ) -> Row:
        of_returns = (returns.mean(), returns.std(), returns.min(), returns.max())
        figures = (wall_seconds, *of_returns, optimum, explained, rollout_return)
        rounded = (None if figure is None else round(float(figure), 4) for figure in figures)
        return Row._make((*task.run, commit, kind, timesteps, *rounded, ""))

    rows = []
    if (saved / "evaluations.npz").is_file():
        with np.load(saved / "evaluations.npz") as data:
            timesteps, results = data["timesteps"].tolist(), data["results"]
        log = training_log.read(saved / "progress.csv")
        explained = training_log.last_values(log.explained_variances, timesteps)
        rollout_returns = training_log.last_values(log.rollout_returns, timesteps)
        evaluations = zip(timesteps, results, explained, rollout_returns, strict=True)
        rows += [row("curve", *evaluation) for evaluation in evaluations]
    for kind, path in {"best": saved / "best_model.zip", "final": saved / f"{name}.zip"}.items():
        if not path.is_file():
            continue  # without evaluations during the training there is no best model
        with zipfile.ZipFile(path) as archive:
            done = json.loads(archive.read("data"))["num_timesteps"]
        if kind == "final" and done < task.n_timesteps:
            raise EndedEarly(f"The training was ended after {done} of {task.n_timesteps} timesteps.")
        flags = ["--algo", task.algo, "--env", task.env, "-f", str(folder), "--seed", str(EVALUATION_SEED), "--verbose", "0"]
        flags += ["--eval-episodes", str(n_episodes), "--n-envs", str(n_episodes)]
        flags += ["--load-best"] if kind == "best" else []
        sys.argv = [str(SCRIPTS / "enjoy.py"), *flags, *imports(packages)]
        rows.append(row(kind, done, enjoy_main().returns))
    return rows
