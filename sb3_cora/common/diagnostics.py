"""Logged diagnostics: whether Q-critics and credits carry information."""

import torch as th

# Samples of a rollout: enough for an accuracy of a few hundredths, few enough to compute all distances between them.
N_SAMPLES = 512
N_NEIGHBORS = 8
# Distance, in standard deviations of the states, below which two states count as equal. Covers the rounding of distances.
SAME_STATE = 1e-2
# Differences of targets, relative to the targets, that may come from the rounding of single precision.
ROUNDING = 1e-5


def diagnostic_sample(n_samples: int) -> th.Tensor:
    """
    :param n_samples: Number of samples of a rollout.
    :return: Indices of the samples to compute diagnostics from, at most ``N_SAMPLES``.
    """
    # From a generator of its own, so that logging does not change what is sampled elsewhere.
    return th.randperm(n_samples, generator=th.Generator().manual_seed(0))[:N_SAMPLES]


@th.no_grad()
def explained_variance_within_states(states: th.Tensor, estimates: th.Tensor, targets: th.Tensor) -> float:
    """
    How much of the differences between the targets of neighboring states the estimates explain. This is the explained variance
    without the part that depends on the state alone, which a value function would explain as well. For Q-critics it measures
    what they know about the actions.

    From each target and each estimate its mean over the neighborhood of its state is subtracted. The neighborhood consists of
    the 8 nearest other samples and all further ones at the same distance. All ``batch^2`` distances are Euclidean, between
    states whose entries are standardized. To remove differences between the states of a neighborhood too, subtract a value
    function V(s) from estimates and targets beforehand.

    :param states: Of shape ``(batch, state_dim)``.
    :param estimates: Of shape ``(batch,)``, in units of the return.
    :param targets: Of shape ``(batch,)``, likewise.
    :return: The share ``1 - sum((t - e)^2) / sum(t^2)``, where t and e are the differences of targets and estimates from
        their means over neighborhoods: 1 for perfect estimates, 0 for those without information, below 0 for worse ones. NaN
        if there are fewer than two samples or the targets of neighbors do not differ.
    """
    if len(states) < 2:
        return float("nan")
    deviation = states.std(dim=0)
    standardized = (states - states.mean(dim=0)) / deviation.where(deviation > 0, 1.0)
    distances = th.cdist(standardized, standardized)
    distances.fill_diagonal_(th.inf)
    reach = distances.kthvalue(min(N_NEIGHBORS, len(states) - 1), dim=1, keepdim=True).values
    neighbors = (distances <= reach + SAME_STATE).to(targets.dtype)
    both = th.stack((targets, estimates), dim=1)
    # Centered first, because the means over neighborhoods of smaller numbers have smaller rounding errors.
    both = both - both.mean(dim=0)
    both = both - neighbors @ both / neighbors.sum(dim=1, keepdim=True)
    variance = both[:, 0].square().sum().item()
    if variance <= len(targets) * (ROUNDING * targets.abs().max().item()) ** 2:
        return float("nan")
    return 1.0 - (both[:, 0] - both[:, 1]).square().sum().item() / variance


@th.no_grad()
def relative_spread(credits: th.Tensor, advantages: th.Tensor, agent_mask: th.Tensor | None) -> float:
    """
    How much the credits differ between the agents of a team, relative to how much the advantage varies between samples. At 0
    all agents get the same credit, as in MAPPO.

    :param credits: Of shape ``(batch, n_agents)``, in units of the return.
    :param advantages: The team's advantages, ``(batch,)``, likewise.
    :param agent_mask: Of shape ``(batch, n_agents)``, 1 for active agents, or None if all are active.
    :return: Mean over samples of the standard deviation of the active agents' credits, divided by the standard deviation of
        the advantages over samples (by 1 if that is 0).
    """
    players = th.ones_like(credits) if agent_mask is None else agent_mask
    n_players = players.sum(dim=1, keepdim=True).clamp(min=1.0)
    deviations = (credits - (credits * players).sum(dim=1, keepdim=True) / n_players) * players
    spread = (deviations.square().sum(dim=1) / n_players[:, 0]).sqrt().mean().item()
    return spread / (advantages.std(correction=0).item() or 1.0)
