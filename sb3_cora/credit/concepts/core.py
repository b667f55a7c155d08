"""The core program, its limit and its linearization."""

from typing import Literal

import torch as th

from sb3_cora.credit.coalitions import excesses_at_equal_split
from sb3_cora.credit.concepts.base import Division, formula
from sb3_cora.credit.solvers import ActiveSetSolver, CoreSolver

EpsilonBound = Literal["nonnegative", "free"]

LIMIT_WEIGHTS = {th.float64: 1e-3, th.float32: 1e-2}
"""By precision: weight, relative to the largest excess, from which the core program has the least core's solution. Below a
bound that depends on the coalitions alone it no longer moves, and at ten times the first of these it does not move yet."""


def core(
    values: th.Tensor,
    masks: th.Tensor,
    grand_value: th.Tensor,
    variance_weight: float = 0.1,
    epsilon_bound: EpsilonBound = "nonnegative",
    solver: CoreSolver | None = None,
) -> Division:
    """
    The core program (CORA, equation 6). Efficient.

    Over credits ``x`` that sum to ``v(N)`` and ``eps >= 0`` (or free), minimizes
    ``eps + (variance_weight / n) * sum_i (x_i - v(N) / n)^2`` subject to ``x(C) + eps >= v(C)`` for every coalition at hand.
    The variance term draws credits towards equal shares, so an agent that contributes nothing may get a share nevertheless;
    and it caps them: ``|x_i - v(N) / n| <= (n - 1) / (2 * variance_weight)`` whatever the values.

    :param values: ``(batch, n_coalitions)``
    :param masks: boolean ``(n_coalitions, n_agents)``
    :param grand_value: ``(batch,)``
    :param variance_weight: not negative; in the inverse units of the values. 0 is the limit from above, the least core
    :param epsilon_bound: ``"nonnegative"`` or ``"free"``
    :param solver: what solves the programs, the batched solver if ``None``
    :return: the credits and their certificate
    :raises ValueError: for a free ``eps`` over coalitions that are not balanced, where it has no least value
    """
    return _solve_program(values, masks, grand_value, variance_weight, 0.0, epsilon_bound, solver)


def least_core(
    values: th.Tensor,
    masks: th.Tensor,
    grand_value: th.Tensor,
    epsilon_bound: EpsilonBound = "nonnegative",
    solver: CoreSolver | None = None,
) -> Division:
    """
    The least core: the smallest ``eps`` that leaves no coalition short of more than it (CORA "without std"), and among the
    credits that reach it those of least variance. Efficient. The limit of ``core`` as ``variance_weight`` goes to 0.

    :return: the credits and their certificate
    :raises ValueError: as ``core``
    """
    return _solve_program(values, masks, grand_value, 0.0, 0.0, epsilon_bound, solver)


def core_l1(
    values: th.Tensor,
    masks: th.Tensor,
    grand_value: th.Tensor,
    variance_weight: float = 0.1,
    epsilon_bound: EpsilonBound = "nonnegative",
    solver: CoreSolver | None = None,
) -> Division:
    """
    The core program with its variance linearized (CORA, appendix B.1), a linear program: ``core`` with
    ``(variance_weight / n) * sum_i |x_i - v(N) / n|`` in place of the squares, and among several optimal credits those of
    least variance. Efficient.

    Both terms are in the units of the values, so a weight means the same at any scale. From ``n / 2`` on the equal split is
    always the solution; for two agents it is all or nothing, the least core below 1 and the equal split from there on.

    :return: the credits and their certificate
    :raises ValueError: as ``core``
    """
    return _solve_program(values, masks, grand_value, 0.0, variance_weight, epsilon_bound, solver)


def _solve_program(
    values: th.Tensor,
    masks: th.Tensor,
    grand_value: th.Tensor,
    variance_weight: float,
    deviation_weight: float,
    epsilon_bound: EpsilonBound,
    solver: CoreSolver | None,
) -> Division:
    """
    Centre the games at the equal split, scale them to order one, and solve them.

    :return: the credits and their certificate
    """
    n_coalitions, n_agents = masks.shape
    equal_share = grand_value[:, None] / n_agents
    if n_coalitions == 0:
        return formula(equal_share.expand(-1, n_agents))
    if epsilon_bound == "free" and not _is_balanced(masks):
        raise ValueError(
            f'epsilon_bound="free" needs balanced coalitions, and the {n_coalitions} at hand are not: credits could be moved '
            "to satisfy all of them ever better. Add the complement of each coalition (paired=True where they are drawn), or "
            "use epsilon_bound='nonnegative'."
        )
    solver = ActiveSetSolver(dtype=values.dtype) if solver is None else solver
    excesses = excesses_at_equal_split(values, masks, grand_value)
    size = excesses.amax(dim=1)
    size = size - excesses.amin(dim=1) if epsilon_bound == "free" else size.clamp(min=0)
    # Where no coalition wants more than its equal shares, the equal split is the solution in any unit.
    size = th.where(size > 0, size, 1)
    solution = solver.solve(
        excesses / size[:, None],
        masks,
        (size * variance_weight).clamp(min=LIMIT_WEIGHTS[values.dtype]),
        nonnegative_epsilon=epsilon_bound == "nonnegative",
        deviation_weight=deviation_weight,
    )
    return Division(equal_share + solution.deviations * size[:, None], solution.gap * size, solution.converged)


def _is_balanced(masks: th.Tensor) -> bool:
    """
    Whether some weighting of the coalitions covers every agent equally, as a coalition and its complement do. Then no
    transfer of credits favors all coalitions at once, and the least core has a finite ``eps`` even below 0.

    :param masks: boolean ``(n_coalitions, n_agents)``, at least one coalition and two agents
    :return: whether they are balanced
    """
    # In the game worth nothing with a free eps, a transfer pays exactly where it favors all coalitions.
    nothing = th.zeros(1, len(masks), dtype=th.float64, device=masks.device)
    solution = ActiveSetSolver().solve(nothing, masks, nothing.new_ones(1), nonnegative_epsilon=False)
    return bool(solution.deviations.abs().max() < 1e-6)
