"""Environments that are stepped as one batch, for code that passes one constructor per environment."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from sb3_cora.common.env_util import make_joint_vec_env


def batch_env_constructor(
    env_id: str,
    env_kwargs: dict[str, Any],
    monitor_dir: str | None = None,
    appends: bool = False,
    monitor_kwargs: dict[str, Any] | None = None,
) -> Callable[..., VecEnv]:
    """
    A replacement for ``DummyVecEnv`` where rl_zoo3 and Stable-Baselines3 take a ``VecEnv`` class. It does not call the
    constructors that it is given, but makes one batch of as many environments.

    :param env_id: Id of an environment that can be stepped as one batch.
    :param env_kwargs: Keyword arguments of the environment.
    :param monitor_dir: Folder for the monitor's file, None for no file.
    :param appends: Whether the monitor appends to its file, instead of replacing it.
    :param monitor_kwargs: Keyword arguments of the monitor.
    :return: A function from constructors, one per environment, to the batch.
    """

    def construct(env_fns: Sequence[Callable[[], gym.Env]]) -> VecEnv:
        env = make_joint_vec_env(
            env_id,
            n_envs=len(env_fns),
            monitor_dir=None if appends else monitor_dir,
            monitor_kwargs=monitor_kwargs,
            **env_kwargs,
        )
        if appends and monitor_dir is not None:
            # VecMonitor cannot be told to.
            assert isinstance(env, VecMonitor)
            env.results_writer = ResultsWriter(
                str(Path(monitor_dir) / "0"), extra_keys=env.info_keywords, override_existing=False
            )
        return env

    return construct
