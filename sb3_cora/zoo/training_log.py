"""What the log of a training says, ``progress.csv`` as Stable-Baselines3 writes it."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

Logged = Sequence[tuple[int, float]]
"""Timesteps and values of what was logged, in the order of the log."""

EXPLAINED_VARIANCE = "train/q_explained_variance"
ROLLOUT_RETURN = "rollout/ep_rew_mean"


def read(path: Path, name: str) -> Logged:
    """
    :param path: The log, or none.
    :param name: Of one of its columns.
    :return: What stands there, nothing where there is no such column or file.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(int(line["time/total_timesteps"]), float(line[name])) for line in csv.DictReader(file) if line.get(name)]


def last_values(logged: Logged, timesteps: Iterable[float]) -> list[float | None]:
    """
    :param logged: What was logged.
    :param timesteps: Of evaluations. What an update or a rollout has recorded before one is written with it or earlier.
    :return: For each the last value up to it, None if there was none.
    """
    return [[None, *(value for logged_at, value in logged if logged_at <= step)][-1] for step in timesteps]
