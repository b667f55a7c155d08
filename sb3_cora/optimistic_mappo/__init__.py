from sb3_cora.optimistic_mappo.optimistic_mappo import OptimisticMAPPO
from sb3_cora.optimistic_mappo.policies import MlpPolicy, MultiInputPolicy

__all__ = ["MlpPolicy", "MultiInputPolicy", "OptimisticMAPPO"]
