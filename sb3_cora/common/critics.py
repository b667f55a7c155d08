"""Critics: the centralized V(s) and twin Q(s, joint action), and a V of each agent's own observation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_cora.common.counts import check_count
from sb3_cora.common.networks import AgentNetwork, StackedLayerNorm, StackedLinear, create_stacked_mlp
from sb3_cora.common.return_normalizer import ReturnNormalizer

#: What several Q-critics together may be taken for, see :class:`QCritic`.
AGGREGATIONS = ("min", "mean")


class ValueCritic(nn.Module):
    """
    Centralized state value V(s).

    :param state_dim: Size of the state.
    :param net_arch: Width of each hidden layer.
    :param activation_fn: Activation after each hidden layer.
    :param normalize_features: Whether the state and every hidden layer are layer-normalized.
    """

    def __init__(
        self,
        state_dim: int,
        net_arch: Sequence[int],
        activation_fn: type[nn.Module] = nn.Tanh,
        normalize_features: bool = False,
    ):
        super().__init__()
        latent_dim = net_arch[-1] if len(net_arch) > 0 else state_dim
        self.latent_net = nn.Sequential(*create_mlp(state_dim, 0, list(net_arch), activation_fn))
        if normalize_features:
            # Each width has a linear layer and an activation. Inserted from the back, so that earlier positions do not move.
            for index, width in reversed(list(enumerate(net_arch))):
                self.latent_net.insert(2 * index + 2, nn.LayerNorm(width))
            self.latent_net.insert(0, nn.LayerNorm(state_dim))
        self.output_net = nn.Linear(latent_dim, 1)
        self.normalizer = ReturnNormalizer()

    def forward(self, states: th.Tensor) -> th.Tensor:
        """
        :param states: Of shape ``(batch, state_dim)``.
        :return: Estimated discounted return of the team, ``(batch, 1)``.
        """
        return self.normalizer(self.output_net(self.latent_net(states)))


class AgentValueCritic(AgentNetwork):
    """
    A value function for each agent, from its own observation to the expectation of its own return.

    The parameters are those of ``AgentNetwork`` without ``output_dim``.
    """

    def __init__(self, n_agents: int, input_dim: int, *args: Any, **kwargs: Any):
        super().__init__(n_agents, input_dim, 1, *args, **kwargs)
        self.normalizer = ReturnNormalizer(n_agents)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Of shape ``(batch, n_agents, input_dim)``.
        :return: Estimated discounted return of each agent, ``(batch, n_agents)``.
        """
        return self.normalizer(super().forward(observations).squeeze(2))


class QCritic(nn.Module):
    """
    Several independent critics Q(s, joint action), evaluated as one stack. What they estimate is what they are trained on: in
    the algorithms of this package the part of the return that V(s) leaves, ``Q(s, a) - V(s)``.

    The first layer is linear in the state and in each agent's action, so its pre-activation is a sum of one term for the state
    and one for each agent. ``bind`` returns these terms, with which the values of many coalitions cost sums instead of matrix
    products.

    :param state_dim: Size of the state.
    :param n_agents: Number of agents.
    :param action_dim: Size of an agent's action (one-hot if discrete).
    :param net_arch: Width of each hidden layer, at least one.
    :param activation_fn: Activation after each hidden layer.
    :param normalize_features: Whether the state and every hidden layer are layer-normalized (actions are not: the
        first layer must stay linear in them).
    :param n_critics: Number of critics. Two are the usual remedy against overestimation.
    :param aggregation: What their estimate is: their ``"min"`` or their ``"mean"``.
    :raises ValueError: If ``net_arch`` is empty, ``n_critics`` is not positive or ``aggregation`` is unknown.
    """

    def __init__(
        self,
        state_dim: int,
        n_agents: int,
        action_dim: int,
        net_arch: Sequence[int],
        activation_fn: type[nn.Module] = nn.Tanh,
        normalize_features: bool = False,
        n_critics: int = 2,
        aggregation: str = "min",
    ):
        super().__init__()
        if len(net_arch) == 0:
            raise ValueError(
                "The Q-critic needs at least one hidden layer, but net_arch['qf'] is empty: pass e.g. qf=[64, 64]."
            )
        check_count("n_critics", n_critics)
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"q_aggregation={aggregation!r} is unknown, expected one of {list(AGGREGATIONS)}.")
        self.state_dim = state_dim
        self.n_agents = n_agents
        self.action_dim = action_dim
        self.n_critics = n_critics
        self.aggregation = aggregation
        self.state_norm = nn.LayerNorm(state_dim) if normalize_features else nn.Identity()
        self.first_layer = StackedLinear(n_critics, state_dim + n_agents * action_dim, net_arch[0])
        self.activation = activation_fn()
        self.output_net = create_stacked_mlp(n_critics, net_arch[0], 1, net_arch[1:], activation_fn, normalize_features)
        if normalize_features:
            self.output_net.insert(0, StackedLayerNorm(n_critics, net_arch[0]))
        self.normalizer = ReturnNormalizer()

    def forward(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param states: Of shape ``(batch, state_dim)``.
        :param actions: Of shape ``(batch, n_agents, action_dim)``.
        :return: Each critic's estimate, in units of the return, ``(n_critics, batch)``.
        """
        return self.normalizer(self.outputs(states, actions)).squeeze(2)

    def outputs(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param states: Of shape ``(batch, state_dim)``.
        :param actions: Of shape ``(batch, n_agents, action_dim)``.
        :return: Each critic's estimate in the units of its network, which ``normalizer`` turns into returns,
            ``(n_critics, batch, 1)``.
        """
        inputs = th.cat((self.state_norm(states), actions.flatten(start_dim=1)), dim=1)
        return self.output_net(self.activation(self.first_layer(inputs.expand(self.n_critics, -1, -1))))

    def aggregate(self, estimates: th.Tensor) -> th.Tensor:
        """
        :param estimates: Those of each critic, ``(n_critics, ...)``.
        :return: What they are taken for together, ``(...)``.
        """
        return estimates.amin(dim=0) if self.aggregation == "min" else estimates.mean(dim=0)

    def estimate(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param states: Of shape ``(batch, state_dim)``.
        :param actions: Of shape ``(batch, n_agents, action_dim)``.
        :return: What the critics together estimate, in units of the return, ``(batch,)``.
        """
        return self.aggregate(self(states, actions))

    def bind(self, states: th.Tensor) -> "BoundQFunction":
        """
        Fix the states, which leaves a function of the joint action.

        :param states: Of shape ``(batch, state_dim)``.
        :return: Q(states, .) in the form in which coalitions are evaluated.
        """
        return BoundQFunction(self, self.state_norm(states))


@dataclass(frozen=True)
class BoundQFunction:
    """
    Q(s, .) at a batch of fixed states, its first layer split into a term of the state and one of each agent's action.

    :param critic: The critics.
    :param states: Of shape ``(batch, state_dim)``, normalized if the critic normalizes them.
    """

    critic: QCritic
    states: th.Tensor

    def state_terms(self, samples: slice) -> th.Tensor:
        """
        :param samples: The samples of the batch to evaluate.
        :return: Contribution of state and bias to the first layer, ``(n_critics, n_samples, width)``.
        """
        layer = self.critic.first_layer
        states = self.states[samples].expand(self.critic.n_critics, -1, -1)
        return th.baddbmm(layer.bias, states, layer.weight[:, : self.critic.state_dim])

    def action_terms(self, actions: th.Tensor, samples: slice) -> th.Tensor:
        """
        :param actions: Of shape ``(n_samples, n_agents, action_dim)``.
        :param samples: The samples of the batch that the actions belong to.
        :return: Contribution of each agent's action to the first layer, ``(n_critics, n_samples, n_agents, width)``.
        """
        critic = self.critic
        weight = critic.first_layer.weight[:, critic.state_dim :]
        weight = weight.view(critic.n_critics, critic.n_agents, critic.action_dim, -1)
        return th.einsum("bnd,cndh->cbnh", actions, weight)

    def output(self, preactivations: th.Tensor) -> th.Tensor:
        """
        :param preactivations: Of shape ``(n_critics, n_rows, width)``.
        :return: What the critics together estimate, ``(n_rows,)``.
        """
        critic = self.critic
        return critic.aggregate(critic.normalizer(critic.output_net(critic.activation(preactivations)))).squeeze(1)
