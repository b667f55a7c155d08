"""
The nucleolus for a whole batch of games at once, by nested linear programs (Maschler, Peleg and Shapley 1979).

Each level minimizes the largest excess over the coalitions still open. Where this cannot be lowered further, some tight
coalitions are balanced: no transfer that the earlier levels leave pays them all. Their excesses are then the same for every
optimum, so they are settled, with all that they determine, and the next level minimizes over the rest. A level is two
programs of the active-set method: a proximal step towards its optimum, and the search for balanced weights on what is tight
there, which is the certificate that nothing lower exists (Kohlberg 1971).
"""

import math

import torch as th

from sb3_cora.credit.solvers.active_set import Problem, lanes_per_chunk, make_problem, minimize
from sb3_cora.credit.solvers.base import Solution

STEP_WEIGHT = 1e-3
"""Weight of the variance in a proximal step, relative to the range of the open excesses. One step reaches a level's optimum
unless the level is nearly flat; then another step from there does."""

SMALLEST_UNIT = 1e-11
"""Open excesses that differ by no more are taken for ties."""

TIGHT = 1e-10
"""An open excess is tight up to this distance from the largest, relative to their range."""

ZERO = 1e-11
"""Squared length below which a combination of coalitions counts as zero. True lengths are bounded from below by the number of
agents alone."""

STEPS_PER_AGENT = 3
"""Steps after which a sample is given up, for each agent. A level of its own for each would take one less."""

CLOSED = -1e30
"""Excess of coalitions that are settled, in units of the range of the others: never tight, never the largest."""


def solve_nucleolus(excesses: th.Tensor, masks: th.Tensor, tolerance: float = 1e-9) -> Solution:
    """
    The deviations from the equal split that lexicographically minimize the sorted excesses of the coalitions at hand.
    Directions that the coalitions do not determine stay at the equal split.

    :param excesses: ``(batch, n_coalitions)`` float64, finite and of order one, what each coalition wants beyond its equal
        share
    :param masks: boolean ``(n_coalitions, n_agents)``, at least two agents, and with each coalition its complement, so that
        no level can fall without end
    :param tolerance: up to where the certified distance of every level's largest excess from its minimum counts as converged
    :return: the solution; ``gap`` is the largest such distance, infinite for samples that ran out of steps
    """
    n_agents = masks.shape[1]
    problem = make_problem(masks, excesses.dtype, nonnegative_epsilon=False)
    size = lanes_per_chunk(problem.atoms) if excesses.device.type == "cpu" else max(1, len(excesses))
    chunks = [_solve_chunk(problem, chunk, STEPS_PER_AGENT * n_agents) for chunk in excesses.split(size)]
    points, gap = (th.cat(parts, dim=-1) for parts in zip(*chunks, strict=True))
    return Solution((problem.basis[:, :-1] @ points).T, gap, gap <= tolerance)


def _solve_chunk(problem: Problem, excesses: th.Tensor, n_steps: int) -> tuple[th.Tensor, th.Tensor]:
    """
    :param problem: the constraints
    :param excesses: ``(n_lanes, n_coalitions)``
    :param n_steps: after which a lane is given up
    :return: points ``(n_agents - 1, n_lanes)`` and gaps ``(n_lanes,)``
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
        # Balanced weights prove that the largest excess is no lower than their mean of the tight ones.
        proven = (balance.weights * targets.gather(0, balance.members)).sum(dim=0)
        gap[lanes] = th.where(balanced, th.maximum(gap[lanes], (reached - proven) * unit), gap[lanes])

        projection = _settle(projection, atoms, balance.members, balanced * balance.weights)
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


def _settle(projection: th.Tensor, atoms: th.Tensor, members: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """
    Take the directions of settled coalitions out of the subspace that later levels may move in.

    :param projection: ``(n_dimensions, n_dimensions, n_lanes)``
    :param atoms: ``(n_coalitions, n_dimensions)``
    :param members: ``(n_slots, n_lanes)``, coalitions
    :param weights: ``(n_slots, n_lanes)``, positive for those that are settled
    :return: the projection on what is left
    """
    for slot in range(len(members)):
        direction = (projection * atoms.T[:, members[slot]]).sum(dim=1)
        length = direction.square().sum(dim=0)
        counts = (weights[slot] > 1e-7) & (length > ZERO)
        direction = direction * th.where(counts, length, 1).rsqrt() * counts
        projection = projection - direction[:, None] * direction
    return projection
