"""The core program as a convex program in cvxpylayers: the reference for the batched solver."""

import importlib.util
from typing import TYPE_CHECKING, Any, NamedTuple

import torch as th

from sb3_cora.credit.coalitions import largest_excess
from sb3_cora.credit.solvers.base import CoreSolver, Solution

if TYPE_CHECKING:
    from cvxpylayers.torch import CvxpyLayer


class Backend(NamedTuple):
    """
    A solver underneath cvxpylayers.

    :param modules: The modules that must be importable.
    :param packages: The arguments of the ``pip install`` that installs them.
    :param solver_args: Its default options.
    """

    modules: tuple[str, ...]
    packages: str
    solver_args: dict[str, Any]


BACKENDS: dict[str, Backend] = {
    "diffcp": Backend(
        modules=("cvxpylayers", "diffcp", "clarabel"),
        packages='"sb3-cora[cvxpylayers]"',
        solver_args={"solve_method": "Clarabel", "tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12},
    ),
    "moreau": Backend(
        modules=("cvxpylayers", "moreau", "moreau_cpu"),
        packages='"sb3-cora[moreau]"',
        solver_args={"solver": "active_set", "active_set_settings": {"primal_tol": 1e-7}},
    ),
    "cuclarabel": Backend(
        modules=("cvxpylayers", "cupy", "diffqcp", "jax", "juliacall"),
        packages='"sb3-cora[cvxpylayers]" cupy-cuda12x diffqcp "jax[cuda12]" juliacall',
        solver_args={},
    ),
    "mpax": Backend(
        modules=("cvxpylayers", "jax", "mpax"),
        packages='"sb3-cora[cvxpylayers]" mpax',
        solver_args={"eps_abs": 1e-7, "eps_rel": 1e-7, "iteration_limit": 20_000},
    ),
}
"""Backends of cvxpylayers by name."""


class CvxpyLayersSolver(CoreSolver):
    """
    A solver that leaves the program to cvxpylayers, as the reference for ``ActiveSetSolver``. Whatever the backend, whether a
    sample has converged is decided by its duality gap, computed here from the multipliers that the backend returns. Programs
    are solved in float64, from the CPU.

    - ``"diffcp"``: Clarabel's interior-point method, one sample after another, thousands of times slower than
      ``ActiveSetSolver``. It is accurate in the objective; the credits may be off by the square root of the gap, most of all
      at small weights.
    - ``"moreau"``: an active-set method for the whole batch at once. Credits are within about 1e-6 of the largest excess,
      except at weights that leave them nearly undetermined. ``{"active_set_settings": {"iter_limit": ...}}`` bounds its
      iterations; ``{"solver": "ipm"}`` is its interior-point method, which occasionally gives up on a sample.
    - ``"cuclarabel"``: Clarabel on an NVIDIA GPU, one sample after another. Needs Julia with Clarabel.jl (branch CuClarabel)
      besides the packages. cvxpylayers 1.2 passes it no options.
    - ``"mpax"``: a first-order method in JAX for the whole batch at once, compiled anew at each call. Reaches the tolerance on
      every sample only if ``jax_enable_x64`` is set.

    :param backend: One of ``BACKENDS``.
    :param tolerance: Certified duality gap, relative to the excesses, up to which a sample counts as converged.
    :param solver_args: Options of the backend, by the names that cvxpylayers gives them. They add to the default options in
        ``BACKENDS`` and override them.
    :raises ValueError: If the backend is unknown.
    :raises ImportError: If cvxpylayers or a package of the backend is not installed.
    """

    def __init__(self, backend: str = "diffcp", tolerance: float = 1e-6, solver_args: dict[str, Any] | None = None) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r} is unknown, expected one of {list(BACKENDS)}.")
        needed = BACKENDS[backend]
        missing = [module for module in needed.modules if importlib.util.find_spec(module) is None]
        if missing:
            raise ImportError(
                f'The "{backend}" backend of solver="cvxpylayers" needs {", ".join(missing)}: run '
                f'`pip install {needed.packages}` with Python 3.11 or later, or use solver="active_set".'
            )
        self.backend = backend
        self.tolerance = tolerance
        self.solver_args = {**needed.solver_args, **(solver_args or {})}

    @th.no_grad()
    def solve(
        self,
        excesses: th.Tensor,
        masks: th.Tensor,
        variance_weight: th.Tensor,
        *,
        nonnegative_epsilon: bool,
        deviation_weight: float = 0.0,
    ) -> Solution:
        excesses, variance_weight = excesses.double(), variance_weight.double()
        if not nonnegative_epsilon:
            # A free eps absorbs any shift of all excesses, and large excesses make moreau's multipliers inaccurate.
            excesses = excesses - excesses.amax(dim=1, keepdim=True)
        layer = _core_layer(masks.cpu(), nonnegative_epsilon, deviation_weight, self.backend, self.solver_args)
        answer = _solve_samples(layer, excesses.cpu(), variance_weight.cpu(), masks.shape[1])
        deviations, multipliers, answered = (part.to(excesses.device) for part in answer)
        # The backend meets the equality only up to its tolerance; a CoreSolver must meet it exactly.
        deviations = deviations - deviations.mean(dim=1, keepdim=True)
        epsilon = largest_excess(deviations, excesses, masks)
        if nonnegative_epsilon:
            epsilon = epsilon.clamp(min=0)
        primal = epsilon + variance_weight * deviations.square().mean(dim=1) + deviation_weight * deviations.abs().mean(dim=1)
        gap = primal - _dual_bound(excesses, masks, variance_weight, multipliers, nonnegative_epsilon, deviation_weight)
        return Solution(deviations, gap, answered & (gap <= self.tolerance))


class _Answer(NamedTuple):
    """
    What a backend returns for a batch, with zeros for samples that it gave up on.

    :param deviations: Of shape ``(batch, n_agents)``.
    :param multipliers: Of shape ``(batch, n_coalitions)``.
    :param answered: Boolean ``(batch,)``, false for samples that it gave up on.
    """

    deviations: th.Tensor
    multipliers: th.Tensor
    answered: th.Tensor


def _core_layer(
    masks: th.Tensor, nonnegative_epsilon: bool, deviation_weight: float, backend: str, solver_args: dict[str, Any]
) -> "CvxpyLayer":
    """
    The program as a layer that maps excesses and variance weight to deviations and multipliers, those of the coalitions first.
    Each layer gets a problem of its own, since cvxpylayers 1.2 corrupts the second layer made from the same problem.

    :param masks: Boolean ``(n_coalitions, n_agents)``.
    :return: The layer.
    """
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    n_coalitions, n_agents = masks.shape
    deviations, epsilon = cp.Variable(n_agents), cp.Variable(1)
    excesses, weight = cp.Parameter(n_coalitions), cp.Parameter(nonneg=True)
    slacks = [masks.double().numpy() @ deviations + epsilon - excesses]
    if nonnegative_epsilon:
        # cvxpy 1.9.3 takes a separate constraint for a bound on a variable, and cvxpylayers 1.2 leaves such bounds out.
        slacks.append(epsilon)
    rationality = cp.hstack(slacks) >= 0
    objective = cp.sum(epsilon) + weight * cp.sum_squares(deviations) / n_agents
    if deviation_weight > 0:
        objective += deviation_weight / n_agents * cp.norm1(deviations)
    return CvxpyLayer(
        cp.Problem(cp.Minimize(objective), [rationality, cp.sum(deviations) == 0]),
        parameters=[excesses, weight],
        variables=[deviations, rationality.dual_variables[0]],
        solver=backend.upper(),
        solver_args=solver_args,
    )


def _solve_samples(layer: "CvxpyLayer", excesses: th.Tensor, variance_weight: th.Tensor, n_agents: int) -> _Answer:
    """
    Run the layer. diffcp raises for a whole batch if it cannot solve one of its samples, so the batch is halved until that
    sample is alone. Other backends return something for every sample, which may not be finite.

    :param excesses: Of shape ``(batch, n_coalitions)``.
    :param variance_weight: Of shape ``(batch,)``.
    :return: What the backend returns.
    """
    from diffcp import SolverError

    try:
        deviations, multipliers = layer(excesses, variance_weight)
    except SolverError:
        if len(excesses) == 1:
            return _Answer(excesses.new_zeros(1, n_agents), th.zeros_like(excesses), th.zeros(1, dtype=th.bool))
        half = len(excesses) // 2
        first = _solve_samples(layer, excesses[:half], variance_weight[:half], n_agents)
        second = _solve_samples(layer, excesses[half:], variance_weight[half:], n_agents)
        return _Answer(*(th.cat(parts) for parts in zip(first, second, strict=True)))
    deviations, multipliers = deviations.to(excesses), multipliers[:, : excesses.shape[1]].to(excesses)
    answered = deviations.isfinite().all(dim=1) & multipliers.isfinite().all(dim=1) & _reported_solved(layer, len(excesses))
    failed = ~answered[:, None]
    return _Answer(deviations.masked_fill(failed, 0), multipliers.masked_fill(failed, 0), answered)


def _reported_solved(layer: "CvxpyLayer", n_samples: int) -> th.Tensor:
    """
    Which samples of the batch just solved the backend reports as solved. Only moreau reports this sample by sample.

    :return: Boolean ``(n_samples,)``.
    """
    if layer.ctx.solver != "MOREAU":
        return th.ones(n_samples, dtype=th.bool)
    context: Any = layer.ctx.solver_ctx
    statuses = context.get_torch_solver("cpu").info.status
    return th.tensor([str(status) in ("Solved", "AlmostSolved") for status in statuses])


def _dual_bound(
    excesses: th.Tensor,
    masks: th.Tensor,
    variance_weight: th.Tensor,
    multipliers: th.Tensor,
    nonnegative_epsilon: bool,
    deviation_weight: float,
) -> th.Tensor:
    """
    Lower bound on the minimum from any multipliers ``y >= 0`` with ``sum y <= 1`` (``= 1`` for a free ``eps``): the least
    value of the Lagrangian,

        ``y . u - n / (4 * variance_weight) * |r|^2``,  ``r`` the shortest vector  ``sum_C y_C 1_C - t - c``

    over all ``t`` with ``|t_i| <= deviation_weight / n`` (the subgradients of the absolute deviations) and all numbers ``c``
    (the multiplier of the equality), with ``u`` the excesses.

    :param multipliers: Of shape ``(batch, n_coalitions)``. They are first made to satisfy the constraints on ``y``.
    :return: Of shape ``(batch,)``, finite.
    """
    n_coalitions, n_agents = masks.shape
    multipliers = multipliers.clamp(min=0)
    total = multipliers.sum(dim=1, keepdim=True)
    if nonnegative_epsilon:
        multipliers = multipliers / total.clamp(min=1)
    else:
        multipliers = th.where(total > 0, multipliers / total, 1 / n_coalitions)
    residual = _centered_residual(multipliers @ masks.to(multipliers.dtype), deviation_weight / n_agents)
    return (multipliers * excesses).sum(dim=1) - n_agents / (4 * variance_weight) * residual.square().sum(dim=1)


def _centered_residual(pull: th.Tensor, threshold: float) -> th.Tensor:
    """
    The shortest vector ``pull - t - c`` over ``t`` in ``[-threshold, threshold]^n`` and numbers ``c``: given ``c`` it is
    ``pull - c`` shrunk towards zero by the threshold, and at the best ``c`` it sums to zero.

    :param pull: Of shape ``(batch, n_agents)``.
    :param threshold: Bound on ``t``, not negative.
    :return: Of shape ``(batch, n_agents)``, sums to zero.
    """
    if threshold > 0:
        # The sum falls in c, and is linear between the values of c at which the residual of some agent becomes zero.
        corners = th.cat([pull - threshold, pull + threshold], dim=1).sort(dim=1).values
        sums = th.nn.functional.softshrink(pull[:, None] - corners[:, :, None], threshold).sum(dim=2)
        after = (sums > 0).sum(dim=1, keepdim=True).clamp(min=1, max=corners.shape[1] - 1)
        left, right = corners.gather(1, after - 1), corners.gather(1, after)
        above, below = sums.gather(1, after - 1), sums.gather(1, after)
        fraction = (above / (above - below).clamp(min=th.finfo(above.dtype).tiny)).clamp(0, 1)
        pull = th.nn.functional.softshrink(pull - left - fraction * (right - left), threshold)
    # Rounding may leave a small sum. Any residual of this form that sums to zero gives a valid bound.
    return pull - pull.mean(dim=1, keepdim=True)
