"""The state of vectorized environments, in all their wrappers and processes."""

import pickle
import warnings
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_cora.common.training_state.object_graph import register_state, set_state_of_object, state_of_object
from sb3_cora.common.training_state.random_states import random_states, set_random_states


class ResumableEnv(gym.Wrapper):
    """
    Gives and takes the state of an environment that is in a process of its own, for ``SubprocVecEnv``. It must be the
    outermost wrapper.

    :param env: The environment.
    """

    def training_state(self) -> bytes | pickle.PicklingError:
        """
        :return: The state of the environment with its wrappers, and the random states of its process. If something in there
            cannot be pickled, the error: raised, it would end the process.
        """
        try:
            return pickle.dumps((random_states(), state_of_object(self.env)))
        except pickle.PicklingError as error:
            return error

    def set_training_state(self, state: bytes) -> pickle.UnpicklingError | None:
        """
        :param state: The result of ``training_state``.
        :return: If the state does not fit, the error: raised, it would end the process.
        """
        states, env = pickle.loads(state)
        try:
            set_state_of_object(self.env, env)
        except pickle.UnpicklingError as error:
            return error
        set_random_states(states)
        return None


# What SubprocVecEnv keeps of its environments in its own process.
_OWN_ATTRIBUTES = ("_seeds", "_options", "reset_infos")


def _state_of_processes(env: SubprocVecEnv) -> tuple[dict[str, Any], list[bytes]]:
    if not env.has_attr("training_state"):
        raise pickle.PicklingError(
            "the processes of a SubprocVecEnv give the states of their environments only if each is in a ResumableEnv, which "
            "make_joint_vec_env(..., vec_env_cls=SubprocVecEnv) adds"
        )
    of_processes = env.env_method("training_state")
    for state in of_processes:
        if isinstance(state, pickle.PicklingError):
            raise state
    return {name: getattr(env, name) for name in _OWN_ATTRIBUTES}, of_processes


def _set_state_of_processes(env: SubprocVecEnv, state: tuple[dict[str, Any], list[bytes]]) -> None:
    own, of_processes = state
    vars(env).update(own)
    for index, one in enumerate(of_processes):
        (error,) = env.env_method("set_training_state", one, indices=index)
        if error is not None:
            raise error


register_state(SubprocVecEnv, _state_of_processes, _set_state_of_processes)


def wrappers_of(env: VecEnv) -> list[str]:
    """
    :param env: The environments, with their wrappers.
    :return: Names of the classes of the wrappers, the outermost first, and of the environments.
    """
    names = [type(env).__name__]
    while isinstance(env, VecEnvWrapper):
        env = env.venv
        names.append(type(env).__name__)
    return names


def environment_state(env: VecEnv) -> dict[str, Any]:
    """
    :param env: The environments, with their wrappers.
    :return: Their state. Where it cannot be had, only a warning tells so, and training will be resumed with new episodes.
    """
    state: bytes | None = None
    try:
        state = state_of_object(env)
    except pickle.PicklingError as error:
        warnings.warn(
            f"The state of the environments {' in '.join(wrappers_of(env))} cannot be saved: {error}. The training will be "
            "resumed at an episode boundary, with new episodes, and not exactly. Give the environment methods get_state() and "
            "set_state(state), whose state can be pickled.",
            stacklevel=2,
        )
    return {"wrappers": wrappers_of(env), "num_envs": env.num_envs, "state": state}


def set_environment_state(env: VecEnv, saved: dict[str, Any], name: str) -> bool:
    """
    :param env: Environments that were made and wrapped the same way as those saved.
    :param saved: The result of ``environment_state``.
    :param name: What the environments are, for messages.
    :return: Whether there was a state that fits. Without it new episodes have to begin.
    :raises ValueError: If there are more or fewer environments than those saved, or in other wrappers.
    """
    found = {"wrappers": wrappers_of(env), "num_envs": env.num_envs}
    for key, value in found.items():
        if value != saved[key]:
            raise ValueError(
                f"The {name} has {key}={value}, and that of the saved training {saved[key]}: make and wrap it as there, then "
                "resume."
            )
    if saved["state"] is None:
        warnings.warn(
            f"The state of the {name} was not saved, so the training is resumed at an episode boundary: with new episodes, "
            "and not exactly.",
            stacklevel=2,
        )
        return False
    try:
        set_state_of_object(env, saved["state"])
    except pickle.UnpicklingError as error:
        warnings.warn(
            f"The state of the {name} does not fit ({error}), so the training is resumed at an episode boundary: with new "
            "episodes, and not exactly.",
            stacklevel=2,
        )
        return False
    return True
