"""
The algorithms of this project, by their names on the command line.

Importing this module makes them known to rl_zoo3, which keeps its algorithms in one dictionary that all of its modules share.
"""

from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_cora import CORAPPO, MAPPO

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "cora_ppo": CORAPPO,
    "mappo": MAPPO,
}

ALGOS.update(ALGORITHMS)
