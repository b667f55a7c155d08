"""Going on with a training that was interrupted: ``--state-interval`` and ``--resume`` of ``train.py``."""

import argparse
import os
import re
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from huggingface_sb3 import EnvironmentName

from sb3_cora.common.training_state import TrainingStateCallback
from sb3_cora.common.training_state.files import state_files
from sb3_cora.zoo.mistakes import differences
from sb3_cora.zoo.versions import versions
from sb3_cora.zoo.whole_files import write_whole

# The value of --resume without a folder.
LATEST = "latest"
# Flags that do not change what a training comes to.
FREE_FLAGS = ("log_folder", "progress", "resume", "state_interval", "verbose")


def states_folder(run: Path) -> Path:
    """
    :param run: Folder of a run.
    :return: The folder of the states of its training.
    """
    return run / "training_state"


def resumed_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace, given: Sequence[str]) -> argparse.Namespace:
    """
    :param parser: The parser of ``train.py``. Its defaults become the flags of the run.
    :param args: What it has parsed.
    :param given: What the user gave.
    :return: The flags of the run that ``args.resume`` names, whose folder it then is.
    :raises ValueError: If there is no such run, or a flag that the user gave differs from the run's.
    """
    folder = _latest_run(args) if args.resume == LATEST else Path(args.resume)
    files = list(folder.glob("*/args.yml"))
    if len(files) != 1:
        raise ValueError(
            f"--resume {folder} is no folder of a run, it has no <env>/args.yml: name one as in logs/mappo/give_way_1."
        )
    if not state_files(states_folder(folder)):
        raise ValueError(
            f"--resume {folder}: there is no {states_folder(folder)}/training_state_<n>_steps.bin. The training has come to "
            "its end, or was killed before its first state was saved. Go on from a model with -i, or start a new training."
        )
    # Unsafe, because rl_zoo3 writes Python objects into it.
    before = yaml.unsafe_load(files[0].read_text(encoding="utf-8"))
    parser.set_defaults(**before)
    now = argparse.ArgumentParser.parse_args(parser, given)
    changes: list[str] = []
    for name, old in before.items():
        new, flag = getattr(now, name), f"--{name.replace('_', '-')}"
        if name in FREE_FLAGS or new == old:
            continue
        if isinstance(new, dict) and isinstance(old, dict):
            # Of -params and the like, those that are given need not be all.
            changes += [f"{key} of {flag} is {new[key]!r} and was {old.get(key)!r}" for key in new if new[key] != old.get(key)]
            setattr(now, name, old)
        else:
            changes.append(f"{flag} is {new!r} and was {old!r}")
    if changes:
        raise ValueError(
            f"--resume goes on with {folder} as it was started, but {', '.join(changes)}. Leave out what has changed, or go "
            "on from a model with -i."
        )
    now.resume = str(folder)
    return now


def _latest_run(args: argparse.Namespace) -> Path:
    name, parent = EnvironmentName(args.env), Path(args.log_folder, args.algo)
    found = [(re.fullmatch(re.escape(name) + r"_(\d+).*", path.name), path) for path in parent.glob("*")]
    runs = [(int(match[1]), path) for match, path in found if match is not None and state_files(states_folder(path))]
    if not runs:
        raise ValueError(
            f"--resume: no run of --algo {args.algo} --env {args.env} in {parent} was interrupted after its state was saved. "
            "Name the folder of one with --resume FOLDER, go on from a model with -i, or start a new training."
        )
    return max(runs)[1]


def check_settings(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """
    :param folder: Folder of a run.
    :param before: The hyperparameters that its training was started with, as they are written in YAML.
    :param now: Those of the configuration and the flags.
    :raises ValueError: If they differ.
    """
    if changes := differences(before, now):
        raise ValueError(
            f"--resume goes on with {folder} with the hyperparameters that it was started with, but {changes}. "
            "Restore the configuration, or go on from a model with -i."
        )


def warn_of_other_versions(path: Path) -> None:
    """
    :param path: The ``versions.yml`` of a run, from which the present versions may differ.
    """
    if not path.is_file():
        return
    if changes := differences(yaml.safe_load(path.read_text(encoding="utf-8")), versions()):
        warnings.warn(f"The training is resumed with other code, so it may come to another result: {changes}.", stacklevel=2)


class RunStateCallback(TrainingStateCallback):
    """
    Saves the state of a training in the folder of its run, together with what its log files hold at this time.

    :param run: The folder.
    :param every_seconds: Save at the end of the first rollout after this many seconds.
    :param settings: The hyperparameters, as they are written in YAML.
    """

    def __init__(self, run: Path, every_seconds: float, settings: dict[str, Any]) -> None:
        super().__init__(states_folder(run), every_seconds=every_seconds)
        self.run = run
        self.settings = settings

    def more_state(self) -> dict[str, Any]:
        progress = self.run / "progress.csv"
        return {
            "settings": self.settings,
            # The whole file, because it is written anew for each new column.
            "progress": progress.read_bytes() if progress.is_file() else b"",
            "sizes": {path.name: path.stat().st_size for path in _monitor_files(self.run)},
        }


def _monitor_files(run: Path) -> Iterator[Path]:
    return run.glob("*monitor.csv")


def take_back_logs(run: Path, state: dict[str, Any]) -> None:
    """
    Remove from the log files of a run what was written after a state was saved, because the training will write it again.

    :param run: The folder of the run.
    :param state: The state, of ``RunStateCallback``.
    """
    write_whole({run / "progress.csv": partial(Path.write_bytes, data=state["progress"])})
    for path in _monitor_files(run):
        size = state["sizes"].get(path.name)
        if size is not None and path.stat().st_size > size:
            os.truncate(path, size)


def remove_states(run: Path) -> None:
    """:param run: Folder of a run whose training has come to its end."""
    shutil.rmtree(states_folder(run), ignore_errors=True)


@contextmanager
def saved_when_interrupted(saver: TrainingStateCallback) -> Iterator[None]:
    """
    A context in which the first Ctrl-C or SIGTERM ends the training after the current rollout and its update, with its state
    saved, and the second at once.

    :param saver: The callback that saves.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    # Python has handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}

    def end(number: int, frame: FrameType | None) -> None:
        restore()
        saver.end()
        # Not by print(), which the signal may have interrupted.
        os.write(2, b"Finishing this rollout to save the state of the training. A second Ctrl-C or SIGTERM ends it at once.\n")

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in signals:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore()
