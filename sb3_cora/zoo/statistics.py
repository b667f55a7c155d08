"""
What few runs say (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice").

The definitions are those of rliable: the interquartile mean, percentile intervals of a bootstrap whose strata are the
environments. Two things differ. Environments may have different numbers of runs, and still have the same weight. And a
resample is a vector of weights of the runs instead of a copy of their scores, so thousands of them are a few operations on
arrays.

The runs on one environment are one stratum, so an interval speaks of other games as well as of other seeds.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# The bounds of a handful of runs jump from value to value, and with a quarter as many resamples to the wrong one
N_RESAMPLES = 20_000
# Of bands around curves, which no one reads to the third digit
N_BAND_RESAMPLES = 2_000
BOUNDS = (2.5, 97.5)
"""Percentiles of the resamples that bound an interval."""

Strata = Sequence[np.ndarray]
"""Scores of the runs on each environment, ``(n_runs, n_columns)`` each."""
Statistic = Callable[[Strata, np.ndarray], np.ndarray]
"""
What is computed of the strata with the weights ``(n_resamples, n_all_runs)`` of their runs, which sum to 1, in the order of
the strata. The result is ``(n_resamples, n_columns)``.
"""


class Estimate(NamedTuple):
    """
    A statistic with its 95 % interval.

    :param value: Of the runs.
    :param low: Lower bound.
    :param high: Upper bound.
    """

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """
    Statistics with their 95 % intervals.

    :param value: Of the runs, ``(n_columns,)``.
    :param low: Lower bounds, ``(n_columns,)``.
    :param high: Upper bounds, ``(n_columns,)``.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def even_weights(counts: Sequence[int]) -> np.ndarray:
    """
    :param counts: Number of runs of each stratum.
    :return: Weights of the runs themselves: equal for all strata, and in each for all runs, ``(1, n_all_runs)``.
    """
    return np.concatenate([np.full(count, 1 / (count * len(counts))) for count in counts])[None]


@lru_cache(maxsize=16)
def resampled_weights(counts: tuple[int, ...], n_resamples: int = N_RESAMPLES, seed: int = 0) -> np.ndarray:
    """
    Resample the runs of each stratum with replacement.

    :param counts: Number of runs of each stratum.
    :param n_resamples: Number of resamples.
    :param seed: Seed of the resamples.
    :return: Weights of the runs in each resample, ``(n_resamples, n_all_runs)``.
    """
    generator = np.random.default_rng(seed)
    draws = [generator.multinomial(count, np.full(count, 1 / count), n_resamples) / count for count in counts]
    return np.concatenate(draws, axis=1) / len(counts)


def weighted_interquartile_means(strata: Strata, weights: np.ndarray) -> np.ndarray:
    """
    The mean without the lowest and the highest quarter of all runs.

    :param strata: See ``Strata``.
    :param weights: See ``Statistic``.
    :return: See ``Statistic``.
    """
    scores = np.concatenate(strata)
    # Whole runs are left out, as by SciPy's trim_mean: of five runs one at each end
    cut = len(scores) // 4 / len(scores)
    means = np.empty((len(weights), scores.shape[1]))
    for number, column in enumerate(scores.T):
        order = np.argsort(column)
        below = np.clip(np.cumsum(weights[:, order], axis=1), cut, 1 - cut)
        means[:, number] = np.diff(below, axis=1, prepend=cut) @ column[order] / (1 - 2 * cut)
    return means


def weighted_means(strata: Strata, weights: np.ndarray) -> np.ndarray:
    """
    The mean over the environments of the mean over their runs.

    :param strata: See ``Strata``.
    :param weights: See ``Statistic``.
    :return: See ``Statistic``.
    """
    return weights @ np.concatenate(strata)


def weighted_medians(strata: Strata, weights: np.ndarray) -> np.ndarray:
    """
    The median over the environments of the mean over their runs.

    :param strata: See ``Strata``.
    :param weights: See ``Statistic``.
    :return: See ``Statistic``.
    """
    ends = np.cumsum([len(scores) for scores in strata])[:-1]
    parts = np.split(weights, ends, axis=1)
    return np.median([len(strata) * part @ scores for part, scores in zip(parts, strata, strict=True)], axis=0)


def optimality_gaps(strata: Strata, weights: np.ndarray) -> np.ndarray:
    """
    How far the mean is below 1, the best score. Scores above 1 count as 1.

    :param strata: See ``Strata``.
    :param weights: See ``Statistic``.
    :return: See ``Statistic``.
    """
    return 1 - weighted_means([np.minimum(scores, 1.0) for scores in strata], weights)


def band(statistic: Statistic, strata: Strata, n_resamples: int = N_BAND_RESAMPLES) -> Band:
    """
    :param statistic: What to compute of each column.
    :param strata: See ``Strata``.
    :param n_resamples: Number of resamples.
    :return: The statistic of each column, with its interval.
    """
    counts = tuple(len(scores) for scores in strata)
    resamples = statistic(strata, resampled_weights(counts, n_resamples))
    return Band(statistic(strata, even_weights(counts))[0], *np.percentile(resamples, BOUNDS, axis=0))


def estimate(statistic: Statistic, strata: Strata) -> Estimate:
    """
    :param statistic: What to compute.
    :param strata: Scores of the runs on each environment, ``(n_runs,)`` each.
    :return: The statistic, with its interval, NaN if there is but one run on each environment.
    """
    columns = band(statistic, [np.asarray(scores)[:, None] for scores in strata], N_RESAMPLES)
    value, low, high = (float(column[0]) for column in columns)
    return _with_interval(value, np.array([low, high]), strata)


def _with_interval(value: float, bounds: np.ndarray, *samples: Strata) -> Estimate:
    """
    :param value: The estimate.
    :param bounds: Of its bootstrap interval, ``(2,)``.
    :param samples: What has been resampled.
    :return: The estimate with its interval, NaN if nowhere there is more than one run, since resamples are equal then.
    """
    if max(len(scores) for strata in samples for scores in strata) < 2:
        return Estimate(value, math.nan, math.nan)
    return Estimate(value, *map(float, bounds))


def mean_and_interval(scores: np.ndarray) -> Estimate:
    """
    :param scores: Of the runs, ``(n_runs,)``.
    :return: Their interquartile mean, and the bounds of its 95 % bootstrap interval.
    """
    return estimate(weighted_interquartile_means, [scores])


def difference(first: Strata, other: Strata, paired: bool = False) -> Estimate:
    """
    :param first: Scores of an algorithm's runs on each environment, ``(n_runs,)`` each.
    :param other: Those of another.
    :param paired: Whether they are of the same games and seeds in the same order, and are resampled together.
    :return: How much greater the interquartile mean of the first is.
    """
    means = []
    for strata, seed in ((first, 0), (other, 0 if paired else 1)):
        columns = [scores[:, None] for scores in strata]
        counts = tuple(len(scores) for scores in strata)
        weights = np.concatenate([even_weights(counts), resampled_weights(counts, seed=seed)])
        means.append(weighted_interquartile_means(columns, weights)[:, 0])
    value, *resamples = means[0] - means[1]
    return _with_interval(float(value), np.percentile(resamples, BOUNDS), first, other)


def probability_of_improvement(first: Strata, other: Strata) -> Estimate:
    """
    :param first: Scores of an algorithm's runs on each environment, ``(n_runs,)`` each.
    :param other: Those of another, on the same environments.
    :return: Probability that a run of the first has a higher score than a run of the other, where equal scores count half; the
        mean over the environments.
    """
    parts = []
    for seed, strata in enumerate((first, other)):
        counts = tuple(len(scores) for scores in strata)
        weights = np.concatenate([even_weights(counts), resampled_weights(counts, seed=seed)])
        parts.append(np.split(weights * len(strata), np.cumsum(counts)[:-1], axis=1))
    probabilities = np.zeros(1 + N_RESAMPLES)
    for one, two, one_weights, two_weights in zip(first, other, *parts, strict=True):
        wins = (one[:, None] > two) + 0.5 * (one[:, None] == two)
        probabilities += (one_weights @ wins * two_weights).sum(axis=1) / len(first)
    value, *resamples = probabilities
    return _with_interval(float(value), np.percentile(resamples, BOUNDS), first, other)


def performance_profile(strata: Strata, thresholds: np.ndarray) -> Band:
    """
    :param strata: Scores of the runs on each environment, ``(n_runs,)`` each.
    :param thresholds: Scores, ``(n_thresholds,)``.
    :return: Share of the runs with a score above each threshold.
    """
    return band(weighted_means, [(scores[:, None] > thresholds).astype(float) for scores in strata])
