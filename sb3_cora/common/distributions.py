"""Joint action distributions that keep the agent axis: one log-probability and one entropy per agent and sample."""

from abc import ABC, abstractmethod

import torch as th
from torch.distributions import Categorical, Normal

# Finite, so that an agent without any allowed action (a dead one) gives a uniform distribution instead of NaN
MASKED_LOGIT = -1e8


class JointDistribution(ABC):
    """
    The agents' independent action distributions, ``batch x n_agents`` of them.

    Stable-Baselines3's distributions sum log-probabilities over axis 1, which would be the agents here.
    """

    @abstractmethod
    def sample(self) -> th.Tensor:
        """:return: Sampled actions, ``(batch, n_agents, action_dim)`` or ``(batch, n_agents)`` if discrete"""

    @abstractmethod
    def mode(self) -> th.Tensor:
        """:return: Most likely actions, in the shape of ``sample()``"""

    @abstractmethod
    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: In the shape of ``sample()``
        :return: Log-probability of each agent's action in nats, ``(batch, n_agents)``
        """

    @abstractmethod
    def entropy(self) -> th.Tensor:
        """:return: Entropy of each agent's distribution in nats, ``(batch, n_agents)``"""

    def get_actions(self, deterministic: bool = False) -> th.Tensor:
        """
        :param deterministic: Whether to return the mode instead of a sample
        :return: Actions in the shape of ``sample()``
        """
        return self.mode() if deterministic else self.sample()


class JointDiagGaussian(JointDistribution):
    """
    Gaussian with diagonal covariance for each agent.

    :param mean: ``(batch, n_agents, action_dim)``, in units of the action
    :param log_std: ``(n_agents, action_dim)``
    :param dimensions: ``(n_agents, action_dim)``, 1 where the agent has that action dimension and 0 where it is
        padding; padded dimensions are always 0 and count neither in the log-probability nor in the entropy
    """

    def __init__(self, mean: th.Tensor, log_std: th.Tensor, dimensions: th.Tensor):
        self.dimensions = dimensions
        self.distribution = Normal(mean, th.ones_like(mean) * log_std.exp(), validate_args=False)

    def sample(self) -> th.Tensor:
        return self.distribution.rsample() * self.dimensions

    def mode(self) -> th.Tensor:
        return self.distribution.mean * self.dimensions

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        return (self.distribution.log_prob(actions) * self.dimensions).sum(dim=2)

    def entropy(self) -> th.Tensor:
        return (self.distribution.entropy() * self.dimensions).sum(dim=2)


class JointCategorical(JointDistribution):
    """
    Categorical distribution for each agent.

    :param logits: ``(batch, n_agents, n_actions)``, unnormalised
    :param allowed: Boolean, broadcastable to ``logits``; False where an action does not exist or is masked: it is
        never sampled and passes no gradient
    """

    def __init__(self, logits: th.Tensor, allowed: th.Tensor):
        self.distribution = Categorical(logits=logits.masked_fill(~allowed, MASKED_LOGIT), validate_args=False)

    def sample(self) -> th.Tensor:
        return self.distribution.sample()

    def mode(self) -> th.Tensor:
        return self.distribution.probs.argmax(dim=2)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        return self.distribution.log_prob(actions)

    def entropy(self) -> th.Tensor:
        return self.distribution.entropy()
