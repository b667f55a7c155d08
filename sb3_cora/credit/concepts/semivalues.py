"""
Semivalues: means of what an agent adds to coalitions of the others, exact on all coalitions and unbiased on a sample of them.
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
