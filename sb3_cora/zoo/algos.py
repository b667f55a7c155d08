"""Registers algorithms for ``--algo``: rl_zoo3 keeps them, and their search spaces, in dictionaries shared by its modules."""

import importlib
from collections.abc import Sequence
from functools import partial
from types import ModuleType

from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS

import sb3_cora
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.zoo.hyperparams_opt import sample_params
from sb3_cora.zoo.mistakes import OneLineParser


def algorithms_of(package: ModuleType) -> dict[str, type[CooperativeOnPolicyAlgorithm]]:
    """
    :param package: A package or module.
    :return: The algorithms that it defines and exports, by the names of their modules: ``CORAPPO`` of
        ``sb3_cora/cora_ppo/cora_ppo.py`` is ``cora_ppo``.
    """
    root = package.__name__.partition(".")[0]
    return {
        export.__module__.rpartition(".")[2]: export
        for export in vars(package).values()
        if isinstance(export, type)
        and issubclass(export, CooperativeOnPolicyAlgorithm)
        and export.__module__.partition(".")[0] == root
    }


def import_packages(names: Sequence[str]) -> list[ModuleType]:
    """
    :param names: What ``--gym-packages`` names.
    :return: The modules.
    :raises ValueError: If there is no such module. An error in it remains what it is.
    """
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise ValueError(
                f"--gym-packages {name}: there is no module {error.name}. Install it, or start the command as "
                "`python -m sb3_cora.zoo.<command>` in its folder."
            ) from error
    return modules


def register_algorithms(packages: Sequence[str] | None = None) -> None:
    """
    Register the algorithms of this package and of others with rl_zoo3. Importing the others also registers their environments.

    :param packages: Names of the others; None for those that ``--gym-packages`` names on the command line.
    :raises ValueError: If two algorithms have the same name, or if there is no such package.
    """
    if packages is None:
        # Parsed before all other flags, because the choices of --algo depend on it.
        parser = OneLineParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--gym-packages", nargs="+", default=[])
        packages = parser.parse_known_args()[0].gym_packages
    for package in (sb3_cora, *import_packages(packages)):
        for name, algorithm in algorithms_of(package).items():
            if ALGOS.setdefault(name, algorithm) is not algorithm:
                raise ValueError(
                    f"{algorithm} would be --algo {name}, after its module, and so is {ALGOS[name]}: rename the module."
                )
            HYPERPARAMS_SAMPLER[name] = partial(sample_params, algorithm)
