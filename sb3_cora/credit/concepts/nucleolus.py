"""The nucleolus."""

import torch as th

from sb3_cora.credit.coalitions import excesses_at_equal_split, is_closed_under_complement
from sb3_cora.credit.concepts.base import Division, formula
from sb3_cora.credit.solvers.nucleolus import solve_nucleolus


def nucleolus(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> Division:
    """
    The nucleolus (Schmeidler 1969): the credits whose excesses, sorted from the largest down, are lexicographically least. It
    is the least core with a free ``eps``, then among those credits the least second largest excess, and so on. Exact by
    nested programs over the coalitions at hand; no credits but the sum is bounded, which some call the prenucleolus.
    Efficient.

    :param values: ``(batch, n_coalitions)``
    :param masks: boolean ``(n_coalitions, n_agents)``, with each coalition its complement
    :param grand_value: ``(batch,)``
    :return: the credits and their certificate; the gap is the worst level's
    :raises ValueError: where the complement of a coalition is not at hand, or the values are not in double precision
    """
    n_coalitions, n_agents = masks.shape
    equal_share = grand_value[:, None] / n_agents
    if n_coalitions == 0:
        return formula(equal_share.expand(-1, n_agents))
    if not is_closed_under_complement(masks):
        raise ValueError(
            f"concept='nucleolus' needs the complement of every coalition, and some of the {n_coalitions} at hand lack "
            "theirs: a lesser excess could fall without end. Add them (paired=True where coalitions are drawn)."
        )
    if values.dtype != th.float64:
        raise ValueError(f"concept='nucleolus' needs double precision, got {values.dtype}; use a solver of that precision.")
    excesses = excesses_at_equal_split(values, masks, grand_value)
    size = excesses.amax(dim=1) - excesses.amin(dim=1)
    size = th.where(size > 0, size, 1)
    solution = solve_nucleolus(excesses / size[:, None], masks)
    return Division(equal_share + solution.deviations * size[:, None], solution.gap * size, solution.converged)
