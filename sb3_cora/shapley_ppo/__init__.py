from sb3_cora.shapley_ppo.policies import MlpPolicy, MultiInputPolicy
from sb3_cora.shapley_ppo.shapley_ppo import ShapleyPPO

__all__ = ["MlpPolicy", "MultiInputPolicy", "ShapleyPPO"]
