"""What callbacks have counted and found so far."""

import pickle
import random
import warnings
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora.common.training_state.environments import environment_state, set_environment_state

# What callbacks have from the training they are in, and how much they print.
NOT_OWN = ("model", "parent", "locals", "globals", "verbose")
# Callbacks without a state, which come and go with the flags of a call.
STATELESS = (CallbackList, ConvertCallback, ProgressBarCallback)
NUMBERS = (bool, int, float, complex, np.bool_, np.number, type(None))
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, th.Generator)


class CallbackState(NamedTuple):
    """
    The state of one callback.

    :param name: Full name of its class.
    :param attributes: Its attributes that are data, by name. Strings are not among them: they are paths, formats and names,
        which belong to where a training runs and not to how far it is.
    :param environments: The states of the environments that it holds, by name.
    :param own: The result of its ``get_state()``, in place of both, if it has this method and ``set_state(state)``.
    """

    name: str
    attributes: dict[str, Any]
    environments: dict[str, dict[str, Any]]
    own: Any = None


def callbacks_in(root: BaseCallback) -> Iterator[BaseCallback]:
    """
    :param root: A callback.
    :return: It and the callbacks that it refers to, to any depth, each once.
    """
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        callback = waiting.pop()
        if id(callback) in seen:
            continue
        seen.add(id(callback))
        yield callback
        own = (value for name, value in vars(callback).items() if name not in NOT_OWN)
        parts = [part for value in own for part in (value if isinstance(value, list | tuple) else (value,))]
        # The first one on top.
        waiting += [part for part in reversed(parts) if isinstance(part, BaseCallback)]


def callback_states(root: BaseCallback) -> list[CallbackState]:
    """
    :param root: The callback of a training.
    :return: The states of the callbacks in it. The objects in them are those of the callbacks.
    """
    return [_state(callback) for callback in _with_state(root)]


def set_callback_states(root: BaseCallback, states: list[CallbackState]) -> None:
    """
    Give callbacks the states of those of the same classes, in the same order.

    :param root: The callback of the resumed training.
    :param states: The result of ``callback_states``.
    """
    waiting: defaultdict[str, deque[CallbackState]] = defaultdict(deque)
    for state in states:
        waiting[state.name].append(state)
    added = []
    for callback in _with_state(root):
        name = _name(callback)
        if waiting[name]:
            _set_state(callback, waiting[name].popleft())
        else:
            added.append(name)
    missing = [state.name for left in waiting.values() for state in left]
    if added or missing:
        warnings.warn(
            "The training is resumed with other callbacks than it had: "
            + "; ".join([f"new is {name}" for name in added] + [f"missing is {name}" for name in missing])
            + ". Give learn() the same ones, unless this is meant.",
            stacklevel=2,
        )


def _with_state(root: BaseCallback) -> Iterator[BaseCallback]:
    return (callback for callback in callbacks_in(root) if not isinstance(callback, STATELESS))


def _name(callback: BaseCallback) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"


def _has_methods(callback: BaseCallback) -> bool:
    return callable(getattr(callback, "get_state", None)) and callable(getattr(callback, "set_state", None))


def _state(callback: BaseCallback) -> CallbackState:
    if _has_methods(callback):
        return CallbackState(_name(callback), {}, {}, callback.get_state())  # type: ignore[attr-defined]
    own = {name: value for name, value in vars(callback).items() if name not in NOT_OWN}
    data = {name: value for name, value in own.items() if not isinstance(value, str) and _is_data(value)}
    lost = [name for name, value in data.items() if not _is_picklable(value)]
    if lost:
        warnings.warn(
            f"{', '.join(lost)} of {type(callback).__name__} cannot be pickled and is not saved with the training: give the "
            "callback methods get_state() and set_state(state).",
            stacklevel=2,
        )
    return CallbackState(
        _name(callback),
        {name: value for name, value in data.items() if name not in lost},
        {name: environment_state(value) for name, value in own.items() if _is_own_environment(value, callback)},
    )


def _set_state(callback: BaseCallback, state: CallbackState) -> None:
    if _has_methods(callback):
        callback.set_state(state.own)  # type: ignore[attr-defined]
        return
    # A string, such as a path, that this one was given is not replaced by the None of one without.
    given = {name for name, value in vars(callback).items() if isinstance(value, str)}
    vars(callback).update({name: value for name, value in state.attributes.items() if name not in given})
    for name, saved in state.environments.items():
        set_environment_state(getattr(callback, name), saved, f"environment {name} of {type(callback).__name__}")


def _is_own_environment(value: Any, callback: BaseCallback) -> bool:
    return isinstance(value, VecEnv) and value is not callback.model.get_env()


def _is_data(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_data, value)) and all(map(_is_data, value.values()))
    if isinstance(value, list | tuple | set | frozenset | deque):
        return all(map(_is_data, value))
    if isinstance(value, np.ndarray):
        return value.dtype != object
    # Parameters are those of the model.
    return isinstance(value, (*NUMBERS, *GENERATORS, str, bytes, th.Tensor)) and not isinstance(value, th.nn.Parameter)


def _is_picklable(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True
