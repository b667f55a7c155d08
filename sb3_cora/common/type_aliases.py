"""Types shared by the algorithms."""

from typing import TypeAlias

from stable_baselines3.common.type_aliases import GymEnv

# A joint environment, a VecEnv of them, a registered id, or an environment of another suite, for which object stands.
JointEnvLike: TypeAlias = GymEnv | str | object
