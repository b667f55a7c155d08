"""What a solution concept is: how it divides a game, and what it needs for that."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch as th

from sb3_cora.credit.coalitions import all_coalitions, n_proper_coalitions
from sb3_cora.credit.sampling import CoalitionSample, Sampling, draw_coalitions

Setting = Literal["variance_weight", "epsilon_bound", "solver"]

MAX_AGENTS_EXACT = 8
"""Up to this number of agents a concept is given all proper coalitions, unless it asks for more. Beyond, it is given as many
as these agents have, 254, or twice the number of agents."""


class Division(NamedTuple):
    """
    What a solution concept returns whose credits are searched for.

    :param credits: ``(batch, n_agents)``
    :param gap: as in ``Credits``
    :param converged: as in ``Credits``
    """

    credits: th.Tensor
    gap: th.Tensor
    converged: th.Tensor


def formula(credits: th.Tensor) -> Division:
    """
    :param credits: ``(batch, n_agents)``, from a formula
    :return: the same, with nothing left to certify
    """
    gap = credits.new_zeros(len(credits))
    return Division(credits, gap, gap == 0)


@dataclass(frozen=True)
class Concept:
    """
    A solution concept, as an entry of ``CONCEPTS``: all that ``allocate`` and the algorithms know about it.

    ``divide(values, masks, grand_value)`` is given a batch of games among two agents or more: finite values of the coalitions
    at hand ``(batch, n_coalitions)`` in the precision of the solver, boolean masks ``(n_coalitions, n_agents)``, and
    ``(batch,)``. Agents that take no part have left these games already. It returns credits ``(batch, n_agents)`` where it is
    a formula, and a ``Division`` where they are searched for.

    :param divide: how a batch of games is divided
    :param efficient: whether the credits of a game sum to the grand value
    :param settings: arguments of ``allocate`` that ``divide`` is given by name besides the game, of ``"variance_weight"``,
        ``"epsilon_bound"`` and ``"solver"``
    :param estimates: whether ``divide`` is given a ``CoalitionSample`` in place of the masks, and ``players`` by name: boolean
        ``(batch, n_agents)``, who takes part in games whose coalitions were drawn, or ``None`` for everyone
    :param complements: whether it takes with every coalition its complement
    :param extremes: whether it takes every agent on its own and everyone but one agent
    :param sampling: how coalitions are drawn for it unless told otherwise, one of ``SAMPLINGS``
    :param max_agents_exact: up to how many agents it is given all proper coalitions unless told otherwise, at least
        ``MAX_AGENTS_EXACT``. Beyond, it divides on those that are drawn; where these hold all it takes, it is exact still
    :raises ValueError: for a setting that there is not
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
        The coalitions to divide a game on: all proper ones where that is as many as asked for, otherwise drawn, and among
        them those that the concept takes.

        :param n_agents: number of agents, at least 1
        :param n_coalitions: how many. ``None``: see ``max_agents_exact``
        :param sampling: how they are drawn, as the concept has it if ``None``; orders of arrival always with their reverses
        :param generator: as for ``draw_coalitions``
        :param paired: draw complements even where the concept does not take them
        :param include_extremes: draw extremes even where the concept does not take them
        :return: the coalitions
        :raises ValueError: as ``draw_coalitions``
        """
        n_proper = n_proper_coalitions(n_agents)
        if n_coalitions is None:
            takes_all = n_agents <= self.max_agents_exact
            n_coalitions = n_proper if takes_all else max(n_proper_coalitions(MAX_AGENTS_EXACT), 2 * n_agents)
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
