from sb3_cora.happo.happo import HAPPO
from sb3_cora.happo.policies import MlpPolicy, MultiInputPolicy

__all__ = ["HAPPO", "MlpPolicy", "MultiInputPolicy"]
