"""Centralised critics: V(s) and the twin Q(s, joint action)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_cora.common.networks import StackedLinear, create_stacked_mlp


class ValueCritic(nn.Module):
    """
    Centralised state value V(s).

    :param state_dim: Size of the state
    :param net_arch: Width of each hidden layer
    :param activation_fn: Activation after each hidden layer
    """

    def __init__(self, state_dim: int, net_arch: Sequence[int], activation_fn: type[nn.Module] = nn.Tanh):
        super().__init__()
        latent_dim = net_arch[-1] if len(net_arch) > 0 else state_dim
        self.latent_net = nn.Sequential(*create_mlp(state_dim, 0, list(net_arch), activation_fn))
        self.output_net = nn.Linear(latent_dim, 1)

    def forward(self, states: th.Tensor) -> th.Tensor:
        """
        :param states: ``(batch, state_dim)``
        :return: Discounted return of the team, ``(batch, 1)``
        """
        return self.output_net(self.latent_net(states))


class QCritic(nn.Module):
    """
    Several independent critics Q(s, joint action), evaluated as one stack; their minimum is the estimate.

    The first layer is linear in the state and in each agent's action, so its pre-activation for any mixture of two
    joint actions is a sum of one term of the state and one of each agent: ``first_layer`` is split accordingly by
    ``bind``, and a coalition costs a sum instead of a product.

    :param state_dim: Size of the state
    :param n_agents: Number of agents
    :param action_dim: Size of an agent's action (one-hot if discrete)
    :param net_arch: Width of each hidden layer, at least one
    :param activation_fn: Activation after each hidden layer
    :param n_critics: Number of critics; two is the usual remedy against overestimation
    :raises ValueError: If ``net_arch`` is empty or ``n_critics`` is not positive
    """

    def __init__(
        self,
        state_dim: int,
        n_agents: int,
        action_dim: int,
        net_arch: Sequence[int],
        activation_fn: type[nn.Module] = nn.Tanh,
        n_critics: int = 2,
    ):
        super().__init__()
        if len(net_arch) == 0:
            raise ValueError(
                "The Q-critic needs at least one hidden layer, but net_arch['qf'] is empty: pass e.g. qf=[64, 64]."
            )
        if n_critics < 1:
            raise ValueError(f"n_critics must be at least 1 (2 for twin critics), not {n_critics}.")
        self.state_dim = state_dim
        self.n_agents = n_agents
        self.action_dim = action_dim
        self.n_critics = n_critics
        self.first_layer = StackedLinear(n_critics, state_dim + n_agents * action_dim, net_arch[0])
        self.activation = activation_fn()
        self.output_net = create_stacked_mlp(n_critics, net_arch[0], 1, net_arch[1:], activation_fn)

    def forward(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param states: ``(batch, state_dim)``
        :param actions: ``(batch, n_agents, action_dim)``
        :return: Each critic's estimate of the discounted return, ``(n_critics, batch)``
        """
        inputs = th.cat((states, actions.flatten(start_dim=1)), dim=1)
        return self.estimates(self.first_layer(inputs.expand(self.n_critics, -1, -1)))

    def estimates(self, preactivations: th.Tensor) -> th.Tensor:
        """
        :param preactivations: Output of the first layer before its activation, ``(n_critics, batch, width)``
        :return: Each critic's estimate, ``(n_critics, batch)``
        """
        return self.output_net(self.activation(preactivations)).squeeze(2)

    def bind(self, states: th.Tensor) -> "BoundQFunction":
        """
        Fix the states, which leaves a function of the joint action.

        :param states: ``(batch, state_dim)``
        :return: Q(states, .) in the form the credit package evaluates coalitions with
        """
        return BoundQFunction(self, states)


@dataclass(frozen=True)
class BoundQFunction:
    """
    Q(s, .) at a batch of fixed states, its first layer split into a term of the state and one of each agent's action.

    :param critic: The critics
    :param states: ``(batch, state_dim)``
    """

    critic: QCritic
    states: th.Tensor

    def state_terms(self, samples: slice) -> th.Tensor:
        """
        :param samples: Which samples of the batch
        :return: Contribution of state and bias to the first layer, ``(n_critics, samples, width)``
        """
        layer = self.critic.first_layer
        states = self.states[samples].expand(self.critic.n_critics, -1, -1)
        return th.baddbmm(layer.bias, states, layer.weight[:, : self.critic.state_dim])

    def action_terms(self, actions: th.Tensor, samples: slice) -> th.Tensor:
        """
        :param actions: ``(samples, n_agents, action_dim)``
        :param samples: Which samples of the batch the actions belong to
        :return: Contribution of each agent's action to the first layer, ``(n_critics, samples, n_agents, width)``
        """
        critic = self.critic
        weight = critic.first_layer.weight[:, critic.state_dim :]
        weight = weight.view(critic.n_critics, critic.n_agents, critic.action_dim, -1)
        return th.einsum("bnd,cndh->cbnh", actions, weight)

    def output(self, preactivations: th.Tensor) -> th.Tensor:
        """
        :param preactivations: ``(n_critics, rows, width)``
        :return: Minimum of the critics' estimates, ``(rows,)``
        """
        return self.critic.estimates(preactivations).amin(dim=0)
