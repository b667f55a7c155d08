"""Curves over the training, brought to common timesteps."""

from collections.abc import Sequence

import numpy as np

from sb3_cora.zoo.plot.runs import Environment, TrainedRun

# Points of a curve over all environments, whose evaluations are at different shares of the training
N_SHARES = 50


def aligned(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """
    :param curves: Timesteps and values of each run, ``(n_evaluations,)`` each.
    :return: All timesteps that lie in the training of every run, ``(n_timesteps,)``, and the values there, ``(n_runs,
        n_timesteps)``, interpolated where a run has not been evaluated. Both are empty if there are none.
    """
    if not curves or any(len(timesteps) == 0 for timesteps, _ in curves):
        return np.empty(0), np.empty((len(curves), 0))
    grid = np.unique(np.concatenate([timesteps for timesteps, _ in curves]))
    first, last = max(timesteps[0] for timesteps, _ in curves), min(timesteps[-1] for timesteps, _ in curves)
    grid = grid[(grid >= first) & (grid <= last)]
    return grid, np.array([np.interp(grid, *curve) for curve in curves]).reshape(len(curves), len(grid))


def learning_curves(runs: Sequence[TrainedRun]) -> tuple[np.ndarray, np.ndarray]:
    """
    :param runs: Of an algorithm on an environment.
    :return: See ``aligned``, of the scores.
    """
    return aligned([(run.timesteps, run.scores) for run in runs])


def explained_variance_curves(runs: Sequence[TrainedRun]) -> tuple[np.ndarray, np.ndarray]:
    """
    :param runs: Of an algorithm on an environment.
    :return: See ``aligned``, of the Q-critics' explained variances, from where they are known.
    """
    known = [~np.isnan(run.explained_variances) for run in runs]
    return aligned(
        [(run.timesteps[mask], run.explained_variances[mask]) for run, mask in zip(runs, known, strict=True) if mask.any()]
    )


def share_curves(environments: Sequence[Environment], algo: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """
    :param environments: Environments on all of which the algorithm has runs.
    :param algo: Label of the algorithm.
    :return: Shares of the longest training on each environment, ``(n_shares,)``, and for each environment the scores of its
        runs at them, ``(n_runs, n_shares)``. Both are empty if there are none.
    """
    curves = []
    for environment in environments:
        longest = max(run.final_timesteps for runs in environment.runs.values() for run in runs)
        curves.append([(run.timesteps / longest, run.scores) for run in environment.runs[algo]])
    together = [curve for group in curves for curve in group]
    if any(len(shares) == 0 for shares, _ in together):
        return np.empty(0), []
    first, last = max(shares[0] for shares, _ in together), min(shares[-1] for shares, _ in together)
    grid = np.linspace(first, last, N_SHARES) if first < last else np.empty(0)
    return grid, [np.array([np.interp(grid, *curve) for curve in group]) for group in curves]
