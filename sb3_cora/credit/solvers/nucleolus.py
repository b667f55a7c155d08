"""
The nucleolus for a whole batch of games at once, by nested linear programs (Maschler, Peleg and Shapley 1979).

Each level minimizes the largest excess over the open coalitions. Once it cannot be lowered further, some of the coalitions
that have this excess, the tight ones, are balanced: no transfer that the earlier levels allow favors all of them. The
excesses of these are then the same at every optimum, so they are settled, together with all coalitions whose excess they
determine, and the next level minimizes over the rest. A level takes two programs of the active-set method: a proximal step
towards its optimum, and a search for balanced weights on the tight coalitions, which certify that the largest excess cannot be
lower (Kohlberg 1971).
"""

import math

import torch as th

from sb3_cora.credit.solvers.active_set import Problem, lanes_per_chunk, make_problem, minimize
from sb3_cora.credit.solvers.base import Solution

STEP_WEIGHT = 1e-3
"""Weight of the variance in a proximal step, relative to the range of the open excesses. One step reaches the optimum of a
level, or a second one from there if the level is nearly flat."""

SMALLEST_UNIT = 1e-11
"""Open excesses whose range is smaller than this are scaled as if it were this, so that rounding noise is not magnified."""

TIGHT = 1e-10
"""An open excess is tight up to this distance from the largest, relative to their range."""

ZERO = 1e-11
"""Squared length below which a combination of coalitions counts as zero. Lengths that are not zero have a lower bound that
depends on the number of agents alone."""

STEPS_PER_AGENT = 3
"""Number of steps per agent after which a sample is given up. If every level settled one more dimension in a single step,
``n_agents - 1`` steps would be enough."""

CLOSED = -1e30
"""Excess given to settled coalitions, in units of the range of the open ones, so that they are neither tight nor largest."""


def solve_nucleolus(excesses: th.Tensor, masks: th.Tensor, tolerance: float = 1e-9) -> Solution:
    """
    The deviations from the equal split that lexicographically minimize the sorted excesses of the given coalitions. In
    directions that the coalitions do not determine, they are zero.

    :param excesses: Of shape ``(batch, n_coalitions)``, float64, finite and of order one, what each coalition is worth beyond
        its equal shares.
    :param masks: Boolean ``(n_coalitions, n_agents)``, at least two agents, with the complement of each coalition, so that
        the largest excess of every level has a lower bound.
    :param tolerance: The largest gap up to which a sample counts as converged.
    :return: The solution. ``gap`` is the largest certified distance of a level's largest excess from its minimum, infinite
        for samples that ran out of steps.
    """
    n_agents = masks.shape[1]
    problem = make_problem(masks, excesses.dtype, nonnegative_epsilon=False)
    size = lanes_per_chunk(problem.atoms) if excesses.device.type == "cpu" else max(1, len(excesses))
    chunks = [_solve_chunk(problem, chunk, STEPS_PER_AGENT * n_agents) for chunk in excesses.split(size)]
    points, gap = (th.cat(parts, dim=-1) for parts in zip(*chunks, strict=True))
    return Solution((problem.basis[:, :-1] @ points).T, gap, gap <= tolerance)


def _solve_chunk(problem: Problem, excesses: th.Tensor, n_steps: int) -> tuple[th.Tensor, th.Tensor]:
    """
    :param problem: The constraints.
    :param excesses: Of shape ``(n_lanes, n_coalitions)``.
    :param n_steps: The number of steps after which a lane is given up.
    :return: Points ``(n_agents - 1, n_lanes)`` and gaps ``(n_lanes,)``.
    """
    atoms = problem.atoms[:, :-1]
    n_dimensions = atoms.shape[1]
    n_lanes = len(excesses)
    on_cpu = excesses.device.type == "cpu"
    products = (atoms[:, :, None] * atoms[:, None, :]).flatten(start_dim=1)

    points = excesses.new_zeros(n_dimensions, n_lanes)
    gap = excesses.new_zeros(n_lanes)
    done = th.zeros(n_lanes, dtype=th.bool, device=excesses.device)
    projection = th.eye(n_dimensions, dtype=excesses.dtype, device=excesses.device)[:, :, None].repeat(1, 1, n_lanes)
    settled = th.zeros(len(atoms), n_lanes, dtype=th.bool, device=excesses.device)
    lanes = th.arange(n_lanes, device=excesses.device)
    for _ in range(n_steps):
        lacking = th.addmm(excesses[lanes].T, atoms, points[:, lanes], alpha=-1)
        largest = lacking.masked_fill(settled, -math.inf).amax(dim=0)
        least = lacking.masked_fill(settled, math.inf).amin(dim=0)
        over = settled.all(dim=0)
        unit = th.where(over, 1, (largest - least).clamp(min=SMALLEST_UNIT))
        targets = ((lacking - largest) / unit).masked_fill(settled, CLOSED)

        factor = th.full_like(unit, STEP_WEIGHT)
        step = minimize(problem, targets.T, factor, projection).points[:-1] / STEP_WEIGHT
        points[:, lanes] += step * unit
        targets = targets.addmm_(atoms, step, alpha=-1)
        reached = targets.masked_fill(settled, -math.inf).amax(dim=0)
        tight = ~settled & (targets >= reached - TIGHT)

        ones = th.ones_like(factor)
        balance = minimize(problem, th.where(tight, 0.0, CLOSED).to(excesses.dtype).T, ones, projection)
        balanced = (balance.points[:-1].square().sum(dim=0) < ZERO) & ~over
        # By duality, the mean of the tight excesses under balanced weights is a lower bound on the largest excess.
        proven = (balance.weights * targets.gather(0, balance.working_set)).sum(dim=0)
        gap[lanes] = th.where(balanced, th.maximum(gap[lanes], (reached - proven) * unit), gap[lanes])

        projection = _settle(projection, atoms, balance.working_set, balanced * balance.weights)
        lengths = products @ projection.flatten(end_dim=1)
        settled |= balanced & (lengths < ZERO)
        finished = settled.all(dim=0)
        done[lanes] = finished
        if on_cpu:
            kept = (~finished).nonzero()[:, 0]
            if len(kept) == 0:
                break
            lanes, projection, settled = lanes[kept], projection.index_select(2, kept), settled.index_select(1, kept)
    return points, gap.masked_fill(~done, math.inf)


def _settle(projection: th.Tensor, atoms: th.Tensor, working_set: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """
    Remove the directions of settled coalitions from the subspace in which later levels may move.

    :param projection: Of shape ``(n_dimensions, n_dimensions, n_lanes)``.
    :param atoms: Of shape ``(n_coalitions, n_dimensions)``.
    :param working_set: Of shape ``(n_slots, n_lanes)``, indices of coalitions.
    :param weights: Of shape ``(n_slots, n_lanes)``, positive for those that are settled.
    :return: The projection on the remaining subspace.
    """
    for slot in range(len(working_set)):
        direction = (projection * atoms.T[:, working_set[slot]]).sum(dim=1)
        length = direction.square().sum(dim=0)
        counts = (weights[slot] > 1e-7) & (length > ZERO)
        direction = direction * th.where(counts, length, 1).rsqrt() * counts
        projection = projection - direction[:, None] * direction
    return projection
