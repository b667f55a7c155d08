"""What a solution concept is: how it divides a game, and what it needs for that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch as th

from sb3_cora.credit.coalitions import all_coalitions, n_proper_coalitions
from sb3_cora.credit.sampling import CoalitionSample, Sampling, draw_coalitions

Setting = Literal["variance_weight", "epsilon_bound", "solver"]

MAX_AGENTS_EXACT = 8
"""By default a concept is given all proper coalitions of up to this number of agents. With more agents it is given as many
coalitions as 8 agents have, 254, or twice the number of agents if that is more."""


class Division(NamedTuple):
    """
    What a solution concept returns if its credits come from a numerical program instead of a formula.

    :param credits: Of shape ``(batch, n_agents)``.
    :param gap: As in ``Credits``.
    :param converged: As in ``Credits``.
    """

    credits: th.Tensor
    gap: th.Tensor
    converged: th.Tensor


def formula(credits: th.Tensor) -> Division:
    """
    :param credits: Of shape ``(batch, n_agents)``, from a formula.
    :return: The same credits, exact: without a gap and converged.
    """
    gap = credits.new_zeros(len(credits))
    return Division(credits, gap, gap == 0)


@dataclass(frozen=True)
class Concept:
    """
    A solution concept, as an entry of ``CONCEPTS``: all that ``allocate`` and the algorithms know about it.

    ``divide(values, masks, grand_value)`` is given a batch of games among two agents or more: finite values of the given
    coalitions ``(batch, n_coalitions)`` in the precision of the solver, boolean masks ``(n_coalitions, n_agents)``, and the
    grand value ``(batch,)``. Agents that take no part have been left out of these games, except with ``estimates``. It returns
    credits ``(batch, n_agents)`` if they are computed by a formula, otherwise a ``Division``.

    :param divide: How a batch of games is divided.
    :param efficient: Whether the credits of a game sum to the grand value.
    :param settings: Arguments of ``allocate`` that ``divide`` is given by name besides the game, out of
        ``"variance_weight"``, ``"epsilon_bound"`` and ``"solver"``.
    :param estimates: Whether it can be estimated from drawn coalitions. Then ``divide`` is given a ``CoalitionSample`` in
        place of the masks, and by name ``players``: boolean ``(batch, n_agents)``, which agents take part in games whose
        coalitions were drawn, or ``None`` for all.
    :param complements: Whether it needs the complement of every coalition.
    :param extremes: Whether it needs every agent on its own and everyone but one agent.
    :param sampling: How coalitions are drawn for it by default, one of ``SAMPLINGS``.
    :param max_agents_exact: Up to how many agents it is given all proper coalitions by default. With more agents it divides
        on drawn coalitions; it remains exact if these include all that its formula needs.
    :raises ValueError: If a name in ``settings`` is unknown.
    """

    divide: Callable[..., th.Tensor | Division]
    efficient: bool
    settings: tuple[Setting, ...] = ()
    estimates: bool = False
    complements: bool = False
    extremes: bool = False
    sampling: Sampling = "uniform"
    max_agents_exact: int = MAX_AGENTS_EXACT

    def __post_init__(self) -> None:
        known = get_args(Setting)
        if not set(self.settings) <= set(known):
            raise ValueError(f"settings={self.settings!r} must be a tuple of names out of {list(known)}.")

    def draw(
        self,
        n_agents: int,
        n_coalitions: int | None = None,
        sampling: Sampling | None = None,
        generator: th.Generator | None = None,
        *,
        paired: bool = False,
        include_extremes: bool = False,
    ) -> CoalitionSample:
        """
        The coalitions to divide a game on: all proper ones if as many are asked for, otherwise a random sample that includes
        those that the concept needs.

        :param n_agents: Number of agents, at least 1.
        :param n_coalitions: How many. ``None``: see ``max_agents_exact``.
        :param sampling: How they are drawn, by default the concept's ``sampling``. Orders of arrival are always drawn with
            their reverses.
        :param generator: As for ``draw_coalitions``.
        :param paired: Whether to draw complements even if the concept does not need them.
        :param include_extremes: Whether to include the extremes even if the concept does not need them.
        :return: The coalitions.
        :raises ValueError: If ``draw_coalitions`` does.
        """
        n_proper = n_proper_coalitions(n_agents)
        if n_coalitions is None:
            takes_all = n_agents <= self.max_agents_exact
            n_coalitions = n_proper if takes_all else min(n_proper, max(n_proper_coalitions(MAX_AGENTS_EXACT), 2 * n_agents))
        if n_coalitions == n_proper:
            return CoalitionSample(all_coalitions(n_agents))
        sampling = self.sampling if sampling is None else sampling
        return draw_coalitions(
            n_agents,
            n_coalitions,
            sampling,
            generator,
            paired=paired or self.complements or sampling == "permutations",
            include_extremes=include_extremes or self.extremes,
        )


def shared_needs(concepts: Sequence[Concept]) -> Concept:
    """
    For several concepts that divide the same games on the same coalitions.

    :param concepts: The concepts, at least one.
    :return: A concept whose ``draw`` returns coalitions that all of them can take. It is the first one, with what the others
        need.
    """
    extremes = any(concept.extremes for concept in concepts)
    samplings = [concept.sampling for concept in concepts]
    if extremes:
        # Orders of arrival determine all coalitions, and the extremes need not be among them.
        samplings = [sampling for sampling in samplings if sampling != "permutations"] or samplings
    return replace(
        concepts[0],
        complements=any(concept.complements for concept in concepts),
        extremes=extremes,
        sampling=samplings[0],
        max_agents_exact=max(concept.max_agents_exact for concept in concepts),
    )
