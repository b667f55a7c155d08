from sb3_cora.coma_ppo.coma_ppo import COMAPPO
from sb3_cora.coma_ppo.policies import MlpPolicy, MultiInputPolicy

__all__ = ["COMAPPO", "MlpPolicy", "MultiInputPolicy"]
