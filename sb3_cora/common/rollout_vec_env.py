"""The training environment as the collection of rollouts sees it."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_cora.common.stopwatch import Stopwatch
from sb3_cora.common.vec_normalize import JointVecNormalize


def check_finite(name: str, value: np.ndarray | dict[str, np.ndarray], first_index: int = 0) -> None:
    """
    :param name: What the value is, for the message
    :param value: One entry per environment, ``(n_envs, ...)``, or a dict of such arrays
    :param first_index: Index of the environment of the first entry
    :raises ValueError: If an entry is NaN or infinite
    """
    parts = value.items() if isinstance(value, dict) else [(None, value)]
    for key, array in parts:
        # A sum is finite only if its terms are, and much cheaper to take than the exact test
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array.sum()):
            finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
            if not finite.all():
                index = int(np.argmin(finite))
                label = name if key is None else f'{name}["{key}"]'
                raise ValueError(
                    f"The training environment returned a non-finite {label} in environment {first_index + index}: "
                    f"{array[index]}. "
                    "Training stops before it reaches the networks; the model keeps its last weights and can be saved. "
                    "Correct the environment, or find the step with stable_baselines3.common.vec_env.VecCheckNan."
                )


class RolloutVecEnv(VecEnvWrapper):
    """
    Times the steps of the training environment and refuses non-finite observations and rewards.

    It exists only for the time of a rollout, so that the user's chain of wrappers stays as it is.

    :param venv: The training environment
    :param stopwatch: Where the time of the steps is added, as section ``"environment"``
    """

    def __init__(self, venv: VecEnv, stopwatch: Stopwatch):
        super().__init__(venv)
        self.stopwatch = stopwatch

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        with self.stopwatch.section("environment"):
            self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        with self.stopwatch.section("environment"):
            observations, rewards, dones, infos = self.venv.step_wait()
        normalize = unwrap_vec_normalize(self.venv)
        if normalize is not None:
            # Its running statistics spread one environment's NaN over all of them, so name the culprit before that
            check_finite("observation", normalize.get_original_obs())
            check_finite("reward", normalize.get_original_reward())
        check_finite("observation", observations)  # type: ignore[arg-type]
        check_finite("reward", rewards)
        for index in np.flatnonzero(dones):
            # Its value is added to the reward; the observation returned above is the next episode's
            if infos[index].get("TimeLimit.truncated", False) and "terminal_observation" in infos[index]:
                terminal = infos[index]["terminal_observation"]
                batch = {key: part[None] for key, part in terminal.items()} if isinstance(terminal, dict) else terminal[None]
                check_finite("terminal observation", batch, first_index=int(index))
        return observations, rewards, dones, infos


class AgentRewards(np.ndarray):
    """
    The agents' rewards ``(n_envs, n_agents)``, to a row of which a tensor can be added: at a time limit
    ``collect_rollouts`` adds the values of the terminal observation, which NumPy alone would refuse.
    """

    def __iadd__(self, other: Any) -> "AgentRewards":  # type: ignore[misc]
        return super().__iadd__(other.cpu().numpy() if isinstance(other, th.Tensor) else other)


class AgentRewardsVecEnv(RolloutVecEnv):
    """
    Hands on the agents' own rewards, ``info["agent_rewards"]``, instead of the team's; where the environment has none,
    every agent is given the team's.

    :param venv: The training environment
    :param stopwatch: Where the time of the steps is added, as section ``"environment"``
    :param n_agents: Number of agents
    """

    def __init__(self, venv: VecEnv, stopwatch: Stopwatch, n_agents: int):
        super().__init__(venv, stopwatch)
        self.n_agents = n_agents
        normalize = unwrap_vec_normalize(venv)
        is_joint = isinstance(normalize, JointVecNormalize)
        self.normalizes_team_only = normalize is not None and normalize.norm_reward and not is_joint

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = super().step_wait()
        agent_rewards = np.repeat(np.asarray(rewards, dtype=np.float32)[:, None], self.n_agents, axis=1)
        for index, info in enumerate(infos):
            if "agent_rewards" in info:
                if self.normalizes_team_only:
                    raise ValueError(
                        "VecNormalize(norm_reward=True) normalizes the team's reward but not the agents' own, which this "
                        "algorithm learns from. Use sb3_cora.common.vec_normalize.JointVecNormalize in its place."
                    )
                agent_rewards[index] = info["agent_rewards"]
        check_finite("reward", agent_rewards)
        return observations, agent_rewards.view(AgentRewards), dones, infos
