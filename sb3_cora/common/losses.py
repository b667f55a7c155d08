"""The terms of the loss, sample by sample and agent by agent."""

import torch as th
from torch.nn import functional as F


def agent_mean(values: th.Tensor, agent_mask: th.Tensor | None) -> th.Tensor:
    """
    Mean over samples and living agents.

    :param values: ``(batch, n_agents)``
    :param agent_mask: ``(batch, n_agents)``, 1 for living agents, or None if all live
    :return: Scalar, 0 if nobody lives
    """
    if agent_mask is None:
        return values.mean()
    return (values * agent_mask).sum() / agent_mask.sum().clamp(min=1.0)


def normalize_credits(credits: th.Tensor, agent_mask: th.Tensor | None, center: bool = True) -> th.Tensor:
    """
    Scale credits to mean 0 and standard deviation 1 over samples and living agents together, so that step sizes compare
    whatever the rule that divides the advantage.

    :param credits: ``(batch, n_agents)``
    :param agent_mask: ``(batch, n_agents)``, 1 for living agents, or None if all live
    :param center: Whether to subtract the mean. If not, credits are divided by their root mean square and keep their signs
    :return: ``(batch, n_agents)``
    """
    living = credits if agent_mask is None else credits[agent_mask > 0.5]
    if living.numel() < 2:
        return credits
    if not center:
        return credits / (living.square().mean().sqrt() + 1e-8)
    return (credits - living.mean()) / (living.std() + 1e-8)


def shrink_negative(credits: th.Tensor, eta: float) -> th.Tensor:
    """
    Optimism: what went wrong may be the fault of others' exploration, so negative credits count less (Zhao et al. 2024,
    https://arxiv.org/abs/2311.01953).

    :param credits: Of any shape
    :param eta: What is left of a negative credit, from 0 (nothing) to 1 (all of it)
    :return: Of the same shape
    """
    return F.leaky_relu(credits, eta)


def clipped_surrogate(credits: th.Tensor, ratio: th.Tensor, clip_range: float) -> th.Tensor:
    """
    What each agent's policy is to increase (Schulman et al. 2017, equation 7).

    :param credits: ``(batch, n_agents)``
    :param ratio: Likelihood of the agents' actions now over that at their sampling, ``(batch, n_agents)``
    :param clip_range: How far from 1 a ratio still pays
    :return: ``(batch, n_agents)``, in units of the credits
    """
    return th.min(credits * ratio, credits * ratio.clamp(1 - clip_range, 1 + clip_range))


def regression_errors(differences: th.Tensor, huber_delta: float | None) -> th.Tensor:
    """
    Squared differences; beyond ``huber_delta`` they grow linearly, with the slope they have there, so that single returns
    far off do not govern the update. (That is twice Huber's loss.)

    :param differences: Of predictions from targets, of any shape, in the units of the loss
    :param huber_delta: Where the linear part begins, in the same units; None for squares throughout
    :return: Of the same shape
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
    Errors of the value function, whose change may be clipped.

    :param values: Predictions ``(batch, n_values)``, in units of the return
    :param old_values: Predictions at the time of the rollout ``(batch, n_values)``
    :param returns: Targets ``(batch, n_values)``
    :param scale: What errors are divided by, ``(n_values,)``
    :param clip_range_vf: How far values may move from the old ones, in units of ``scale``; None for no clipping
    :param pessimistic_vf_clip: Whether the larger of clipped and unclipped error counts (MAPPO, HARL), which goes on
        correcting a value that has moved too far, and not the clipped one (Stable-Baselines3)
    :param huber_delta: See ``regression_errors``
    :return: ``(batch, n_values)``, without unit
    """
    if clip_range_vf is None:
        return regression_errors((returns - values) / scale, huber_delta)
    clipped_values = old_values + ((values - old_values) / scale).clamp(-clip_range_vf, clip_range_vf) * scale
    clipped_errors = regression_errors((returns - clipped_values) / scale, huber_delta)
    if not pessimistic_vf_clip:
        return clipped_errors
    return th.max(clipped_errors, regression_errors((returns - values) / scale, huber_delta))
