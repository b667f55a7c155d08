"""Normalization of a team's observations and rewards, with separate statistics for each agent or shared ones."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_cora.common.joint_env import MASKS, JointSpaces


class SharedMeanStd(RunningMeanStd):
    """Running statistics over the last axes of an array. All axes before them count as samples."""

    def update(self, arr: np.ndarray) -> None:
        """
        :param arr: Of shape ``(..., *shape)``.
        """
        super().update(arr.reshape(-1, *self.mean.shape))


class MaskMeanStd(RunningMeanStd):
    """
    Constant statistics with which ``VecNormalize`` leaves a mask as it is.

    :param epsilon: The number that ``VecNormalize`` adds to the variance.
    :param shape: Shape of the mask.
    """

    def __init__(self, epsilon: float, shape: tuple[int, ...]):
        super().__init__(shape=shape)
        self.var -= epsilon

    def update(self, arr: np.ndarray) -> None:
        """
        :param arr: Masks, which have no effect.
        """


def leave_masks_alone(env: VecEnv) -> None:
    """
    Prevent each ``VecNormalize`` around an environment from changing masks. By default it normalizes those that are Boxes, so
    that a mask that is always 1 would become 0. The statistics of the masks are replaced instead of removed, so that
    ``sync_envs_normalization`` copies them to an environment for evaluation as well.

    :param env: The environment with its wrappers.
    """
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize) and env.norm_obs and isinstance(env.obs_rms, dict):
            for key in env.obs_rms.keys() & set(MASKS):
                env.obs_rms[key] = MaskMeanStd(env.epsilon, env.obs_rms[key].mean.shape)
        env = env.venv


class ReturnMeanStd(RunningMeanStd):
    """
    Running statistics of the team's discounted returns. They hold those of the agents' returns as well, because
    Stable-Baselines3 copies only ``ret_rms`` from one environment to another.

    :param agents: Statistics of the agents' discounted returns.
    """

    def __init__(self, agents: RunningMeanStd):
        super().__init__()
        self.agents = agents


class JointVecNormalize(VecNormalize):
    """
    ``VecNormalize`` for joint environments: agents may share the statistics of their observations, their own rewards in
    ``info["agent_rewards"]`` are normalized besides the team's, and masks are left as they are.

    Each agent's rewards are divided by the standard deviation of its own discounted return, or of all agents' returns
    with ``share_statistics``.

    :param venv: The vectorized environment to wrap.
    :param args: Further arguments of ``VecNormalize`` by position.
    :param share_statistics: Whether all agents share one set of statistics, for agents whose observations have the same
        meaning (the zeros of padded observations count as well). The state always has its own statistics.
    :param kwargs: Further arguments of ``VecNormalize``, such as ``norm_obs``, ``norm_reward``, ``clip_obs``, ``gamma``.
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
        # Belongs to the wrapped environment, like the team's running returns.
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
        # After ``sync_envs_normalization`` from a plain ``VecNormalize`` there are no statistics of the agents, whose rewards
        # then stay as they are.
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


@contextlib.contextmanager
def statistics_kept_on_error(env: VecNormalize) -> Iterator[None]:
    """
    Take back what a step has added to the statistics if it is found wrong: a single NaN would make all later ones NaN.

    :param env: The environment whose statistics are updated within.
    """
    observations = getattr(env, "obs_rms", {})
    statistics = [*(observations.values() if isinstance(observations, dict) else [observations]), env.ret_rms]
    if isinstance(env.ret_rms, ReturnMeanStd):
        statistics.append(env.ret_rms.agents)
    # Updates replace the arrays, so they need not be copied.
    before = [dict(vars(each)) for each in statistics]
    returns = {name: value for name, value in vars(env).items() if name in ("returns", "agent_returns")}
    try:
        yield
    except ValueError:
        for each, attributes in zip(statistics, before, strict=True):
            vars(each).update(attributes)
        vars(env).update(returns)
        raise
