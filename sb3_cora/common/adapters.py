"""
What makes joint environments of the environments of other packages. Those who adapt a package tell it here, so that nothing
in ``common`` has to know one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from gymnasium.envs.registration import load_env_creator


class Adapter(NamedTuple):
    """
    How the environments of another package become joint ones.

    - ``name``: what they are called, for messages, such as ``"a PettingZoo ParallelEnv or AECEnv"``
    - ``entry_point``: ``"package.module:name"`` of what makes of one a joint ``gymnasium.Env``, or a ``VecEnv`` of them
    - ``policy``: full name of the class that acts in the package's own API, made with a model and such an environment
    """

    name: str
    entry_point: str
    policy: str | None = None


_adapters: dict[str, Adapter] = {}


def register_adapter(foreign_class: str, adapter: Adapter) -> None:
    """
    Have the algorithms and ``make_joint_vec_env`` take the environments of another package. Neither that package nor the
    adapter is imported before one is given to them.

    :param foreign_class: The class of these environments where it is defined, ``"package.module:Class"``
    :param adapter: How they become joint ones
    """
    _adapters[foreign_class] = adapter


def registered_adapters() -> list[Adapter]:
    """
    :return: The adapters of all packages
    """
    return list(dict.fromkeys(_adapters.values()))


def adapt(env: Any) -> Any:
    """
    :param env: Anything
    :return: The joint environment, or ``VecEnv`` of them, made of it; where no adapter knows it, ``env`` itself
    """
    for parent in type(env).__mro__:
        adapter = _adapters.get(f"{parent.__module__}:{parent.__qualname__}")
        if adapter is not None:
            make: Callable[..., Any] = load_env_creator(adapter.entry_point)
            return make(env)
    return env
