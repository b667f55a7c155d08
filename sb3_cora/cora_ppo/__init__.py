from sb3_cora.cora_ppo.cora_ppo import CORAPPO
from sb3_cora.cora_ppo.explanation import Explanation, explain
from sb3_cora.cora_ppo.policies import MlpPolicy, MultiInputPolicy

__all__ = ["CORAPPO", "Explanation", "MlpPolicy", "MultiInputPolicy", "explain"]
