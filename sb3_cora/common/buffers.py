"""Rollout buffers with an agent axis on log-probabilities and advantages."""

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_cora.common.joint_env import JointSpaces


class JointRolloutBuffer(RolloutBuffer):
    """
    Rollout buffer of a team: rewards, values and returns are the team's, ``(n_steps, n_envs)``; log-probabilities are
    the agents', ``(n_steps, n_envs, n_agents)``.

    Besides the lambda-returns, ``td0_targets`` holds ``r + gamma V(s')`` for each step (paper, equation 1). At a time
    limit V is the terminal observation's, as ``collect_rollouts`` has added it to the reward.
    """

    td0_targets: np.ndarray

    def reset(self) -> None:
        super().reset()
        self.td0_targets = np.zeros_like(self.rewards)
        self.log_probs = np.zeros((self.buffer_size, self.n_envs, self.n_agents), dtype=np.float32)

    @property
    def n_agents(self) -> int:
        """Number of agents, read off the spaces."""
        return JointSpaces.from_spaces(self.observation_space, self.action_space).n_agents

    @property
    def counted(self) -> np.ndarray:
        """Which of the returns count in statistics, boolean and of their shape: the team's all do."""
        return np.ones(self.returns.shape, dtype=bool)

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        super().compute_returns_and_advantage(last_values, dones)
        next_values = np.concatenate((self.values[1:], last_values.cpu().numpy().reshape(1, -1)))
        next_non_terminal = 1.0 - np.concatenate((self.episode_starts[1:], dones.astype(np.float32)[None]))
        self.td0_targets = self.rewards + self.gamma * next_values * next_non_terminal


class AgentRolloutBuffer(JointRolloutBuffer):
    """
    Rewards, values, returns and advantages are the agents' own, ``(n_steps, n_envs, n_agents)``. While a rollout is
    collected and its returns are computed, each agent stands as an environment of its own.

    An agent's episode ends with its death: no later reward is its own, whether the environment goes on paying it or brings
    it back. It acts and earns as long as it is alive in the observation it acts on.
    """

    REWARD_ARRAYS = ("rewards", "values", "returns", "advantages", "td0_targets")

    def reset(self) -> None:
        super().reset()
        for name in (*self.REWARD_ARRAYS, "episode_starts"):
            setattr(self, name, np.zeros((self.buffer_size, self.n_envs * self.n_agents), dtype=np.float32))

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
    ) -> None:
        episode_starts = np.repeat(episode_start, self.n_agents)
        if isinstance(obs, dict) and "agent_mask" in obs:
            alive = obs["agent_mask"] > 0.5
            reward = reward * alive
            # What follows an observation in which an agent is dead is not counted before it, whatever lambda is
            episode_starts = np.where(alive.flatten(), episode_starts, 1.0)
        super().add(obs, action, reward.flatten(), episode_starts, value, log_prob)

    @property
    def counted(self) -> np.ndarray:
        """Which of the returns count in statistics, boolean and of their shape: those of the living."""
        if isinstance(self.observations, dict) and "agent_mask" in self.observations:
            return self.observations["agent_mask"] > 0.5
        return super().counted

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        super().compute_returns_and_advantage(last_values, np.repeat(dones, self.n_agents))
        for name in self.REWARD_ARRAYS:
            setattr(self, name, getattr(self, name).reshape(self.buffer_size, self.n_envs, self.n_agents))


class JointDictRolloutBuffer(JointRolloutBuffer, DictRolloutBuffer):
    """``JointRolloutBuffer`` for joint observations with state or masks."""


class AgentDictRolloutBuffer(AgentRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """``AgentRolloutBuffer`` for joint observations with state or masks."""
