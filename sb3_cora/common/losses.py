"""The terms of the loss, for each sample and agent."""

import torch as th
from torch.nn import functional as F


def agent_mean(values: th.Tensor, agent_mask: th.Tensor | None) -> th.Tensor:
    """
    Mean over samples and active agents.

    :param values: Of shape ``(batch, n_agents)``.
    :param agent_mask: Of shape ``(batch, n_agents)``, 1 for active agents, or None if all are active.
    :return: Scalar, 0 if no agent is active.
    """
    if agent_mask is None:
        return values.mean()
    return (values * agent_mask).sum() / agent_mask.sum().clamp(min=1.0)


def normalize_credits(credits: th.Tensor, agent_mask: th.Tensor | None, center: bool = True) -> th.Tensor:
    """
    Scale credits to mean 0 and standard deviation 1 over samples and active agents together, so that step sizes are
    comparable however the advantage is divided.

    :param credits: Of shape ``(batch, n_agents)``.
    :param agent_mask: Of shape ``(batch, n_agents)``, 1 for active agents, or None if all are active.
    :param center: Whether to subtract the mean. If not, credits are divided by their root mean square and keep their signs.
    :return: Of shape ``(batch, n_agents)``. A single centered number is 0, except in a batch of a single one, which is left
        as it is (by Stable-Baselines3 as well).
    """
    active = credits if agent_mask is None else credits[agent_mask > 0.5]
    if credits.numel() < 2 or active.numel() == 0:
        return credits
    if not center:
        return credits / (active.square().mean().sqrt() + 1e-8)
    if active.numel() < 2:
        return th.zeros_like(credits)
    return (credits - active.mean()) / (active.std() + 1e-8)


def shrink_negative(credits: th.Tensor, eta: float) -> th.Tensor:
    """
    Optimism: a bad outcome may be due to the exploration of other agents, so negative credits are scaled down (Zhao et al.
    2024, https://arxiv.org/abs/2311.01953).

    :param credits: Of any shape.
    :param eta: The factor of negative credits, from 0 (drop them) to 1 (keep them).
    :return: Of the same shape.
    """
    return F.leaky_relu(credits, eta)


def clipped_surrogate(credits: th.Tensor, ratio: th.Tensor, clip_range: float) -> th.Tensor:
    """
    The clipped surrogate objective of each agent, to be maximized (Schulman et al. 2017, equation 7).

    :param credits: Of shape ``(batch, n_agents)``.
    :param ratio: Likelihood of the agents' actions under the current policies over that when they were sampled,
        ``(batch, n_agents)``.
    :param clip_range: How far the ratio may move from 1 before moving further has no benefit.
    :return: Of shape ``(batch, n_agents)``, in units of the credits.
    """
    return th.min(credits * ratio, credits * ratio.clamp(1 - clip_range, 1 + clip_range))


def regression_errors(differences: th.Tensor, huber_delta: float | None) -> th.Tensor:
    """
    Squared differences. Beyond ``huber_delta`` they grow linearly, so that outliers among the returns do not dominate the
    update. (This is twice Huber's loss.)

    :param differences: Differences of predictions from targets, of any shape, in the units of the loss.
    :param huber_delta: Difference beyond which the loss is linear, in the same units; None for squares throughout.
    :return: Of the same shape.
    """
    if huber_delta is None:
        return differences.square()
    return 2.0 * F.huber_loss(differences, th.zeros_like(differences), reduction="none", delta=huber_delta)


def value_errors(
    values: th.Tensor,
    old_values: th.Tensor,
    returns: th.Tensor,
    scale: th.Tensor,
    clip_range_vf: float | None = None,
    pessimistic_vf_clip: bool = False,
    huber_delta: float | None = None,
) -> th.Tensor:
    """
    Errors of the value function, whose change since the rollout may be clipped.

    :param values: Predictions ``(batch, n_values)``, in units of the return.
    :param old_values: Predictions at the time of the rollout ``(batch, n_values)``.
    :param returns: Targets ``(batch, n_values)``.
    :param scale: The unit of errors, by which they are divided, ``(n_values,)``.
    :param clip_range_vf: How far values may move from the old ones, in units of ``scale``; None for no clipping.
    :param pessimistic_vf_clip: Whether to take the larger of the clipped and the unclipped error (MAPPO, HARL), which still
        corrects a value that has moved too far, instead of the clipped one (Stable-Baselines3).
    :param huber_delta: See ``regression_errors``.
    :return: Of shape ``(batch, n_values)``, without unit.
    """
    if clip_range_vf is None:
        return regression_errors((returns - values) / scale, huber_delta)
    clipped_values = old_values + ((values - old_values) / scale).clamp(-clip_range_vf, clip_range_vf) * scale
    clipped_errors = regression_errors((returns - clipped_values) / scale, huber_delta)
    if not pessimistic_vf_clip:
        return clipped_errors
    return th.max(clipped_errors, regression_errors((returns - values) / scale, huber_delta))
