"""What ``--algo`` may name: rl_zoo3 keeps algorithms, and what searches sample, in dictionaries that its modules share."""

import argparse
import importlib
from functools import partial
from types import ModuleType

from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS

import sb3_cora
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.zoo.hyperparams_opt import convert_params, sample_params


def algorithms_of(package: ModuleType) -> dict[str, type[CooperativeOnPolicyAlgorithm]]:
    """
    :param package: A package or module
    :return: The algorithms that it exports and that are its own, by the names of their modules: ``CORAPPO`` of
        ``sb3_cora/cora_ppo/cora_ppo.py`` is ``cora_ppo``
    """
    root = package.__name__.partition(".")[0]
    return {
        export.__module__.rpartition(".")[2]: export
        for export in vars(package).values()
        if isinstance(export, type)
        and issubclass(export, CooperativeOnPolicyAlgorithm)
        and export.__module__.partition(".")[0] == root
    }


def register_algorithms() -> None:
    """
    Make the algorithms of this package, and of those that ``--gym-packages`` names on the command line, known to rl_zoo3.

    :raises ValueError: if two algorithms have the same name
    """
    # Ahead of the command line's other flags, because what --algo may name depends on it
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gym-packages", nargs="+", default=[])
    args, _ = parser.parse_known_args()
    for package in (sb3_cora, *map(importlib.import_module, args.gym_packages)):
        for name, algorithm in algorithms_of(package).items():
            if ALGOS.setdefault(name, algorithm) is not algorithm:
                raise ValueError(
                    f"{algorithm} would be --algo {name}, after its module, and so is {ALGOS[name]}: rename the module."
                )
            HYPERPARAMS_SAMPLER[name] = partial(sample_params, algorithm)
            HYPERPARAMS_CONVERTER[name] = partial(convert_params, algorithm)
