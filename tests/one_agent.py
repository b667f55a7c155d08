"""A single-agent environment with an agent axis of length one."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class OneAgent(gym.Wrapper):
    """
    :param env: An environment with a flat Box observation and a Box or Discrete action
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Box)
        low, high = env.observation_space.low, env.observation_space.high
        self.observation_space = spaces.Box(low[None], high[None], dtype=env.observation_space.dtype.type)
        if isinstance(env.action_space, spaces.Discrete):
            self.action_space: spaces.Space = spaces.MultiDiscrete([env.action_space.n])
        else:
            assert isinstance(env.action_space, spaces.Box)
            self.action_space = spaces.Box(env.action_space.low[None], env.action_space.high[None])

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        return observation[None], info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action[0])
        return observation[None], float(reward), terminated, truncated, info
