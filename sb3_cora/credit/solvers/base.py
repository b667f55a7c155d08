"""What a solver of the core program is given and what it owes."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch as th


class ConvergenceError(RuntimeError):
    """A solver did not reach its tolerance on some sample."""


class Solution(NamedTuple):
    """
    Answer to a batch of core programs, in the units of the excesses.

    :param deviations: ``(batch, n_agents)``, what each agent gets beyond the equal share; sums to zero
    :param gap: ``(batch,)``, how far the objective may lie above its minimum; never negative but for rounding
    :param converged: boolean ``(batch,)``
    """

    deviations: th.Tensor
    gap: th.Tensor
    converged: th.Tensor


class CoreSolver(ABC):
    """
    A method for the core program in reduced form: per sample, with ``n`` agents, over ``d`` in R^n and ``eps``,

        minimize    ``eps + (variance_weight / n) * |d|^2 + (deviation_weight / n) * sum_i |d_i|``
        subject to  ``sum_{i in C} d_i + eps >= excess(C)`` for every coalition at hand,  ``sum_i d_i = 0``,

    and ``eps >= 0`` unless told otherwise. The caller has centred the game at the equal split and scaled it so that the
    excesses are of order one; the variance weight is positive, so the minimum exists and ``d`` is unique.

    To write: ``solve``. ``dtype`` is the precision in which a solver wants its programs.
    """

    dtype: th.dtype = th.float64

    @abstractmethod
    def solve(
        self,
        excesses: th.Tensor,
        masks: th.Tensor,
        variance_weight: th.Tensor,
        *,
        nonnegative_epsilon: bool,
        deviation_weight: float = 0.0,
    ) -> Solution:
        """
        Solve one program per sample.

        :param excesses: ``(batch, n_coalitions)``, finite, what each coalition wants beyond its equal share
        :param masks: boolean ``(n_coalitions, n_agents)``, at least one coalition and two agents
        :param variance_weight: ``(batch,)``, positive
        :param nonnegative_epsilon: whether ``eps >= 0`` is one of the constraints
        :param deviation_weight: not negative
        :return: the solution; samples that did not converge are flagged, never raised or NaN
        """
