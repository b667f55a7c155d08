"""One pivot of the dual active-set method, for a whole batch of programs; ``active_set`` says what the method is."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch as th


class Precision(NamedTuple):
    """
    What counts as zero in a floating point type.

    :param integer: integer type of the same width
    :param violation: a constraint counts as violated from here on, relative to the excesses. Well below the certified gap: on
        a nearly flat optimum the distance to the solution goes with the square root of the violation
    :param distance: squared distance from which an atom lies outside the affine hull of the working set. Measured in float64
        on games of 20 agents, zero comes out between 1e-32 and 1e-19 and true distances go down to 1e-9: to overlook one
        leaves the point beside its weights
    :param tiny: keeps quotients finite in lanes where they are not used
    :param gap: certified duality gap, relative to the excesses, up to which a sample counts as converged by default
    """

    integer: th.dtype
    violation: float
    distance: float
    tiny: float
    gap: float


PRECISIONS = {
    th.float64: Precision(th.int64, 1e-12, 1e-14, 1e-200, 1e-9),
    th.float32: Precision(th.int32, 1e-5, 1e-9, 1e-30, 1e-3),
}


class Problem(NamedTuple):
    """
    What all lanes of a batch have in common.

    :param atoms: ``(n_atoms, n_agents)``, the constraints' coefficients in the coordinates of ``Lanes.point``: one row per
        coalition, then one for ``eps >= 0`` where that is asked for, then one per agent for ``d_i >= 0`` where there is a
        deviation weight
    :param basis: ``(n_agents, n_agents)``, orthonormal basis of the vectors that sum to zero in the first ``n_agents - 1``
        columns, with a column of zeros for ``e``
    :param nonnegative_epsilon: whether there is a constraint ``eps >= 0``
    :param largest_weight: dual weight that a constraint ``d_i >= 0`` may have at most; 0 where there are none
    :param max_pivots: pivots after which a lane is given up
    """

    atoms: th.Tensor
    basis: th.Tensor
    nonnegative_epsilon: bool
    largest_weight: float
    max_pivots: int

    @property
    def n_agent_atoms(self) -> int:
        """How many of the atoms, the last ones, are the agents' ``d_i >= 0``."""
        return self.atoms.shape[1] if self.largest_weight > 0 else 0


@dataclass
class Lanes:
    """
    What is known about each program under way; the last axis of every tensor is the lane.

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
    sides: th.Tensor | None  # (n_agents, .), 1.0 where d_i >= 0 is watched, -1.0 where its weight is at the bound
    projection: th.Tensor | None  # (n_agents - 1, n_agents - 1, .), on the subspace that deviations are confined to

    def select(self, lanes: th.Tensor) -> "Lanes":
        """
        :param lanes: indices of the lanes to keep
        :return: these lanes alone
        """
        parts = (getattr(self, field.name) for field in fields(self))
        return Lanes(*(None if part is None else part.index_select(-1, lanes) for part in parts))  # type: ignore[arg-type]


def argmax(scores: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Largest score of each lane. The row number is written over the lowest bits of the score, so that one plain maximum brings
    both: on the CPU many times faster than a maximum that tracks indices. Scores must be finite.

    :param scores: ``(n_rows, n_lanes)``
    :return: the maximum, to the relative accuracy that the row numbers leave (for a thousand rows 1e-13 in double precision
        and 1e-4 in single), and its row
    """
    n_rows = len(scores)
    integer = PRECISIONS[scores.dtype].integer
    bits = (1 << (n_rows - 1).bit_length()) - 1
    rows = th.arange(n_rows, dtype=integer, device=scores.device)[:, None]
    tagged = scores.view(integer).bitwise_and(~bits).bitwise_or_(rows).view(scores.dtype)
    best = tagged.amax(dim=0)
    # Whatever stands in a lane that rounding has ruined, the row exists.
    return best, best.view(integer).bitwise_and(bits).clamp(max=n_rows - 1).long()


def combine(matrices: th.Tensor, vectors: th.Tensor) -> th.Tensor:
    """
    ``sum_j matrices[:, j] * vectors[j]``, one matrix and one vector per lane.

    :param matrices: ``(n_rows, n_columns, n_lanes)``
    :param vectors: ``(n_columns, n_lanes)``
    :return: ``(n_rows, n_lanes)``
    """
    (first_column, *columns), (first, *others) = matrices.unbind(1), vectors.unbind(0)
    total = first_column * first
    for column, factor in zip(columns, others, strict=True):
        total.addcmul_(column, factor)
    return total


def confine(atom: th.Tensor, projection: th.Tensor) -> th.Tensor:
    """
    :param atom: ``(n_agents, n_lanes)``
    :param projection: ``(n_agents - 1, n_agents - 1, n_lanes)``
    :return: the atom with its deviations projected
    """
    return th.cat([combine(projection, atom[:-1]), atom[-1:]])


def pivot(problem: Problem, lanes: Lanes) -> th.Tensor:
    """
    One pivot in every lane that has one to do, in place.

    :param problem: the constraints
    :param lanes: the lanes
    :return: 1.0 for each lane that had one to do
    """
    atoms, precision = problem.atoms, PRECISIONS[lanes.point.dtype]
    n_atoms, n_agents = atoms.shape
    slots = th.arange(n_agents, device=atoms.device)[:, None]

    violations = lanes.residuals
    if lanes.sides is not None:
        violations = th.cat([violations[:-n_agents], violations[-n_agents:] * lanes.sides])
    candidate = argmax(violations)[1]
    entering = th.where(lanes.pending > 0, lanes.entering, candidate)
    violation = violations.gather(0, entering[None])[0]
    live = th.maximum(lanes.pending, (violation > lanes.tolerance).to(violation.dtype))
    atom = atoms.T.index_select(1, entering)
    if lanes.sides is not None:
        agent = entering - (n_atoms - n_agents)
        side = lanes.sides.gather(0, agent.clamp(min=0)[None])[0]
        atom = atom * th.where(agent >= 0, side, 1)
    if lanes.projection is not None:
        atom = confine(atom, lanes.projection)

    # Split the atom along the working set, and find the direction that keeps the sum of the coalitions' weights at one:
    # `across` is what of the atom stands on the working set's hull, `rise` what the direction does to e.
    coordinates = combine(lanes.duals, atom).mul_(lanes.used)
    outside = atom - combine(lanes.rows[:-1].transpose(0, 1), coordinates)
    # The axis has a last coordinate of at least 1 / (1 + n / 4), unless no coalition is left in the working set. Then the
    # entering one carries all the weight, d stands where it should, and only e has to rise.
    empty = (lanes.axis[-1] < 0.1 / n_agents).to(atom.dtype)
    rise = outside[-1] / (lanes.axis[-1] + empty)
    across = outside[:-1] - rise * lanes.axis[:-1]
    distance = across.square().sum(dim=0)
    independent = (distance > precision.distance).to(atom.dtype)
    falling = lanes.axis_weights.mul(rise).mul_(lanes.used).add_(coordinates)

    # Which comes first: the constraint holds, or a weight is used up? Compared as rates, the reciprocals of step lengths.
    rate_joins = distance * independent / violation.clamp(min=precision.tiny)
    rates_leave = falling / lanes.weights.clamp(min=precision.tiny)
    if lanes.sides is not None:
        # Agents' weights may also reach their upper bound, that of the entering atom included.
        bounded = (lanes.members[:-1] >= n_atoms - n_agents).to(atom.dtype)
        left = (problem.largest_weight - lanes.weights).clamp(min=precision.tiny)
        rates_leave = th.maximum(rates_leave, -falling * bounded / left)
        left = (problem.largest_weight - lanes.entering_weight).clamp(min=precision.tiny)
        rate_passes = (agent >= 0) / left
    else:
        rate_passes = th.zeros_like(rate_joins)
    rate_leaves, leaving = argmax(rates_leave)
    joins = live * th.maximum(empty, (rate_joins >= th.maximum(rate_leaves, rate_passes)).to(atom.dtype))
    passes = (live - joins) * (rate_passes >= rate_leaves)
    leaves = live - joins - passes
    rate = th.maximum(th.maximum(rate_joins, rate_leaves), rate_passes)
    step = live * (1 - empty) / rate.clamp(min=precision.tiny)

    advance = step * independent
    move = th.cat([across * advance, (rise * advance + live * empty * violation)[None]])
    lanes.point += move
    lanes.residuals.addmm_(atoms, move, alpha=-1)

    free_slot = argmax(1 - lanes.used)[1]
    slot = th.where(joins > 0, free_slot, leaving)
    at_slot = (slots == slot).to(atom.dtype)
    if lanes.sides is not None:
        gone = lanes.members.gather(0, slot[None])[0] - (n_atoms - n_agents)
        turned = th.where(leaves * (falling.gather(0, slot[None])[0] < 0) > 0, gone, th.where(passes > 0, agent, -1))
        lanes.sides = th.where(slots == turned, -lanes.sides, lanes.sides)
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
    length = direction.square().sum(dim=0).clamp(min=precision.tiny)
    components = combine(lanes.duals, direction).mul_(leaves).addcmul_(coordinates - at_slot, joins)
    direction /= length
    total = components.sum(dim=0) if lanes.sides is None else (components * lanes.rows[:-1, -1]).sum(dim=0)
    lanes.axis_weights.addcmul_(components, total / length * (joins - leaves))
    lanes.axis.addcmul_(direction, total, value=-1)
    lanes.duals.addcmul_(components[:, None], direction[None], value=-1)
    return live


def refresh(lanes: Lanes) -> None:
    """Take the rounding of many pivots out of the dual basis: one Newton step towards the inverse of the rows."""
    n_slots = len(lanes.used)
    lanes.duals *= lanes.used[:, None]
    rows = lanes.rows[:-1] * lanes.used[:, None]
    products = th.stack([combine(lanes.duals, rows[slot]) for slot in range(n_slots)], dim=1)
    correction = th.stack([combine(products, lanes.duals[:, column]) for column in range(n_slots)], dim=1)
    lanes.duals.mul_(2).sub_(correction)
    lanes.axis = combine(lanes.duals.transpose(0, 1), rows[:, -1])
    lanes.axis_weights = combine(lanes.duals, lanes.axis)
