"""Coalitions as boolean masks, one row per coalition and one column per agent, and their excesses."""

import torch as th

LARGEST_ENUMERATION = 20
"""``all_coalitions`` refuses more agents than this: the masks of 20 agents already have 1 048 574 rows."""


def n_proper_coalitions(n_agents: int) -> int:
    """
    How many coalitions there are besides the empty one and the grand one.

    :param n_agents: Number of agents, at least 1.
    :return: Their number, ``2 ** n_agents - 2``.
    """
    if n_agents < 1:
        raise ValueError(f"n_agents must be at least 1, got {n_agents}.")
    return 2**n_agents - 2


def all_coalitions(n_agents: int, device: th.device | str | None = None) -> th.Tensor:
    """
    Every proper coalition, in binary order: agent ``i`` is a member of the coalition in row ``c - 1`` if bit ``i`` of ``c`` is
    set.

    :param n_agents: Number of agents, 1 to ``LARGEST_ENUMERATION``; one agent has no proper coalition.
    :param device: Where to put the masks.
    :return: Boolean masks ``(2 ** n_agents - 2, n_agents)``.
    :raises ValueError: If there are too many coalitions to enumerate.
    """
    n_coalitions = n_proper_coalitions(n_agents)
    if n_agents > LARGEST_ENUMERATION:
        raise ValueError(
            f"{n_agents} agents form {n_coalitions} coalitions, too many to enumerate (at most {LARGEST_ENUMERATION} "
            "agents). Use draw_coalitions(n_agents, n_coalitions).masks instead."
        )
    codes = th.arange(1, n_coalitions + 1, device=device)
    bits = th.arange(n_agents, device=device)
    return (codes[:, None] >> bits).bitwise_and_(1).bool()


def singletons(n_agents: int, device: th.device | str | None = None) -> th.Tensor:
    """
    Every agent on its own.

    :param n_agents: Number of agents, at least 2 (a lone agent is the grand coalition).
    :param device: Where to put the masks.
    :return: Boolean masks ``(n_agents, n_agents)``, agent ``i`` alone in row ``i``.
    """
    if n_agents < 2:
        raise ValueError(f"Singletons are proper coalitions only among 2 agents or more, got n_agents={n_agents}.")
    return th.eye(n_agents, dtype=th.bool, device=device)


def leave_one_out(n_agents: int, device: th.device | str | None = None) -> th.Tensor:
    """
    Everyone but one agent.

    :param n_agents: Number of agents, at least 2.
    :param device: Where to put the masks.
    :return: Boolean masks ``(n_agents, n_agents)``, agent ``i`` missing in row ``i``.
    """
    return ~singletons(n_agents, device)


def extremes(n_agents: int, device: th.device | str | None = None) -> th.Tensor:
    """
    The smallest and the largest coalitions: every agent on its own, and everyone but one agent. In the core, the first bound
    each credit from below and the second from above.

    :param n_agents: Number of agents, at least 2.
    :param device: Where to put the masks.
    :return: Boolean masks ``(2 * n_agents, n_agents)``, or ``(2, 2)`` for two agents, where the two kinds are the same.
    """
    alone = singletons(n_agents, device)
    return alone if n_agents == 2 else th.cat([alone, ~alone])


def is_closed_under_complement(masks: th.Tensor) -> bool:
    """
    :param masks: Boolean masks ``(n_coalitions, n_agents)``.
    :return: Whether the complement of every coalition is among the coalitions.
    """
    return len(first_occurrences(th.cat([masks, ~masks]))) == len(first_occurrences(masks))


def first_occurrences(masks: th.Tensor) -> th.Tensor:
    """
    Where each different coalition appears first.

    :param masks: Boolean masks ``(n_coalitions, n_agents)``, repetitions allowed.
    :return: Increasing row indices, one for each different row.
    """
    distinct, group = th.unique(masks, dim=0, return_inverse=True)
    rows = th.arange(len(masks), device=masks.device)
    first = th.full((len(distinct),), len(masks), device=masks.device)
    return first.scatter_reduce_(0, group, rows, "amin").sort().values


def restrict_coalitions(masks: th.Tensor, players: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    The coalitions among some of the agents: the other agents are struck out of every coalition, and coalitions that end up
    empty, grand or repeated are left out. Of coalitions that become equal, the one that lost the fewest members is kept.

    :param masks: Boolean masks ``(n_coalitions, n_agents)``.
    :param players: Boolean ``(n_agents,)``, the agents that stay.
    :return: The restricted masks ``(n_kept, n_players)`` and the rows of ``masks`` they come from ``(n_kept,)``.
    """
    rows = (masks & ~players).sum(dim=1).argsort(stable=True)
    restricted = masks[rows][:, players]
    size = restricted.sum(dim=1)
    proper = (size > 0) & (size < restricted.shape[1])
    rows, restricted = rows[proper], restricted[proper]
    kept = first_occurrences(restricted)
    return restricted[kept], rows[kept]


def splits(masks: th.Tensor, player_mask: th.Tensor) -> th.Tensor:
    """
    Which coalitions are proper coalitions of the players' own game: some of the players are members, but not all of them.

    :param masks: Boolean masks ``(n_coalitions, n_agents)``.
    :param player_mask: Boolean ``(batch, n_agents)``, which agents take part.
    :return: Boolean ``(batch, n_coalitions)``.
    """
    players = player_mask.float()
    n_members = players @ masks.to(players.dtype).T
    return (n_members > 0) & (n_members < players.sum(dim=1, keepdim=True))


def excesses_at_equal_split(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    What each coalition is worth beyond its members' equal shares.

    :param values: Of shape ``(batch, n_coalitions)``.
    :param masks: Boolean masks ``(n_coalitions, n_agents)``.
    :param grand_value: Of shape ``(batch,)``.
    :return: Of shape ``(batch, n_coalitions)``, in units of the values.
    """
    shares = masks.sum(dim=1, dtype=values.dtype) / masks.shape[1]
    return th.addmm(values, grand_value[:, None], shares[None], alpha=-1)


def largest_excess(allocation: th.Tensor, values: th.Tensor, masks: th.Tensor) -> th.Tensor:
    """
    Largest excess ``v(C) - x(C)`` over the given coalitions: positive if some coalition gets less than it is worth, that is,
    if the allocation is outside the core (CORA, equation 4).

    :param allocation: What each agent gets, ``x``, ``(batch, n_agents)``.
    :param values: Coalition values ``v``, ``(batch, n_coalitions)``.
    :param masks: Boolean masks ``(n_coalitions, n_agents)``.
    :return: Of shape ``(batch,)``, in units of the values; minus infinity if there is no coalition.
    """
    if len(masks) == 0:
        return values.new_full((len(allocation),), -th.inf)
    return th.addmm(values, allocation, masks.to(allocation.dtype).T, alpha=-1).amax(dim=1)
