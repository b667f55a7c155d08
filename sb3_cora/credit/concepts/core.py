"""The core program, its limit and its linearization."""

from typing import Literal

import torch as th

from sb3_cora.credit.coalitions import excesses_at_equal_split
from sb3_cora.credit.concepts.base import Division, formula
from sb3_cora.credit.solvers import ActiveSetSolver, CoreSolver

EpsilonBound = Literal["nonnegative", "free"]

LIMIT_WEIGHTS = {th.float64: 1e-3, th.float32: 1e-2}
"""By precision: the variance weight, relative to the largest excess, that stands for the limit 0. Below a bound that depends
on the coalitions alone, the solution of the core program is that of the least core and no longer depends on the weight; in
double precision, even ten times this weight gives the same solution."""


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
    ``eps + (variance_weight / n) * sum_i (x_i - v(N) / n)^2`` subject to ``x(C) + eps >= v(C)`` for every given coalition.
    The variance term pulls credits towards equal shares, so that even an agent that contributes nothing may get a share. It
    also bounds them: ``|x_i - v(N) / n| <= (n - 1) / (2 * variance_weight)`` whatever the values.

    :param values: Of shape ``(batch, n_coalitions)``.
    :param masks: Boolean ``(n_coalitions, n_agents)``.
    :param grand_value: Of shape ``(batch,)``.
    :param variance_weight: Weight of the variance, not negative, in the inverse units of the values. 0 is the limit from
        above, the least core.
    :param epsilon_bound: Whether ``eps`` stops at 0 (``"nonnegative"``) or may be negative (``"free"``).
    :param solver: The solver of the programs, ``ActiveSetSolver`` if ``None``.
    :return: The credits and their duality gap.
    :raises ValueError: If ``eps`` is free and the coalitions are not balanced, so that it has no least value.
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
    The least core (CORA "without std"): the smallest ``eps`` such that credits exist under which no coalition gets less than
    its worth minus ``eps``, and among these credits those of least variance. Efficient. The limit of ``core`` as
    ``variance_weight`` goes to 0.

    :return: The credits and their duality gap.
    :raises ValueError: If ``core`` does.
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

    Both terms are in the units of the values, so a weight means the same at any scale. For weights of at least ``n / 2`` the
    solution is always the equal split. Two agents get the least core for weights below 1, and otherwise the equal split.

    Within 0.2 % of a weight at which the solution jumps (2 % in single precision) credits lie between the two, because what
    chooses among several optimal ones is a small variance term, which ``gap`` includes.

    :return: The credits and their duality gap.
    :raises ValueError: If ``core`` does.
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
    Center the games at the equal split, scale them to order one, and solve them.

    :return: The credits and their duality gap.
    """
    n_coalitions, n_agents = masks.shape
    equal_share = grand_value[:, None] / n_agents
    if n_coalitions == 0 or len(values) == 0:
        return formula(equal_share.expand(-1, n_agents))
    if epsilon_bound == "free" and not _is_balanced(masks):
        raise ValueError(
            f'epsilon_bound="free" needs balanced coalitions, and the {n_coalitions} given ones are not: some transfer of '
            "credits favors all of them, so eps could fall without end. Add the complement of each coalition (paired=True if "
            "they are drawn), or use epsilon_bound='nonnegative'."
        )
    solver = ActiveSetSolver(dtype=values.dtype) if solver is None else solver
    excesses = excesses_at_equal_split(values, masks, grand_value)
    size = excesses.amax(dim=1)
    size = size - excesses.amin(dim=1) if epsilon_bound == "free" else size.clamp(min=0)
    # If no coalition is worth more than its equal shares, or, with a free eps, more than another, the equal split is the
    # solution in any unit, and rounding errors would be in a unit that the game does not have.
    unit = th.where(size > 0, size, 1)
    solution = solver.solve(
        excesses / unit[:, None],
        masks,
        (unit * variance_weight).clamp(min=LIMIT_WEIGHTS[values.dtype]),
        nonnegative_epsilon=epsilon_bound == "nonnegative",
        deviation_weight=deviation_weight,
    )
    return Division(equal_share + solution.deviations * size[:, None], solution.gap * size, solution.converged | (size == 0))


def _is_balanced(masks: th.Tensor) -> bool:
    """
    Whether positive weights of the coalitions exist that cover every agent equally, as a coalition and its complement do.
    Then no transfer of credits favors all coalitions at once, so the least ``eps`` is finite even if it may be negative.

    :param masks: Boolean ``(n_coalitions, n_agents)``, at least one coalition and two agents.
    :return: Whether they are balanced.
    """
    # If every coalition is worth 0 and eps is free, credits other than 0 lower eps only by favoring all coalitions.
    # On the CPU, which has double precision and is faster with a single program.
    masks = masks.cpu()
    nothing = th.zeros(1, len(masks), dtype=th.float64)
    solution = ActiveSetSolver().solve(nothing, masks, nothing.new_ones(1), nonnegative_epsilon=False)
    return bool(solution.deviations.abs().max() < 1e-6)
