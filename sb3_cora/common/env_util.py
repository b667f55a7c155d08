"""From whatever a user calls an environment to a ``VecEnv`` of joint environments."""

import importlib
import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor

from sb3_cora.common.joint_env import JointSpaces
from sb3_cora.common.vec_frame_stack import check_frame_stacks
from sb3_cora.common.vec_normalize import leave_masks_alone

# Class of another package -> the adapter that makes a joint environment, or a VecEnv of them, from an instance of it.
ADAPTERS = {
    "vmas.simulator.environment.environment:Environment": "sb3_cora.envs.vmas:VmasVecEnv",
    "pettingzoo.utils.env:ParallelEnv": "sb3_cora.envs.pettingzoo:PettingZooEnv",
    "pettingzoo.utils.env:AECEnv": "sb3_cora.envs.pettingzoo:PettingZooEnv",
}

# Worlds made of an id where nobody has said how many and the suite steps them as one batch: as many as in the paper.
# Sixteen cost VMAS hardly more than one.
DEFAULT_BATCH = 16


def make_joint_vec_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    monitor_dir: str | None = None,
    vec_env_cls: type[DummyVecEnv | SubprocVecEnv] | None = None,
    **env_kwargs: Any,
) -> VecEnv:
    """
    Make a monitored ``VecEnv`` of joint environments from a registered id.

    A suite that steps its environments as one batch (VMAS) is used so, under a ``VecMonitor``; the others are made
    one by one, each under a ``Monitor``, as SB3's ``make_vec_env`` does.

    :param env_id: an id of the Gymnasium registry, such as ``"give_way"`` or ``"vmas/balance"``
    :param n_envs: number of environments (worlds)
    :param seed: seed of the first reset
    :param monitor_dir: folder of the monitor files, which are written only if it is given
    :param vec_env_cls: SB3's class to make them one by one in, ``DummyVecEnv`` or ``SubprocVecEnv``, batch or not
    :param env_kwargs: arguments of the environment; they go before those of the registry
    :return: the environments, under a monitor
    :raises ValueError: if the id is unknown, or its environment is no joint environment
    """
    spec = _find_spec(env_id)
    batch_class = _batch_class(spec)
    if batch_class is not None:
        # As in make_vec_env: pictures are there for whoever asks, without asking for them beforehand.
        env_kwargs = {"render_mode": "rgb_array", **env_kwargs}
    if batch_class is not None and vec_env_cls is None:
        batch = batch_class(num_envs=n_envs, seed=seed, **{**spec.kwargs, **env_kwargs})
        batch.spec = spec
        if monitor_dir is not None:
            Path(monitor_dir).mkdir(parents=True, exist_ok=True)
        vec_env: VecEnv = VecMonitor(batch, filename=None if monitor_dir is None else str(Path(monitor_dir) / "0"))
    else:
        # The spec and not the id, which the processes of a SubprocVecEnv do not know: they have not imported sb3_cora.
        vec_env = make_vec_env(
            partial(gym.make, spec),
            n_envs=n_envs,
            seed=seed,
            monitor_dir=monitor_dir,
            vec_env_cls=vec_env_cls,
            env_kwargs=env_kwargs,
        )
    JointSpaces.from_spaces(vec_env.observation_space, vec_env.action_space)
    return vec_env


def as_joint_vec_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True, n_envs: int | None = None) -> VecEnv:
    """
    Wrap what a user gives as ``env`` into a ``VecEnv`` of joint environments.

    :param env: a registered id, a joint ``gymnasium.Env``, a ``VecEnv`` of them, a ``vmas`` ``Environment``, or a
        PettingZoo ``ParallelEnv`` or ``AECEnv``
    :param verbose: 1 to tell which wrappers are used
    :param monitor_wrapper: whether to wrap into a ``Monitor`` (``VecMonitor`` for a batch) what is wrapped here
    :param n_envs: number of environments to make of a registered id; the others come as they are. If ``None``, 16 where
        the suite steps its environments as one batch, else 1
    :return: the ``VecEnv``, which is ``env`` itself if it was one
    :raises TypeError: if ``env`` is none of these
    :raises ValueError: if ``env`` is an environment and no joint one, or its id is unknown
    """
    if isinstance(env, str):
        if n_envs is None:
            n_envs = DEFAULT_BATCH if is_batched(env) else 1
        return make_joint_vec_env(env, n_envs=n_envs)
    adapted = _adapt(env)
    if not isinstance(adapted, VecEnv | gym.Env):
        raise TypeError(
            f"env is {env!r} of type {type(env).__module__}.{type(env).__qualname__}. Give a joint gymnasium.Env, a VecEnv "
            "of them, a vmas Environment, a PettingZoo ParallelEnv or AECEnv, or a registered id: "
            f"{_brief_list(registered_ids())}."
        )
    if isinstance(adapted, VecEnv):
        check_frame_stacks(adapted)
        leave_masks_alone(adapted)
    JointSpaces.from_spaces(adapted.observation_space, adapted.action_space)
    if isinstance(adapted, VecEnv) and adapted is not env and monitor_wrapper:
        if verbose >= 1:
            print("Wrapping the env with a `VecMonitor` wrapper")
        adapted = VecMonitor(adapted)
    return BaseAlgorithm._wrap_env(adapted, verbose, monitor_wrapper)


def registered_ids() -> list[str]:
    """
    :return: the ids of sb3_cora's own environments in the Gymnasium registry, sorted
    """
    # By name, because `envs` is built on `common` and not the other way round. Importing it registers the ids.
    importlib.import_module("sb3_cora.envs")
    return sorted(env_id for env_id, spec in gym.registry.items() if str(spec.entry_point).startswith("sb3_cora."))


def is_batched(env_id: str) -> bool:
    """
    Whether a suite steps all worlds of an environment at once.

    :param env_id: an id of the Gymnasium registry
    :return: True if the environment comes with a ``VecEnv`` of its own
    :raises ValueError: if the id is unknown
    """
    return _batch_class(_find_spec(env_id)) is not None


def load_entry_point(entry_point: str) -> Any:
    """
    :param entry_point: ``"package.module:name"``
    :return: the object of that name
    """
    module, name = entry_point.split(":")
    return getattr(importlib.import_module(module), name)


def _find_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    ids = registered_ids()
    if env_id in gym.registry:
        return gym.registry[env_id]
    close = get_close_matches(env_id, sorted({*ids, *gym.registry}))
    raise ValueError(
        f"There is no environment {env_id!r}. "
        + (f"Did you mean {' or '.join(map(repr, close))}? " if close else "")
        + f"Registered joint environments: {_brief_list(ids)}."
    )


def _batch_class(spec: gym.envs.registration.EnvSpec) -> Callable[..., Any] | None:
    """The suite's own ``VecEnv``; ``None`` where it has no vector environment, or one that is none of SB3's."""
    if not isinstance(spec.vector_entry_point, str):
        return None
    batch_class = load_entry_point(spec.vector_entry_point)
    return batch_class if isinstance(batch_class, type) and issubclass(batch_class, VecEnv) else None


def _brief_list(ids: list[str]) -> str:
    """The ids, those with a namespace (``"vmas/..."``, some forty) as one entry each namespace."""
    namespaces = sorted({env_id.split("/")[0] for env_id in ids if "/" in env_id})
    return ", ".join([env_id for env_id in ids if "/" not in env_id] + [f"{namespace}/..." for namespace in namespaces])


def _adapt(env: Any) -> Any:
    """The joint environment of another package's object, or the object itself where no adapter knows it."""
    for foreign_class, adapter in ADAPTERS.items():
        module, name = foreign_class.split(":")
        # Where the module has not been imported, nobody has made an instance: no need to import it to know.
        if module in sys.modules and isinstance(env, getattr(sys.modules[module], name)):
            return load_entry_point(adapter)(env)
    return env
