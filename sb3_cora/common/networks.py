"""Stacks of networks of equal shape (one per agent, or one per critic), evaluated by batched matrix products."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

ALL_AGENTS = slice(None)


class StackedLinear(nn.Module):
    """
    ``n_members`` linear layers of equal shape, applied to ``n_members`` batches with a single batched matrix product.

    :param n_members: Number of layers in the stack (agents or critics).
    :param in_features: Size of each input.
    :param out_features: Size of each output.
    """

    def __init__(self, n_members: int, in_features: int, out_features: int):
        super().__init__()
        self.n_members = n_members
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(th.empty(n_members, in_features, out_features))
        self.bias = nn.Parameter(th.empty(n_members, 1, out_features))
        # As nn.Linear: uniform within 1 / sqrt(in_features).
        bound = in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: Of shape ``(n_members, batch, in_features)``.
        :return: Of shape ``(n_members, batch, out_features)``.
        """
        return th.baddbmm(self.bias, inputs, self.weight)

    def extra_repr(self) -> str:
        return f"n_members={self.n_members}, in_features={self.in_features}, out_features={self.out_features}"


class StackedLayerNorm(nn.Module):
    """
    ``n_members`` layer normalizations of equal size: each sample's features are normalized to mean 0 and variance 1, then
    scaled and shifted by learned numbers that each normalization has of its own.

    :param n_members: Number of normalizations in the stack (agents or critics).
    :param n_features: Number of features.
    """

    def __init__(self, n_members: int, n_features: int):
        super().__init__()
        self.n_features = n_features
        self.weight = nn.Parameter(th.ones(n_members, 1, n_features))
        self.bias = nn.Parameter(th.zeros(n_members, 1, n_features))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: Of shape ``(n_members, batch, n_features)``.
        :return: Of the same shape.
        """
        return th.addcmul(self.bias, nn.functional.layer_norm(inputs, (self.n_features,)), self.weight)


def create_stacked_mlp(
    n_members: int,
    input_dim: int,
    output_dim: int,
    net_arch: Sequence[int],
    activation_fn: type[nn.Module] = nn.Tanh,
    normalize_hidden: bool = False,
) -> nn.Sequential:
    """
    Counterpart of Stable-Baselines3's ``create_mlp`` for a stack of networks.

    :param n_members: Number of networks in the stack.
    :param input_dim: Size of each input.
    :param output_dim: Size of each output. If 0, the networks end with the last hidden layer.
    :param net_arch: Width of each hidden layer.
    :param activation_fn: Activation after each hidden layer.
    :param normalize_hidden: Whether a layer normalization follows each activation.
    :return: A module from ``(n_members, batch, input_dim)`` to ``(n_members, batch, output_dim)``.
    """
    modules: list[nn.Module] = []
    for width in net_arch:
        modules += [StackedLinear(n_members, input_dim, width), activation_fn()]
        if normalize_hidden:
            modules.append(StackedLayerNorm(n_members, width))
        input_dim = width
    if output_dim > 0:
        modules.append(StackedLinear(n_members, input_dim, output_dim))
    return nn.Sequential(*modules)


def init_orthogonal(module: nn.Module, gain: float) -> None:
    """
    Orthogonal weights and zero biases for every linear layer of a module, for each network of a stack separately.

    :param module: Module whose layers are initialized in place.
    :param gain: Scale of the orthogonal matrices.
    """
    for layer in module.modules():
        if isinstance(layer, StackedLinear):
            for weight in layer.weight.data:
                # StackedLinear stores the transpose of the weights of nn.Linear.
                nn.init.orthogonal_(weight.T, gain=gain)
            layer.bias.data.fill_(0.0)
        elif isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain=gain)
            layer.bias.data.fill_(0.0)


class StackParameters(NamedTuple):
    """
    The parameters of a stack of networks.

    :param stacked: Tensors with the parameters of all networks, along the first axis.
    :param own: One list per network, of tensors that belong to it alone.
    """

    stacked: list[nn.Parameter]
    own: list[list[nn.Parameter]]

    @property
    def n_members(self) -> int:
        """Number of networks in the stack."""
        return len(self.own)

    def parameters(self) -> Iterator[nn.Parameter]:
        """:return: All parameters."""
        return chain(self.stacked, *self.own)


def clip_grad_norm_of_members_(stack: StackParameters, max_norm: float, parts: th.Tensor) -> th.Tensor:
    """
    Clip the gradient of each network of a stack by its own norm, as ``clip_grad_norm_`` does for one network.

    :param stack: Parameters of the stack. Those without a gradient are left out.
    :param max_norm: The maximum norm of the gradient of each network's loss.
    :param parts: The weight of each network's loss in the total loss, ``(n_members,)``. Its gradient is that of its own loss
        times this weight.
    :return: The norms of the gradients of the networks' own losses before clipping, ``(n_members,)``; empty if there is no
        gradient.
    """
    gradients = [parameter.grad for parameter in stack.stacked if parameter.grad is not None]
    own_gradients = [[parameter.grad for parameter in own if parameter.grad is not None] for own in stack.own]
    if len(gradients) == 0 and not any(own_gradients):
        return parts.new_empty(0)
    squares = th.zeros_like(parts)
    for gradient in gradients:
        squares += gradient.flatten(start_dim=1).square().sum(dim=1)
    for member, own in enumerate(own_gradients):
        for gradient in own:
            squares[member] += gradient.square().sum()
    # A network of weight 0 has no gradient either.
    norms = squares.sqrt() / parts.where(parts > 0, 1.0)
    coefficients = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(coefficients.reshape(-1, *[1] * (gradient.dim() - 1)))
    for coefficient, own in zip(coefficients, own_gradients, strict=True):
        for gradient in own:
            gradient.mul_(coefficient)
    return norms


class AgentNetwork(nn.Module):
    """
    One multi-layer perceptron per agent, or a single one for all agents that is given the agent's index.

    Without shared parameters the agents' networks are evaluated together, as batched products over the agent axis.
    With shared parameters a one-hot agent identifier is appended to each observation, so that agents with equal
    observations may still act differently.

    :param n_agents: Number of agents.
    :param input_dim: Size of an agent's observation.
    :param output_dim: Size of an agent's output.
    :param net_arch: Width of each hidden layer.
    :param activation_fn: Activation after each hidden layer.
    :param share_parameters: Whether all agents use the same weights.
    :param normalize_features: Whether the input and every hidden layer are layer-normalized.
    :param make_features_extractor: Makes the features extractor of a network, a module from observations
        ``(batch, input_dim)`` to features ``(batch, features_dim)``. None for no features extractor.
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
        normalize_features: bool = False,
        make_features_extractor: Callable[[], BaseFeaturesExtractor] | None = None,
    ):
        super().__init__()
        self.share_parameters = share_parameters
        n_members = 1 if share_parameters else n_agents
        # One module per network, because arbitrary modules cannot be stacked.
        self.features_extractors: nn.ModuleList | None = None
        if make_features_extractor is not None:
            extractors = [make_features_extractor() for _ in range(n_members)]
            self.features_extractors = nn.ModuleList(extractors)
            input_dim = extractors[0].features_dim
        if share_parameters:
            self.register_buffer("identifiers", th.eye(n_agents), persistent=False)
            input_dim += n_agents
        self.latent_dim = net_arch[-1] if len(net_arch) > 0 else input_dim
        self.latent_net = create_stacked_mlp(n_members, input_dim, 0, net_arch, activation_fn, normalize_features)
        if normalize_features:
            self.latent_net.insert(0, StackedLayerNorm(n_members, input_dim))
        self.output_net = StackedLinear(n_members, self.latent_dim, output_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Of shape ``(batch, n_agents, input_dim)``.
        :return: Of shape ``(batch, n_agents, output_dim)``.
        """
        return self.forward_with_latent(observations)[0]

    def forward_with_latent(self, observations: th.Tensor, agents: slice = ALL_AGENTS) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: Of shape ``(batch, n_agents, input_dim)``.
        :param agents: The agents whose outputs are wanted.
        :return: Outputs ``(batch, n_selected, output_dim)`` and the activations of the last hidden layer
            ``(batch, n_selected, latent_dim)``.
        """
        if self.share_parameters:
            observations = observations[:, agents]
            batch, n_selected, _ = observations.shape
            rows = self._extract_features(observations.flatten(end_dim=1).unsqueeze(0))
            identifiers = self.identifiers[agents].repeat(batch, 1)
            latent = self.latent_net(th.cat((rows, identifiers.unsqueeze(0)), dim=2))
            shape = (batch, n_selected, -1)
            return self.output_net(latent).reshape(shape), latent.reshape(shape)
        latent = self.latent_net(self._extract_features(observations.transpose(0, 1)))
        return self.output_net(latent).transpose(0, 1)[:, agents], latent.transpose(0, 1)[:, agents]

    def _extract_features(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Of shape ``(n_members, batch, input_dim)``.
        :return: Of shape ``(n_members, batch, features_dim)``.
        """
        if self.features_extractors is None:
            return observations
        return th.stack([extract(own) for extract, own in zip(self.features_extractors, observations, strict=True)])

    def stack_parameters(self) -> StackParameters:
        """
        :return: The parameters, by network.
        """
        stacked = [*self.latent_net.parameters(), *self.output_net.parameters()]
        if self.features_extractors is None:
            return StackParameters(stacked, [[] for _ in range(self.output_net.n_members)])
        return StackParameters(stacked, [list(extractor.parameters()) for extractor in self.features_extractors])


class SeparateAgentNetworks(nn.Module):
    """
    One multi-layer perceptron per agent, each with parameter tensors of its own, so that an optimizer can update one agent and
    leave the weights and moments of the others untouched. (The tensors of a stack hold the parameters of all agents.)

    :param n_agents: Number of agents.
    :param input_dim: Size of an agent's observation.
    :param output_dim: Size of an agent's output.
    :param net_arch: Width of each hidden layer.
    :param activation_fn: Activation after each hidden layer.
    :param kwargs: Further arguments of ``AgentNetwork``.
    """

    def __init__(
        self,
        n_agents: int,
        input_dim: int,
        output_dim: int,
        net_arch: Sequence[int],
        activation_fn: type[nn.Module] = nn.Tanh,
        **kwargs: Any,
    ):
        super().__init__()
        networks = [AgentNetwork(1, input_dim, output_dim, net_arch, activation_fn, **kwargs) for _ in range(n_agents)]
        self.latent_dim = networks[0].latent_dim
        self.networks = nn.ModuleList(networks)

    def forward_with_latent(self, observations: th.Tensor, agents: slice = ALL_AGENTS) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: Of shape ``(batch, n_agents, input_dim)``.
        :param agents: The agents whose outputs are wanted; only their networks are evaluated.
        :return: Outputs ``(batch, n_selected, output_dim)`` and the activations of the last hidden layer
            ``(batch, n_selected, latent_dim)``.
        """
        selected = range(len(self.networks))[agents]
        outputs, latents = [], []
        for agent in selected:
            network = self.networks[agent]
            assert isinstance(network, AgentNetwork)
            output, latent = network.forward_with_latent(observations[:, agent : agent + 1])
            outputs.append(output)
            latents.append(latent)
        return th.cat(outputs, dim=1), th.cat(latents, dim=1)
