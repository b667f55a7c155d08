"""Rollout buffers with an agent axis on log-probabilities and advantages."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecNormalize

from sb3_cora.common.joint_env import JointSpaces


class JointRolloutBufferSamples(NamedTuple):
    """
    A minibatch of a team's rollout. ``n_values`` is 1 where there is one value function for the team, the number of
    agents where each has its own.

    ``observations`` are joint ones, ``actions`` flattened joint ones; ``old_values`` and ``returns`` are ``(batch,
    n_values)``, ``old_log_prob`` and ``advantages`` ``(batch, n_agents)``; ``indices`` ``(batch,)`` is each sample's
    position in the flattened rollout.
    """

    observations: PyTorchObs
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    indices: th.Tensor


class JointRolloutBuffer(RolloutBuffer):
    """
    Rollout buffer of a team: rewards, values and returns are the team's, ``(n_steps, n_envs)``; log-probabilities are
    the agents', ``(n_steps, n_envs, n_agents)``. ``compute_returns_and_advantage`` leaves the team's advantages
    ``(n_steps, n_envs)``, which the algorithm replaces by the agents' credits ``(n_steps, n_envs, n_agents)``.

    Besides the lambda-returns, ``td0_targets`` holds ``r + gamma V(s')`` for each step (paper, equation 1). At a time
    limit V is the terminal observation's, as ``collect_rollouts`` has added it to the reward.
    """

    td0_targets: np.ndarray
    collected_advantages: np.ndarray

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
        self.collected_advantages = self.advantages

    def restore(self) -> None:
        """
        Bring a rollout that has been trained on back into the form ``(n_steps, n_envs, ...)`` and to the advantages it was
        collected with, so that it can be trained on again; another one is left as it is.
        """
        if not self.generator_ready:
            return

        def unflatten(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
            return array.reshape(self.n_envs, self.buffer_size, *shape).swapaxes(0, 1)

        observations: np.ndarray | dict[str, np.ndarray] = self.observations
        if isinstance(observations, dict):
            self.observations = {name: unflatten(part, part.shape[1:]) for name, part in observations.items()}  # type: ignore[assignment]
        else:
            self.observations = unflatten(observations, observations.shape[1:])
        self.actions = unflatten(self.actions, self.actions.shape[1:])
        self.log_probs = unflatten(self.log_probs, self.log_probs.shape[1:])
        # Stable-Baselines3 has given these an axis more, unless they had an agent axis
        for name in ("values", "returns"):
            setattr(self, name, unflatten(getattr(self, name), self.rewards.shape[2:]))
        self.advantages = self.collected_advantages
        self.generator_ready = False

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> JointRolloutBufferSamples:
        samples = super()._get_samples(batch_inds, env)
        # What Stable-Baselines3 has flattened, with its second axis back
        shape = (len(batch_inds), -1)
        return JointRolloutBufferSamples(
            samples.observations,
            samples.actions,
            samples.old_values.reshape(shape),
            samples.old_log_prob.reshape(shape),
            samples.advantages.reshape(shape),
            samples.returns.reshape(shape),
            self.to_torch(batch_inds),
        )

    def get_in_order(self, batch_size: int) -> Iterator[JointRolloutBufferSamples]:
        """
        The samples of a rollout that ``get`` has flattened, sample ``i`` at position ``i``.

        :param batch_size: Samples handed out at once
        """
        n_samples = self.buffer_size * self.n_envs
        for start in range(0, n_samples, batch_size):
            yield self._get_samples(np.arange(start, min(start + batch_size, n_samples)))


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
        self.collected_advantages = self.advantages


class JointDictRolloutBuffer(JointRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """``JointRolloutBuffer`` for joint observations with state or masks."""


class AgentDictRolloutBuffer(AgentRolloutBuffer, DictRolloutBuffer):  # type: ignore[misc]
    """``AgentRolloutBuffer`` for joint observations with state or masks."""
