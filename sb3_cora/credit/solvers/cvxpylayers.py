"""The core programme as a convex programme in cvxpylayers: the reference the batched solver is held against."""

import math
from collections.abc import Callable

import torch as th

from sb3_cora.credit.excess import largest_excess
from sb3_cora.credit.solvers.base import CoreSolver, Solution

Layer = Callable[[th.Tensor, th.Tensor], tuple[th.Tensor, th.Tensor]]


class CvxpyLayersSolver(CoreSolver):
    """
    Interior-point reference (cvxpylayers over diffcp and Clarabel), one sample after another: thousands of times slower
    than ``ActiveSetSolver``. An interior point is accurate in the objective; the credits themselves may be off by the square
    root of the gap, most of all at small weights.

    :param tolerance: certified duality gap, relative to the excesses, up to which a sample counts as converged
    :raises ImportError: when cvxpylayers is not installed
    """

    def __init__(self, tolerance: float = 1e-6) -> None:
        try:
            import cvxpylayers.torch  # noqa: F401
        except ImportError as error:
            raise ImportError(
                'solver="cvxpylayers" needs cvxpylayers: run `pip install "sb3-cora[cvxpylayers]"`, or use "active_set".'
            ) from error
        self.tolerance = tolerance

    def solve(
        self, excesses: th.Tensor, masks: th.Tensor, variance_weight: th.Tensor, *, nonnegative_epsilon: bool
    ) -> Solution:
        layer = _core_layer(masks.cpu(), nonnegative_epsilon)
        with th.no_grad():
            deviations, multipliers = _solve_samples(layer, excesses.cpu(), variance_weight.cpu(), masks.shape[1])
        deviations, multipliers = deviations.to(excesses.device), multipliers.to(excesses.device)
        # The equality holds to the solver's tolerance only; the contract has it exact.
        deviations = deviations - deviations.mean(dim=1, keepdim=True)
        epsilon = largest_excess(deviations, excesses, masks)
        if nonnegative_epsilon:
            epsilon = epsilon.clamp(min=0)
        primal = epsilon + variance_weight * deviations.square().mean(dim=1)
        gap = primal - _dual_bound(excesses, masks, variance_weight, multipliers, nonnegative_epsilon)
        return Solution(deviations, gap, gap <= self.tolerance)


def _core_layer(masks: th.Tensor, nonnegative_epsilon: bool) -> Layer:
    """
    The programme as a layer from excesses and weight to deviations and the coalitions' multipliers. Each layer gets a
    problem of its own: cvxpylayers 1.2 corrupts the second layer made from one problem.

    :param masks: boolean ``(n_coalitions, n_agents)``
    :return: the layer
    """
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    n_coalitions, n_agents = masks.shape
    deviations, epsilon = cp.Variable(n_agents), cp.Variable(1)
    excesses, weight = cp.Parameter(n_coalitions), cp.Parameter(nonneg=True)
    rationality = masks.double().numpy() @ deviations + epsilon >= excesses
    constraints = [rationality, cp.sum(deviations) == 0]
    if nonnegative_epsilon:
        constraints.append(epsilon >= 0)
    objective = cp.Minimize(cp.sum(epsilon) + weight * cp.sum_squares(deviations) / n_agents)
    return CvxpyLayer(
        cp.Problem(objective, constraints),
        parameters=[excesses, weight],
        variables=[deviations, rationality.dual_variables[0]],
        solver_args={"solve_method": "Clarabel", "tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12},
    )


def _solve_samples(
    layer: Layer, excesses: th.Tensor, variance_weight: th.Tensor, n_agents: int
) -> tuple[th.Tensor, th.Tensor]:
    """
    Run the layer. It refuses a whole batch for one sample it cannot solve, so halve the batch until that one stands alone.

    :return: deviations ``(batch, n_agents)`` and multipliers ``(batch, n_coalitions)``, zero for samples without solution
    """
    from diffcp import SolverError

    try:
        return layer(excesses, variance_weight)
    except SolverError:
        if len(excesses) == 1:
            return excesses.new_zeros(1, n_agents), th.zeros_like(excesses)
    half = len(excesses) // 2
    first = _solve_samples(layer, excesses[:half], variance_weight[:half], n_agents)
    second = _solve_samples(layer, excesses[half:], variance_weight[half:], n_agents)
    return th.cat([first[0], second[0]]), th.cat([first[1], second[1]])


def _dual_bound(
    excesses: th.Tensor,
    masks: th.Tensor,
    variance_weight: th.Tensor,
    multipliers: th.Tensor,
    nonnegative_epsilon: bool,
) -> th.Tensor:
    """
    Lower bound on the minimum from any multipliers ``y >= 0``: ``y . u - n / (4 * weight) * |sum_C y_C a_C|^2``, with ``a_C``
    the coalition's indicator less its mean, where ``sum y <= 1`` (``= 1`` for a free ``eps``).

    :param multipliers: ``(batch, n_coalitions)``, made to obey these constraints first
    :return: ``(batch,)``, minus infinity where no multiplier is positive and some have to be
    """
    multipliers = multipliers.clamp(min=0)
    total = multipliers.sum(dim=1)
    multipliers = multipliers / (total.clamp(min=1) if nonnegative_epsilon else total)[:, None]
    pull = multipliers @ masks.to(multipliers.dtype)
    pull -= pull.mean(dim=1, keepdim=True)
    bound = (multipliers * excesses).sum(dim=1) - masks.shape[1] / (4 * variance_weight) * pull.square().sum(dim=1)
    return bound.nan_to_num(nan=-math.inf)
