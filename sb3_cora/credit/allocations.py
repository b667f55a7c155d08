"""
Solution concepts: how the grand value of a game is divided among the agents, given what coalitions are worth.

Every concept is a function of one batch of games: values ``v(C)`` of the proper coalitions at hand ``(batch, n_coalitions)``,
their masks ``(n_coalitions, n_agents)``, and the grand value ``v(N)`` ``(batch,)``. The empty coalition is worth 0. A concept
is called efficient where the credits of a game sum to ``v(N)``.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch as th

from sb3_cora.credit.coalitions import (
    first_occurrences,
    is_closed_under_complement,
    leave_one_out,
    n_proper_coalitions,
    restrict_coalitions,
    singletons,
)
from sb3_cora.credit.excess import largest_excess
from sb3_cora.credit.sampling import CoalitionSample
from sb3_cora.credit.solvers import ActiveSetSolver, ConvergenceError, CoreSolver, make_solver
from sb3_cora.credit.solvers.nucleolus import solve_nucleolus

EpsilonBound = Literal["nonnegative", "free"]

LIMIT_WEIGHTS = {th.float64: 1e-3, th.float32: 1e-2}
"""By precision: weight, relative to the largest excess, from which the core programme has the least core's solution. Below a
bound that depends on the coalitions alone it no longer moves, and at ten times the first of these it does not move yet."""


MIN_PIECE, MAX_PIECE_NUMBERS = 1024, 2**21
"""On the CPU, samples are divided so many at a time that their values hold at most the second number of numbers, but at least
the first number of samples."""


class Credits(NamedTuple):
    """
    Divided values of a batch of games, in the units of the values.

    :param credits: ``(batch, n_agents)``
    :param epsilon: ``(batch,)``, the largest excess ``v(C) - x(C)`` that the credits ``x`` leave to a coalition at hand;
        not below 0 unless ``epsilon_bound="free"``
    :param gap: ``(batch,)``, how far the objective of the programme may lie above its minimum; 0 for concepts that are
        formulas, infinite for a sample without solution
    :param converged: boolean ``(batch,)``
    """

    credits: th.Tensor
    epsilon: th.Tensor
    gap: th.Tensor
    converged: th.Tensor


class Division(NamedTuple):
    """
    What a solution concept returns.

    :param credits: ``(batch, n_agents)``
    :param gap: as in ``Credits``
    :param converged: as in ``Credits``
    """

    credits: th.Tensor
    gap: th.Tensor
    converged: th.Tensor


def core(
    values: th.Tensor,
    masks: th.Tensor,
    grand_value: th.Tensor,
    variance_weight: float = 0.1,
    epsilon_bound: EpsilonBound = "nonnegative",
    solver: CoreSolver | None = None,
) -> Division:
    """
    The core programme (CORA, equation 6). Efficient.

    Over credits ``x`` that sum to ``v(N)`` and ``eps >= 0`` (or free), minimises
    ``eps + (variance_weight / n) * sum_i (x_i - v(N) / n)^2`` subject to ``x(C) + eps >= v(C)`` for every coalition at hand.
    The variance term draws credits towards equal shares, so an agent that contributes nothing may get a share nevertheless;
    and it caps them: ``|x_i - v(N) / n| <= (n - 1) / (2 * variance_weight)`` whatever the values.

    :param values: ``(batch, n_coalitions)``
    :param masks: boolean ``(n_coalitions, n_agents)``
    :param grand_value: ``(batch,)``
    :param variance_weight: not negative; in the inverse units of the values. 0 is the limit from above, the least core
    :param epsilon_bound: ``"nonnegative"`` or ``"free"``
    :param solver: what solves the programmes, the batched solver if ``None``
    :return: the credits and their certificate
    :raises ValueError: for a free ``eps`` over coalitions that are not balanced, where it has no least value
    """
    return _solve_programme(values, masks, grand_value, variance_weight, 0.0, epsilon_bound, solver)


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
    return _solve_programme(values, masks, grand_value, 0.0, 0.0, epsilon_bound, solver)


def core_l1(
    values: th.Tensor,
    masks: th.Tensor,
    grand_value: th.Tensor,
    variance_weight: float = 0.1,
    epsilon_bound: EpsilonBound = "nonnegative",
    solver: CoreSolver | None = None,
) -> Division:
    """
    The core programme with its variance linearized (CORA, appendix B.1), a linear programme: ``core`` with
    ``(variance_weight / n) * sum_i |x_i - v(N) / n|`` in place of the squares, and among several optimal credits those of
    least variance. Efficient.

    Both terms are in the units of the values, so a weight means the same at any scale. From ``n / 2`` on the equal split is
    always the solution; for two agents it is all or nothing, the least core below 1 and the equal split from there on.

    :return: the credits and their certificate
    :raises ValueError: as ``core``
    """
    return _solve_programme(values, masks, grand_value, 0.0, variance_weight, epsilon_bound, solver)


def _solve_programme(
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
        return _formula(equal_share.expand(-1, n_agents))
    if epsilon_bound == "free" and not is_balanced(masks):
        raise ValueError(
            f'epsilon_bound="free" needs balanced coalitions, and the {n_coalitions} at hand are not: credits could be moved '
            "to satisfy all of them ever better. Add the complement of each coalition (paired=True where they are drawn), or "
            "use epsilon_bound='nonnegative'."
        )
    solver = ActiveSetSolver(dtype=values.dtype) if solver is None else solver
    excesses = _excesses_at_equal_split(values, masks, grand_value)
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


def _excesses_at_equal_split(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    :return: what each coalition wants beyond its members' equal shares, ``(batch, n_coalitions)``
    """
    shares = masks.sum(dim=1, dtype=values.dtype) / masks.shape[1]
    return th.addmm(values, grand_value[:, None], shares[None], alpha=-1)


def is_balanced(masks: th.Tensor) -> bool:
    """
    Whether some weighting of the coalitions covers every agent equally, as a coalition and its complement do. Then no
    transfer of credits favours all coalitions at once, and the least core has a finite ``eps`` even below 0.

    :param masks: boolean ``(n_coalitions, n_agents)``, at least one coalition and two agents
    :return: whether they are balanced
    """
    # In the game worth nothing with a free eps, a transfer pays exactly where it favours all coalitions.
    nothing = th.zeros(1, len(masks), dtype=th.float64, device=masks.device)
    solution = ActiveSetSolver().solve(nothing, masks, nothing.new_ones(1), nonnegative_epsilon=False)
    return bool(solution.deviations.abs().max() < 1e-6)


def nucleolus(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> Division:
    """
    The nucleolus (Schmeidler 1969): the credits whose excesses, sorted from the largest down, are lexicographically least. It
    is the least core with a free ``eps``, then among those credits the least second largest excess, and so on. Exact by
    nested programmes over the coalitions at hand; no credits but the sum is bounded, which some call the prenucleolus.
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
        return _formula(equal_share.expand(-1, n_agents))
    if not is_closed_under_complement(masks):
        raise ValueError(
            f"concept='nucleolus' needs the complement of every coalition, and some of the {n_coalitions} at hand lack "
            "theirs: a lesser excess could fall without end. Add them (paired=True where coalitions are drawn)."
        )
    if values.dtype != th.float64:
        raise ValueError(f"concept='nucleolus' needs double precision, got {values.dtype}; use a solver of that precision.")
    excesses = _excesses_at_equal_split(values, masks, grand_value)
    size = excesses.amax(dim=1) - excesses.amin(dim=1)
    size = th.where(size > 0, size, 1)
    solution = solve_nucleolus(excesses / size[:, None], masks)
    return Division(equal_share + solution.deviations * size[:, None], solution.gap * size, solution.converged)


def shapley(
    values: th.Tensor,
    coalitions: th.Tensor | CoalitionSample,
    grand_value: th.Tensor,
    players: th.Tensor | None = None,
) -> th.Tensor:
    """
    The Shapley value: the mean over all orders of arrival of what an agent adds on arriving (Shapley 1953). Efficient.

    Exact where all proper coalitions are at hand. On a sample it is an unbiased estimate, no less efficient: along the orders
    of a ``"permutations"`` sample the mean of what agents add (Castro et al. 2009), otherwise the least-squares estimate
    (Covert and Lee 2021), every coalition weighted by its expected count.

    :param values: ``(batch, n_coalitions)``
    :param coalitions: boolean masks ``(n_coalitions, n_agents)`` of all proper coalitions, or a sample
    :param grand_value: ``(batch,)``
    :param players: on a sample: boolean ``(batch, n_agents)``, who takes part (all if ``None``)
    :return: ``(batch, n_agents)``
    :raises ValueError: when some proper coalition is missing and how they were drawn is not known
    """
    sample = _as_sample(coalitions)
    if sample.orders is not None:
        return _mean_over_orders(values, sample.orders, grand_value, players)
    n_agents = sample.masks.shape[1]
    weights = [1 / (n_agents * math.comb(n_agents - 1, n_before)) for n_before in range(n_agents)]
    if sample.expected_counts is None:
        return _weighted_marginals(values, sample.masks, grand_value, weights, "shapley")
    estimate = _estimated_marginals(values, sample, grand_value, weights, players)
    if players is None:
        return estimate
    # The noise of those who left goes to those who stay, in equal parts.
    lacking = grand_value - estimate.sum(dim=1)
    return estimate + (lacking / players.sum(dim=1).clamp(min=1))[:, None] * players


def banzhaf(
    values: th.Tensor,
    coalitions: th.Tensor | CoalitionSample,
    grand_value: th.Tensor,
    players: th.Tensor | None = None,
) -> th.Tensor:
    """
    The Banzhaf value: the mean over all coalitions of the others of what an agent adds to them (Banzhaf 1965). Not efficient.

    Exact where all proper coalitions are at hand, an unbiased estimate on a sample; of samples a uniform one serves it best.

    :param values: as for ``shapley``
    :param coalitions: as for ``shapley``
    :param grand_value: as for ``shapley``
    :param players: as for ``shapley``
    :return: ``(batch, n_agents)``
    :raises ValueError: when some proper coalition is missing and how they were drawn is not known
    """
    sample = _as_sample(coalitions)
    n_agents = sample.masks.shape[1]
    weights = [0.5 ** (n_agents - 1)] * n_agents
    if sample.expected_counts is None:
        return _weighted_marginals(values, sample.masks, grand_value, weights, "banzhaf")
    return _estimated_marginals(values, sample, grand_value, weights, players)


def difference(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    Difference rewards: what the team would lose without the agent, ``v(N) - v(N without i)`` (Wolpert and Tumer 2001).
    Not efficient.

    :return: ``(batch, n_agents)``
    :raises ValueError: unless every coalition of all but one is at hand
    """
    wanted = leave_one_out(masks.shape[1], masks.device)
    return grand_value[:, None] - values[:, _find(masks, wanted, "difference")]


def singleton(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    What the agent is worth on its own, ``v({i})``. Not efficient.

    :return: ``(batch, n_agents)``
    :raises ValueError: unless every coalition of one is at hand
    """
    return values[:, _find(masks, singletons(masks.shape[1], masks.device), "singleton")]


def equal(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    Equal shares, ``v(N) / n``. Efficient.

    :return: ``(batch, n_agents)``
    """
    return (grand_value[:, None] / masks.shape[1]).expand(-1, masks.shape[1])


def shared(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    The whole grand value to every agent, as MAPPO has it. Not efficient.

    :return: ``(batch, n_agents)``
    """
    return grand_value[:, None].expand(-1, masks.shape[1])


ESTIMATES: dict[str, Callable[[th.Tensor, CoalitionSample, th.Tensor, th.Tensor | None], th.Tensor]] = {
    "shapley": shapley,
    "banzhaf": banzhaf,
}
"""Concepts that take all proper coalitions, or a ``CoalitionSample`` to estimate from."""

FORMULAS: dict[str, Callable[[th.Tensor, th.Tensor, th.Tensor], th.Tensor]] = {
    "difference": difference,
    "singleton": singleton,
    "equal": equal,
    "shared": shared,
}
"""Concepts that take few coalitions or none."""

CONCEPTS: tuple[str, ...] = ("core", "least_core", "core_l1", "nucleolus", *ESTIMATES, *FORMULAS)
"""What ``allocate`` knows by name."""

EFFICIENT_CONCEPTS = frozenset({"core", "least_core", "core_l1", "nucleolus", "shapley", "equal"})
"""Concepts whose credits sum to the grand value."""


@th.no_grad()
def allocate(
    values: th.Tensor,
    masks: th.Tensor | CoalitionSample,
    grand_value: th.Tensor,
    concept: str = "core",
    *,
    variance_weight: float = 0.1,
    epsilon_bound: EpsilonBound = "nonnegative",
    scale: float | th.Tensor | None = None,
    solver: str | CoreSolver = "active_set",
    player_mask: th.Tensor | None = None,
    check: bool = True,
) -> Credits:
    """
    Divide the grand value of every game of a batch among its agents.

    All arithmetic is in the precision of the solver, float64 unless told otherwise; the credits come back in the dtype of
    ``values``. No gradient flows.

    :param values: ``v(C)`` of the coalitions at hand, ``(batch, n_coalitions)``
    :param masks: these coalitions, boolean ``(n_coalitions, n_agents)``, neither empty nor everyone; or a
        ``CoalitionSample``, from which ``"shapley"`` and ``"banzhaf"`` are estimated where not all coalitions are at hand
    :param grand_value: ``v(N)``, ``(batch,)``
    :param concept: one of ``CONCEPTS``
    :param variance_weight: for ``"core"`` and ``"core_l1"``: the weight of the variance against ``eps``. In ``"core"`` the two
        have different units, so a weight means something only beside a scale: ``1 / (2 * variance_weight)``, times ``scale``,
        is the furthest that two agents' credits may leave the equal share. 0 gives the least core
    :param epsilon_bound: whether ``eps`` stops at 0 (``"nonnegative"``) or may be ``"free"``; the nucleolus itself is always
        that of a free one
    :param scale: values are divided by it beforehand and credits multiplied afterwards, one positive number or ``(batch,)``;
        it changes nothing but the meaning of ``variance_weight``. ``None``: the raw programme of the paper
    :param solver: for ``"core"``, ``"least_core"`` and ``"core_l1"``: one of ``SOLVERS``, or a solver
    :param player_mask: ``(batch, n_agents)``, which agents take part (all if ``None``). The others leave the game: they get 0,
        and a coalition is worth what it is worth without them. A lone player gets the grand value
    :param check: raise on numbers that are not finite, on scales that are not positive and on samples that did not converge.
        Otherwise such samples get zero credits, respectively the best credits found, and are flagged in ``converged``;
        nothing is read back from the device, except to sort samples by ``player_mask``
    :return: credits, epsilon, gap and convergence, in the units of ``values``
    :raises ValueError: for arguments that are unknown, of the wrong shape or (with ``check``) not finite
    :raises ConvergenceError: (with ``check``) when a sample did not converge
    """
    if concept not in CONCEPTS:
        raise ValueError(f"concept={concept!r} is unknown, expected one of {list(CONCEPTS)}.")
    if epsilon_bound not in ("nonnegative", "free"):
        raise ValueError(f"epsilon_bound={epsilon_bound!r} is unknown, expected 'nonnegative' or 'free'.")
    if not variance_weight >= 0:
        raise ValueError(f"variance_weight must not be negative, got {variance_weight}; 0 gives the least core.")
    solver = make_solver(solver)
    sample = _as_sample(masks)
    _check_shapes(values, sample.masks, grand_value, player_mask)
    if check:
        _check_coalitions(sample.masks)

    device = values.device
    sample = sample.to(device)
    unit = th.as_tensor(1.0 if scale is None else scale, dtype=solver.dtype, device=device).expand(len(values))
    if check:
        _check_numbers(values, grand_value, unit)
        sound = th.ones_like(unit, dtype=th.bool)
    else:
        sound = values.isfinite().all(dim=1) & grand_value.isfinite() & unit.isfinite() & (unit > 0)
    players = None if player_mask is None else player_mask.to(device).bool()

    divide = _Divider(concept, variance_weight, epsilon_bound, solver)
    # Piece by piece on the CPU: the copies of the values that the work takes then stay in its cache, and small.
    size = max(MIN_PIECE, MAX_PIECE_NUMBERS // max(1, values.shape[1])) if device.type == "cpu" else max(1, len(values))
    pieces = []
    for start in range(0, max(1, len(values)), size):
        piece = slice(start, start + size)
        present = None if players is None else players[piece]
        pieces.append(divide.scaled(values[piece], sample, grand_value[piece], unit[piece], sound[piece], present))
    result = Credits(*(th.cat(parts) for parts in zip(*pieces, strict=True)))
    if check and not bool(result.converged.all()):
        raise ConvergenceError(_describe_failures(result))
    return Credits(
        credits=result.credits.to(values.dtype),
        epsilon=result.epsilon.to(values.dtype),
        gap=result.gap.to(values.dtype),
        converged=result.converged,
    )


class _Divider(NamedTuple):
    """One way of dividing, for games of any number of players."""

    concept: str
    variance_weight: float
    epsilon_bound: EpsilonBound
    solver: CoreSolver

    def scaled(
        self,
        values: th.Tensor,
        sample: CoalitionSample,
        grand_value: th.Tensor,
        unit: th.Tensor,
        sound: th.Tensor,
        players: th.Tensor | None,
    ) -> Credits:
        """
        :param values: ``(batch, n_coalitions)``, of any floating point type
        :param sample: the coalitions
        :param grand_value: ``(batch,)``
        :param unit: what the values are divided by beforehand and the credits multiplied by afterwards, ``(batch,)``
        :param sound: boolean ``(batch,)``, false for samples that are not to be solved but flagged
        :param players: boolean ``(batch, n_agents)``, who takes part in which game; everyone if ``None``
        :return: the divided values, in the precision of the solver
        """
        unit = unit.masked_fill(~sound, 1)
        values = (values.to(unit.dtype) / unit[:, None]).masked_fill_(~sound[:, None], 0)
        grand_value = (grand_value.to(unit.dtype) / unit).masked_fill_(~sound, 0)
        result = self(values, sample, grand_value) if players is None else self.among(players, values, sample, grand_value)
        return Credits(
            credits=result.credits * unit[:, None] * sound[:, None],
            epsilon=result.epsilon * unit,
            gap=(result.gap * unit).masked_fill(~sound, math.inf),
            converged=result.converged & sound,
        )

    def __call__(
        self, values: th.Tensor, sample: CoalitionSample, grand_value: th.Tensor, players: th.Tensor | None = None
    ) -> Credits:
        """
        :param values: ``(batch, n_coalitions)``
        :param sample: the coalitions
        :param grand_value: ``(batch,)``
        :param players: boolean ``(batch, n_agents)``, who takes part, for estimates; everyone if ``None``
        :return: the divided values
        """
        masks = sample.masks
        n_agents = masks.shape[1]
        if n_agents < 2:
            division = _formula(grand_value[:, None].expand(-1, n_agents))
        elif self.concept == "core":
            division = core(values, masks, grand_value, self.variance_weight, self.epsilon_bound, self.solver)
        elif self.concept == "least_core":
            division = least_core(values, masks, grand_value, self.epsilon_bound, self.solver)
        elif self.concept == "core_l1":
            division = core_l1(values, masks, grand_value, self.variance_weight, self.epsilon_bound, self.solver)
        elif self.concept == "nucleolus":
            division = nucleolus(values, masks, grand_value)
        elif self.concept in ESTIMATES:
            division = _formula(ESTIMATES[self.concept](values, sample, grand_value, players))
        else:
            division = _formula(FORMULAS[self.concept](values, masks, grand_value))
        if players is not None:
            # Coalitions of no player or of all of them are no coalitions of their game.
            n_members = players.to(values.dtype) @ masks.to(values.dtype).T
            proper = (n_members > 0) & (n_members < players.sum(dim=1, keepdim=True))
            values = values.masked_fill(~proper, -math.inf)
        epsilon = largest_excess(division.credits, values, masks) if len(masks) else th.zeros_like(grand_value)
        epsilon = epsilon.masked_fill(epsilon == -math.inf, 0)
        if self.epsilon_bound == "nonnegative":
            epsilon = epsilon.clamp(min=0)
        return Credits(division.credits, epsilon, division.gap, division.converged)

    def among(self, players: th.Tensor, values: th.Tensor, sample: CoalitionSample, grand_value: th.Tensor) -> Credits:
        """
        :param players: boolean ``(batch, n_agents)``, who takes part in which game
        :param values: ``(batch, n_coalitions)``
        :param sample: the coalitions
        :param grand_value: ``(batch,)``
        :return: the divided values, solved together for all samples with the same players
        """
        if self.concept in ESTIMATES and sample.expected_counts is not None:
            return self(values, sample, grand_value, players)
        result = Credits(
            credits=values.new_zeros(players.shape),
            epsilon=th.zeros_like(grand_value),
            gap=th.zeros_like(grand_value),
            converged=th.ones_like(grand_value, dtype=th.bool),
        )
        teams, team_of_sample = th.unique(players, dim=0, return_inverse=True)
        for number, team in enumerate(teams):
            if not team.any():
                continue
            samples = (team_of_sample == number).nonzero()[:, 0]
            team_masks, rows = restrict_coalitions(sample.masks, team)
            divided = self(values[samples][:, rows], CoalitionSample(team_masks), grand_value[samples])
            result.credits[samples[:, None], team.nonzero()[:, 0]] = divided.credits
            result.epsilon[samples] = divided.epsilon
            result.gap[samples] = divided.gap
            result.converged[samples] = divided.converged
        return result


def _as_sample(coalitions: th.Tensor | CoalitionSample) -> CoalitionSample:
    """
    :return: the coalitions as a sample, of whose origin nothing is known where they are but masks
    """
    return coalitions if isinstance(coalitions, CoalitionSample) else CoalitionSample(coalitions)


def _formula(credits: th.Tensor) -> Division:
    """
    :param credits: ``(batch, n_agents)``, from a formula
    :return: the same, with nothing left to certify
    """
    gap = credits.new_zeros(len(credits))
    return Division(credits, gap, gap == 0)


def _weighted_marginals(
    values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor, weights: list[float], concept: str
) -> th.Tensor:
    """
    ``sum_S weights[|S|] * (v(S + i) - v(S))`` over the coalitions ``S`` of the other agents.

    :param weights: one for each number of agents that ``i`` may meet, ``n_agents`` of them
    :return: ``(batch, n_agents)``
    """
    n_agents = masks.shape[1]
    rows = first_occurrences(masks)
    if len(rows) != n_proper_coalitions(n_agents):
        raise ValueError(
            f"concept={concept!r} needs all {n_proper_coalitions(n_agents)} proper coalitions of {n_agents} agents, got "
            f"{len(rows)}. Pass all_coalitions({n_agents}), or the sample that draw_coalitions returns, to estimate from."
        )
    return values[:, rows] @ _marginal_coefficients(masks[rows], weights, values) + (grand_value * weights[-1])[:, None]


def _marginal_coefficients(masks: th.Tensor, weights: list[float], values: th.Tensor) -> th.Tensor:
    """
    How much a coalition's value counts in ``sum_S weights[|S|] * (v(S + i) - v(S))``.

    :param values: tensor whose dtype and device to take
    :return: ``(n_coalitions, n_agents)``
    """
    weight = values.new_tensor(weights)
    size = masks.sum(dim=1)
    return th.where(masks, weight[size - 1][:, None], -weight[size][:, None])


def _estimated_marginals(
    values: th.Tensor,
    sample: CoalitionSample,
    grand_value: th.Tensor,
    weights: list[float],
    players: th.Tensor | None,
) -> th.Tensor:
    """
    Unbiased estimate of ``sum_S weights[|S|] * (v(S + i) - v(S))``: every coalition counts in inverse proportion to how often
    it was expected (Horvitz and Thompson 1952). What is estimated is the deviation from equal shares, whose own contribution
    is known, so that a game of equal agents has no variance.

    An agent that takes no part is one that adds nothing to any coalition; that changes nothing for the others.

    :param players: boolean ``(batch, n_agents)``, who takes part; everyone if ``None``
    :return: ``(batch, n_agents)``, 0 for those who take no part
    """
    masks, expected_counts = sample.masks, sample.expected_counts
    assert expected_counts is not None
    n_agents = masks.shape[1]
    if players is None:
        size = masks.sum(dim=1, dtype=values.dtype)[None]
        n_players = grand_value.new_full((1,), n_agents)
    else:
        size = players.to(values.dtype) @ masks.to(values.dtype).T
        n_players = players.sum(dim=1).to(values.dtype)
    share = grand_value / n_players.clamp(min=1)
    lacking = values - share[:, None] * size
    if players is not None:
        # Of the players nobody or everybody: known to be worth nothing, or the grand value
        lacking = lacking.masked_fill((size == 0) | (size == n_players[:, None]), 0)
    coefficients = _marginal_coefficients(masks, weights, values) / expected_counts.to(values)[:, None]
    estimate = share[:, None] + lacking @ coefficients
    return estimate if players is None else estimate * players


def _mean_over_orders(values: th.Tensor, orders: th.Tensor, grand_value: th.Tensor, players: th.Tensor | None) -> th.Tensor:
    """
    Mean over orders of arrival of what each agent adds to those before it. Those who take no part add nothing, and the last of
    those who do completes the grand value.

    :param values: of the coalitions met along the orders, ``(batch, n_orders * (n_agents - 1))``
    :param orders: ``(n_orders, n_agents)``
    :param grand_value: ``(batch,)``
    :param players: boolean ``(batch, n_agents)``, who takes part; everyone if ``None``
    :return: ``(batch, n_agents)``
    """
    n_orders, n_agents = orders.shape
    along = values.unflatten(1, (n_orders, n_agents - 1))
    everyone = grand_value[:, None].expand(-1, n_orders)
    worth = th.zeros_like(everyone)
    waiting = values.new_full((len(values), 1), n_agents) if players is None else players.sum(dim=1, keepdim=True)
    credits = values.new_zeros(len(values), n_agents)
    for place in range(n_agents):
        agent = orders[:, place]
        takes_part = th.ones_like(worth, dtype=th.bool) if players is None else players[:, agent]
        waiting = waiting - takes_part.to(waiting.dtype)
        reached = everyone if place == n_agents - 1 else th.where(waiting == 0, everyone, along[:, :, place])
        added = th.where(takes_part, reached - worth, 0)
        credits.index_add_(1, agent, added)
        worth = worth + added
    return credits / n_orders


def _find(masks: th.Tensor, wanted: th.Tensor, concept: str) -> th.Tensor:
    """
    :param masks: boolean ``(n_coalitions, n_agents)``
    :param wanted: boolean ``(n_wanted, n_agents)``
    :return: where each wanted coalition stands, ``(n_wanted,)``
    """
    found = th.stack([(masks == coalition).all(dim=1) for coalition in wanted])
    missing = (~found.any(dim=1)).nonzero()[:, 0]
    if len(missing):
        members = wanted[missing[0]].nonzero()[:, 0].tolist()
        raise ValueError(
            f"concept={concept!r} needs {len(wanted)} coalitions of which {len(missing)} are not at hand, the first with the "
            f"agents {members}. Pass all_coalitions(n_agents), or add these to the masks."
        )
    return found.int().argmax(dim=1)


def _check_shapes(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor, player_mask: th.Tensor | None) -> None:
    """
    :raises ValueError: when the arguments of ``allocate`` do not belong together
    """
    if masks.dim() != 2 or masks.dtype != th.bool or masks.shape[1] < 1:
        raise ValueError(f"masks must be boolean (n_coalitions, n_agents), got {masks.dtype} {tuple(masks.shape)}.")
    n_coalitions, n_agents = masks.shape
    if values.dim() != 2 or values.shape[1] != n_coalitions or not values.is_floating_point():
        raise ValueError(
            f"values must be floating point (batch, n_coalitions={n_coalitions}), got {values.dtype} {tuple(values.shape)}."
        )
    n_samples = len(values)
    if grand_value.shape != (n_samples,):
        raise ValueError(f"grand_value must be (batch={n_samples},), got {tuple(grand_value.shape)}.")
    if player_mask is not None and player_mask.shape != (n_samples, n_agents):
        raise ValueError(f"player_mask must be (batch={n_samples}, n_agents={n_agents}), got {tuple(player_mask.shape)}.")


def _check_coalitions(masks: th.Tensor) -> None:
    """
    :raises ValueError: for a coalition that is empty or grand
    """
    size = masks.sum(dim=1)
    improper = ((size == 0) | (size == masks.shape[1])).nonzero()[:, 0]
    if len(improper):
        row = int(improper[0])
        kind = "empty" if size[row] == 0 else "the grand coalition"
        raise ValueError(
            f"masks[{row}] is {kind}; only proper coalitions belong there. The empty one is worth 0, and the grand one's "
            "worth is grand_value."
        )


def _check_numbers(values: th.Tensor, grand_value: th.Tensor, unit: th.Tensor) -> None:
    """
    :raises ValueError: for numbers that are not finite, or units that are not positive
    """
    bad = (~(values.isfinite().all(dim=1) & grand_value.isfinite())).nonzero()[:, 0]
    if len(bad):
        sample = int(bad[0])
        raise ValueError(
            f"{len(bad)} of {len(values)} samples hold numbers that are not finite, the first is sample {sample}: grand_value="
            f"{grand_value[sample].item()}, {int((~values[sample].isfinite()).sum())} of {values.shape[1]} coalition values. "
            "Look for NaN in rewards, observations and critics, or pass check=False to give such samples zero credits."
        )
    bad = (~(unit.isfinite() & (unit > 0))).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"scale must be positive and finite, got {unit[bad[0]].item()} for sample {int(bad[0])}. Replace it by 1 "
            "where the values it was measured on are all equal."
        )


def _describe_failures(result: Credits) -> str:
    """
    :return: which samples of the result did not converge, and what to do
    """
    failed = (~result.converged).nonzero()[:, 0]
    sample = int(failed[0])
    return (
        f"{len(failed)} of {len(result.converged)} credit programmes did not converge, the first is sample {sample} with a "
        f"gap of {result.gap[sample].item():.3g} (in units of scale). Try another solver, or pass check=False to go on with "
        "the best credits found."
    )
