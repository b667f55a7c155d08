"""
The algorithms of this project, by their names on the command line.

Importing this module makes them known to rl_zoo3, which keeps its algorithms in one dictionary that all of its modules share.
"""

from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_cora import COMAPPO, CORAPPO, HAPPO, IPPO, MAPPO, OptimisticMAPPO, ShapleyPPO

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "coma_ppo": COMAPPO,
    "cora_ppo": CORAPPO,
    "happo": HAPPO,
    "ippo": IPPO,
    "mappo": MAPPO,
    "optimistic_mappo": OptimisticMAPPO,
    "shapley_ppo": ShapleyPPO,
}

ALGOS.update(ALGORITHMS)
