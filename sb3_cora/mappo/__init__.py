from sb3_cora.mappo.mappo import MAPPO
from sb3_cora.mappo.policies import MlpPolicy, MultiInputPolicy

__all__ = ["MAPPO", "MlpPolicy", "MultiInputPolicy"]
