from sb3_cora.cora_ppo.cora_ppo import CORAPPO
from sb3_cora.cora_ppo.policies import MlpPolicy, MultiInputPolicy

__all__ = ["CORAPPO", "MlpPolicy", "MultiInputPolicy"]
