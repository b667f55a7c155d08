"""Environments that are stepped as one batch, for code that passes one constructor per environment."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora.common.env_util import make_joint_vec_env


def batch_env_constructor(env_id: str, env_kwargs: dict[str, Any], monitor_dir: str | None = None) -> Callable[..., VecEnv]:
    """
    A replacement for ``DummyVecEnv`` where rl_zoo3 and Stable-Baselines3 take a ``VecEnv`` class. It does not call the
    constructors that it is given, but makes one batch of as many environments.

    :param env_id: Id of an environment that can be stepped as one batch.
    :param env_kwargs: Keyword arguments of the environment.
    :param monitor_dir: Folder for the monitor's file, None for no file.
    :return: A function from constructors, one per environment, to the batch.
    """

    def construct(env_fns: Sequence[Callable[[], gym.Env]]) -> VecEnv:
        return make_joint_vec_env(env_id, n_envs=len(env_fns), monitor_dir=monitor_dir, **env_kwargs)

    return construct
