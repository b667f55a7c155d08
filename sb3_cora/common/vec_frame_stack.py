"""Stacks of a team's last observations, with masks of the present step only."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import StackedObservations, VecEnv, VecEnvWrapper, VecFrameStack

from sb3_cora.common.joint_env import MASKS


def stacked_space(space: Any, n_stack: int) -> spaces.Box:
    """
    :param space: Space of an observation, a ``Box``.
    :param n_stack: Number of observations that are concatenated along the last axis.
    :return: Their space, with zeros for those before the first. Stable-Baselines3 repeats the bounds entry by entry, which
        suits only entries that all have the same.
    """
    repeats = (1,) * (len(space.shape) - 1) + (n_stack,)
    low, high = np.tile(np.minimum(space.low, 0), repeats), np.tile(np.maximum(space.high, 0), repeats)
    return spaces.Box(low, high, dtype=space.dtype)


class StackedBesideMasks(StackedObservations):
    """
    Stacks all parts of a Dict observation except the masks, which hold for the present step only.

    :param num_envs: Number of environments.
    :param n_stack: Number of observations to stack.
    :param observation_space: Joint observation space.
    """

    def __init__(self, num_envs: int, n_stack: int, observation_space: spaces.Dict):
        parts = {key: space for key, space in observation_space.spaces.items() if key not in MASKS}
        super().__init__(num_envs, n_stack, spaces.Dict(parts))
        stacked = {key: stacked_space(space, n_stack) for key, space in parts.items()}
        self.stacked_observation_space = spaces.Dict({**observation_space.spaces, **stacked})

    def _stacked(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: part for key, part in observations.items() if key not in MASKS}

    def reset(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**observation, **super().reset(self._stacked(observation))}

    def update(
        self, observations: dict[str, np.ndarray], dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        stacked, infos = super().update(self._stacked(observations), dones, infos)
        return {**observations, **stacked}, infos


class JointVecFrameStack(VecFrameStack):
    """
    ``VecFrameStack`` for joint environments: the last observations of each agent are concatenated, oldest first, the state is
    stacked likewise, and masks are left as they are.

    :param venv: The vectorized environment to wrap.
    :param n_stack: Number of observations to stack.
    """

    def __init__(self, venv: VecEnv, n_stack: int):
        if not isinstance(venv.observation_space, spaces.Dict):
            super().__init__(venv, n_stack)
            self.observation_space = stacked_space(venv.observation_space, n_stack)
            return
        # Without the parent's constructor, which would stack the masks too.
        self.stacked_obs = StackedBesideMasks(venv.num_envs, n_stack, venv.observation_space)
        VecEnvWrapper.__init__(self, venv, observation_space=self.stacked_obs.stacked_observation_space)


def check_frame_stacks(env: VecEnv) -> None:
    """
    :param env: An environment with its wrappers.
    :raises ValueError: If one of the wrappers stacks masks.
    """
    while isinstance(env, VecEnvWrapper):
        space = env.venv.observation_space
        if isinstance(env, VecFrameStack) and not isinstance(env, JointVecFrameStack) and isinstance(space, spaces.Dict):
            stacked = [key for key in MASKS if key in space.spaces]
            if stacked:
                raise ValueError(
                    f"VecFrameStack stacks {stacked}, but a mask holds for the present step only. "
                    "Use sb3_cora.common.vec_frame_stack.JointVecFrameStack in its place, which leaves masks as they are."
                )
        env = env.venv
