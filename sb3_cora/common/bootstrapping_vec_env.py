"""What is done between environment and buffer while a rollout is collected: checks, and values where a time limit cut."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_cora.common.policies import CooperativeActorCriticPolicy
from sb3_cora.common.vec_normalize import JointVecNormalize, statistics_kept_on_error

LARGEST_REWARD = 1e15
"""Returns of a thousand such rewards, squared, are still below the largest number of single precision, 3.4e38."""


def check_finite(name: str, value: np.ndarray | dict[str, np.ndarray], indices: Sequence[int] | None = None) -> None:
    """
    :param name: What the value is, for the error message.
    :param value: One entry per environment, ``(n_envs, ...)``, or a dict of such arrays.
    :param indices: Indices of the environments, by default 0, 1, ...
    :raises ValueError: If an entry is NaN or infinite.
    """
    parts = value.items() if isinstance(value, dict) else [(None, value)]
    for key, array in parts:
        # A sum is finite only if its terms are, and much cheaper than the exact test.
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array.sum()):
            finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
            if not finite.all():
                index = int(np.argmin(finite))
                environment = index if indices is None else indices[index]
                label = name if key is None else f'{name}["{key}"]'
                raise ValueError(
                    f"The training environment returned a non-finite {label} in environment {environment}: "
                    f"{array[index]}. "
                    "Training stops before it reaches the networks; the model keeps its last weights and can be saved. "
                    "Correct the environment, or find the step with stable_baselines3.common.vec_env.VecCheckNan."
                )


def check_finite_actions(actions: np.ndarray) -> None:
    """
    :param actions: Those that a policy chose, ``(n_envs, ...)``.
    :raises ValueError: If one is NaN or infinite.
    """
    if np.issubdtype(actions.dtype, np.floating) and not np.isfinite(actions).all():
        raise ValueError(
            "The policy chose an action that is not finite, so its weights are not finite either. Load a model that was saved "
            "before, and lower learning_rate or max_grad_norm."
        )


def check_rewards(rewards: np.ndarray) -> None:
    """
    :param rewards: One entry per environment, ``(n_envs, ...)``.
    :raises ValueError: If one is not finite, or larger than ``LARGEST_REWARD``.
    """
    check_finite("reward", rewards)
    if rewards.size and np.abs(rewards).max() > LARGEST_REWARD:
        index = int(np.argmax(np.abs(rewards).reshape(len(rewards), -1).max(axis=1)))
        raise ValueError(
            f"The training environment returned the reward {rewards[index]} in environment {index}, larger than "
            f"{LARGEST_REWARD:g}: the squares of such returns overflow in single precision, and all weights would become NaN. "
            "Divide the rewards by a constant, or normalize them by sb3_cora.common.vec_normalize.JointVecNormalize."
        )


class BootstrappingVecEnv(VecEnvWrapper):
    """
    Refuses non-finite observations and rewards, and keeps what ``collect_rollouts`` of Stable-Baselines3 does not pass on.

    It is applied only while a rollout is collected, so that the user's chain of wrappers stays as it is.

    :param venv: The training environment.
    :param policy: The policy that acts in it.
    :param keeps_modes: Whether to keep the policy's most likely actions, in ``modes``.
    """

    def __init__(self, venv: VecEnv, policy: CooperativeActorCriticPolicy, keeps_modes: bool = False):
        super().__init__(venv)
        self.policy = policy
        self.keeps_modes = keeps_modes
        self.modes: list[th.Tensor] = []
        self.rewards = np.zeros(0)
        self.dones = np.zeros(0, dtype=bool)
        self.infos: list[dict[str, Any]] = []
        self.infos_at_limits: dict[int, dict[str, Any]] = {}

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.restore_infos()
        if self.keeps_modes:
            self.modes.append(self.policy.last_distribution.mode())
        check_finite_actions(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        normalize = unwrap_vec_normalize(self.venv)
        with contextlib.nullcontext() if normalize is None else statistics_kept_on_error(normalize):
            observations, rewards, self.dones, infos = self.venv.step_wait()
            if normalize is not None:
                # Through its running statistics, NaN from one environment reaches all of them, so check what it got first.
                check_finite("observation", normalize.old_obs)
                check_finite("reward", normalize.old_reward)
            check_finite("observation", observations)  # type: ignore[arg-type]
            check_rewards(rewards)
        # Whole numbers stay such in SubprocVecEnv, and values at time limits are added to them.
        self.rewards = rewards if np.issubdtype(rewards.dtype, np.floating) else rewards.astype(np.float32)
        self.infos = list(infos)
        return observations, self.rewards, self.dones, self.infos

    @th.no_grad()
    def add_terminal_values(self, gamma: float) -> None:
        """
        Add the discounted values of terminal observations to the rewards of environments that the last step truncated, all in
        one batch. Their infos are changed so that ``collect_rollouts`` does not add the values again, until ``restore_infos``.

        :param gamma: Discount factor.
        """
        self.infos_at_limits = {
            index: info
            for index, info in enumerate(self.infos)
            if self.dones[index] and info.get("TimeLimit.truncated", False) and "terminal_observation" in info
        }
        if len(self.infos_at_limits) == 0:
            return
        ended = list(self.infos_at_limits)
        terminal = [info["terminal_observation"] for info in self.infos_at_limits.values()]
        if isinstance(terminal[0], dict):
            batch: Any = {name: np.stack([observation[name] for observation in terminal]) for name in terminal[0]}
        else:
            batch = np.stack(terminal)
        check_finite("terminal observation", batch, ended)
        values = self.policy.predict_values(self.policy.obs_to_tensor(batch)[0])
        self.rewards[ended] += gamma * values.cpu().numpy().reshape(self.rewards[ended].shape)
        for index, info in self.infos_at_limits.items():
            self.infos[index] = {**info, "TimeLimit.truncated": False}

    def restore_infos(self) -> None:
        """Restore the infos of the last step to what the environment returned, for callbacks that have kept them."""
        for index, info in self.infos_at_limits.items():
            self.infos[index] = info
        # Not again, in a later step without such values.
        self.infos_at_limits = {}


class AgentRewardsVecEnv(BootstrappingVecEnv):
    """
    Returns the agents' own rewards, ``info["agent_rewards"]``, instead of the team's. If the environment has none, every agent
    gets the team's.

    :param venv: The training environment.
    :param policy: The policy that acts in it.
    :param keeps_modes: Whether to keep the policy's most likely actions, in ``modes``.
    """

    def __init__(self, venv: VecEnv, policy: CooperativeActorCriticPolicy, keeps_modes: bool = False):
        super().__init__(venv, policy, keeps_modes)
        normalize = unwrap_vec_normalize(venv)
        is_joint = isinstance(normalize, JointVecNormalize)
        self.normalizes_team_only = normalize is not None and normalize.norm_reward and not is_joint

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = super().step_wait()
        n_agents = self.policy.joint_spaces.n_agents
        self.rewards = np.repeat(np.asarray(rewards, dtype=np.float32)[:, None], n_agents, axis=1)
        for index, info in enumerate(infos):
            if "agent_rewards" in info:
                if self.normalizes_team_only:
                    raise ValueError(
                        "VecNormalize(norm_reward=True) normalizes the team's reward but not the agents' own, which this "
                        "algorithm learns from. Use sb3_cora.common.vec_normalize.JointVecNormalize in its place."
                    )
                self.rewards[index] = info["agent_rewards"]
        check_rewards(self.rewards)
        return observations, self.rewards, dones, infos
