"""The numbers of the tables: what the runs of each algorithm have come to, on each environment and over all."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sb3_cora.zoo.plot.normalization import check_comparable
from sb3_cora.zoo.plot.runs import Environment, TrainedRun
from sb3_cora.zoo.statistics import (
    Estimate,
    Statistic,
    Strata,
    estimate,
    mean_and_interval,
    optimality_gaps,
    weighted_interquartile_means,
    weighted_means,
    weighted_medians,
)

# Parts of the training at whose end the tables look at the Q-critics
FRACTIONS = (0.1, 0.25, 0.5, 1.0)
# Score from which on a run counts as having found the optimum
OPTIMAL = 0.99
# Score of sampled actions from which on a run counts as having learned
LEARNED = 0.95


class Summary(NamedTuple):
    """
    What the runs of an algorithm on an environment have come to. Means are interquartile means over the runs.

    :param algo: Label of the algorithm.
    :param n_runs: Number of runs.
    :param final: Mean score of the trained models.
    :param area: Mean area under the learning curves, None if a run has no evaluation during the training.
    :param at_optimum: Share of the trained models whose score is at least ``OPTIMAL``, None if scores are returns.
    :param learned_after: Median over the runs of the timesteps of the first evaluation before which the training's last
        hundred episodes, with sampled actions, earned at least ``LEARNED``; infinite where they never did. None if scores are
        returns or no run knows it.
    :param explained_variances: Median over the runs of the Q-critics' explained variance at the end of each of ``FRACTIONS``
        of the training, None where no run knows it.
    :param minutes: Mean duration of a training, None if a run does not know it.
    """

    algo: str
    n_runs: int
    final: Estimate
    area: Estimate | None
    at_optimum: float | None
    learned_after: float | None
    explained_variances: tuple[float | None, ...]
    minutes: Estimate | None


class Aggregate(NamedTuple):
    """
    What an algorithm has come to on all environments.

    :param algo: Label of the algorithm.
    :param n_runs: Number of runs.
    :param iqm: Interquartile mean of the scores of the trained models.
    :param median: Median over the environments of their mean scores.
    :param mean: Mean over the environments of their mean scores.
    :param optimality_gap: How far the scores are below 1 on average, None if they are returns.
    """

    algo: str
    n_runs: int
    iqm: Estimate
    median: Estimate
    mean: Estimate
    optimality_gap: Estimate | None


def summaries(environment: Environment) -> list[Summary]:
    """
    :param environment: An environment.
    :return: What each algorithm has come to on it.
    """
    return [_summary(algo, runs, environment.is_normalized) for algo, runs in environment.runs.items()]


def _summary(algo: str, runs: Sequence[TrainedRun], is_normalized: bool) -> Summary:
    """
    :param algo: Label of an algorithm.
    :param runs: Its runs on an environment.
    :param is_normalized: Whether their scores are not the returns.
    :return: What they have come to.
    """
    finals = np.array([run.final_score for run in runs])
    areas = np.array([run.area for run in runs])
    seconds = np.array([run.wall_seconds for run in runs], dtype=float)
    return Summary(
        algo=algo,
        n_runs=len(runs),
        final=mean_and_interval(finals),
        area=None if np.isnan(areas).any() else mean_and_interval(areas),
        at_optimum=float((finals >= OPTIMAL).mean()) if is_normalized else None,
        learned_after=_learned_after(runs) if is_normalized else None,
        explained_variances=tuple(_explained_variance(runs, fraction) for fraction in FRACTIONS),
        minutes=None if np.isnan(seconds).any() else mean_and_interval(seconds / 60),
    )


def _explained_variance(runs: Sequence[TrainedRun], fraction: float) -> float | None:
    """
    :param runs: Of an algorithm on an environment.
    :param fraction: Part of the training.
    :return: Median of the Q-critics' explained variance at the last evaluation in this part, None if no run knows it.
    """
    last = [[np.nan, *run.explained_variances[run.timesteps <= fraction * run.final_timesteps]][-1] for run in runs]
    known = [value for value in last if not np.isnan(value)]
    return float(np.median(known)) if known else None


def _learned_after(runs: Sequence[TrainedRun]) -> float | None:
    """
    :param runs: Of an algorithm on an environment.
    :return: See ``Summary``.
    """
    known = [run for run in runs if not np.isnan(run.rollout_returns).all()]
    firsts = [min(run.timesteps[run.rollout_scores >= LEARNED], default=np.inf) for run in known]
    return float(np.median(firsts)) if firsts else None


def comparable(environments: Sequence[Environment], algos: Sequence[str]) -> list[str]:
    """
    :param environments: What is compared.
    :param algos: Labels of all algorithms.
    :return: Labels of those that have runs on all environments.
    :raises ValueError: If no statistic over all of them means anything, or no algorithm has runs on all of them.
    """
    check_comparable(environments)
    everywhere = [algo for algo in algos if all(algo in environment.runs for environment in environments)]
    if not everywhere:
        raise ValueError(
            "There are no statistics across environments, because no algorithm has runs on all of "
            f"{', '.join(environment.name for environment in environments)}: choose some of them with --envs."
        )
    return everywhere


def final_scores(environments: Sequence[Environment], algo: str) -> Strata:
    """
    :param environments: Environments on all of which the algorithm has runs.
    :param algo: Label of the algorithm.
    :return: Scores of its trained models on each environment, ``(n_runs,)`` each.
    """
    return [np.array([run.final_score for run in environment.runs[algo]]) for environment in environments]


def aggregates(environments: Sequence[Environment], algos: Sequence[str]) -> list[Aggregate]:
    """
    :param environments: What is compared.
    :param algos: Labels of algorithms that have runs on all of them.
    :return: What each has come to.
    """
    is_normalized = all(environment.is_normalized for environment in environments)
    statistics: list[Statistic] = [weighted_interquartile_means, weighted_medians, weighted_means]
    lines = []
    for algo in algos:
        scores = final_scores(environments, algo)
        iqm, median, mean = (estimate(statistic, scores) for statistic in statistics)
        gap = estimate(optimality_gaps, scores) if is_normalized else None
        lines.append(Aggregate(algo, sum(map(len, scores)), iqm, median, mean, gap))
    return lines
