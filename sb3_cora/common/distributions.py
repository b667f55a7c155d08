"""Joint action distributions that keep the agent axis: one log-probability and one entropy per agent and sample."""

from abc import ABC, abstractmethod

import torch as th
from torch.distributions import Categorical, Normal

# Finite, because the entropy of infinite logits is NaN.
MASKED_LOGIT = -1e8


class JointDistribution(ABC):
    """
    The agents' independent action distributions, ``batch x n_agents`` of them.

    Stable-Baselines3's distributions sum log-probabilities over axis 1, which would be the agents here.
    """

    @abstractmethod
    def sample(self) -> th.Tensor:
        """:return: Sampled actions, ``(batch, n_agents, action_dim)``, or ``(batch, n_agents)`` if discrete."""

    @abstractmethod
    def sample_n(self, n_samples: int) -> th.Tensor:
        """
        :param n_samples: Number of samples. They are independent even if exploration is correlated in time.
        :return: Sampled actions, ``(n_samples, batch, ...)``.
        """

    @abstractmethod
    def mode(self) -> th.Tensor:
        """:return: Most likely actions, in the shape of ``sample()``."""

    @abstractmethod
    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: In the shape of ``sample()``.
        :return: Log-probability of each agent's action in nats, ``(batch, n_agents)``.
        """

    @abstractmethod
    def entropy(self) -> th.Tensor:
        """:return: Entropy of each agent's distribution in nats, ``(batch, n_agents)``."""

    def get_actions(self, deterministic: bool = False) -> th.Tensor:
        """
        :param deterministic: Whether to return the mode instead of a sample.
        :return: Actions in the shape of ``sample()``.
        """
        return self.mode() if deterministic else self.sample()


class JointDiagGaussian(JointDistribution):
    """
    Gaussian with diagonal covariance for each agent.

    :param mean: Of shape ``(batch, n_agents, action_dim)``, in units of the action.
    :param log_std: Broadcastable to ``mean``.
    :param dimensions: Of shape ``(n_agents, action_dim)``, 1 for action dimensions that the agent has and 0 for padding.
        Padded dimensions are always 0 and do not count in the log-probability and the entropy.
    """

    def __init__(self, mean: th.Tensor, log_std: th.Tensor, dimensions: th.Tensor):
        self.dimensions = dimensions
        self.distribution = Normal(mean, th.ones_like(mean) * log_std.exp(), validate_args=False)

    def sample(self) -> th.Tensor:
        return self.distribution.rsample() * self.dimensions

    def sample_n(self, n_samples: int) -> th.Tensor:
        return self.distribution.sample((n_samples,)) * self.dimensions

    def sample_with(self, noise: th.Tensor) -> th.Tensor:
        """
        :param noise: Standard normal numbers, ``(batch, n_agents, action_dim)``.
        :return: Actions sampled with this noise, of the same shape.
        """
        return (self.distribution.mean + self.distribution.stddev * noise) * self.dimensions

    def mode(self) -> th.Tensor:
        return self.distribution.mean * self.dimensions

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        return (self.distribution.log_prob(actions) * self.dimensions).sum(dim=2)

    def entropy(self) -> th.Tensor:
        return (self.distribution.entropy() * self.dimensions).sum(dim=2)


class JointStateDependentGaussian(JointDiagGaussian):
    """
    Generalized state-dependent exploration for each agent: the noise is a linear function of the agent's latent
    activations. The function stays the same until a new one is drawn, so that exploration is smooth in time.

    Paper: https://arxiv.org/abs/2005.05719

    :param mean: Of shape ``(batch, n_agents, action_dim)``, in units of the action.
    :param log_std: Logarithm of the standard deviation of the noise function's weights,
        ``(n_agents, latent_dim, action_dim)``, or with a first axis of 1 if shared.
    :param dimensions: Of shape ``(n_agents, action_dim)``, see ``JointDiagGaussian``.
    :param latent: Activations that the noise depends on, ``(batch, n_agents, latent_dim)``. No gradient flows into them.
    :param noise_weights: The current noise functions, ``(n_envs, n_agents, latent_dim, action_dim)``. If the batch does not
        have one sample for each environment, the first function is used for all samples.
    """

    # Keeps the standard deviation above zero.
    MIN_VARIANCE = 1e-6

    def __init__(
        self, mean: th.Tensor, log_std: th.Tensor, dimensions: th.Tensor, latent: th.Tensor, noise_weights: th.Tensor
    ):
        self.latent = latent.detach()
        self.noise_weights = noise_weights
        weight_variance = (2 * log_std).exp().expand(mean.shape[1], -1, -1)
        variance = th.einsum("bnl,nld->bnd", self.latent.square(), weight_variance)
        super().__init__(mean, 0.5 * (variance + self.MIN_VARIANCE).log(), dimensions)

    def sample(self) -> th.Tensor:
        weights = self.noise_weights if len(self.noise_weights) == len(self.latent) else self.noise_weights[:1]
        noise = th.einsum("bnl,bnld->bnd", self.latent, weights.expand(len(self.latent), -1, -1, -1))
        return (self.distribution.mean + noise) * self.dimensions


class JointCategorical(JointDistribution):
    """
    Categorical distribution for each agent.

    :param logits: Of shape ``(batch, n_agents, n_actions)``, unnormalized.
    :param dimensions: Boolean ``(n_agents, n_actions)``, False for actions that the agent does not have. They are never
        sampled and get no gradient.
    :param action_mask: Of shape ``(batch, n_agents, n_actions)``, 0 for actions that are not allowed, which are not sampled
        either and get no gradient. If an agent has no allowed action (an inactive one), all its actions are equally likely.
        None if all actions are allowed.
    """

    def __init__(self, logits: th.Tensor, dimensions: th.Tensor, action_mask: th.Tensor | None = None):
        allowed = dimensions if action_mask is None else dimensions & (action_mask > 0.5)
        # Of an agent without any allowed action (an inactive one)
        free = dimensions & ~allowed.any(dim=-1, keepdim=True)
        logits = logits.masked_fill(free, 0.0).masked_fill(~(allowed | free), MASKED_LOGIT)
        self.distribution = Categorical(logits=logits, validate_args=False)

    def sample(self) -> th.Tensor:
        return self.distribution.sample()

    def sample_n(self, n_samples: int) -> th.Tensor:
        return self.distribution.sample((n_samples,))

    def probabilities(self) -> th.Tensor:
        """:return: Probability of each action, ``(batch, n_agents, n_actions)``, 0 for actions that are not allowed."""
        return self.distribution.probs

    def mode(self) -> th.Tensor:
        return self.distribution.probs.argmax(dim=2)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        return self.distribution.log_prob(actions)

    def entropy(self) -> th.Tensor:
        return self.distribution.entropy()
