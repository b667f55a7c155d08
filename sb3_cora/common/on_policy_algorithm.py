"""The one PPO of the project, over joint environments; an algorithm is a constructor and a hook on it."""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora.common.buffers import JointDictRolloutBuffer, JointRolloutBuffer, JointRolloutBufferSamples
from sb3_cora.common.env_util import as_joint_vec_env
from sb3_cora.common.joint_env import JointSpaces
from sb3_cora.common.losses import agent_mean, clipped_surrogate, normalize_credits, value_errors
from sb3_cora.common.networks import ALL_AGENTS, clip_grad_norm_of_members_
from sb3_cora.common.policies import CooperativeActorCriticPolicy
from sb3_cora.common.rollout_vec_env import RolloutVecEnv, check_finite
from sb3_cora.common.stopwatch import Stopwatch
from sb3_cora.common.type_aliases import JointEnvLike

SelfCooperativeAlgorithm = TypeVar("SelfCooperativeAlgorithm", bound="CooperativeOnPolicyAlgorithm")


class Turn(NamedTuple):
    """
    Agents that are updated together.

    :param agents: Which ones
    :param with_value_function: Whether the value function is updated in the same epochs
    :param factor: What their credits are multiplied by at each sample of the rollout, ``(n_samples, 1)``; None for 1
    """

    agents: slice
    with_value_function: bool = True
    factor: th.Tensor | None = None


class CooperativeOnPolicyAlgorithm(OnPolicyAlgorithm):
    """
    Proximal Policy Optimization for a team: a clipped surrogate for each agent with credits of its own, one value
    function for the team. With one agent it equals Stable-Baselines3's ``PPO``.

    Algorithms override ``_allocate_credits`` and, where they have Q-critics, ``_update_critics``; the order in which
    agents are updated is ``_turns``.

    :param policy: The policy model to use (``"MlpPolicy"``, for Box and Dict joint observations alike)
    :param env: The environment to learn from: a joint environment, a ``VecEnv`` of them, a PettingZoo
        ``ParallelEnv``, a VMAS ``Environment`` or a registered id
    :param learning_rate: The learning rate, it can be a function of the current progress remaining (from 1 to 0)
    :param n_steps: The number of steps to run for each environment per update
    :param batch_size: Minibatch size, in team steps (each holds one sample of every agent)
    :param n_epochs: Number of epochs when optimizing the surrogate loss
    :param gamma: Discount factor
    :param gae_lambda: Factor for trade-off of bias vs variance for Generalized Advantage Estimator
    :param clip_range: Clipping parameter, it can be a function of the current progress remaining (from 1 to 0)
    :param clip_range_vf: Clipping parameter for the value function, in units of the return (of its standard deviation
        with ``normalize_values``), a number or a function of the current progress remaining; None (default) for no
        clipping
    :param normalize_advantage: Whether to normalize the credits in each minibatch, over samples and agents together
    :param ent_coef: Entropy coefficient for the loss calculation
    :param vf_coef: Value function coefficient for the loss calculation
    :param max_grad_norm: The maximum value for the gradient clipping, of actors and value function together
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE) instead of action noise exploration
        (continuous actions only)
    :param sde_sample_freq: Sample a new noise function every n steps when using gSDE (-1: only at the beginning of the
        rollout)
    :param share_parameters: Whether the agents share one actor, which is then told the agent's index
    :param vf_learning_rate: Learning rate of the value function, a number or a function of the current progress
        remaining; that of the policy if None
    :param normalize_values: Whether the critics learn returns normalized by their running mean and standard deviation
    :param huber_delta: Where the loss of the critics turns from squared to linear, in units of the return (of its
        standard deviation with ``normalize_values``); None (default) for squared throughout
    :param pessimistic_vf_clip: Whether ``clip_range_vf`` takes the larger of the clipped and the unclipped error, as MAPPO
        and HARL do, and not the clipped one
    :param separate_grad_norms: Whether the gradient of each network (each agent's actor, the value function) is clipped by
        its own norm, as MAPPO and HARL do, and the norms are logged
    :param rollout_buffer_class: Rollout buffer class to use, chosen by the observation space if None
    :param rollout_buffer_kwargs: Keyword arguments to pass to the rollout buffer on creation
    :param target_kl: Stop the epochs once the approximate KL divergence exceeds 1.5 times this, None for no limit
    :param stats_window_size: Number of episodes over which the reported statistics are averaged
    :param tensorboard_log: The log location for tensorboard (if None, no logging)
    :param policy_kwargs: Additional arguments to be passed to the policy on creation
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) on which the code should be run
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": CooperativeActorCriticPolicy,
        "MultiInputPolicy": CooperativeActorCriticPolicy,
    }
    policy: CooperativeActorCriticPolicy  # type: ignore[assignment]
    rollout_buffer: JointRolloutBuffer

    def __init__(
        self,
        policy: str | type[CooperativeActorCriticPolicy],
        env: JointEnvLike,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        share_parameters: bool = False,
        vf_learning_rate: float | Schedule | None = None,
        normalize_values: bool = False,
        huber_delta: float | None = None,
        pessimistic_vf_clip: bool = False,
        separate_grad_norms: bool = False,
        rollout_buffer_class: type[JointRolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        if isinstance(policy, str):
            # Resolved here because the base class refuses the name "MlpPolicy" for Dict observations
            policy = self._policy_from_alias(policy)
        if isinstance(env, str):
            # The base class would make a single world of it
            env = as_joint_vec_env(env)
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.MultiDiscrete),
        )
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.share_parameters = share_parameters
        self.vf_learning_rate = vf_learning_rate
        self.normalize_values = normalize_values
        self.huber_delta = huber_delta
        self.pessimistic_vf_clip = pessimistic_vf_clip
        self.separate_grad_norms = separate_grad_norms
        self.target_kl = target_kl
        self.stopwatch = Stopwatch()
        self._check_settings()

        if _init_setup_model:
            self._setup_model()

    @classmethod
    def _policy_from_alias(cls, policy: str) -> type[CooperativeActorCriticPolicy]:
        if policy not in cls.policy_aliases:
            raise ValueError(f"Policy {policy!r} unknown, expected one of {sorted(cls.policy_aliases)} or a policy class.")
        return cls.policy_aliases[policy]  # type: ignore[return-value]

    @staticmethod
    def _wrap_env(env: JointEnvLike, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return as_joint_vec_env(env, verbose, monitor_wrapper)

    def _check_settings(self) -> None:
        """
        :raises ValueError: If a setting is out of its range
        """
        for name in ("n_steps", "n_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.huber_delta is not None and not self.huber_delta > 0:
            raise ValueError(f"huber_delta must be positive, not {self.huber_delta}; pass None for squared errors.")
        if self.pessimistic_vf_clip and self.clip_range_vf is None:
            raise ValueError(
                "pessimistic_vf_clip=True says how values are clipped, but clip_range_vf=None: set it, e.g. to 0.2."
            )
        if self.env is None:
            return
        n_samples = self.env.num_envs * self.n_steps
        if self.normalize_advantage and min(self.batch_size, n_samples) < 2:
            raise ValueError(
                f"Normalizing advantages takes at least 2 samples a minibatch, but batch_size={self.batch_size} and "
                f"n_steps * n_envs = {self.n_steps} * {self.env.num_envs}. "
                "Increase them, or pass normalize_advantage=False."
            )
        if n_samples % self.batch_size > 0:
            warnings.warn(
                f"The rollout of n_steps * n_envs = {self.n_steps} * {self.env.num_envs} = {n_samples} samples is no multiple "
                f"of batch_size={self.batch_size}: each epoch ends with a truncated minibatch of "
                f"{n_samples % self.batch_size} samples.",
                stacklevel=3,
            )

    def _policy_settings(self) -> dict[str, Any]:
        """Constructor arguments of the algorithm that are the policy's; those in ``policy_kwargs`` take precedence."""
        return dict(share_parameters=self.share_parameters)

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = self._default_rollout_buffer_class()
        # Only while the policy is built: saved models must hold the user's own policy_kwargs
        given = self.policy_kwargs
        self.policy_kwargs = {**self._policy_settings(), **given}
        try:
            super()._setup_model()
        finally:
            self.policy_kwargs = given
        self.clip_range_schedule = FloatSchedule(self.clip_range)
        self.clip_range_vf_schedule = None if self.clip_range_vf is None else FloatSchedule(self.clip_range_vf)
        self.vf_lr_schedule = self.lr_schedule if self.vf_learning_rate is None else FloatSchedule(self.vf_learning_rate)

    def _default_rollout_buffer_class(self) -> type[JointRolloutBuffer]:
        return JointDictRolloutBuffer if isinstance(self.observation_space, spaces.Dict) else JointRolloutBuffer

    @property
    def n_agents(self) -> int:
        """Number of agents, read off the spaces."""
        return JointSpaces.from_spaces(self.observation_space, self.action_space).n_agents

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "stopwatch",
            "clip_range_schedule",
            "clip_range_vf_schedule",
            "vf_lr_schedule",
        ]

    def learn(
        self: SelfCooperativeAlgorithm,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfCooperativeAlgorithm:
        """
        Return a trained model.

        :param total_timesteps: The total number of team steps to train on (one step of one environment, all agents)
        :param callback: Callback(s) called at every step with state of the algorithm
        :param log_interval: The number of rollouts before logging
        :param tb_log_name: The name of the run for tensorboard logging, the name of the class if None
        :param reset_num_timesteps: Whether or not to reset the current timestep number (used in logging)
        :param progress_bar: Display a progress bar using tqdm and rich
        :return: The trained model
        """
        return super().learn(
            int(total_timesteps),
            callback,
            log_interval,
            type(self).__name__ if tb_log_name is None else tb_log_name,
            reset_num_timesteps,
            progress_bar,
        )

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # Schedules are promised a progress from 1 to 0, but the last rollout ends beyond a total that is no multiple of its
        # size: a linear learning rate would turn negative there, and the update undo what the others have learned
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: JointRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        assert self._last_obs is not None, "No previous observation was provided"
        check_finite("observation", self._last_obs)
        with self.stopwatch.section("collection"):
            return super().collect_rollouts(self._rollout_vec_env(env), callback, rollout_buffer, n_rollout_steps)

    def _rollout_vec_env(self, env: VecEnv) -> RolloutVecEnv:
        return RolloutVecEnv(env, self.stopwatch)

    def _update_critics(self) -> None:
        """Train the Q-critics, where the algorithm has them, on the rollout while it is ``(n_steps, n_envs, ...)``."""

    def _allocate_credits(self) -> np.ndarray:
        """
        The hook that makes an algorithm: divide the team's advantages among the agents.

        :return: Credits ``(n_steps, n_envs, n_agents)``, in units of the return. By default every agent is given
            the team's advantage.
        """
        advantages = self.rollout_buffer.advantages
        return np.repeat(advantages[:, :, None], self.n_agents, axis=2)

    def train(self) -> None:
        """
        Update policy using the currently gathered rollout buffer.
        """
        # Switch to train mode (this affects batch norm / dropout)
        self.policy.set_training_mode(True)
        with self.stopwatch.section("critics"):
            self._update_critics()
        with self.stopwatch.section("credits"):
            self.rollout_buffer.advantages = self._allocate_credits()
        with self.stopwatch.section("policy"):
            self._update_policy()

        self.logger.record("time/share_environment", self.stopwatch.share("environment"))
        self.logger.record("time/share_networks", self.stopwatch.share("collection", "critics", "policy"))
        self.logger.record("time/share_credits", self.stopwatch.share("credits"))
        self.stopwatch.reset()

    def _turns(self) -> Iterator[Turn]:
        """
        Who is updated with whom. What follows a ``yield`` runs when the turn's epochs are over.

        :return: By default a single turn of all agents
        """
        yield Turn(ALL_AGENTS)

    def _normalize_credits(self, credits: th.Tensor, agent_mask: th.Tensor | None) -> th.Tensor:
        """
        :param credits: Those of a minibatch, ``(batch, n_agents)``
        :param agent_mask: ``(batch, n_agents)``, 1 for living agents, or None if all live
        :return: What the surrogate is taken of, ``(batch, n_agents)``
        """
        return normalize_credits(credits, agent_mask) if self.normalize_advantage else credits

    def _update_policy(self) -> None:
        """Epochs of minibatch updates of actors and value function (Schulman et al. 2017, equation 9, for each agent)."""
        self._update_learning_rate(self.policy.optimizer)
        if self.vf_learning_rate is not None:
            vf_learning_rate = self.vf_lr_schedule(self._current_progress_remaining)
            self.policy.optimizer.param_groups[1]["lr"] = vf_learning_rate
            self.logger.record("train/vf_learning_rate", vf_learning_rate)
        clip_range = self.clip_range_schedule(self._current_progress_remaining)
        clip_range_vf = None
        if self.clip_range_vf_schedule is not None:
            clip_range_vf = self.clip_range_vf_schedule(self._current_progress_remaining)
        buffer = self.rollout_buffer
        # Flattened by the first minibatch, hence taken before
        explained_var = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        if self.normalize_values:
            returns = buffer.returns.reshape(buffer.returns.shape[0] * buffer.n_envs, -1)
            self.policy.value_critic.normalizer.update(th.as_tensor(returns, device=self.device))

        metrics: defaultdict[str, list[float]] = defaultdict(list)
        for turn in self._turns():
            for epoch in range(self.n_epochs):
                # Reported for the last epoch, as in Stable-Baselines3
                kl_divergences: list[float] = []
                for rollout_data in buffer.get(self.batch_size):
                    assert isinstance(rollout_data, JointRolloutBufferSamples)  # for mypy
                    kl_divergences.append(self._update_minibatch(rollout_data, turn, clip_range, clip_range_vf, metrics))
                    if self._exceeds_target_kl(kl_divergences[-1]):
                        break
                # Epochs that each agent is given, however many turns they take
                self._n_updates += turn.with_value_function
                if self._exceeds_target_kl(kl_divergences[-1]):
                    if self.verbose >= 1:
                        print(f"Early stopping at epoch {epoch} due to reaching max kl: {kl_divergences[-1]:.2f}")
                    break
            metrics["approx_kl"] += kl_divergences

        for name, history in metrics.items():
            self.logger.record(f"train/{name}", history[-1] if name == "loss" else np.mean(history))
        self.logger.record("train/explained_variance", explained_var)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def _exceeds_target_kl(self, approx_kl: float) -> bool:
        return self.target_kl is not None and approx_kl > 1.5 * self.target_kl

    def _update_minibatch(
        self,
        rollout_data: JointRolloutBufferSamples,
        turn: Turn,
        clip_range: float,
        clip_range_vf: float | None,
        metrics: dict[str, list[float]],
    ) -> float:
        """
        One step of the optimizer, unless the policy has moved too far.

        :param rollout_data: The minibatch
        :param turn: Who is updated
        :param clip_range: Clipping parameter of the surrogate
        :param clip_range_vf: Clipping parameter of the value function, None for no clipping
        :param metrics: Where the metrics are appended, by name
        :return: Approximate KL divergence of the policies of the rollout from the current ones, in nats
        """
        policy = self.policy
        agents = turn.agents
        observation = policy.split_observation(rollout_data.observations)
        distribution = policy.distribution(observation, agents)
        actions = policy.shape_actions(rollout_data.actions)[:, agents]
        agent_mask = None if observation.agent_mask is None else observation.agent_mask[:, agents]

        # All agents' together: how large one's are beside the others' is what credits say
        credits = self._normalize_credits(rollout_data.advantages, observation.agent_mask)[:, agents]
        if turn.factor is not None:
            credits = credits * turn.factor[rollout_data.indices]
        log_ratio = distribution.log_prob(actions) - rollout_data.old_log_prob[:, agents]
        ratio = log_ratio.exp()
        policy_loss = -agent_mean(clipped_surrogate(credits, ratio, clip_range), agent_mask)
        entropy_loss = -agent_mean(distribution.entropy(), agent_mask)
        loss = policy_loss + self.ent_coef * entropy_loss
        if turn.with_value_function:
            errors = value_errors(
                policy.values(observation),
                rollout_data.old_values,
                rollout_data.returns,
                policy.value_critic.normalizer.std,
                clip_range_vf,
                self.pessimistic_vf_clip,
                self.huber_delta,
            )
            # A value for each agent counts while the agent lives, the team's always
            value_loss = agent_mean(errors, observation.agent_mask if errors.shape[1] == self.n_agents else None)
            loss = loss + self.vf_coef * value_loss
            metrics["value_loss"].append(value_loss.item())

        with th.no_grad():
            # Low-variance estimator of the KL divergence, http://joschu.net/blog/kl-approx.html
            approx_kl = agent_mean(ratio - 1 - log_ratio, agent_mask).item()
            clip_fraction = agent_mean(((ratio - 1).abs() > clip_range).float(), agent_mask).item()
        metrics["policy_gradient_loss"].append(policy_loss.item())
        metrics["entropy_loss"].append(entropy_loss.item())
        metrics["clip_fraction"].append(clip_fraction)
        metrics["loss"].append(loss.item())

        if not self._exceeds_target_kl(approx_kl):
            policy.optimizer.zero_grad()
            loss.backward()
            self._clip_gradients(metrics)
            policy.optimizer.step()
        return approx_kl

    def _clip_gradients(self, metrics: dict[str, list[float]]) -> None:
        actors, critic = (group["params"] for group in self.policy.optimizer.param_groups)
        if not self.separate_grad_norms:
            th.nn.utils.clip_grad_norm_([*actors, *critic], self.max_grad_norm)
            return
        for stack in self.policy.actor_parameters():
            norms = clip_grad_norm_of_members_(stack, self.max_grad_norm)
            metrics["actor_grad_norm"] += norms.tolist()
        if any(parameter.grad is not None for parameter in critic):
            metrics["critic_grad_norm"].append(th.nn.utils.clip_grad_norm_(critic, self.max_grad_norm).item())
