"""Stacks of equal-shaped networks (one per agent, or one per critic) evaluated as one batched product."""

from collections.abc import Sequence

import torch as th
from torch import nn


class StackedLinear(nn.Module):
    """
    ``n_members`` linear layers of equal shape, applied to ``n_members`` batches with a single batched matrix product.

    :param n_members: Number of layers in the stack (agents or critics)
    :param in_features: Size of each input
    :param out_features: Size of each output
    """

    def __init__(self, n_members: int, in_features: int, out_features: int):
        super().__init__()
        self.n_members = n_members
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(th.empty(n_members, in_features, out_features))
        self.bias = nn.Parameter(th.empty(n_members, 1, out_features))
        # The initialisation of nn.Linear: uniform within 1 / sqrt(in_features)
        bound = in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: ``(n_members, batch, in_features)``
        :return: ``(n_members, batch, out_features)``
        """
        return th.baddbmm(self.bias, inputs, self.weight)

    def extra_repr(self) -> str:
        return f"n_members={self.n_members}, in_features={self.in_features}, out_features={self.out_features}"


def create_stacked_mlp(
    n_members: int, input_dim: int, output_dim: int, net_arch: Sequence[int], activation_fn: type[nn.Module] = nn.Tanh
) -> nn.Sequential:
    """
    Counterpart of Stable-Baselines3's ``create_mlp`` for a stack of networks.

    :param n_members: Number of networks in the stack
    :param input_dim: Size of each input
    :param output_dim: Size of each output; 0 stops after the last hidden layer
    :param net_arch: Width of each hidden layer
    :param activation_fn: Activation after each hidden layer
    :return: A module from ``(n_members, batch, input_dim)`` to ``(n_members, batch, output_dim)``
    """
    modules: list[nn.Module] = []
    for width in net_arch:
        modules += [StackedLinear(n_members, input_dim, width), activation_fn()]
        input_dim = width
    if output_dim > 0:
        modules.append(StackedLinear(n_members, input_dim, output_dim))
    return nn.Sequential(*modules)


def init_orthogonal(module: nn.Module, gain: float) -> None:
    """
    Orthogonal weights and zero biases for every linear layer of a module, member by member in a stack.

    :param module: Module whose layers are initialised in place
    :param gain: Scale of the orthogonal matrices
    """
    for layer in module.modules():
        if isinstance(layer, StackedLinear):
            for weight in layer.weight.data:
                # Stored transposed with regard to nn.Linear
                nn.init.orthogonal_(weight.T, gain=gain)
            layer.bias.data.fill_(0.0)
        elif isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain=gain)
            layer.bias.data.fill_(0.0)


class AgentNetwork(nn.Module):
    """
    One multi-layer perceptron per agent, or a single one for all that is told which agent it serves.

    Without shared parameters the agents' networks are evaluated together, as batched products over the agent axis.
    With shared parameters a one-hot agent identifier is appended to each observation, so that agents with equal
    observations may still act differently.

    :param n_agents: Number of agents
    :param input_dim: Size of an agent's observation
    :param output_dim: Size of an agent's output
    :param net_arch: Width of each hidden layer
    :param activation_fn: Activation after each hidden layer
    :param share_parameters: Whether all agents use the same weights
    """

    identifiers: th.Tensor

    def __init__(
        self,
        n_agents: int,
        input_dim: int,
        output_dim: int,
        net_arch: Sequence[int],
        activation_fn: type[nn.Module] = nn.Tanh,
        share_parameters: bool = False,
    ):
        super().__init__()
        self.n_agents = n_agents
        self.share_parameters = share_parameters
        if share_parameters:
            self.register_buffer("identifiers", th.eye(n_agents), persistent=False)
            input_dim += n_agents
        n_members = 1 if share_parameters else n_agents
        self.latent_dim = net_arch[-1] if len(net_arch) > 0 else input_dim
        self.latent_net = create_stacked_mlp(n_members, input_dim, 0, net_arch, activation_fn)
        self.output_net = StackedLinear(n_members, self.latent_dim, output_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: ``(batch, n_agents, input_dim)``
        :return: ``(batch, n_agents, output_dim)``
        """
        return self.forward_with_latent(observations)[0]

    def forward_with_latent(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: ``(batch, n_agents, input_dim)``
        :return: Outputs ``(batch, n_agents, output_dim)`` and the activations of the last hidden layer
            ``(batch, n_agents, latent_dim)``
        """
        batch = observations.shape[0]
        if self.share_parameters:
            identifiers = self.identifiers.expand(batch, -1, -1)
            rows = th.cat((observations, identifiers), dim=2).flatten(end_dim=1)
            latent = self.latent_net(rows.unsqueeze(0))
            shape = (batch, self.n_agents, -1)
            return self.output_net(latent).reshape(shape), latent.reshape(shape)
        latent = self.latent_net(observations.transpose(0, 1))
        return self.output_net(latent).transpose(0, 1), latent.transpose(0, 1)
