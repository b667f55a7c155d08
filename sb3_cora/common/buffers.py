"""Rollout buffers with an agent axis on log-probabilities and advantages."""

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_cora.common.joint_env import JointSpaces


class JointRolloutBuffer(RolloutBuffer):
    """
    Rollout buffer of a team: rewards, values and returns are those of the team, ``(n_steps, n_envs)``; log-probabilities are
    those of the agents, ``(n_steps, n_envs, n_agents)``.

    Besides the lambda-returns, ``td_errors`` holds ``r + gamma V(s') - V(s)`` for each step (CORA, equation 1, less V). At a
    time limit ``s'`` is the terminal observation, whose value ``collect_rollouts`` has added to the reward.
    """

    td_errors: np.ndarray

    def reset(self) -> None:
        super().reset()
        self.td_errors = np.zeros_like(self.rewards)
        self.log_probs = np.zeros((self.buffer_size, self.n_envs, self.n_agents), dtype=np.float32)

    @property
    def n_agents(self) -> int:
        """Number of agents, read off the spaces."""
        return JointSpaces.from_spaces(self.observation_space, self.action_space).n_agents

    @property
    def counted(self) -> np.ndarray:
        """Boolean array of the shape of the returns, which of them count in statistics: all returns of the team."""
        return np.ones(self.returns.shape, dtype=bool)

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        super().compute_returns_and_advantage(last_values, dones)
        next_values = np.concatenate((self.values[1:], last_values.cpu().numpy().reshape(1, -1)))
        next_non_terminal = 1.0 - np.concatenate((self.episode_starts[1:], dones.astype(np.float32)[None]))
        self.td_errors = self.rewards + self.gamma * next_values * next_non_terminal - self.values


class AgentRolloutBuffer(JointRolloutBuffer):
    """
    Rollout buffer in which rewards, values, returns and advantages are the agents' own, ``(n_steps, n_envs, n_agents)``.
    While a rollout is collected and its returns are computed, each agent counts as an environment of its own.

    An agent's episode ends when it becomes inactive: later rewards do not count in its returns, even if the environment
    continues to reward it or makes it active again. An agent is rewarded for a step if it is active in the observation that it
    acts on.
    """

    REWARD_ARRAYS = ("rewards", "values", "returns", "advantages", "td_errors")

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
            active = obs["agent_mask"] > 0.5
            reward = reward * active
            # As the start of an episode, an observation in which the agent is inactive ends the returns before it.
            episode_starts = np.where(active.flatten(), episode_starts, 1.0)
        super().add(obs, action, reward.flatten(), episode_starts, value, log_prob)

    @property
    def counted(self) -> np.ndarray:
        """Boolean array of the shape of the returns, which of them count in statistics: those of active agents."""
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
