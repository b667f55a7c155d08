"""Types shared by the algorithms."""

from typing import TypeAlias

from stable_baselines3.common.type_aliases import GymEnv

# A joint environment, a VecEnv of them, or a registered id; object stands for what another suite calls an environment
JointEnvLike: TypeAlias = GymEnv | str | object
