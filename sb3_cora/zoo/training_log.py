"""What the log of a training says, ``progress.csv`` as Stable-Baselines3 writes it."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

Logged = Sequence[tuple[int, float]]
"""Timesteps and values of what was logged, in the order of the log."""

COLUMNS = ("time/time_elapsed", "train/q_explained_variance", "rollout/ep_rew_mean")


class TrainingLog(NamedTuple):
    """
    What comparisons of trainings need of a log, empty where it was not logged.

    :param seconds: Since the beginning of the training.
    :param explained_variances: Of the Q-critics.
    :param rollout_returns: Mean returns of the last hundred episodes, with sampled actions.
    """

    seconds: Logged = ()
    explained_variances: Logged = ()
    rollout_returns: Logged = ()


def read(path: Path) -> TrainingLog:
    """
    :param path: The log.
    :return: What it says.
    :raises FileNotFoundError: If there is none.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return TrainingLog(
        *([(int(line["time/total_timesteps"]), float(line[name])) for line in lines if line.get(name)] for name in COLUMNS)
    )


def last_values(logged: Logged, timesteps: Iterable[float]) -> list[float | None]:
    """
    :param logged: What was logged.
    :param timesteps: Of evaluations. What an update or a rollout has recorded before one is written with it or earlier.
    :return: For each the last value up to it, None if there was none.
    """
    return [[None, *(value for logged_at, value in logged if logged_at <= step)][-1] for step in timesteps]
