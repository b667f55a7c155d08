"""
A dual active-set method (Goldfarb and Idnani 1983) for a whole batch of core programmes at once.

Multiplied by ``2 * weight / n``, the programme has no parameter left:

    minimise ``e + |d|^2 / 2``  subject to  ``a_C . d + e >= u_C``,

with ``a_C`` the coalition's indicator less its mean. Each constraint is an atom ``(a_C, 1)`` acting on the point ``(d, e)``;
``e >= 0`` is one more atom, ``(0, 1)``. The dual looks for a convex combination ``m`` of atoms maximising
``sum m_C u_C - |sum m_C a_C|^2 / 2``, and ``d = sum m_C a_C`` is the primal solution. The working set holds the atoms of
positive weight: affinely independent, so at most ``n`` of them. A pivot takes the most violated constraint and moves weight
to its atom along the direction that keeps the working set tight, until the constraint holds (the atom joins) or a weight of
the working set is used up (that atom leaves, and the pivot goes on). The dual objective rises with every pivot that moves
the point, so the method ends, and what it ends with is exact up to rounding.

Every sample is a lane; all lanes pivot in lock-step, whatever each one needs. The batch is the last axis of every tensor,
which makes each operation a long run over contiguous lanes.
"""

import math
from dataclasses import dataclass, fields

import torch as th

from sb3_cora.credit.excess import largest_excess
from sb3_cora.credit.solvers.base import CoreSolver, Solution

STEP_TOLERANCE = 1e-12
"""A constraint counts as violated from here on, relative to the excesses. Well below the certified gap: on a nearly flat
optimum the distance to the solution goes with the square root of the violation."""

DEPENDENT = 1e-14
"""Squared distance from which an atom lies outside the affine hull of the working set. Measured on games of 20 agents, zero
comes out between 1e-32 and 1e-19 and true distances go down to 1e-9: to overlook one leaves the point beside its weights."""

WORTH_COMPACTING = 0.6
"""Finished lanes are set aside when fewer than this share is left."""

PIVOTS_PER_REFRESH = 16
"""Pivots between two corrections of the dual basis."""

TINY = 1e-200
"""Keeps quotients finite in lanes where they are not used."""


class ActiveSetSolver(CoreSolver):
    """
    Exact batched solver; the default.

    On the CPU, lanes are worked in chunks and set aside once they are done. On other devices a fixed number of pivots runs
    over all lanes and no value is ever read back, so the host never waits.

    :param tolerance: certified duality gap, relative to the excesses, up to which a sample counts as converged
    :param max_pivots: pivots after which a sample is given up. ``None``: twenty per agent and twenty to begin with, twice the
        most ever seen (22 for 4 agents, 88 for 10, 208 for 20, all on games that are additive but for a little noise)
    """

    def __init__(self, tolerance: float = 1e-9, max_pivots: int | None = None) -> None:
        self.tolerance = tolerance
        self.max_pivots = max_pivots

    def solve(
        self, excesses: th.Tensor, masks: th.Tensor, variance_weight: th.Tensor, *, nonnegative_epsilon: bool
    ) -> Solution:
        solution = self._attempt(excesses, masks, variance_weight, nonnegative_epsilon)
        if excesses.device.type != "cpu" or bool(solution.converged.all()):
            return solution
        # One programme in millions is lost to rounding. With the agents in another order it rounds otherwise.
        missed = solution.converged.logical_not().nonzero()[:, 0]
        again = self._attempt(excesses[missed], masks.flip(1), variance_weight[missed], nonnegative_epsilon)
        better = again.gap < solution.gap[missed]
        chosen = missed[better]
        solution.deviations[chosen] = again.deviations[better].flip(1)
        solution.gap[chosen] = again.gap[better]
        solution.converged[chosen] = again.converged[better]
        return solution

    def _attempt(
        self, excesses: th.Tensor, masks: th.Tensor, variance_weight: th.Tensor, nonnegative_epsilon: bool
    ) -> Solution:
        n_agents = masks.shape[1]
        # What the objective is multiplied by, hence the points as well.
        factor = variance_weight * (2 / n_agents)
        if n_agents == 2:
            gains = _two_agent_gains(excesses, masks, variance_weight, nonnegative_epsilon)
            deviations = th.stack([gains, -gains], dim=1)
            gap = th.zeros_like(factor)
            return Solution(deviations, gap, gap <= self.tolerance)

        atoms = _atoms(masks, nonnegative_epsilon)
        max_pivots = self.max_pivots if self.max_pivots is not None else 20 + 20 * n_agents
        if excesses.device.type == "cpu":
            size = _lanes_per_chunk(atoms)
            chunks = [
                _solve_compacting(*_start(*chunk, atoms, nonnegative_epsilon), atoms, max_pivots)
                for chunk in zip(excesses.split(size), factor.split(size), strict=True)
            ]
            points, bounds = (th.cat(parts, dim=-1) for parts in zip(*chunks, strict=True))
        else:
            lanes, targets = _start(excesses, factor, atoms, nonnegative_epsilon)
            points, bounds = _solve_in_place(lanes, targets, atoms, max_pivots)

        deviations = (_zero_sum_basis(n_agents, masks.device) @ points / factor).T
        epsilon = largest_excess(deviations, excesses, masks)
        if nonnegative_epsilon:
            epsilon = epsilon.clamp(min=0)
        primal = epsilon + variance_weight / n_agents * deviations.square().sum(dim=1)
        gap = primal - bounds / factor
        return Solution(deviations, gap, gap <= self.tolerance)


@dataclass
class _Lanes:
    """
    What is known about each programme under way; the last axis of every tensor is the lane.

    ``point`` and the atoms have ``n_agents`` coordinates: deviations in a basis of the vectors that sum to zero, then ``e``.
    The working set has ``n_agents`` slots, plus one in ``rows`` and ``members`` where lanes write what they do not keep.
    """

    residuals: th.Tensor  # (n_atoms, .), by how much each constraint is violated
    point: th.Tensor  # (n_agents, .)
    weights: th.Tensor  # (n_slots, .), dual weights of the working set
    used: th.Tensor  # (n_slots, .), 1.0 where a slot holds an atom
    members: th.Tensor  # (n_slots + 1, .), which atom
    rows: th.Tensor  # (n_slots + 1, n_agents, .), the atoms themselves
    duals: th.Tensor  # (n_slots, n_agents, .), the basis dual to the rows: duals_i . rows_j = 1 if i == j else 0
    axis: th.Tensor  # (n_agents, .), the e-axis projected on the span of the rows; the sum of the duals
    axis_weights: th.Tensor  # (n_slots, .), coordinates of that projection among the rows
    entering: th.Tensor  # (.), the atom that a pivot under way brings in
    entering_weight: th.Tensor  # (.), the dual weight it has gained so far
    pending: th.Tensor  # (.), 1.0 where such a pivot has yet to end
    tolerance: th.Tensor  # (.), violation from which a constraint counts as violated

    def select(self, lanes: th.Tensor) -> "_Lanes":
        """
        :param lanes: indices of the lanes to keep
        :return: these lanes alone
        """
        return _Lanes(**{field.name: getattr(self, field.name).index_select(-1, lanes) for field in fields(self)})


def _zero_sum_basis(n_agents: int, device: th.device) -> th.Tensor:
    """
    Orthonormal basis (Helmert's) of the vectors that sum to zero, with a column of zeros for ``e``.

    :return: ``(n_agents, n_agents)`` float64, basis vectors in the first ``n_agents - 1`` columns
    """
    order = th.arange(1, n_agents, dtype=th.float64, device=device)
    basis = th.zeros(n_agents, n_agents, dtype=th.float64, device=device)
    basis[:, :-1] = th.ones(n_agents, n_agents - 1, dtype=th.float64, device=device).triu()
    basis[1:, :-1] -= th.diag(order)
    basis[:, :-1] *= (order * (order + 1)).rsqrt()
    return basis


def _atoms(masks: th.Tensor, nonnegative_epsilon: bool) -> th.Tensor:
    """
    The constraints' coefficients in the coordinates of ``_Lanes.point``.

    :return: ``(n_atoms, n_agents)``, one row per coalition and, where ``eps >= 0``, a last one for that
    """
    atoms = masks.double() @ _zero_sum_basis(masks.shape[1], masks.device)
    if nonnegative_epsilon:
        atoms = th.cat([atoms, th.zeros_like(atoms[:1])])
    atoms[:, -1] = 1
    return atoms


def _lanes_per_chunk(atoms: th.Tensor) -> int:
    """
    :return: how many lanes to work at once: many enough to repay the overhead of an operation, and no more than keep the
        state of a chunk near sixteen megabytes
    """
    n_atoms, n_agents = atoms.shape
    numbers_per_lane = n_atoms + 2 * n_agents * n_agents
    return min(8192, max(256, 2**21 // numbers_per_lane))


def _argmax(scores: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Largest score of each lane. The row number is written over the lowest bits of the score, so that one plain maximum brings
    both: on the CPU many times faster than a maximum that tracks indices. Scores must be finite.

    :param scores: ``(n_rows, n_lanes)`` float64
    :return: the maximum, to the relative accuracy that the row numbers leave (1e-13 for a thousand), and its row
    """
    n_rows = len(scores)
    bits = (1 << (n_rows - 1).bit_length()) - 1
    rows = th.arange(n_rows, device=scores.device)[:, None]
    tagged = scores.view(th.int64).bitwise_and(~bits).bitwise_or_(rows).view(th.float64)
    best = tagged.amax(dim=0)
    return best, best.view(th.int64).bitwise_and(bits)


def _combine(matrices: th.Tensor, vectors: th.Tensor) -> th.Tensor:
    """
    ``sum_j matrices[:, j] * vectors[j]``, one matrix and one vector per lane.

    :param matrices: ``(n_rows, n_columns, n_lanes)``
    :param vectors: ``(n_columns, n_lanes)``
    :return: ``(n_rows, n_lanes)``
    """
    total = matrices[:, 0] * vectors[0]
    for column in range(1, len(vectors)):
        total.addcmul_(matrices[:, column], vectors[column])
    return total


def _start(excesses: th.Tensor, factor: th.Tensor, atoms: th.Tensor, nonnegative_epsilon: bool) -> tuple[_Lanes, th.Tensor]:
    """
    Lanes whose working set is a single atom: ``e >= 0`` where there is such a constraint, else the largest target.

    :return: the lanes, and the targets ``u`` ``(n_atoms, n_lanes)`` of their constraints
    """
    n_atoms, n_agents = atoms.shape
    n_lanes = len(excesses)
    targets = excesses.new_zeros(n_atoms, n_lanes)
    th.mul(excesses.T, factor, out=targets[: excesses.shape[1]])
    first = th.full((n_lanes,), n_atoms - 1, device=atoms.device) if nonnegative_epsilon else _argmax(targets)[1]

    atom = atoms.T[:, first]
    point = atom.clone()
    point[-1] = targets.gather(0, first[None])[0] - atom[:-1].square().sum(dim=0)
    rows = excesses.new_zeros(n_agents + 1, n_agents, n_lanes)
    rows[0] = atom
    duals = excesses.new_zeros(n_agents, n_agents, n_lanes)
    duals[0] = atom / atom.square().sum(dim=0)
    used = excesses.new_zeros(n_agents, n_lanes)
    used[0] = 1
    members = first.repeat(n_agents + 1, 1)
    lanes = _Lanes(
        residuals=th.addmm(targets, atoms, point, alpha=-1),
        point=point,
        weights=used.clone(),
        used=used,
        members=members,
        rows=rows,
        duals=duals,
        axis=duals[0].clone(),
        axis_weights=used * duals[0, -1],
        entering=first.clone(),
        entering_weight=th.zeros_like(factor),
        pending=th.zeros_like(factor),
        tolerance=STEP_TOLERANCE * factor.clamp(max=1),
    )
    return lanes, targets


def _pivot(lanes: _Lanes, atoms: th.Tensor) -> th.Tensor:
    """
    One pivot in every lane that has one to do, in place.

    :param lanes: the lanes
    :param atoms: ``(n_atoms, n_agents)``
    :return: 1.0 for each lane that had one to do
    """
    n_agents = atoms.shape[1]
    slots = th.arange(n_agents, device=atoms.device)[:, None]

    candidate = _argmax(lanes.residuals)[1]
    entering = th.where(lanes.pending > 0, lanes.entering, candidate)
    violation = lanes.residuals.gather(0, entering[None])[0]
    live = th.maximum(lanes.pending, (violation > lanes.tolerance).double())
    atom = atoms.T.index_select(1, entering)

    # Split the atom along the working set, and find the direction that keeps the sum of the weights at one: `across` is what
    # of the atom stands on the affine hull of the working set, `rise` what the direction does to e.
    coordinates = _combine(lanes.duals, atom).mul_(lanes.used)
    outside = atom - _combine(lanes.rows[:-1].transpose(0, 1), coordinates)
    # The axis has a last coordinate of at least 1 / (1 + n / 4), unless the working set has run empty. Then the entering atom
    # carries all the weight, d stands where it should, and only e has to rise.
    empty = (lanes.axis[-1] < 0.1 / n_agents).double()
    rise = outside[-1] / (lanes.axis[-1] + empty)
    across = outside[:-1] - rise * lanes.axis[:-1]
    distance = across.square().sum(dim=0)
    independent = (distance > DEPENDENT).double()
    falling = lanes.axis_weights.mul(rise).mul_(lanes.used).add_(coordinates)

    # Which comes first: the constraint holds, or a weight is used up? Compared as rates, the reciprocals of step lengths.
    rate_joins = distance * independent / violation.clamp(min=TINY)
    rate_leaves, leaving = _argmax(falling / lanes.weights.clamp(min=TINY))
    joins = live * (rate_joins >= rate_leaves)
    leaves = live - joins
    step = live * (1 - empty) / th.maximum(rate_joins, rate_leaves).clamp(min=TINY)

    advance = step * independent
    move = th.cat([across * advance, (rise * advance + live * empty * violation)[None]])
    lanes.point += move
    lanes.residuals.addmm_(atoms, move, alpha=-1)

    free_slot = _argmax(1 - lanes.used)[1]
    slot = th.where(joins > 0, free_slot, leaving)
    at_slot = (slots == slot).double()
    entering_weight = lanes.entering_weight + step
    lanes.weights.addcmul_(falling, step, value=-1).clamp_(min=0)
    lanes.weights.addcmul_(at_slot, joins * entering_weight - leaves * lanes.weights.gather(0, slot[None])[0])
    lanes.used.addcmul_(at_slot, joins - leaves)
    lanes.entering_weight = entering_weight * leaves
    lanes.entering = entering
    lanes.pending = leaves
    kept_slot = th.where(joins > 0, slot, n_agents)[None]
    lanes.members.scatter_(0, kept_slot, entering[None])
    lanes.rows.scatter_(0, kept_slot[:, None].expand(1, n_agents, -1), atom[None])

    # Keep the dual basis. A newcomer's dual vector is the part of it outside the span, and the others lose their component
    # along the newcomer; when a row leaves, the others lose their component along its dual vector, which itself vanishes.
    leaving_dual = lanes.duals.gather(0, slot.expand(1, n_agents, -1))[0]
    direction = outside * joins + leaving_dual * leaves
    length = direction.square().sum(dim=0).clamp(min=TINY)
    components = _combine(lanes.duals, direction).mul_(leaves).addcmul_(coordinates - at_slot, joins)
    direction /= length
    total = components.sum(dim=0)
    lanes.axis_weights.addcmul_(components, total / length * (joins - leaves))
    lanes.axis.addcmul_(direction, total, value=-1)
    lanes.duals.addcmul_(components[:, None], direction[None], value=-1)
    return live


def _refresh(lanes: _Lanes) -> None:
    """Take the rounding of many pivots out of the dual basis: one Newton step towards the inverse of the rows."""
    n_slots = len(lanes.used)
    lanes.duals *= lanes.used[:, None]
    rows = lanes.rows[:-1] * lanes.used[:, None]
    products = th.stack([_combine(lanes.duals, rows[slot]) for slot in range(n_slots)], dim=1)
    correction = th.stack([_combine(products, lanes.duals[:, column]) for column in range(n_slots)], dim=1)
    lanes.duals.mul_(2).sub_(correction)
    lanes.axis = lanes.duals.sum(dim=0)
    lanes.axis_weights = _combine(lanes.duals, lanes.axis)


def _finish(lanes: _Lanes, targets: th.Tensor, atoms: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    What a lane ends with. The dual objective is taken from the weights and the data alone, so that as a bound on the
    minimum it owes nothing to the rounding of the pivots.

    :param lanes: the lanes
    :param targets: ``(n_atoms, n_lanes)``, of these lanes
    :param atoms: ``(n_atoms, n_agents)``
    :return: points ``(n_agents, n_lanes)`` and dual objectives ``(n_lanes,)``, minus infinity where a pivot was broken off
    """
    members = lanes.members[:-1]
    weights = lanes.weights / lanes.weights.sum(dim=0).clamp(min=TINY)
    bound = (weights * targets.gather(0, members)).sum(dim=0)
    for coordinate in atoms.T[:-1]:
        bound -= (weights * coordinate[members]).sum(dim=0).square() / 2
    return lanes.point, bound.masked_fill(lanes.pending > 0, -math.inf)


def _solve_compacting(lanes: _Lanes, targets: th.Tensor, atoms: th.Tensor, max_pivots: int) -> tuple[th.Tensor, th.Tensor]:
    """
    Pivot until every lane is done, setting finished lanes aside whenever they are many.

    :return: points ``(n_agents, n_lanes)`` and dual objectives ``(n_lanes,)``
    """
    numbers = th.arange(targets.shape[1])
    finished = []
    for pivot in range(1, max_pivots + 1):
        live = _pivot(lanes, atoms)
        n_live = int(live.count_nonzero())
        if n_live == 0:
            break
        if n_live < WORTH_COMPACTING * len(live):
            done = (live == 0).nonzero()[:, 0]
            finished.append((numbers[done], *_finish(lanes.select(done), targets[:, numbers[done]], atoms)))
            kept = live.nonzero()[:, 0]
            lanes, numbers = lanes.select(kept), numbers[kept]
        if pivot % PIVOTS_PER_REFRESH == 0:
            _refresh(lanes)
    finished.append((numbers, *_finish(lanes, targets[:, numbers], atoms)))
    order, points, bounds = (th.cat(parts, dim=-1) for parts in zip(*finished, strict=True))
    back = order.argsort()
    return points[:, back], bounds[back]


def _solve_in_place(lanes: _Lanes, targets: th.Tensor, atoms: th.Tensor, n_pivots: int) -> tuple[th.Tensor, th.Tensor]:
    """
    Pivot all lanes a fixed number of times; shapes and control flow depend on no value.

    :return: points ``(n_agents, n_lanes)`` and dual objectives ``(n_lanes,)``
    """
    for pivot in range(1, n_pivots + 1):
        _pivot(lanes, atoms)
        if pivot % PIVOTS_PER_REFRESH == 0:
            _refresh(lanes)
    return _finish(lanes, targets, atoms)


def _two_agent_gains(
    excesses: th.Tensor, masks: th.Tensor, variance_weight: th.Tensor, nonnegative_epsilon: bool
) -> th.Tensor:
    """
    Closed form for two agents: what the first one gets beyond half of the grand value.

    With ``a`` and ``b`` the excesses of the two, the objective in the gain ``t`` is piecewise ``max(0, a - t, b + t)`` plus a
    parabola, so ``t`` leaves zero at most until a slope of one meets the parabola's: ``1 / (2 * weight)``.

    :return: ``(batch,)``
    """
    first, second = (excesses.masked_fill(~masks[:, agent], -math.inf).amax(dim=1) for agent in range(2))
    furthest = 0.5 / variance_weight
    meeting = (first - second) / 2
    if not nonnegative_epsilon:
        return meeting.clamp(-furthest, furthest)
    forward = th.minimum(first, meeting).clamp(min=0).minimum(furthest)
    backward = th.minimum(second, -meeting).clamp(min=0).minimum(furthest)
    return forward - backward
