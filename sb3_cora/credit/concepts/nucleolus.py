"""The nucleolus."""

import torch as th

from sb3_cora.credit.coalitions import excesses_at_equal_split, is_closed_under_complement
from sb3_cora.credit.concepts.base import Division, formula
from sb3_cora.credit.solvers.nucleolus import solve_nucleolus


def nucleolus(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> Division:
    """
    The nucleolus (Schmeidler 1969): the credits whose excesses, sorted from the largest down, are lexicographically least. So
    it minimizes the largest excess, as the least core with a free ``eps`` does, among those credits the second largest excess,
    and so on. Computed exactly, by nested programs over the given coalitions. Single credits have no lower bound, for which
    some call it the prenucleolus. Efficient.

    :param values: Of shape ``(batch, n_coalitions)``.
    :param masks: Boolean ``(n_coalitions, n_agents)``, which must hold the complement of each coalition.
    :param grand_value: Of shape ``(batch,)``.
    :return: The credits and the largest duality gap of the nested programs.
    :raises ValueError: If the complement of a coalition is not given, or the values are not in double precision.
    """
    n_coalitions, n_agents = masks.shape
    equal_share = grand_value[:, None] / n_agents
    if n_coalitions == 0:
        return formula(equal_share.expand(-1, n_agents))
    if not is_closed_under_complement(masks):
        raise ValueError(
            f"concept='nucleolus' needs the complement of every coalition, and some of the {n_coalitions} given ones lack "
            "theirs: excesses could fall without end. Add them (paired=True if coalitions are drawn)."
        )
    if values.dtype != th.float64:
        raise ValueError(
            f"concept='nucleolus' needs double precision, got {values.dtype}. Use a solver of that precision, such as the "
            "default one."
        )
    excesses = excesses_at_equal_split(values, masks, grand_value)
    size = excesses.amax(dim=1) - excesses.amin(dim=1)
    # If no coalition has more than another, the equal split is the solution in any unit, see `core`.
    unit = th.where(size > 0, size, 1)
    solution = solve_nucleolus(excesses / unit[:, None], masks)
    return Division(equal_share + solution.deviations * size[:, None], solution.gap * size, solution.converged | (size == 0))
