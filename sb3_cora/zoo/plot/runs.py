"""What is plotted: trainings, their scores, and what is compared with what."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class TrainedRun(NamedTuple):
    """
    One training. Returns are means over the episodes of an evaluation (team reward, not discounted).

    :param algo: Label of the algorithm with its hyperparameters.
    :param env: Label of the environment with its arguments.
    :param game_seed: Seed of what the environment samples once and for all, None where it samples nothing.
    :param seed: Seed of the training.
    :param timesteps: Of the evaluations during the training, in steps of all environments together, ``(n_evaluations,)``.
    :param returns: Of these evaluations, ``(n_evaluations,)``.
    :param explained_variances: Of the Q-critics in the last update before each of them, ``(n_evaluations,)``, NaN where
        unknown.
    :param rollout_returns: What the training's last hundred episodes before each of them earned, with sampled actions,
        ``(n_evaluations,)``, NaN where unknown.
    :param final_timesteps: Timesteps of the whole training.
    :param final_return: Return of the trained model.
    :param best_return: Return of the best model during the training, None if unknown.
    :param optimum: Highest return possible, None if unknown.
    :param wall_seconds: Duration of the training, None if unknown.
    :param low: Return whose score is 0.
    :param high: Return whose score is 1.
    """

    algo: str
    env: str
    game_seed: int | None
    seed: int
    timesteps: np.ndarray
    returns: np.ndarray
    explained_variances: np.ndarray
    rollout_returns: np.ndarray
    final_timesteps: int
    final_return: float
    best_return: float | None
    optimum: float | None
    wall_seconds: float | None
    low: float = 0.0
    high: float = 1.0

    @property
    def scores(self) -> np.ndarray:
        """Scores of the evaluations during the training, ``(n_evaluations,)``; the returns, unless they are normalized."""
        return (self.returns - self.low) / (self.high - self.low)

    @property
    def final_score(self) -> float:
        """Score of the trained model."""
        return (self.final_return - self.low) / (self.high - self.low)

    @property
    def rollout_scores(self) -> np.ndarray:
        """Scores of what was earned with sampled actions, ``(n_evaluations,)``, NaN where unknown."""
        return (self.rollout_returns - self.low) / (self.high - self.low)

    @property
    def area(self) -> float:
        """Area under the learning curve: mean of the scores over the timesteps, NaN without an evaluation."""
        if len(self.timesteps) < 2:
            return float(self.scores[0]) if len(self.timesteps) else np.nan
        return float(np.trapezoid(self.scores, self.timesteps) / (self.timesteps[-1] - self.timesteps[0]))

    @property
    def seeds(self) -> str:
        """Game seed, where there is one, and seed."""
        return f"{self.seed}" if self.game_seed is None else f"{self.game_seed}/{self.seed}"


class Environment(NamedTuple):
    """
    The runs on one environment.

    :param name: Its label.
    :param unit: What the scores are.
    :param is_normalized: Whether a score of 1 is the best there is, or is said to be.
    :param runs: The runs of each algorithm, by its label, in the order of the plots.
    """

    name: str
    unit: str
    is_normalized: bool
    runs: dict[str, list[TrainedRun]]


class Source(NamedTuple):
    """
    What a source holds.

    :param runs: The runs.
    :param notes: What a reader of their statistics should know.
    """

    runs: list[TrainedRun]
    notes: list[str]


def selected(runs: Iterable[TrainedRun], field: str, labels: Sequence[str] | None) -> list[TrainedRun]:
    """
    :param runs: Any runs.
    :param field: ``"algo"`` or ``"env"``.
    :param labels: Labels to keep, in the order of the plots, None for all in the order in which they first appear.
    :return: The runs with these labels, in this order.
    :raises ValueError: If no run has one of the labels.
    """
    by_label: dict[str, list[TrainedRun]] = {}
    for run in runs:
        by_label.setdefault(getattr(run, field), []).append(run)
    if labels is None:
        labels = list(by_label)
    for label in labels:
        if label not in by_label:
            known = ", ".join(map(repr, sorted(by_label)))
            raise ValueError(f"No run has the {field} {label!r}: give --{field}s labels among {known}.")
    # A label given twice is plotted once
    return [run for label in dict.fromkeys(labels) for run in by_label[label]]


def unequal_notes(environments: Sequence[Environment]) -> list[str]:
    """
    :param environments: What is compared.
    :return: Where numbers or lengths of runs differ, which a reader should know.
    """
    notes = []
    groups = [(environment.name, algo, runs) for environment in environments for algo, runs in environment.runs.items()]
    counts = {len(runs) for _, _, runs in groups}
    if len(counts) > 1:
        notes.append(
            f"The numbers of runs differ, from {min(counts)} to {max(counts)} for an algorithm on an environment (see the "
            "tables). The interval of fewer than five runs is too narrow, and one run has none. Across environments, each has "
            "the same weight: leave out those with few runs by --envs."
        )
    for environment in environments:
        lengths = sorted({run.final_timesteps for runs in environment.runs.values() for run in runs})
        if len(lengths) > 1:
            notes.append(
                f"Trainings on {environment.name} have different lengths, from {lengths[0]} to {lengths[-1]} timesteps."
            )
        if len({frozenset((run.game_seed, run.seed) for run in runs) for runs in environment.runs.values()}) > 1:
            notes.append(f"The algorithms on {environment.name} were not all trained with the same seeds.")
    return notes
