"""Which coalitions a game is judged on: boolean masks, one row per coalition, one column per agent."""

import torch as th

LARGEST_ENUMERATION = 20
"""``all_coalitions`` refuses more agents than this: the masks of 20 agents already have 1 048 574 rows."""


def n_proper_coalitions(n_agents: int) -> int:
    """
    How many coalitions there are beside the empty one and the grand one.

    :param n_agents: number of agents, at least 1
    :return: ``2 ** n_agents - 2``
    """
    if n_agents < 1:
        raise ValueError(f"n_agents must be at least 1, got {n_agents}.")
    return 2**n_agents - 2


def all_coalitions(n_agents: int, device: th.device | str | None = None) -> th.Tensor:
    """
    Every proper coalition, in binary order: row ``c - 1`` holds agent ``i`` when bit ``i`` of ``c`` is set.

    :param n_agents: number of agents, 1 to ``LARGEST_ENUMERATION``; one agent has no proper coalition
    :param device: where to put the masks
    :return: boolean masks ``(2 ** n_agents - 2, n_agents)``
    :raises ValueError: when there are too many coalitions to enumerate
    """
    n_coalitions = n_proper_coalitions(n_agents)
    if n_agents > LARGEST_ENUMERATION:
        raise ValueError(
            f"{n_agents} agents form {n_coalitions} coalitions, too many to enumerate (at most {LARGEST_ENUMERATION} "
            "agents). Use sample_coalitions(n_agents, n_coalitions) instead."
        )
    codes = th.arange(1, n_coalitions + 1, device=device)
    bits = th.arange(n_agents, device=device)
    return (codes[:, None] >> bits).bitwise_and_(1).bool()


def sample_coalitions(n_agents: int, n_coalitions: int, generator: th.Generator | None = None) -> th.Tensor:
    """
    Proper coalitions drawn uniformly without replacement; no enumeration, so any number of agents will do.

    :param n_agents: number of agents
    :param n_coalitions: how many to draw, 1 to ``2 ** n_agents - 2``
    :param generator: source of randomness, PyTorch's global one if ``None``; the masks stand on its device
    :return: boolean masks ``(n_coalitions, n_agents)``, all different
    :raises ValueError: when there are fewer coalitions than asked for, or fewer than one is asked for
    """
    n_available = n_proper_coalitions(n_agents)
    if not 1 <= n_coalitions <= n_available:
        raise ValueError(
            f"n_coalitions={n_coalitions} is out of range: {n_agents} agents form {n_available} proper coalitions "
            f"(neither empty nor everyone), so choose a number in [1, {n_available}]."
        )
    device = generator.device if generator is not None else None
    if 2 * n_coalitions >= n_available and n_agents <= LARGEST_ENUMERATION:
        chosen = th.randperm(n_available, generator=generator, device=device)[:n_coalitions]
        return all_coalitions(n_agents, device)[chosen]
    # A fair coin per agent makes every subset equally likely; refusing improper and repeated ones keeps it so. Fewer
    # than half of all coalitions are wanted here, hence few draws are refused.
    masks = th.empty((0, n_agents), dtype=th.bool, device=device)
    while len(masks) < n_coalitions:
        coins = th.randint(2, (n_coalitions, n_agents), generator=generator, device=device).bool()
        size = coins.sum(dim=1)
        masks = th.cat([masks, coins[(size > 0) & (size < n_agents)]])
        masks = masks[first_occurrences(masks)]
    return masks[:n_coalitions]


def singletons(n_agents: int, device: th.device | str | None = None) -> th.Tensor:
    """
    Every agent on its own.

    :param n_agents: number of agents, at least 2 (a lone agent is the grand coalition)
    :param device: where to put the masks
    :return: boolean masks ``(n_agents, n_agents)``, agent ``i`` alone in row ``i``
    """
    if n_agents < 2:
        raise ValueError(f"Singletons are proper coalitions only among 2 agents or more, got n_agents={n_agents}.")
    return th.eye(n_agents, dtype=th.bool, device=device)


def leave_one_out(n_agents: int, device: th.device | str | None = None) -> th.Tensor:
    """
    Everyone but one agent.

    :param n_agents: number of agents, at least 2
    :param device: where to put the masks
    :return: boolean masks ``(n_agents, n_agents)``, agent ``i`` missing in row ``i``
    """
    return ~singletons(n_agents, device)


def first_occurrences(masks: th.Tensor) -> th.Tensor:
    """
    Where each different coalition appears first.

    :param masks: boolean masks ``(n_coalitions, n_agents)``, repetitions allowed
    :return: increasing row indices, one for each different row
    """
    distinct, group = th.unique(masks, dim=0, return_inverse=True)
    rows = th.arange(len(masks), device=masks.device)
    first = th.full((len(distinct),), len(masks), device=masks.device)
    return first.scatter_reduce_(0, group, rows, "amin").sort().values


def restrict_coalitions(masks: th.Tensor, players: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    The coalitions as seen by a part of the agents: absent members are struck out, coalitions that end up empty, grand or
    repeated are left out. Of coalitions that become equal, the one with the fewest absent members speaks for them all.

    :param masks: boolean masks ``(n_coalitions, n_agents)``
    :param players: boolean ``(n_agents,)``, the agents that stay
    :return: the restricted masks ``(n_kept, n_players)`` and the rows of ``masks`` they come from ``(n_kept,)``
    """
    rows = (masks & ~players).sum(dim=1).argsort(stable=True)
    restricted = masks[rows][:, players]
    size = restricted.sum(dim=1)
    proper = (size > 0) & (size < restricted.shape[1])
    rows, restricted = rows[proper], restricted[proper]
    kept = first_occurrences(restricted)
    return restricted[kept], rows[kept]
