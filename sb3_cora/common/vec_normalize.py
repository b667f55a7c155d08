"""Normalization of a team's observations and rewards, with statistics of each agent's own or shared by all."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_cora.common.joint_env import MASKS, JointSpaces


class SharedMeanStd(RunningMeanStd):
    """Running statistics of the last axes of what it is given: all other axes are samples alike."""

    def update(self, arr: np.ndarray) -> None:
        """
        :param arr: ``(..., *shape)``
        """
        super().update(arr.reshape(-1, *self.mean.shape))


class MaskMeanStd(RunningMeanStd):
    """
    Statistics with which ``VecNormalize`` leaves a mask as it is, whatever it is updated with.

    :param epsilon: What ``VecNormalize`` adds to the variance
    :param shape: That of the mask
    """

    def __init__(self, epsilon: float, shape: tuple[int, ...]):
        super().__init__(shape=shape)
        self.var -= epsilon

    def update(self, arr: np.ndarray) -> None:
        """
        :param arr: Masks, of which nothing is to be learned
        """


def leave_masks_alone(env: VecEnv) -> None:
    """
    Keep each ``VecNormalize`` around an environment from changing masks, which it would by default where they are Boxes: a
    mask that is always 1 would become 0. The statistics of the masks are replaced and not removed, so that
    ``sync_envs_normalization`` brings them to an environment for evaluation, too.

    :param env: The environment in its wrappers
    """
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize) and env.norm_obs and isinstance(env.obs_rms, dict):
            for key in env.obs_rms.keys() & set(MASKS):
                env.obs_rms[key] = MaskMeanStd(env.epsilon, env.obs_rms[key].mean.shape)
        env = env.venv


class ReturnMeanStd(RunningMeanStd):
    """
    Running statistics of the team's discounted returns, which carry those of the agents' along: where statistics are copied
    from one environment to another, ``ret_rms`` is what Stable-Baselines3 copies.

    :param agents: Statistics of the agents' discounted returns
    """

    def __init__(self, agents: RunningMeanStd):
        super().__init__()
        self.agents = agents


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
    ret_rms: ReturnMeanStd

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
        self.ret_rms = ReturnMeanStd(SharedMeanStd(shape=() if share_statistics else (joint.n_agents,)))
        leave_masks_alone(self)
        self.n_agents = joint.n_agents
        self.agent_returns = np.zeros((self.num_envs, self.n_agents))

    @property
    def agent_ret_rms(self) -> RunningMeanStd:
        """Running statistics of the agents' discounted returns."""
        return self.ret_rms.agents

    def _sanity_checks(self) -> None:
        if self.norm_obs_keys is None and isinstance(self.observation_space, spaces.Dict):
            self.norm_obs_keys = [key for key in ("observation", "state") if key in self.observation_space.spaces]
        super()._sanity_checks()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        # Belongs to the wrapped environment, as the team's running returns
        del state["agent_returns"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "agent_ret_rms" in state:
            # Backward compatibility: the agents' statistics were beside the team's, not in them
            ret_rms = ReturnMeanStd(state.pop("agent_ret_rms"))
            vars(ret_rms).update(vars(state["ret_rms"]))
            state["ret_rms"] = ret_rms
        super().__setstate__(state)

    def set_venv(self, venv: VecEnv) -> None:
        super().set_venv(venv)
        self.agent_returns = np.zeros((self.num_envs, self.n_agents))

    def reset(self) -> np.ndarray | dict[str, np.ndarray]:
        self.agent_returns = np.zeros((self.num_envs, self.n_agents))
        return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = super().step_wait()
        # What ``sync_envs_normalization`` copies from a plain ``VecNormalize`` has no statistics of the agents, whose rewards
        # stay as they are, as there
        has_statistics = isinstance(self.ret_rms, ReturnMeanStd)
        if self.norm_reward and has_statistics and all("agent_rewards" in info for info in infos):
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
