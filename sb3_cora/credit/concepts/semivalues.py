"""
Semivalues: weighted means of what an agent adds to the coalitions of the others, exact if all coalitions are given and
unbiased estimates on a random sample of them.
"""

import math

import torch as th

from sb3_cora.credit.coalitions import first_occurrences, n_proper_coalitions
from sb3_cora.credit.sampling import CoalitionSample, as_sample


def shapley(
    values: th.Tensor,
    coalitions: th.Tensor | CoalitionSample,
    grand_value: th.Tensor,
    players: th.Tensor | None = None,
) -> th.Tensor:
    """
    The Shapley value: what an agent adds when it arrives, as a mean over all orders of arrival (Shapley 1953). Efficient.

    Exact if all proper coalitions are given. On a sample it is an unbiased estimate, efficient as well: on a
    ``"permutations"`` sample the mean over the drawn orders (Castro et al. 2009), otherwise the least-squares estimate (Covert
    and Lee 2021), in which every coalition counts in inverse proportion to its expected count.

    :param values: Of shape ``(batch, n_coalitions)``.
    :param coalitions: Boolean masks ``(n_coalitions, n_agents)`` of all proper coalitions, or a sample.
    :param grand_value: Of shape ``(batch,)``.
    :param players: Boolean ``(batch, n_agents)``, which agents take part (all if ``None``). For samples only.
    :return: Of shape ``(batch, n_agents)``.
    :raises ValueError: If some proper coalition is missing and how they were drawn is not known.
    """
    sample = as_sample(coalitions)
    if sample.orders is not None:
        return _mean_over_orders(values, sample.orders, grand_value, players)
    n_agents = sample.masks.shape[1]
    weights = [1 / (n_agents * math.comb(n_agents - 1, n_before)) for n_before in range(n_agents)]
    if sample.expected_counts is None:
        return _weighted_marginals(values, sample.masks, grand_value, weights, "shapley")
    estimate = _estimated_marginals(values, sample, grand_value, weights, players)
    if players is None:
        return estimate
    # Estimates of agents that take no part were dropped; their noise is shared equally by the players, so that the credits
    # sum to the grand value.
    lacking = grand_value - estimate.sum(dim=1)
    return estimate + (lacking / players.sum(dim=1).clamp(min=1))[:, None] * players


def banzhaf(
    values: th.Tensor,
    coalitions: th.Tensor | CoalitionSample,
    grand_value: th.Tensor,
    players: th.Tensor | None = None,
) -> th.Tensor:
    """
    The Banzhaf value: what an agent adds to the others' coalitions, as a mean over all of these (Banzhaf 1965). Not efficient.

    Exact if all proper coalitions are given, an unbiased estimate on a sample. A uniform sample suits it best.

    :param values: As for ``shapley``.
    :param coalitions: As for ``shapley``.
    :param grand_value: As for ``shapley``.
    :param players: As for ``shapley``.
    :return: Of shape ``(batch, n_agents)``.
    :raises ValueError: If some proper coalition is missing and how they were drawn is not known.
    """
    sample = as_sample(coalitions)
    n_agents = sample.masks.shape[1]
    weights = [0.5 ** (n_agents - 1)] * n_agents
    if sample.expected_counts is None:
        return _weighted_marginals(values, sample.masks, grand_value, weights, "banzhaf")
    return _estimated_marginals(values, sample, grand_value, weights, players)


def _weighted_marginals(
    values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor, weights: list[float], concept: str
) -> th.Tensor:
    """
    ``sum_S weights[|S|] * (v(S + i) - v(S))`` over the coalitions ``S`` of the other agents.

    :param weights: The weight of each size of ``S``, from 0 to ``n_agents - 1``.
    :return: Of shape ``(batch, n_agents)``.
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
    The coefficient of each coalition's value in ``sum_S weights[|S|] * (v(S + i) - v(S))``.

    :param values: A tensor of the dtype and on the device that the result shall have.
    :return: Of shape ``(n_coalitions, n_agents)``.
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
    Unbiased estimate of ``sum_S weights[|S|] * (v(S + i) - v(S))``: every coalition counts in inverse proportion to its
    expected count (Horvitz and Thompson 1952). Estimated is only how far values deviate from equal shares, since the sum for
    equal shares is known; so the estimate has no variance if every coalition is worth its equal shares.

    An agent that takes no part is treated as one that adds nothing to any coalition, which leaves the others' values as they
    are.

    :param players: Boolean ``(batch, n_agents)``, which agents take part (all if ``None``).
    :return: Of shape ``(batch, n_agents)``, 0 for those who take no part.
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
        # Without any player a coalition is worth nothing, with all of them the grand value: no deviation from equal shares.
        lacking = lacking.masked_fill((size == 0) | (size == n_players[:, None]), 0)
    coefficients = _marginal_coefficients(masks, weights, values) / expected_counts.to(values)[:, None]
    estimate = share[:, None] + lacking @ coefficients
    return estimate if players is None else estimate * players


def _mean_over_orders(values: th.Tensor, orders: th.Tensor, grand_value: th.Tensor, players: th.Tensor | None) -> th.Tensor:
    """
    Mean over orders of arrival of what each agent adds to those before it. Agents that take no part add nothing, and the last
    player completes the grand value.

    :param values: Values of the coalitions that form along the orders, ``(batch, n_orders * (n_agents - 1))``.
    :param orders: Of shape ``(n_orders, n_agents)``.
    :param grand_value: Of shape ``(batch,)``.
    :param players: Boolean ``(batch, n_agents)``, which agents take part (all if ``None``).
    :return: Of shape ``(batch, n_agents)``.
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
