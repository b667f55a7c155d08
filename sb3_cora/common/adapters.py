"""
A registry of adapters, which make joint environments from the environments of other packages. Adapters register themselves,
so that ``common`` does not depend on any of these packages.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from gymnasium.envs.registration import load_env_creator


class Adapter(NamedTuple):
    """
    How the environments of another package become joint ones.

    :param name: What they are called in messages, such as ``"a PettingZoo ParallelEnv or AECEnv"``.
    :param entry_point: The class or function that makes a joint ``gymnasium.Env``, or a ``VecEnv`` of them, from one of these
        environments, ``"package.module:name"``.
    :param policy: Full name of the class that acts in the package's own API. It is made with a model and such an environment.
    """

    name: str
    entry_point: str
    policy: str | None = None


_adapters: dict[str, Adapter] = {}


def register_adapter(foreign_class: str, adapter: Adapter) -> None:
    """
    Make the algorithms and ``make_joint_vec_env`` accept the environments of another package. Neither that package nor the
    adapter is imported before such an environment is given.

    :param foreign_class: The class of these environments, named by the module that defines it, ``"package.module:Class"``.
    :param adapter: The adapter.
    """
    _adapters[foreign_class] = adapter


def registered_adapters() -> list[Adapter]:
    """
    :return: The adapters of all packages.
    """
    return list(dict.fromkeys(_adapters.values()))


def adapt(env: Any) -> Any:
    """
    :param env: An environment, or anything else.
    :return: The joint environment, or ``VecEnv`` of them, made from it; ``env`` itself if it has no adapter.
    """
    for parent in type(env).__mro__:
        adapter = _adapters.get(f"{parent.__module__}:{parent.__qualname__}")
        if adapter is not None:
            make: Callable[..., Any] = load_env_creator(adapter.entry_point)
            return make(env)
    return env
