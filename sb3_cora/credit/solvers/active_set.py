"""
A dual active-set method (Goldfarb and Idnani 1983) for a whole batch of core programs at once.

In units of ``n / (2 * weight)``, the program has no parameter left:

    minimize ``e + |d|^2 / 2``  subject to  ``a_C . d + e >= u_C``,

with ``a_C`` the coalition's indicator less its mean and ``u_C`` its excess in these units. Each constraint is given by a
vector, its atom ``(a_C, 1)``, whose product with the point ``(d, e)`` is bounded from below; ``e >= 0`` is one more atom,
``(0, 1)``. The dual maximizes ``sum m_C u_C - |sum m_C a_C|^2 / 2`` over convex combinations ``m`` of the atoms, and
``d = sum m_C a_C`` is the primal solution. The working set holds the atoms of positive weight; they are affinely independent,
so there are at most ``n`` of them. A pivot takes the most violated constraint and moves weight to its atom along the
direction that keeps the constraints of the working set tight, until the new constraint holds (its atom joins the working set)
or the weight of some atom in it has fallen to zero (that atom leaves, and the pivot continues). The dual objective rises with
every pivot that moves the point, so the method ends, and its result is exact up to rounding.

Since the deviations sum to zero, the sum of their absolute values is twice the sum of the negative ones. So a weight ``w`` of
the mean absolute deviation amounts to a soft constraint ``d_i >= 0`` for each agent, the atom ``(e_i, 0)``, whose dual weight
is at most ``2 w / n``. If the weight reaches this bound, the atom leaves the working set, and from then on the constraint
counts as violated on the other side, ``d_i > 0``. If ``d`` is confined to a subspace, atoms are projected on it as they enter.

Every sample of the batch is a lane, and all lanes pivot in lock-step until the last of them is done. The batch is the last
axis of every tensor, so that each operation runs over contiguous memory.
"""

import math
from typing import NamedTuple

import torch as th

from sb3_cora.credit.coalitions import largest_excess
from sb3_cora.credit.solvers.base import CoreSolver, Solution
from sb3_cora.credit.solvers.pivoting import PRECISIONS, Lanes, Problem, argmax, combine, confine, pivot, refresh

WORTH_COMPACTING = 0.6
"""Finished lanes are set aside once fewer than this share of the lanes is unfinished."""

PIVOTS_PER_REFRESH = 16
"""Number of pivots after which the accumulated rounding error is corrected."""


class ActiveSetSolver(CoreSolver):
    """
    Exact solver for a whole batch of programs. The default.

    On the CPU, samples are solved in chunks, and those that are done are set aside. On other devices a fixed number of pivots
    runs over all samples and nothing is read back, so that the host never waits for the device.

    :param tolerance: Certified duality gap, relative to the excesses, up to which a sample counts as converged. ``None``: 1e-9
        in double precision, 1e-3 in single.
    :param max_pivots: The number of pivots after which a sample is given up. ``None``: ``20 + 20 * n_agents``, at least twice
        what any tested game has needed (22 for 4 agents, 88 for 10, 208 for 20, all on games that are additive up to a little
        noise).
    :param dtype: Precision, ``float64``, or ``float32`` for devices without it. In single precision, measured on games of up
        to ten agents, the credits of the core are exact to 1e-4 of the largest excess, and those of the least core, whose
        optimum is flat, to 1e-2. Among twenty agents some samples do not converge; the CPU solves these again in double
        precision.
    :raises ValueError: If ``dtype`` is another one.
    """

    def __init__(self, tolerance: float | None = None, max_pivots: int | None = None, dtype: th.dtype = th.float64) -> None:
        if dtype not in PRECISIONS:
            raise ValueError(f"dtype={dtype} is not supported, expected one of {list(PRECISIONS)}.")
        self.tolerance = PRECISIONS[dtype].gap if tolerance is None else tolerance
        self.max_pivots = max_pivots
        self.dtype = dtype

    def solve(
        self,
        excesses: th.Tensor,
        masks: th.Tensor,
        variance_weight: th.Tensor,
        *,
        nonnegative_epsilon: bool,
        deviation_weight: float = 0.0,
    ) -> Solution:
        solution = self._attempt(excesses, masks, variance_weight, nonnegative_epsilon, deviation_weight)
        if excesses.device.type != "cpu" or bool(solution.converged.all()):
            return solution
        # Rounding makes about one program in millions fail. With the agents in another order it rounds differently.
        missed = solution.converged.logical_not().nonzero()[:, 0]
        again = self._attempt(
            excesses[missed].double(),
            masks.flip(1),
            variance_weight[missed].double(),
            nonnegative_epsilon,
            deviation_weight,
        )
        better = again.gap < solution.gap[missed]
        chosen = missed[better]
        solution.deviations[chosen] = again.deviations[better].flip(1).to(excesses.dtype)
        solution.gap[chosen] = again.gap[better].to(excesses.dtype)
        solution.converged[chosen] = again.converged[better]
        return solution

    def _attempt(
        self,
        excesses: th.Tensor,
        masks: th.Tensor,
        variance_weight: th.Tensor,
        nonnegative_epsilon: bool,
        deviation_weight: float,
    ) -> Solution:
        n_agents = masks.shape[1]
        # From n / 2 on the equal split is the solution, since no coalition gains more than half the sum of all deviations.
        deviation_weight = min(deviation_weight, n_agents / 2)
        if n_agents == 2:
            gains = _two_agent_gains(excesses, masks, variance_weight, nonnegative_epsilon, deviation_weight)
            gap = th.zeros_like(gains)
            return Solution(th.stack([gains, -gains], dim=1), gap, gap <= self.tolerance)

        problem = make_problem(masks, excesses.dtype, nonnegative_epsilon, deviation_weight, self.max_pivots)
        # Multiplies the objective, and with it the points.
        factor = variance_weight * (2 / n_agents)
        outcome = minimize(problem, excesses, factor)
        # A lane that rounding has made NaN falls back to the equal split, which is feasible with a large enough epsilon.
        deviations = (problem.basis @ outcome.points / factor).T.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        epsilon = largest_excess(deviations, excesses, masks)
        if nonnegative_epsilon:
            epsilon = epsilon.clamp(min=0)
        variance, deviation = deviations.square().sum(dim=1), deviations.abs().sum(dim=1)
        primal = epsilon + (variance_weight * variance + deviation_weight * deviation) / n_agents
        gap = (primal - outcome.bounds / factor).nan_to_num(nan=math.inf, posinf=math.inf)
        return Solution(deviations, gap, gap <= self.tolerance)


class Outcome(NamedTuple):
    """
    Solutions of the lanes. The last axis of every tensor is the lane.

    :param points: Of shape ``(n_agents, n_lanes)``, the solutions ``(d, e)`` in the coordinates of ``Lanes.point``.
    :param bounds: Of shape ``(n_lanes,)``, the dual objectives; minus infinity where a pivot was interrupted.
    :param working_set: Of shape ``(n_agents, n_lanes)``, the indices of the atoms in the working set.
    :param weights: Of shape ``(n_agents, n_lanes)``, their dual weights, which sum to one; zero in slots without an atom.
    """

    points: th.Tensor
    bounds: th.Tensor
    working_set: th.Tensor
    weights: th.Tensor


def make_problem(
    masks: th.Tensor,
    dtype: th.dtype,
    nonnegative_epsilon: bool,
    deviation_weight: float = 0.0,
    max_pivots: int | None = None,
) -> Problem:
    """
    :param masks: Boolean ``(n_coalitions, n_agents)``.
    :param dtype: The dtype of the excesses.
    :param nonnegative_epsilon: Whether ``eps >= 0`` is one of the constraints.
    :param deviation_weight: Weight of the mean absolute deviation.
    :param max_pivots: See ``ActiveSetSolver``.
    :return: The part of the programs that all lanes have in common.
    """
    n_agents = masks.shape[1]
    basis = _zero_sum_basis(n_agents, dtype, masks.device)
    atoms = masks.to(dtype) @ basis
    if nonnegative_epsilon:
        atoms = th.cat([atoms, th.zeros_like(atoms[:1])])
    atoms[:, -1] = 1
    if deviation_weight > 0:
        atoms = th.cat([atoms, basis])
    if max_pivots is None:
        max_pivots = 20 + 20 * n_agents
    return Problem(atoms, basis, nonnegative_epsilon, 2 * deviation_weight / n_agents, max_pivots)


def minimize(problem: Problem, excesses: th.Tensor, factor: th.Tensor, projection: th.Tensor | None = None) -> Outcome:
    """
    Solve ``minimize e + |d|^2 / 2 subject to a_C . d + e >= factor * excess(C)`` in every lane.

    :param problem: The constraints.
    :param excesses: Of shape ``(n_lanes, n_coalitions)``.
    :param factor: Of shape ``(n_lanes,)``, positive.
    :param projection: Of shape ``(n_agents - 1, n_agents - 1, n_lanes)``, orthogonal projection on the subspace that ``d`` is
        confined to, in the coordinates of ``Lanes.point``. ``None``: ``d`` is not confined.
    :return: The solutions.
    """
    if excesses.device.type != "cpu":
        lanes, targets = _start(problem, excesses, factor, projection)
        return _pivot_in_place(problem, lanes, targets)
    size = lanes_per_chunk(problem.atoms)
    outcomes = []
    for first in range(0, max(1, len(excesses)), size):
        chunk = slice(first, first + size)
        confinement = None if projection is None else projection[..., chunk]
        lanes, targets = _start(problem, excesses[chunk], factor[chunk], confinement)
        outcomes.append(_pivot_compacting(problem, lanes, targets))
    return Outcome(*(th.cat(parts, dim=-1) for parts in zip(*outcomes, strict=True)))


def _zero_sum_basis(n_agents: int, dtype: th.dtype, device: th.device) -> th.Tensor:
    """
    Orthonormal basis (Helmert's) of the vectors that sum to zero, with a column of zeros for ``e``.

    :return: Of shape ``(n_agents, n_agents)``, basis vectors in the first ``n_agents - 1`` columns.
    """
    order = th.arange(1, n_agents, dtype=dtype, device=device)
    basis = th.zeros(n_agents, n_agents, dtype=dtype, device=device)
    basis[:, :-1] = th.ones(n_agents, n_agents - 1, dtype=dtype, device=device).triu()
    basis[1:, :-1] -= th.diag(order)
    basis[:, :-1] *= (order * (order + 1)).rsqrt()
    return basis


def lanes_per_chunk(atoms: th.Tensor) -> int:
    """
    :return: How many lanes to solve at once: enough to outweigh the overhead of each operation, and few enough that the state
        of a chunk takes about eight megabytes.
    """
    n_atoms, n_agents = atoms.shape
    numbers_per_lane = n_atoms + 2 * n_agents * n_agents
    return min(8192, max(256, 2**20 // numbers_per_lane))


def _start(problem: Problem, excesses: th.Tensor, factor: th.Tensor, projection: th.Tensor | None) -> tuple[Lanes, th.Tensor]:
    """
    The first state of the lanes: a working set of a single atom, that of ``e >= 0`` if there is such a constraint, otherwise
    that of the coalition with the largest target.

    :return: The lanes, and the targets ``u`` ``(n_atoms, n_lanes)`` of their constraints.
    """
    atoms = problem.atoms
    n_atoms, n_agents = atoms.shape
    n_lanes = len(excesses)
    targets = excesses.new_zeros(n_atoms, n_lanes)
    th.mul(excesses.T, factor, out=targets[: excesses.shape[1]])
    if problem.nonnegative_epsilon:
        first = th.full((n_lanes,), excesses.shape[1], device=atoms.device)
    else:
        first = argmax(targets[: excesses.shape[1]])[1]

    atom = atoms.T[:, first] if projection is None else confine(atoms.T[:, first], projection)
    point = atom.clone()
    point[-1] = targets.gather(0, first[None])[0] - atom[:-1].square().sum(dim=0)
    rows = excesses.new_zeros(n_agents + 1, n_agents, n_lanes)
    rows[0] = atom
    duals = excesses.new_zeros(n_agents, n_agents, n_lanes)
    duals[0] = atom / atom.square().sum(dim=0)
    used = excesses.new_zeros(n_agents, n_lanes)
    used[0] = 1
    working_set = first.repeat(n_agents + 1, 1)
    lanes = Lanes(
        residuals=th.addmm(targets, atoms, point, alpha=-1),
        point=point,
        weights=used.clone(),
        used=used,
        working_set=working_set,
        rows=rows,
        duals=duals,
        axis=duals[0].clone(),
        axis_weights=used * duals[0, -1],
        entering=first.clone(),
        entering_weight=th.zeros_like(factor),
        pending=th.zeros_like(factor),
        tolerance=PRECISIONS[excesses.dtype].violation * factor.clamp(max=1),
        sides=th.ones_like(point) if problem.n_agent_atoms else None,
        projection=projection,
    )
    return lanes, targets


def _finish(problem: Problem, lanes: Lanes, targets: th.Tensor, numbers: th.Tensor) -> Outcome:
    """
    The solutions of some lanes. The dual objective is computed from the weights and the data alone, so that it bounds the
    minimum whatever the rounding errors of the pivots.

    :param problem: The constraints.
    :param lanes: The lanes.
    :param targets: Of shape ``(n_atoms, n_all_lanes)``.
    :param numbers: Of shape ``(n_lanes,)``, the indices of these lanes among all lanes.
    :return: The solutions.
    """
    working_set = lanes.working_set[:-1]
    total = (lanes.weights * lanes.rows[:-1, -1]).sum(dim=0)
    weights = lanes.weights / total.clamp(min=PRECISIONS[targets.dtype].tiny)
    deviations = combine(lanes.rows[:-1].transpose(0, 1), weights)[:-1]
    if lanes.sides is not None:
        deviations = deviations + problem.largest_weight * (problem.basis.T @ (lanes.sides < 0).to(weights.dtype))[:-1]
    bound = (weights * targets[working_set, numbers]).sum(dim=0) - deviations.square().sum(dim=0) / 2
    return Outcome(lanes.point, bound.masked_fill(lanes.pending > 0, -math.inf), working_set, weights)


def _pivot_compacting(problem: Problem, lanes: Lanes, targets: th.Tensor) -> Outcome:
    """
    Pivot until every lane is done, and set finished lanes aside whenever there are many of them.

    :return: The solutions.
    """
    numbers = th.arange(targets.shape[1])
    finished = []
    for n_pivots in range(1, problem.max_pivots + 1):
        live = pivot(problem, lanes)
        n_live = int(live.count_nonzero())
        if n_live == 0:
            break
        if n_live < WORTH_COMPACTING * len(live):
            done = (live == 0).nonzero()[:, 0]
            finished.append((numbers[done], _finish(problem, lanes.select(done), targets, numbers[done])))
            kept = live.nonzero()[:, 0]
            lanes, numbers = lanes.select(kept), numbers[kept]
        if n_pivots % PIVOTS_PER_REFRESH == 0:
            refresh(lanes)
    finished.append((numbers, _finish(problem, lanes, targets, numbers)))
    back = th.cat([lanes_done for lanes_done, _ in finished]).argsort()
    parts = zip(*(outcome for _, outcome in finished), strict=True)
    return Outcome(*(th.cat(part, dim=-1)[..., back] for part in parts))


def _pivot_in_place(problem: Problem, lanes: Lanes, targets: th.Tensor) -> Outcome:
    """
    Pivot all lanes a fixed number of times, so that neither shapes nor control flow depend on values on the device.

    :return: The solutions.
    """
    for n_pivots in range(1, problem.max_pivots + 1):
        pivot(problem, lanes)
        if n_pivots % PIVOTS_PER_REFRESH == 0:
            refresh(lanes)
    return _finish(problem, lanes, targets, th.arange(targets.shape[1], device=targets.device))


def _two_agent_gains(
    excesses: th.Tensor,
    masks: th.Tensor,
    variance_weight: th.Tensor,
    nonnegative_epsilon: bool,
    deviation_weight: float,
) -> th.Tensor:
    """
    Closed form for two agents: what the first one gets beyond half of the grand value.

    With ``a`` and ``b`` the excesses of the two agents, the objective as a function of the gain ``t`` is
    ``max(0, a - t, b + t) + variance_weight * t^2 + deviation_weight * |t|``. The first term falls with a slope of at most 1,
    so ``t`` is at most as far from zero as where the slope of the other two reaches 1.

    :return: Of shape ``(batch,)``.
    """
    first, second = (excesses.masked_fill(~masks[:, agent], -math.inf).amax(dim=1) for agent in range(2))
    furthest = 0.5 * (1 - deviation_weight) / variance_weight
    meeting = (first - second) / 2
    if not nonnegative_epsilon:
        return meeting.clamp(-furthest, furthest)
    forward = th.minimum(first, meeting).clamp(min=0).minimum(furthest)
    backward = th.minimum(second, -meeting).clamp(min=0).minimum(furthest)
    return forward - backward
