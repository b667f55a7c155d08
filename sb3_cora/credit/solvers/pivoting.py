"""One pivot of the dual active-set method for a whole batch of programs. ``active_set`` explains the method."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch as th


class Precision(NamedTuple):
    """
    Which numbers count as zero in a floating-point type.

    :param integer: Integer type of the same width.
    :param violation: The violation, relative to the excesses, above which a constraint counts as violated. It is well below
        the certified gap, since on a nearly flat optimum the distance to the solution grows with its square root.
    :param distance: The squared distance above which an atom lies outside the affine hull of the working set. In float64, on
        games of 20 agents, distances that are zero were computed as 1e-32 to 1e-19, and the smallest others were 1e-9. If one
        of these counted as zero, the point would no longer match its dual weights.
    :param tiny: A small number that keeps quotients finite in lanes where they are not used.
    :param gap: The certified duality gap, relative to the excesses, up to which a sample counts as converged by default.
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

    :param atoms: Of shape ``(n_atoms, n_agents)``, the constraints' coefficients in the coordinates of ``Lanes.point``: one
        row per coalition, then one for ``eps >= 0`` if that is a constraint, then one per agent for ``d_i >= 0`` if there is a
        deviation weight.
    :param basis: Of shape ``(n_agents, n_agents)``. The first ``n_agents - 1`` columns are an orthonormal basis of the vectors
        that sum to zero; the last column, for ``e``, is zero.
    :param nonnegative_epsilon: Whether ``eps >= 0`` is one of the constraints.
    :param largest_weight: The largest dual weight of a constraint ``d_i >= 0``; 0 if there are no such constraints.
    :param max_pivots: The number of pivots after which a lane is given up.
    """

    atoms: th.Tensor
    basis: th.Tensor
    nonnegative_epsilon: bool
    largest_weight: float
    max_pivots: int

    @property
    def n_agent_atoms(self) -> int:
        """How many of the atoms belong to constraints ``d_i >= 0``. These are the last ones."""
        return self.atoms.shape[1] if self.largest_weight > 0 else 0


@dataclass
class Lanes:
    """
    The state of each program being solved. The last axis of every tensor is the lane.

    ``point`` and the atoms have ``n_agents`` coordinates: deviations in a basis of the vectors that sum to zero, then ``e``.
    The working set has ``n_agents`` slots, plus a spare one in ``rows`` and ``working_set`` that lanes without anything to
    store write to.
    """

    residuals: th.Tensor  # (n_atoms, .), by how much each constraint is violated
    point: th.Tensor  # (n_agents, .)
    weights: th.Tensor  # (n_slots, .), dual weights of the working set
    used: th.Tensor  # (n_slots, .), 1.0 where a slot holds an atom
    working_set: th.Tensor  # (n_slots + 1, .), index of the atom in each slot
    rows: th.Tensor  # (n_slots + 1, n_agents, .), the atom in each slot
    duals: th.Tensor  # (n_slots, n_agents, .), the basis dual to the rows: duals_i . rows_j = 1 if i == j else 0
    axis: th.Tensor  # (n_agents, .), the e-axis projected on the span of the rows; the sum of the duals
    axis_weights: th.Tensor  # (n_slots, .), coordinates of that projection among the rows
    entering: th.Tensor  # (.), index of the entering atom, whose constraint the pivot satisfies
    entering_weight: th.Tensor  # (.), the dual weight it has gained so far
    pending: th.Tensor  # (.), 1.0 where the pivot has not ended yet
    tolerance: th.Tensor  # (.), the violation above which a constraint counts as violated
    sides: th.Tensor | None  # (n_agents, .), 1.0 where d_i < 0 is a violation, -1.0 (weight at its bound) where d_i > 0 is
    projection: th.Tensor | None  # (n_agents - 1, n_agents - 1, .), on the subspace that deviations are confined to

    def select(self, lanes: th.Tensor) -> "Lanes":
        """
        :param lanes: Indices of the lanes to keep.
        :return: These lanes.
        """
        parts = (getattr(self, field.name) for field in fields(self))
        return Lanes(*(None if part is None else part.index_select(-1, lanes) for part in parts))  # type: ignore[arg-type]


def argmax(scores: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Largest score of each lane and its row. The row number is written over the lowest bits of the score, so that a plain
    maximum finds both; on the CPU this is many times faster than a maximum that tracks indices. Scores must be finite.

    :param scores: Of shape ``(n_rows, n_lanes)``.
    :return: The maximum, to the relative accuracy of the remaining bits (with a thousand rows 1e-13 in double precision and
        1e-4 in single), and its row.
    """
    n_rows = len(scores)
    integer = PRECISIONS[scores.dtype].integer
    bits = (1 << (n_rows - 1).bit_length()) - 1
    rows = th.arange(n_rows, dtype=integer, device=scores.device)[:, None]
    tagged = scores.view(integer).bitwise_and(~bits).bitwise_or_(rows).view(scores.dtype)
    best = tagged.amax(dim=0)
    # A lane that rounding has made NaN may hold any bits; clamped, they are the number of a row that exists.
    return best, best.view(integer).bitwise_and(bits).clamp(max=n_rows - 1).long()


def combine(matrices: th.Tensor, vectors: th.Tensor) -> th.Tensor:
    """
    ``sum_j matrices[:, j] * vectors[j]``, one matrix and one vector per lane.

    :param matrices: Of shape ``(n_rows, n_columns, n_lanes)``.
    :param vectors: Of shape ``(n_columns, n_lanes)``.
    :return: Of shape ``(n_rows, n_lanes)``.
    """
    (first_column, *columns), (first, *others) = matrices.unbind(1), vectors.unbind(0)
    total = first_column * first
    for column, factor in zip(columns, others, strict=True):
        total.addcmul_(column, factor)
    return total


def confine(atom: th.Tensor, projection: th.Tensor) -> th.Tensor:
    """
    :param atom: Of shape ``(n_agents, n_lanes)``.
    :param projection: Of shape ``(n_agents - 1, n_agents - 1, n_lanes)``.
    :return: The atom with its deviations projected.
    """
    return th.cat([combine(projection, atom[:-1]), atom[-1:]])


def pivot(problem: Problem, lanes: Lanes) -> th.Tensor:
    """
    One pivot, in place, in every lane that is not done.

    :param problem: The constraints.
    :param lanes: The lanes.
    :return: Of shape ``(n_lanes,)``, 1.0 for each lane that was not done, else 0.0.
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
    # `across` is the part of the atom orthogonal to the affine hull of the working set, `rise` what the direction does to e.
    coordinates = combine(lanes.duals, atom).mul_(lanes.used)
    outside = atom - combine(lanes.rows[:-1].transpose(0, 1), coordinates)
    # The last coordinate of the axis is at least 1 / (1 + n / 4), unless no coalition is left in the working set. Then the
    # entering one has all the weight, d is already where it should be, and only e has to rise.
    empty = (lanes.axis[-1] < 0.1 / n_agents).to(atom.dtype)
    rise = outside[-1] / (lanes.axis[-1] + empty)
    across = outside[:-1] - rise * lanes.axis[:-1]
    distance = across.square().sum(dim=0)
    independent = (distance > precision.distance).to(atom.dtype)
    falling = lanes.axis_weights.mul(rise).mul_(lanes.used).add_(coordinates)

    # Which comes first: the constraint holds, or a weight falls to zero? Compared as rates, the reciprocals of step lengths,
    # which are finite.
    rate_joins = distance * independent / violation.clamp(min=precision.tiny)
    rates_leave = falling / lanes.weights.clamp(min=precision.tiny)
    if lanes.sides is not None:
        # Agents' weights may also reach their upper bound, that of the entering atom included.
        bounded = (lanes.working_set[:-1] >= n_atoms - n_agents).to(atom.dtype)
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
        leaver = lanes.working_set.gather(0, slot[None])[0] - (n_atoms - n_agents)
        flipped = th.where(leaves * (falling.gather(0, slot[None])[0] < 0) > 0, leaver, th.where(passes > 0, agent, -1))
        lanes.sides = th.where(slots == flipped, -lanes.sides, lanes.sides)
    entering_weight = lanes.entering_weight + step
    lanes.weights.addcmul_(falling, step, value=-1).clamp_(min=0)
    lanes.weights.addcmul_(at_slot, joins * entering_weight - leaves * lanes.weights.gather(0, slot[None])[0])
    lanes.used.addcmul_(at_slot, joins - leaves)
    lanes.entering_weight = entering_weight * leaves
    lanes.entering = entering
    lanes.pending = leaves
    kept_slot = th.where(joins > 0, slot, n_agents)[None]
    lanes.working_set.scatter_(0, kept_slot, entering[None])
    lanes.rows.scatter_(0, kept_slot[:, None].expand(1, n_agents, -1), atom[None])

    # Update the dual basis. The dual vector of a joining atom is, up to its length, the part of the atom outside the span, and
    # the other dual vectors lose their component along the atom. If a row leaves, the others lose their component along its
    # dual vector, which itself becomes zero.
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
    """Correct the rounding error of many pivots in the dual basis, by one Newton step towards the inverse of the rows."""
    lanes.duals *= lanes.used[:, None]
    rows = lanes.rows[:-1] * lanes.used[:, None]
    # Faster with the lanes in front, even though they have to be brought there.
    duals, transposed_rows = lanes.duals.movedim(-1, 0).contiguous(), rows.movedim(-1, 0).contiguous().mT
    lanes.duals = 2 * lanes.duals - (duals @ transposed_rows @ duals).movedim(0, -1)
    lanes.axis = combine(lanes.duals.transpose(0, 1), rows[:, -1])
    lanes.axis_weights = combine(lanes.duals, lanes.axis)
