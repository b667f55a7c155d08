"""Cooperative multi-agent reinforcement learning for Stable-Baselines3."""

# Registers the environments with Gymnasium
import sb3_cora.envs  # noqa: F401
from sb3_cora.coma_ppo import COMAPPO
from sb3_cora.common.env_checker import check_joint_env
from sb3_cora.common.env_util import make_joint_vec_env
from sb3_cora.cora_ppo import CORAPPO
from sb3_cora.happo import HAPPO
from sb3_cora.ippo import IPPO
from sb3_cora.mappo import MAPPO
from sb3_cora.optimistic_mappo import OptimisticMAPPO
from sb3_cora.shapley_ppo import ShapleyPPO
from sb3_cora.version import __version__

__all__ = [
    "COMAPPO",
    "CORAPPO",
    "HAPPO",
    "IPPO",
    "MAPPO",
    "OptimisticMAPPO",
    "ShapleyPPO",
    "__version__",
    "check_joint_env",
    "make_joint_vec_env",
]
