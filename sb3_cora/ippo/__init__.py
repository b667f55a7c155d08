from sb3_cora.ippo.ippo import IPPO
from sb3_cora.ippo.policies import MlpPolicy, MultiInputPolicy

__all__ = ["IPPO", "MlpPolicy", "MultiInputPolicy"]
