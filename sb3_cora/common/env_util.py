"""Make a ``VecEnv`` of joint environments from anything that the algorithms accept as ``env``."""

import importlib
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor

from sb3_cora.common.adapters import adapt, registered_adapters
from sb3_cora.common.counts import check_count
from sb3_cora.common.joint_env import JointSpaces
from sb3_cora.common.training_state.environments import ResumableEnv
from sb3_cora.common.vec_frame_stack import check_frame_stacks
from sb3_cora.common.vec_normalize import leave_masks_alone

# Default number of environments made from an id if they are stepped as one batch, as in the paper. Sixteen cost hardly more
# than one.
DEFAULT_BATCH = 16


def make_joint_vec_env(
    env_id: Any,
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | None = None,
    wrapper_class: Callable[[gym.Env], gym.Env] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    vec_env_cls: type[DummyVecEnv | SubprocVecEnv] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
    **more_env_kwargs: Any,
) -> VecEnv:
    """
    Make a monitored ``VecEnv`` of joint environments, from what the algorithms accept as ``env`` or from a class or function
    that makes it.

    It has the arguments and the behavior of SB3's ``make_vec_env``, with three differences. Environments that can be stepped
    as one batch (VMAS, the games of sb3_cora) are, in a ``VecMonitor``; all others are made one by one, each in a
    ``Monitor``, and give pictures only if they are asked to, by ``render_mode="rgb_array"``. And arguments of the environment
    may also be given by name, ``make_joint_vec_env("navigation", n_agents=3)``.

    Functions of SB3 such as ``evaluate_policy`` and ``EvalCallback`` do not accept environments of PettingZoo and VMAS. Give
    them ``make_joint_vec_env(env)`` instead.

    :param env_id: An id of the Gymnasium registry, such as ``"give_way"``, or ``"module:id"`` with the module that registers
        it; a class or function that makes a joint environment, a PettingZoo environment or a VMAS ``Environment`` when called
        with ``env_kwargs``; or such an environment itself, to which only the argument ``seed`` applies.
    :param n_envs: Number of environments. Leave it out for a VMAS ``Environment``, whose number of worlds is fixed.
    :param seed: Seed of the first reset.
    :param start_index: Index of the first environment, for the names of monitor files and the seeds of the action spaces.
    :param monitor_dir: Folder of the monitor files. If None, no files are written.
    :param wrapper_class: A wrapper class or function, applied to each environment that is made one by one.
    :param env_kwargs: Arguments of the environment. They override those of the registry.
    :param vec_env_cls: Class, ``DummyVecEnv`` or ``SubprocVecEnv``, in which environments are made one by one even if they
        could be stepped as one batch.
    :param vec_env_kwargs: Arguments of ``vec_env_cls``.
    :param monitor_kwargs: Arguments of the monitor. That of a batch has ``info_keywords`` only.
    :param wrapper_kwargs: Arguments of ``wrapper_class``.
    :param more_env_kwargs: Further arguments of the environment.
    :return: The monitored environments.
    :raises TypeError: If ``env_id`` is none of these, or an argument of the environment is given twice.
    :raises ValueError: If the id is unknown, its environment is not a joint environment, or an argument does not apply.
    """
    check_count("n_envs", n_envs)
    env_kwargs = _merge_env_kwargs(env_kwargs or {}, more_env_kwargs)
    one_by_one: dict[str, Any] = dict(
        start_index=start_index,
        monitor_dir=monitor_dir,
        wrapper_class=wrapper_class,
        vec_env_cls=vec_env_cls,
        vec_env_kwargs=vec_env_kwargs,
        monitor_kwargs=monitor_kwargs,
        wrapper_kwargs=wrapper_kwargs,
    )
    batch: VecEnv | None = None
    if isinstance(env_id, str):
        spec = _find_spec(env_id)
        batch_class = _batch_class(spec)
        # The spec instead of the id, because the processes of a SubprocVecEnv have not imported sb3_cora, which registers it.
        make: Callable[..., gym.Env] = partial(gym.make, spec)
        if batch_class is not None:
            # As in make_vec_env, so that environments can be rendered without asking for it beforehand.
            env_kwargs = {"render_mode": "rgb_array", **env_kwargs}
            if vec_env_cls is None:
                _check_batch_kwargs(env_kwargs)
                batch = made = batch_class(num_envs=n_envs, seed=seed, **{**spec.kwargs, **env_kwargs})
                made.spec = spec
    elif callable(env_id):
        make = partial(_make_one, env_id)
        if vec_env_cls is None:
            # Only a made environment shows whether it is a batch. With SubprocVecEnv, environments are made in its processes.
            first = _as_joint(env_id(**env_kwargs))
            if isinstance(first, VecEnv):
                batch = first
            else:
                make = _with_first(first, make)
    else:
        return _wrap_made(env_id, n_envs, seed, env_kwargs=env_kwargs, **one_by_one)

    if isinstance(vec_env_cls, type) and issubclass(vec_env_cls, SubprocVecEnv):
        one_by_one |= dict(wrapper_class=partial(resumable, wrapper_class, wrapper_kwargs or {}), wrapper_kwargs=None)
    if batch is not None:
        _check_batch_arguments(env_id, batch, n_envs, wrapper_class, vec_env_kwargs, monitor_kwargs)
        filename = None
        if monitor_dir is not None:
            Path(monitor_dir).mkdir(parents=True, exist_ok=True)
            filename = str(Path(monitor_dir) / str(start_index))
        vec_env: VecEnv = VecMonitor(batch, filename=filename, **(monitor_kwargs or {}))
        if seed is not None:
            vec_env.action_space.seed(seed + start_index)
            vec_env.seed(seed)
    else:
        vec_env = make_vec_env(make, n_envs, seed, env_kwargs=env_kwargs, **one_by_one)
    JointSpaces.from_spaces(vec_env.observation_space, vec_env.action_space)
    return vec_env


def as_joint_vec_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True, n_envs: int | None = None) -> VecEnv:
    """
    Wrap anything that the algorithms accept as ``env`` into a ``VecEnv`` of joint environments.

    :param env: A registered id, a joint ``gymnasium.Env``, a ``VecEnv`` of them, a ``vmas`` ``Environment``, or a
        PettingZoo ``ParallelEnv`` or ``AECEnv``.
    :param verbose: Verbosity level: 1 to print which wrappers are used.
    :param monitor_wrapper: Whether to add a ``Monitor`` (a ``VecMonitor`` for a batch). A ``VecEnv`` does not get one.
    :param n_envs: Number of environments to make from a registered id, by default 16 if they are stepped as one batch,
        otherwise 1. Has no effect on environments that are already made.
    :return: The ``VecEnv``, which is ``env`` itself if it is one.
    :raises TypeError: If ``env`` is none of these.
    :raises ValueError: If ``env`` is not a joint environment, or its id is unknown.
    """
    if isinstance(env, str):
        if n_envs is None:
            n_envs = DEFAULT_BATCH if is_batched(env) else 1
        return make_joint_vec_env(env, n_envs=n_envs)
    adapted = _as_joint(env)
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
    :return: The ids of sb3_cora's own environments in the Gymnasium registry, sorted.
    """
    return sorted(env_id for env_id, spec in gym.registry.items() if str(spec.entry_point).startswith("sb3_cora."))


def is_batched(env_id: str) -> bool:
    """
    Whether environments of an id are stepped as one batch.

    :param env_id: An id of the Gymnasium registry.
    :return: True if the environment comes with a ``VecEnv`` of its own.
    :raises ValueError: If the id is unknown.
    """
    return _batch_class(_find_spec(env_id)) is not None


def _find_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"The module {module!r} of the id {env_id!r} cannot be imported: {error}. Give the module whose import "
                'registers the environment, as in "package:env_id".'
            ) from error
    ids = registered_ids()
    if name in gym.registry:
        return gym.registry[name]
    close = get_close_matches(name, sorted({*ids, *gym.registry}))
    raise ValueError(
        f"There is no environment {name!r}. "
        + (f"Did you mean {' or '.join(map(repr, close))}? " if close else "")
        + f"Registered joint environments: {_brief_list(ids)}."
    )


def _batch_class(spec: gym.envs.registration.EnvSpec) -> Callable[..., Any] | None:
    """The ``VecEnv`` of the suite, ``None`` if it has no vector environment or not one of SB3's kind."""
    if not isinstance(spec.vector_entry_point, str):
        return None
    batch_class = load_env_creator(spec.vector_entry_point)
    return batch_class if isinstance(batch_class, type) and issubclass(batch_class, VecEnv) else None


def _brief_list(ids: list[str]) -> str:
    """The ids for a message, with one entry (``"vmas/..."``) for all ids of a namespace."""
    namespaces = sorted({env_id.split("/")[0] for env_id in ids if "/" in env_id})
    return ", ".join([env_id for env_id in ids if "/" not in env_id] + [f"{namespace}/..." for namespace in namespaces])


def _as_joint(env: Any) -> gym.Env | VecEnv:
    """
    :param env: An environment of Gymnasium, SB3 or a suite.
    :return: The joint environment, or ``VecEnv`` of them, made from it; ``env`` itself if it is one already.
    :raises TypeError: If it is not an environment.
    """
    adapted = adapt(env)
    if isinstance(adapted, VecEnv | gym.Env):
        return adapted
    raise TypeError(
        f"env is {env!r} of type {type(env).__module__}.{type(env).__qualname__}. Give a joint gymnasium.Env, a VecEnv "
        f"of them, {', '.join(adapter.name for adapter in registered_adapters())}, or a registered id: "
        f"{_brief_list(registered_ids())}. For a class or function that makes such an environment, give "
        "sb3_cora.make_joint_vec_env(class_or_function, n_envs=...)."
    )


def _make_one(make: Callable[..., Any], **env_kwargs: Any) -> gym.Env:
    """
    :param make: A class or function that makes an environment.
    :param env_kwargs: Its arguments.
    :return: The joint environment made from what it returns.
    :raises ValueError: If it makes a batch, even of a single environment.
    """
    env = _as_joint(make(**env_kwargs))
    if isinstance(env, VecEnv):
        raise ValueError(
            f"{make!r} makes a batch of {env.num_envs} environments, which vec_env_cls cannot hold one by one. Leave "
            "vec_env_cls out, so that they are stepped as one batch."
        )
    return env


def resumable(wrapper_class: Callable[..., gym.Env] | None, wrapper_kwargs: dict[str, Any], env: gym.Env) -> gym.Env:
    """
    :param wrapper_class: The wrapper that the user asked for, if any.
    :param wrapper_kwargs: Its arguments.
    :param env: An environment in a process of its own.
    :return: The environment in this wrapper, able to give its state to the training's process.
    """
    return ResumableEnv(env if wrapper_class is None else wrapper_class(env, **wrapper_kwargs))


def _with_first(first: gym.Env, make: Callable[..., gym.Env]) -> Callable[..., gym.Env]:
    """A function that returns ``first`` on the first call and makes environments afterwards."""
    waiting = [first]
    return lambda **env_kwargs: waiting.pop() if waiting else make(**env_kwargs)


def _merge_env_kwargs(env_kwargs: dict[str, Any], more_env_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    :raises TypeError: If an argument is in both.
    """
    twice = sorted(set(env_kwargs) & set(more_env_kwargs))
    if twice:
        raise TypeError(
            f"The arguments {twice} of the environment are given twice: {[env_kwargs[name] for name in twice]} in env_kwargs "
            f"and {[more_env_kwargs[name] for name in twice]} by name. Give each once."
        )
    return {**env_kwargs, **more_env_kwargs}


def _check_batch_kwargs(env_kwargs: dict[str, Any]) -> None:
    """
    :raises TypeError: If an argument of the environment is one that ``make_joint_vec_env`` gives to a batch.
    """
    for name, argument in (("num_envs", "n_envs"), ("seed", "seed")):
        if name in env_kwargs:
            raise TypeError(
                f"{name}={env_kwargs[name]!r} is no argument of the environment but of the batch: give it as {argument}= of "
                "make_joint_vec_env."
            )


def _check_batch_arguments(
    env_id: Any,
    batch: VecEnv,
    n_envs: int,
    wrapper_class: Callable[[gym.Env], gym.Env] | None,
    vec_env_kwargs: dict[str, Any] | None,
    monitor_kwargs: dict[str, Any] | None,
) -> None:
    """
    :raises ValueError: If an argument does not apply to environments that are stepped as one batch.
    """
    if n_envs not in (1, batch.num_envs):
        raise ValueError(
            f"{env_id!r} makes a batch of {batch.num_envs} environments, but n_envs={n_envs}. Have it make as many as you "
            "want, and leave n_envs out."
        )
    single = [name for name, given in (("wrapper_class", wrapper_class), ("vec_env_kwargs", vec_env_kwargs)) if given]
    single += [f"monitor_kwargs[{name!r}]" for name in monitor_kwargs or {} if name != "info_keywords"]
    if single:
        raise ValueError(
            f"{', '.join(single)}: this is for single environments, but {env_id!r} steps all of its own as one batch. "
            + ("Pass vec_env_cls=DummyVecEnv to make them one by one, or wrap" if isinstance(env_id, str) else "Wrap")
            + " the VecEnv that is returned without it."
        )


def _wrap_made(env: Any, n_envs: int, seed: int | None, **settled: Any) -> VecEnv:
    """
    :param env: An environment that is already made.
    :param n_envs: The number of environments that it has, or 1.
    :param seed: Seed of the next reset.
    :param settled: Arguments that only apply to environments that are yet to be made.
    :return: The environment as a ``VecEnv``.
    :raises ValueError: If one of these arguments is given.
    """
    vec_env = as_joint_vec_env(env)
    said = [f"{name}={value!r}" for name, value in settled.items() if value]
    if n_envs not in (1, vec_env.num_envs):
        said.append(f"n_envs={n_envs}")
    if said:
        raise ValueError(
            f"{', '.join(said)}: this is for environments that make_joint_vec_env makes, but {env!r} is already made, with "
            f"{vec_env.num_envs} environment(s). Give a function that makes it instead: make_joint_vec_env(lambda: ..., "
            f"{said[0].partition('=')[0]}=...)."
        )
    if seed is not None:
        vec_env.action_space.seed(seed)
        vec_env.seed(seed)
    return vec_env
