"""Environments that step all their worlds at once, for code that expects to be given one constructor per world."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora.common.env_util import make_joint_vec_env


def batch_env_constructor(env_id: str, env_kwargs: dict[str, Any], monitor_dir: str | None = None) -> Callable[..., VecEnv]:
    """
    A stand-in for ``DummyVecEnv`` where rl_zoo3 and Stable-Baselines3 take a ``VecEnv`` class: it counts the constructors
    it is handed and builds one batch of as many worlds instead of calling them.

    :param env_id: id of an environment that has a batch of its own
    :param env_kwargs: keyword arguments of the environment
    :param monitor_dir: folder for the monitor's file, None for no file
    :return: a function from constructors, one per world, to the batch
    """

    def construct(env_fns: Sequence[Callable[[], gym.Env]]) -> VecEnv:
        return make_joint_vec_env(env_id, n_envs=len(env_fns), monitor_dir=monitor_dir, **env_kwargs)

    return construct
