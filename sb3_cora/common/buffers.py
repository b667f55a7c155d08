"""Rollout buffers with an agent axis on log-probabilities and advantages."""

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_cora.common.joint_env import JointSpaces


class JointRolloutBuffer(RolloutBuffer):
    """
    Rollout buffer of a team: rewards, values and returns are the team's, ``(n_steps, n_envs)``; log-probabilities are
    the agents', ``(n_steps, n_envs, n_agents)``. ``compute_returns_and_advantage`` leaves the team's advantages
    ``(n_steps, n_envs)``, which the algorithm replaces by the agents' credits ``(n_steps, n_envs, n_agents)``.

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

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        super().compute_returns_and_advantage(last_values, dones)
        next_values = np.concatenate((self.values[1:], last_values.cpu().numpy().reshape(1, -1)))
        next_non_terminal = 1.0 - np.concatenate((self.episode_starts[1:], dones.astype(np.float32)[None]))
        self.td0_targets = self.rewards + self.gamma * next_values * next_non_terminal

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> RolloutBufferSamples:
        samples = super()._get_samples(batch_inds, env)
        return samples._replace(**self._agent_axis(samples, batch_inds))

    def _agent_axis(
        self, samples: RolloutBufferSamples | DictRolloutBufferSamples, batch_inds: np.ndarray
    ) -> dict[str, th.Tensor]:
        """The fields that Stable-Baselines3 has flattened, with their agent axis back, ``(batch, n_agents)``."""
        shape = (len(batch_inds), -1)
        return dict(old_log_prob=samples.old_log_prob.reshape(shape), advantages=samples.advantages.reshape(shape))


class JointDictRolloutBuffer(JointRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """``JointRolloutBuffer`` for joint observations with state or masks."""
