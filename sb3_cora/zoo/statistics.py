"""
What few runs say (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice").

The runs are a single stratum, so an interval speaks of other games as well as of other seeds.
"""

import numpy as np
from rliable import metrics
from rliable.library import get_interval_estimates

# The bounds of a handful of runs jump from value to value, and with a quarter as many resamples to the wrong one
N_RESAMPLES = 20_000


def interquartile_means(scores: np.ndarray) -> np.ndarray:
    """
    :param scores: Of the runs, ``(n_runs, n_columns)``
    :return: Each column's mean without the lowest and the highest quarter of the runs, ``(n_columns,)``
    """
    return np.array([metrics.aggregate_iqm(column) for column in scores.T])


def mean_and_interval(scores: np.ndarray) -> tuple[float, float, float]:
    """
    :param scores: Of the runs, ``(n_runs,)``
    :return: Their interquartile mean, and the bounds of its 95 % bootstrap interval
    """
    # Its generator is NumPy's global one, also where it is given another
    np.random.seed(0)  # noqa: NPY002 - what rliable uses
    means, intervals = get_interval_estimates({"": scores[:, None]}, interquartile_means, reps=N_RESAMPLES)
    low, high = intervals[""].ravel()
    return float(means[""][0]), float(low), float(high)
