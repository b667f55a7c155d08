"""What a solver of the core program is given and what it must return."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch as th


class ConvergenceError(RuntimeError):
    """Raised if a solver did not reach its tolerance on some sample."""


class Solution(NamedTuple):
    """
    The solution of a batch of core programs, in the units of the excesses.

    :param deviations: Of shape ``(batch, n_agents)``, what each agent gets beyond the equal share; sums to zero.
    :param gap: Of shape ``(batch,)``, how far the objective may lie above its minimum; not negative except for rounding.
    :param converged: Boolean ``(batch,)``, whether the gap is within the solver's tolerance.
    """

    deviations: th.Tensor
    gap: th.Tensor
    converged: th.Tensor


class CoreSolver(ABC):
    """
    A method for the core program in reduced form: per sample, with ``n`` agents, over ``d`` in R^n and ``eps``,

        minimize    ``eps + (variance_weight / n) * |d|^2 + (deviation_weight / n) * sum_i |d_i|``
        subject to  ``sum_{i in C} d_i + eps >= excess(C)`` for every given coalition,  ``sum_i d_i = 0``,

    and ``eps >= 0`` if ``nonnegative_epsilon``. The caller has centered the game at the equal split and scaled it so that the
    excesses are of order one; the variance weight is positive, so ``d`` is unique where the minimum exists.

    Method to write: ``solve``. ``dtype`` is the precision in which the solver expects its programs.
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

        :param excesses: Of shape ``(batch, n_coalitions)``, finite, what each coalition is worth beyond its equal shares.
        :param masks: Boolean ``(n_coalitions, n_agents)``, at least one coalition and two agents.
        :param variance_weight: Weight of the variance, of shape ``(batch,)``, positive.
        :param nonnegative_epsilon: Whether ``eps >= 0`` is one of the constraints.
        :param deviation_weight: Weight of the mean absolute deviation, not negative.
        :return: The solution. Samples that did not converge are flagged in ``converged``, and hold finite numbers.
        """
