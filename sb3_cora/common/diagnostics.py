"""What tells whether Q-critics and credits have anything to say."""

import torch as th

# Of a rollout: enough for a figure that is good to a few hundredths, few enough for all distances among them
N_SAMPLES = 512
N_NEIGHBORS = 8
# Distance, in standard deviations of the states, below which two states are one; it covers the rounding of distances
SAME_STATE = 1e-2
# Part of the targets below which their differences are the rounding of single precision
ROUNDING = 1e-5


def diagnostic_sample(n_samples: int) -> th.Tensor:
    """
    :param n_samples: Number of samples of a rollout
    :return: Indices of those to look at, at most 512
    """
    # From a generator of its own: what is logged must not change what is sampled
    return th.randperm(n_samples, generator=th.Generator().manual_seed(0))[:N_SAMPLES]


@th.no_grad()
def explained_variance_within_states(states: th.Tensor, estimates: th.Tensor, targets: th.Tensor) -> float:
    """
    How much of what distinguishes targets from those of neighboring states the estimates explain: what is left of the
    explained variance once the part that depends on the state alone is taken off, which a value function would explain as
    well. For Q-critics that is what they know of the actions.

    From each target and each estimate its mean over the neighborhood of its state is subtracted: over the 8 nearest other
    samples, and all further ones that are as near; distances, of which there are ``batch^2``, are Euclidean, of states
    standardized entry by entry. Subtracting a value function V(s) from estimates and targets beforehand removes what
    still differs between the states of a neighborhood.

    :param states: ``(batch, state_dim)``
    :param estimates: ``(batch,)``, in units of the return
    :param targets: ``(batch,)``, likewise
    :return: ``1 - sum((t - e)^2) / sum(t^2)`` of the differences t and e from the means over neighborhoods: 1 for perfect
        estimates, 0 for those that say nothing, below 0 for those that are worse than nothing; NaN where there are less than
        two samples or the targets of neighbors do not differ
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
    # Means of neighborhoods round less the closer to 0 what they are taken of
    both = both - both.mean(dim=0)
    both = both - neighbors @ both / neighbors.sum(dim=1, keepdim=True)
    variance = both[:, 0].square().sum().item()
    if variance <= len(targets) * (ROUNDING * targets.abs().max().item()) ** 2:
        return float("nan")
    return 1.0 - (both[:, 0] - both[:, 1]).square().sum().item() / variance


@th.no_grad()
def relative_spread(credits: th.Tensor, advantages: th.Tensor, agent_mask: th.Tensor | None) -> float:
    """
    How unlike the credits of a team's agents are, beside how much the advantage varies from sample to sample. Where it is
    0, every agent is given the same and credit is that of MAPPO.

    :param credits: ``(batch, n_agents)``, in units of the return
    :param advantages: The team's advantages, ``(batch,)``, likewise
    :param agent_mask: ``(batch, n_agents)``, 1 for living agents, or None if all live
    :return: Mean over samples of the standard deviation among the living agents' credits, over the standard deviation of
        the advantages among samples (over 1 where that is 0)
    """
    players = th.ones_like(credits) if agent_mask is None else agent_mask
    n_players = players.sum(dim=1, keepdim=True).clamp(min=1.0)
    deviations = (credits - (credits * players).sum(dim=1, keepdim=True) / n_players) * players
    spread = (deviations.square().sum(dim=1) / n_players[:, 0]).sqrt().mean().item()
    return spread / (advantages.std(correction=0).item() or 1.0)
