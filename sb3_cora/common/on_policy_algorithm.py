"""The one PPO of the project, over joint environments; an algorithm is a constructor and a hook on it."""

import warnings
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from sb3_cora.common.buffers import JointDictRolloutBuffer, JointRolloutBuffer
from sb3_cora.common.env_util import as_joint_vec_env
from sb3_cora.common.joint_env import JointSpaces
from sb3_cora.common.policies import CooperativeActorCriticPolicy
from sb3_cora.common.rollout_vec_env import RolloutVecEnv, check_finite
from sb3_cora.common.stopwatch import Stopwatch
from sb3_cora.common.type_aliases import JointEnvLike

SelfCooperativeAlgorithm = TypeVar("SelfCooperativeAlgorithm", bound="CooperativeOnPolicyAlgorithm")


def agent_mean(values: th.Tensor, agent_mask: th.Tensor | None) -> th.Tensor:
    """
    Mean over samples and living agents.

    :param values: ``(batch, n_agents)``
    :param agent_mask: ``(batch, n_agents)``, 1 for living agents, or None if all live
    :return: Scalar, 0 if nobody lives
    """
    if agent_mask is None:
        return values.mean()
    return (values * agent_mask).sum() / agent_mask.sum().clamp(min=1.0)


def normalize_credits(credits: th.Tensor, agent_mask: th.Tensor | None) -> th.Tensor:
    """
    Shift and scale credits to mean 0 and standard deviation 1 over samples and living agents together, so that step
    sizes compare whatever the rule that divides the advantage.

    :param credits: ``(batch, n_agents)``
    :param agent_mask: ``(batch, n_agents)``, 1 for living agents, or None if all live
    :return: ``(batch, n_agents)``
    """
    living = credits if agent_mask is None else credits[agent_mask > 0.5]
    if living.numel() < 2:
        return credits
    return (credits - living.mean()) / (living.std() + 1e-8)


class CooperativeOnPolicyAlgorithm(OnPolicyAlgorithm):
    """
    Proximal Policy Optimization for a team: a clipped surrogate for each agent with credits of its own, one value
    function for the team. With one agent it equals Stable-Baselines3's ``PPO``.

    Algorithms override ``_allocate_credits`` and, where they have Q-critics, ``_update_critics``.

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
    :param clip_range_vf: Clipping parameter for the value function, in units of the return, a number or a function
        of the current progress remaining; None (default) for no clipping
    :param normalize_advantage: Whether to normalize the credits in each minibatch, over samples and agents together
    :param ent_coef: Entropy coefficient for the loss calculation
    :param vf_coef: Value function coefficient for the loss calculation
    :param max_grad_norm: The maximum value for the gradient clipping, of actors and value function together
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE) instead of action noise exploration
        (continuous actions only)
    :param sde_sample_freq: Sample a new noise function every n steps when using gSDE (-1: only at the beginning of the
        rollout)
    :param share_parameters: Whether the agents share one actor, which is then told the agent's index
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
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = JointDictRolloutBuffer if is_dict else JointRolloutBuffer
        # Only while the policy is built: saved models must hold the user's own policy_kwargs
        given = self.policy_kwargs
        self.policy_kwargs = {**self._policy_settings(), **given}
        try:
            super()._setup_model()
        finally:
            self.policy_kwargs = given
        self.clip_range_schedule = FloatSchedule(self.clip_range)
        self.clip_range_vf_schedule = None if self.clip_range_vf is None else FloatSchedule(self.clip_range_vf)

    @property
    def n_agents(self) -> int:
        """Number of agents, read off the spaces."""
        return JointSpaces.from_spaces(self.observation_space, self.action_space).n_agents

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "stopwatch", "clip_range_schedule", "clip_range_vf_schedule"]

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

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: JointRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        assert self._last_obs is not None, "No previous observation was provided"
        check_finite("observation", self._last_obs)
        with self.stopwatch.section("collection"):
            return super().collect_rollouts(RolloutVecEnv(env, self.stopwatch), callback, rollout_buffer, n_rollout_steps)

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

    def _update_policy(self) -> None:
        """Epochs of minibatch updates of actors and value function (Schulman et al. 2017, equation 9, for each agent)."""
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range_schedule(self._current_progress_remaining)
        clip_range_vf = None
        if self.clip_range_vf_schedule is not None:
            clip_range_vf = self.clip_range_vf_schedule(self._current_progress_remaining)
        parameters = [parameter for group in self.policy.optimizer.param_groups for parameter in group["params"]]

        metrics: dict[str, list[float]] = {
            name: [] for name in ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "loss")
        }
        # Flattened by the first minibatch, hence taken before
        explained_var = explained_variance(self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten())

        continue_training = True
        for epoch in range(self.n_epochs):
            # Reported for the last epoch, as in Stable-Baselines3
            metrics["approx_kl"].clear()
            for rollout_data in self.rollout_buffer.get(self.batch_size):
                agent_mask = self.policy.split_observation(rollout_data.observations).agent_mask
                values, log_prob, entropy = self.policy.evaluate_actions(rollout_data.observations, rollout_data.actions)
                values = values.flatten()

                credits = rollout_data.advantages
                if self.normalize_advantage:
                    credits = normalize_credits(credits, agent_mask)

                log_ratio = log_prob - rollout_data.old_log_prob
                ratio = log_ratio.exp()
                clipped_ratio = ratio.clamp(1 - clip_range, 1 + clip_range)
                policy_loss = -agent_mean(th.min(credits * ratio, credits * clipped_ratio), agent_mask)

                if clip_range_vf is not None:
                    old_values = rollout_data.old_values
                    values = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
                value_loss = F.mse_loss(rollout_data.returns, values)
                entropy_loss = -agent_mean(entropy, agent_mask)
                loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss

                with th.no_grad():
                    # Low-variance estimator of the KL divergence, http://joschu.net/blog/kl-approx.html
                    approx_kl = agent_mean(ratio - 1 - log_ratio, agent_mask).item()
                    clip_fraction = agent_mean(((ratio - 1).abs() > clip_range).float(), agent_mask).item()
                for name, value in (
                    ("policy_gradient_loss", policy_loss.item()),
                    ("value_loss", value_loss.item()),
                    ("entropy_loss", entropy_loss.item()),
                    ("approx_kl", approx_kl),
                    ("clip_fraction", clip_fraction),
                    ("loss", loss.item()),
                ):
                    metrics[name].append(value)

                if self.target_kl is not None and approx_kl > 1.5 * self.target_kl:
                    continue_training = False
                    if self.verbose >= 1:
                        print(f"Early stopping at epoch {epoch} due to reaching max kl: {approx_kl:.2f}")
                    break

                self.policy.optimizer.zero_grad()
                loss.backward()
                th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                self.policy.optimizer.step()

            self._n_updates += 1
            if not continue_training:
                break

        for name, history in metrics.items():
            self.logger.record(f"train/{name}", history[-1] if name == "loss" else np.mean(history))
        self.logger.record("train/explained_variance", explained_var)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)
