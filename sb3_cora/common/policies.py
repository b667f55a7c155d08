"""Decentralized actors with centralized critics."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.nn import functional as F

from sb3_cora.common.critics import AgentValueCritic, QCritic, ValueCritic
from sb3_cora.common.distributions import (
    JointCategorical,
    JointDiagGaussian,
    JointDistribution,
    JointStateDependentGaussian,
)
from sb3_cora.common.joint_env import JointSpaces, check_joint_observation
from sb3_cora.common.networks import ALL_AGENTS, AgentNetwork, SeparateAgentNetworks, StackParameters, init_orthogonal
from sb3_cora.common.noise import autoregressive_noise
from sb3_cora.common.rollout import JointObservation


class CooperativeActorCriticPolicy(BasePolicy):
    """
    One actor per agent, which sees the agent's own observation, and one value function of the state for the team.

    Without ``share_parameters`` each actor has its own weights. Initialization, activation and optimizer are those of
    Stable-Baselines3's ``ActorCriticPolicy``, which this policy equals if there is one agent.

    :param observation_space: Joint observation space, Box ``(n_agents, obs_dim)`` or Dict.
    :param action_space: Joint action space, Box ``(n_agents, act_dim)`` or MultiDiscrete.
    :param lr_schedule: Learning rate schedule (could be constant).
    :param net_arch: Widths of the hidden layers, by default ``dict(pi=[64, 64], vf=[64, 64], qf=[64, 64])``. A list is used
        for all networks; an empty one makes them linear (Q-critics need a hidden layer).
    :param activation_fn: Activation function.
    :param normalize_features: Whether the input and every hidden layer of all networks are layer-normalized, as in the
        networks of MAPPO and HARL. Not for observations of a single number, which is 0 then.
    :param ortho_init: Whether to use orthogonal initialization.
    :param output_gain: Gain of the orthogonal initialization of the actors' output layer. With a small one the initial
        policies hardly depend on the observation.
    :param log_std_init: Initial value for the log standard deviation of continuous actions, in units of the action.
    :param share_parameters: Whether the agents share one actor, which is then given the agent's index as well.
    :param squash_mean: Whether to squash the mean of continuous actions into the action bounds (by tanh). Otherwise the
        mean may move so far outside that every sample is clipped to the same bound and exploration ends.
    :param noise_correlation: Correlation of the noise of successive samples of ``forward`` in an environment, from 0
        (independent) to below 1 (colored noise for PPO, Hollenstein et al. 2024, https://arxiv.org/abs/2312.11091; as there,
        log-probabilities are those of independent noise).
    :param use_sde: Whether to use generalized state-dependent exploration. ``log_std_init`` is then that of the weights of
        the noise function, for which -2 is a common value.
    :param full_std: Must be True: the noise function of gSDE has a standard deviation for each of its weights.
    :param use_expln: Must be False: standard deviations are ``exp(log_std)``.
    :param squash_output: Must be False, see ``squash_mean``.
    :param features_extractor_class: Features extractor before each agent's actor, made for the agent's own observation,
        ``Box(obs_dim,)``; with ``share_parameters`` there is one for all agents. Critics of the state have none. None for no
        features extractor.
    :param features_extractor_kwargs: Keyword arguments to pass to the features extractor.
    :param share_features_extractor: Must be False: actors see the agents' observations, critics the state.
    :param normalize_images: Has no effect, since joint observations are not images.
    :param optimizer_class: The optimizer to use, ``th.optim.Adam`` by default.
    :param optimizer_kwargs: Additional keyword arguments, excluding the learning rate, to pass to the optimizer.
    :raises ValueError: If the spaces are not joint ones, ``net_arch`` names a network that does not exist,
        ``squash_mean`` or ``noise_correlation`` is given with discrete actions, or an option of Stable-Baselines3's policies
        is not available.
    """

    # The distribution of the last call of ``forward``.
    last_distribution: JointDistribution
    log_std: nn.Parameter
    noise_weights: th.Tensor
    noise: th.Tensor
    dimensions: th.Tensor
    action_low: th.Tensor
    action_range: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        normalize_features: bool = False,
        ortho_init: bool = True,
        output_gain: float = 0.01,
        log_std_init: float = 0.0,
        share_parameters: bool = False,
        squash_mean: bool = False,
        noise_correlation: float = 0.0,
        use_sde: bool = False,
        full_std: bool = True,
        use_expln: bool = False,
        squash_output: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = False,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        for name, given, available, remedy in (
            ("full_std", full_std, True, "leave it out"),
            ("use_expln", use_expln, False, "leave it out"),
            ("squash_output", squash_output, False, "squash_mean=True keeps the mean of the actions within their bounds"),
            (
                "share_features_extractor",
                share_features_extractor,
                False,
                "actors see their agents' observations and critics the state, which have no features in common",
            ),
        ):
            if given != available:
                raise ValueError(f"{name}={given} is not available for the policies of a team: {remedy}.")
        if features_extractor_kwargs and features_extractor_class is None:
            raise ValueError(
                f"features_extractor_kwargs={features_extractor_kwargs} without a features_extractor_class: give both."
            )
        if optimizer_kwargs is None:
            # eps as in Stable-Baselines3's on-policy algorithms, where it avoids NaN in Adam. Fused, because networks are
            # small and minibatches many: otherwise Adam takes a quarter of an update.
            optimizer_kwargs = dict(eps=1e-5, fused=True) if optimizer_class == th.optim.Adam else {}
        super().__init__(
            observation_space,
            action_space,
            FlattenExtractor if features_extractor_class is None else features_extractor_class,
            features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.has_features_extractor = features_extractor_class is not None
        self.joint_spaces = JointSpaces.from_spaces(observation_space, action_space)
        if squash_mean and self.joint_spaces.discrete:
            raise ValueError(
                f"squash_mean=True is for continuous actions, but the action space is {action_space}: leave it out."
            )
        if not 0 <= noise_correlation < 1:
            raise ValueError(f"noise_correlation must be in [0, 1), got {noise_correlation}: 0 makes noise independent.")
        if noise_correlation > 0 and (use_sde or self.joint_spaces.discrete):
            raise ValueError(
                f"noise_correlation={noise_correlation} is for Gaussian noise of continuous actions, but use_sde={use_sde} "
                f"and the action space is {action_space}: leave it out."
            )
        self.net_arch = self._complete_net_arch(net_arch)
        self.activation_fn = activation_fn
        self.normalize_features = normalize_features
        self.ortho_init = ortho_init
        self.output_gain = output_gain
        self.log_std_init = log_std_init
        self.share_parameters = share_parameters
        self.squash_mean = squash_mean
        self.noise_correlation = noise_correlation
        self.use_sde = use_sde
        self._build(lr_schedule)

    @staticmethod
    def _complete_net_arch(net_arch: list[int] | dict[str, list[int]] | None) -> dict[str, list[int]]:
        """
        :raises ValueError: If ``net_arch`` names a network that does not exist.
        """
        names = ("pi", "vf", "qf")
        if isinstance(net_arch, list) and len(net_arch) > 0 and isinstance(net_arch[0], dict):
            # As in Stable-Baselines3
            warnings.warn(
                "As shared layers in the mlp_extractor are removed since SB3 v1.8.0, you should now pass directly a "
                "dictionary and not a list (net_arch=dict(pi=..., vf=...) instead of net_arch=[dict(pi=..., vf=...)])",
                stacklevel=2,
            )
            net_arch = net_arch[0]
        if isinstance(net_arch, dict):
            unknown = sorted(set(net_arch) - set(names))
            if unknown:
                raise ValueError(
                    f"net_arch has the keys {unknown}, expected a subset of {list(names)}, e.g. dict(pi=[64, 64])."
                )
            return {name: list(net_arch.get(name, [64, 64])) for name in names}
        return {name: list(net_arch if net_arch is not None else [64, 64]) for name in names}

    def _build(self, lr_schedule: Schedule) -> None:
        """
        Create the networks and the optimizer.

        :param lr_schedule: Learning rate schedule, ``lr_schedule(1)`` is the initial learning rate.
        """
        joint = self.joint_spaces
        self.register_buffer("dimensions", th.as_tensor(joint.action_mask), persistent=False)
        if not joint.discrete:
            assert isinstance(self.action_space, spaces.Box)
            low, high = (th.as_tensor(bound, dtype=th.float32) for bound in (self.action_space.low, self.action_space.high))
            self.register_buffer("action_low", low, persistent=False)
            self.register_buffer("action_range", high - low, persistent=False)
        self._build_actor()
        self._build_value_critic()
        if self.ortho_init:
            for name, module in self.named_modules():
                if name.endswith(("latent_net", "features_extractors")):
                    init_orthogonal(module, 2**0.5)
                elif name.endswith("output_net"):
                    init_orthogonal(module, self.output_gain if name.startswith("actor") else 1.0)
        # Noise is a buffer, so that it follows the networks to another device. It is not saved, but drawn anew.
        if self.noise_correlation > 0:
            # Resized to the number of environments when they are first stepped.
            self.register_buffer("noise", th.empty(0, joint.n_agents, joint.action_dim), persistent=False)
        if self.use_sde:
            self.register_buffer("noise_weights", None, persistent=False)
            self.reset_noise()
        # Two groups, because the value function may have a learning rate of its own.
        critic_parameters = list(self.value_critic.parameters())
        in_critic = {id(parameter) for parameter in critic_parameters}
        actor_parameters = [parameter for parameter in self.parameters() if id(parameter) not in in_critic]
        groups = [{"params": actor_parameters}, {"params": critic_parameters}]
        self.optimizer = self.optimizer_class(groups, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _build_actor(self) -> None:
        joint = self.joint_spaces
        self.actor: AgentNetwork | SeparateAgentNetworks = AgentNetwork(
            joint.n_agents,
            joint.obs_dim,
            joint.action_dim,
            self.net_arch["pi"],
            self.activation_fn,
            self.share_parameters,
            self.normalize_features,
            self._features_extractor_maker(),
        )
        if not joint.discrete:
            self.log_std = self._initial_log_std(1 if self.share_parameters else joint.n_agents)

    def _features_extractor_maker(self) -> Callable[[], BaseFeaturesExtractor] | None:
        """
        :return: A function that makes a features extractor for one agent's observation, whose bounds cover those of all
            agents; None if there is no features extractor.
        """
        if not self.has_features_extractor:
            return None
        space = self.observation_space
        if isinstance(space, spaces.Dict):
            space = space["observation"]
        assert isinstance(space, spaces.Box)
        low, high = (bound.astype(np.float32) for bound in (space.low.min(axis=0), space.high.max(axis=0)))
        own = spaces.Box(low, high, dtype=np.float32)
        return partial(self.features_extractor_class, own, **self.features_extractor_kwargs)

    def _initial_log_std(self, n_members: int) -> nn.Parameter:
        latent_shape = (self.actor.latent_dim,) if self.use_sde else ()
        shape = (n_members, *latent_shape, self.joint_spaces.action_dim)
        return nn.Parameter(th.full(shape, float(self.log_std_init)))

    def _build_value_critic(self) -> None:
        self.value_critic: ValueCritic | AgentValueCritic = ValueCritic(
            self.joint_spaces.state_dim, self.net_arch["vf"], self.activation_fn, self.normalize_features
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return dict(
            observation_space=self.observation_space,
            action_space=self.action_space,
            lr_schedule=self._dummy_schedule,  # dummy lr schedule, not needed for loading policy alone
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            normalize_features=self.normalize_features,
            ortho_init=self.ortho_init,
            output_gain=self.output_gain,
            log_std_init=self.log_std_init,
            share_parameters=self.share_parameters,
            squash_mean=self.squash_mean,
            noise_correlation=self.noise_correlation,
            use_sde=self.use_sde,
            features_extractor_class=self.features_extractor_class if self.has_features_extractor else None,
            features_extractor_kwargs=self.features_extractor_kwargs,
            normalize_images=self.normalize_images,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
        )

    @th.no_grad()
    def reset_noise(self, n_envs: int = 1) -> None:
        """
        Draw new noise functions for generalized state-dependent exploration.

        :param n_envs: Number of environments, each of which has its own noise function.
        """
        log_std = self.log_std.expand(n_envs, self.joint_spaces.n_agents, -1, -1)
        self.noise_weights = th.randn_like(log_std) * log_std.exp()

    @th.no_grad()
    def _next_noise(self, n_envs: int) -> th.Tensor:
        """
        :param n_envs: Number of environments, each of which has its own series.
        :return: Standard normal noise of the next step, ``(n_envs, n_agents, action_dim)``.
        """
        if len(self.noise) != n_envs:
            self.noise = th.randn(n_envs, *self.noise.shape[1:], device=self.noise.device)
        else:
            self.noise = autoregressive_noise(self.noise, self.noise_correlation)
        return self.noise

    def obs_to_tensor(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[PyTorchObs, bool]:
        check_joint_observation(observation, self.observation_space)
        return super().obs_to_tensor(observation)

    def split_observation(self, obs: PyTorchObs) -> JointObservation:
        """
        :param obs: Joint observations, with any axes of samples in front.
        :return: Their parts.
        """
        if isinstance(obs, th.Tensor):
            observation = obs.float()
            return JointObservation(observation, None, None, None)
        parts = {name: value.float() for name, value in obs.items()}
        return JointObservation(parts["observation"], *(parts.get(name) for name in ("state", "action_mask", "agent_mask")))

    def actor_stack(self) -> StackParameters:
        """
        :return: The parameters of the actors.
        """
        assert isinstance(self.actor, AgentNetwork)
        stack = self.actor.stack_parameters()
        return stack if self.joint_spaces.discrete else stack._replace(stacked=[*stack.stacked, self.log_std])

    def value_critic_stack(self) -> StackParameters:
        """
        :return: The parameters of the value function, or of the agents' value functions.
        """
        return StackParameters([], [list(self.value_critic.parameters())])

    def distribution(self, observation: JointObservation, agents: slice = ALL_AGENTS) -> JointDistribution:
        """
        :param observation: Parts of a batch of joint observations.
        :param agents: The agents whose policies to return. The agent axis holds only these.
        :return: The agents' current policies at these observations.
        """
        outputs, latent = self.actor.forward_with_latent(observation.observation, agents)
        dimensions = self.dimensions[agents]
        if self.squash_mean:
            outputs = self.action_low[agents] + 0.5 * (outputs.tanh() + 1.0) * self.action_range[agents]
        if self.use_sde:
            noise_weights = self.noise_weights[:, agents]
            return JointStateDependentGaussian(outputs, self.agent_log_std(agents), dimensions, latent, noise_weights)
        if not self.joint_spaces.discrete:
            return JointDiagGaussian(outputs, self.agent_log_std(agents), dimensions)
        action_mask = None if observation.action_mask is None else observation.action_mask[:, agents]
        return JointCategorical(outputs, dimensions, action_mask)

    def agent_log_std(self, agents: slice) -> th.Tensor:
        """
        :param agents: The agents.
        :return: Logarithm of their standard deviations, ``(n_selected, action_dim)``, or with a first axis of 1 if shared;
            with gSDE those of the noise functions' weights, ``(n_selected, latent_dim, action_dim)``.
        """
        return self.log_std if self.share_parameters else self.log_std[agents]

    def values(self, observation: JointObservation) -> th.Tensor:
        """
        :param observation: Parts of a batch of joint observations.
        :return: The team's values, ``(batch, 1)``.
        """
        return self.value_critic(observation.state)

    def get_distribution(self, obs: PyTorchObs) -> JointDistribution:
        """
        :param obs: Batch of joint observations.
        :return: The agents' current policies at these observations.
        """
        return self.distribution(self.split_observation(obs))

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        :param obs: Batch of joint observations.
        :param deterministic: Whether to take the mode instead of a sample.
        :return: Joint actions, values ``(batch, 1)`` and the agents' log-probabilities ``(batch, n_agents)``.
        """
        observation = self.split_observation(obs)
        self.last_distribution = distribution = self.distribution(observation)
        if self.noise_correlation > 0 and not deterministic:
            assert isinstance(distribution, JointDiagGaussian)
            actions = distribution.sample_with(self._next_noise(len(observation.observation)))
        else:
            actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.values(observation), distribution.log_prob(actions)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self.get_distribution(observation).get_actions(deterministic=deterministic)

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: Batch of joint observations.
        :return: The team's values, ``(batch, 1)``.
        """
        return self.values(self.split_observation(obs))

    def evaluate_actions(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        :param obs: Batch of joint observations.
        :param actions: Joint actions, flattened ones are accepted.
        :return: Values ``(batch, 1)``, and the agents' log-probabilities and entropies ``(batch, n_agents)``.
        """
        observation = self.split_observation(obs)
        distribution = self.distribution(observation)
        log_prob = distribution.log_prob(self.shape_actions(actions.flatten(start_dim=1)))
        return self.values(observation), log_prob, distribution.entropy()

    def shape_actions(self, actions: th.Tensor) -> th.Tensor:
        """
        Undo the flattening and casting of the rollout buffer.

        :param actions: Of shape ``(..., n_agents * action_dim)``, or ``(..., n_agents)`` if discrete.
        :return: Of shape ``(..., n_agents, action_dim)``, or integers ``(..., n_agents)`` if discrete.
        """
        if self.joint_spaces.discrete:
            return actions.long()
        # The rollout buffer has the dtype of the action space, which may be float64.
        return actions.float().unflatten(-1, (self.joint_spaces.n_agents, self.joint_spaces.action_dim))

    def action_features(self, actions: th.Tensor) -> th.Tensor:
        """
        Joint actions as inputs of the Q-critic: one-hot if discrete; if continuous, clipped to the bounds, as the environment
        executes them, and rescaled to [-1, 1], with padded dimensions at 0.

        :param actions: Of shape ``(batch, n_agents, action_dim)``, or integers ``(batch, n_agents)`` if discrete.
        :return: Of shape ``(batch, n_agents, action_dim)``.
        """
        if self.joint_spaces.discrete:
            return F.one_hot(actions, self.joint_spaces.action_dim).float()
        scaled = 2.0 * (actions - self.action_low) / self.action_range.where(self.dimensions, 1.0) - 1.0
        return scaled.clamp(-1.0, 1.0) * self.dimensions


class CooperativeActorQCriticPolicy(CooperativeActorCriticPolicy):
    """
    Adds centralized Q-critics, with an optimizer of their own. They estimate the part of the return of a joint action that the
    value function does not explain, ``Q(s, a) - V(s)``.

    :param n_critics: Number of Q-critics.
    :param q_aggregation: What their estimate is: their ``"min"`` or their ``"mean"``.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *args: Any,
        n_critics: int = 2,
        q_aggregation: str = "min",
        **kwargs: Any,
    ):
        self.n_critics = n_critics
        self.q_aggregation = q_aggregation
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        # The parent's optimizer is made first, so that it does not hold the parameters of the Q-critics.
        super()._build(lr_schedule)
        joint = self.joint_spaces
        self.q_critic = QCritic(
            joint.state_dim,
            joint.n_agents,
            joint.action_dim,
            self.net_arch["qf"],
            self.activation_fn,
            self.normalize_features,
            self.n_critics,
            self.q_aggregation,
        )
        self.q_optimizer = self.optimizer_class(
            self.q_critic.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"n_critics": self.n_critics, "q_aggregation": self.q_aggregation}
        return super()._get_constructor_parameters() | own

    def q_values(self, observation: JointObservation, actions: th.Tensor) -> th.Tensor:
        """
        :param observation: Parts of a batch of joint observations.
        :param actions: Joint actions as the Q-critics see them, see ``action_features``.
        :return: Discounted return of the team, Q(s, a), ``(batch,)``.
        """
        return self.values(observation)[:, 0] + self.q_critic.estimate(observation.state, actions)


class IndependentActorCriticPolicy(CooperativeActorCriticPolicy):
    """
    Instead of one value function of the state, each agent has one of its own observation. With ``share_parameters`` the agents
    share it as they share the actor.
    """

    value_critic: AgentValueCritic

    def _build_value_critic(self) -> None:
        self.value_critic = AgentValueCritic(
            self.joint_spaces.n_agents,
            self.joint_spaces.obs_dim,
            self.net_arch["vf"],
            self.activation_fn,
            self.share_parameters,
            self.normalize_features,
            self._features_extractor_maker(),
        )

    def value_critic_stack(self) -> StackParameters:
        return self.value_critic.stack_parameters()

    def values(self, observation: JointObservation) -> th.Tensor:
        """
        :param observation: Parts of a batch of joint observations.
        :return: The agents' values ``(batch, n_agents)``, 0 for inactive agents.
        """
        values = self.value_critic(observation.observation)
        return values if observation.agent_mask is None else values * observation.agent_mask


class SequentialActorCriticPolicy(CooperativeActorCriticPolicy):
    """
    Each actor has parameter tensors of its own, so that one agent can be updated while the others stay as they are. With
    ``share_parameters`` there is only one actor, as in the parent.
    """

    log_stds: nn.ParameterList

    def _build_actor(self) -> None:
        if self.share_parameters:
            super()._build_actor()
            return
        joint = self.joint_spaces
        self.actor = SeparateAgentNetworks(
            joint.n_agents,
            joint.obs_dim,
            joint.action_dim,
            self.net_arch["pi"],
            self.activation_fn,
            normalize_features=self.normalize_features,
            make_features_extractor=self._features_extractor_maker(),
        )
        if not joint.discrete:
            self.log_stds = nn.ParameterList(self._initial_log_std(1) for _ in range(joint.n_agents))

    def __getattr__(self, name: str) -> Any:
        # Users of Stable-Baselines3 expect it. A property would conflict with the parameter that the parent registers.
        if name == "log_std" and not self.share_parameters and not self.joint_spaces.discrete:
            return self.agent_log_std(ALL_AGENTS)
        return super().__getattr__(name)

    def agent_log_std(self, agents: slice) -> th.Tensor:
        if self.share_parameters:
            return super().agent_log_std(agents)
        # Only those of these agents, because the others must get no gradient instead of a gradient of zero.
        return th.cat(list(self.log_stds[agents]))

    def actor_stack(self) -> StackParameters:
        if self.share_parameters:
            return super().actor_stack()
        assert isinstance(self.actor, SeparateAgentNetworks)
        own = [list(network.parameters()) for network in self.actor.networks]
        if not self.joint_spaces.discrete:
            own = [[*parameters, log_std] for parameters, log_std in zip(own, self.log_stds, strict=True)]
        return StackParameters([], own)
