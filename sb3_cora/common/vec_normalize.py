"""Normalization of a team's observations and rewards, with statistics of each agent's own or shared by all."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_cora.common.joint_env import JointSpaces


class SharedMeanStd(RunningMeanStd):
    """Running statistics of the last axes of what it is given: all other axes are samples alike."""

    def update(self, arr: np.ndarray) -> None:
        """
        :param arr: ``(..., *shape)``
        """
        super().update(arr.reshape(-1, *self.mean.shape))


class JointVecNormalize(VecNormalize):
    """
    ``VecNormalize`` for joint environments: the agents may share the statistics of their observations, the agents' own
    rewards in ``info["agent_rewards"]`` are normalized beside the team's, and masks are left as they are.

    Each agent's rewards are divided by the standard deviation of its own discounted return, or of all agents' returns
    with ``share_statistics``.

    :param venv: The vectorized environment to wrap
    :param args: Further arguments of ``VecNormalize`` by position
    :param share_statistics: Whether all agents share one set of statistics, which suits equal agents whose observations
        mean the same (agents padded to the longest observation count with their zeros); a state keeps its own in any case
    :param kwargs: Further arguments of ``VecNormalize``, such as ``norm_obs``, ``norm_reward``, ``clip_obs``, ``gamma``
    """

    agent_returns: np.ndarray

    def __init__(self, venv: VecEnv, *args: Any, share_statistics: bool = False, **kwargs: Any):
        super().__init__(venv, *args, **kwargs)
        self.share_statistics = share_statistics
        joint = JointSpaces.from_spaces(self.observation_space, self.action_space)
        if share_statistics and self.norm_obs:
            shared = SharedMeanStd(shape=(joint.obs_dim,))
            if isinstance(self.obs_rms, dict):
                if "observation" in self.obs_rms:
                    self.obs_rms["observation"] = shared
            else:
                self.obs_rms = shared
        self.agent_ret_rms = SharedMeanStd(shape=() if share_statistics else (joint.n_agents,))
        self.n_agents = joint.n_agents
        self.agent_returns = np.zeros((self.num_envs, self.n_agents))

    def _sanity_checks(self) -> None:
        if self.norm_obs_keys is None and isinstance(self.observation_space, spaces.Dict):
            self.norm_obs_keys = [key for key in ("observation", "state") if key in self.observation_space.spaces]
        super()._sanity_checks()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        # Belongs to the wrapped environment, as the team's running returns
        del state["agent_returns"]
        return state

    def set_venv(self, venv: VecEnv) -> None:
        super().set_venv(venv)
        self.agent_returns = np.zeros((self.num_envs, self.n_agents))

    def reset(self) -> np.ndarray | dict[str, np.ndarray]:
        self.agent_returns = np.zeros((self.num_envs, self.n_agents))
        return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = super().step_wait()
        if self.norm_reward and all("agent_rewards" in info for info in infos):
            agent_rewards = np.stack([info["agent_rewards"] for info in infos]).astype(np.float64)
            if self.training:
                self.agent_returns = self.agent_returns * self.gamma + agent_rewards
                self.agent_ret_rms.update(self.agent_returns)
                self.agent_returns[dones] = 0
            normalized = agent_rewards / np.sqrt(self.agent_ret_rms.var + self.epsilon)
            normalized = normalized.clip(-self.clip_reward, self.clip_reward).astype(np.float32)
            for info, own_rewards in zip(infos, normalized, strict=True):
                info["agent_rewards"] = own_rewards
        return observations, rewards, dones, infos
