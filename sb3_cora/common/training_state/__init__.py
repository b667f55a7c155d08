"""Saving all that a training is, and going on with it exactly."""

from sb3_cora.common.training_state.environments import ResumableEnv
from sb3_cora.common.training_state.object_graph import register_state
from sb3_cora.common.training_state.training import TrainingStateCallback

__all__ = ["ResumableEnv", "TrainingStateCallback", "register_state"]
