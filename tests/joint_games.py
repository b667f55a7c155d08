"""Small joint environments whose optima, values and faults are known."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_cora.common.joint_env import joint_action_space, pad_observations

Info = dict[str, Any]


class MatrixGame(gym.Env):
    """
    One simultaneous choice of all agents, then the episode ends. Nothing is observed.

    :param payoffs: Team reward of each joint action, one axis an agent
    """

    def __init__(self, payoffs: np.ndarray):
        self.payoffs = np.asarray(payoffs, dtype=np.float64)
        self.observation_space = spaces.Box(0.0, 1.0, (self.payoffs.ndim, 1))
        self.action_space = spaces.MultiDiscrete(self.payoffs.shape)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        return np.ones((self.payoffs.ndim, 1), np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Info]:
        return np.ones((self.payoffs.ndim, 1), np.float32), float(self.payoffs[tuple(action)]), True, False, {}


class TargetGame(gym.Env):
    """
    One step in which each agent should act its own target. The reward is minus the sum over agents of the squared
    distance, minus the squared error of the sum of all actions: at most 0, and there only at the targets.

    :param targets: For each agent its best action, of any length; shorter ones are padded
    """

    def __init__(self, targets: list[list[float]]):
        self.targets = pad_observations([np.asarray(target) for target in targets])
        self.observation_space = spaces.Box(0.0, 1.0, (len(targets), 1))
        self.action_space = joint_action_space([spaces.Box(-1.0, 1.0, (len(target),)) for target in targets])

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        return np.ones(self.observation_space.shape, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Info]:
        error = action - self.targets
        reward = -float(np.square(error).sum() + np.square(error.sum()))
        return np.ones(self.observation_space.shape, np.float32), reward, True, False, {}


class Lap(gym.Env):
    """
    Two agents are carried around a ring of ``length`` positions, one a step, and the team is paid 1 for each completed
    lap, at which the episode ends. The actions do nothing, and both agents observe the position as one-hot.

    With discount ``g``, the value of position ``p`` is ``g^(length - 1 - p)`` where the end is a termination. Where it
    is a time limit the laps go on in principle, and the value is that divided by ``1 - g^length``.

    :param length: Number of positions
    :param truncates: Whether the end is a time limit
    """

    def __init__(self, length: int, truncates: bool):
        self.length = length
        self.truncates = truncates
        self.observation_space = spaces.Box(0.0, 1.0, (2, length))
        self.action_space = spaces.MultiDiscrete([2, 2])

    def _observation(self) -> np.ndarray:
        return np.tile(np.eye(self.length, dtype=np.float32)[self.position], (2, 1))

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        self.position = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Info]:
        self.position = (self.position + 1) % self.length
        home = self.position == 0
        return self._observation(), float(home), home and not self.truncates, home and self.truncates, {}


class NoisyTeam(gym.Env):
    """
    Random observations, rewards that depend on all actions together, episodes that are terminated at random or truncated
    after 6 steps: nothing to be learned, everything to be passed through.

    :param discrete: Whether the agents choose (2, 3, 4, .. actions) or act in a Box of two dimensions
    :param n_agents: Number of agents
    """

    obs_dim = 4

    def __init__(self, discrete: bool = False, n_agents: int = 3):
        self.observation_space: spaces.Space = spaces.Box(-10.0, 10.0, (n_agents, self.obs_dim))
        self.action_space: spaces.Space
        if discrete:
            self.action_space = spaces.MultiDiscrete(np.arange(n_agents) + 2)
        else:
            self.action_space = spaces.Box(-1.0, 1.0, (n_agents, 2))

    def _observation(self) -> Any:
        return self.np_random.standard_normal((self.action_space.shape[0], self.obs_dim)).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, Info]:
        self.steps += 1
        reward = float(np.sin(action.sum()) + np.tanh(action.reshape(len(action), -1)[0].prod()))
        terminated = bool(self.np_random.random() < 0.1)
        return self._observation(), reward, terminated, self.steps >= 6 and not terminated, {}


class MaskedTeam(NoisyTeam):
    """
    ``NoisyTeam`` with choices, a state and masks that change at random from step to step. Agents may be dead throughout;
    agent 0 dies after the third step of each episode. It is an error to take an action that is not allowed. What the dead
    do has no effect.

    :param dead: Agents that are never alive
    """

    state_dim = 5

    def __init__(self, dead: tuple[int, ...] = ()):
        super().__init__(discrete=True)
        self.dead = list(dead)
        counts = self.action_space.nvec
        self.exists = np.arange(counts.max()) < counts[:, None]
        self.observation_space = spaces.Dict(
            observation=self.observation_space,
            state=spaces.Box(-10.0, 10.0, (self.state_dim,)),
            action_mask=spaces.MultiBinary(self.exists.shape),
            agent_mask=spaces.MultiBinary(len(counts)),
        )

    def _observation(self) -> dict[str, np.ndarray]:
        alive = np.ones(len(self.exists), np.int8)
        alive[self.dead] = 0
        alive[0] &= self.steps < 3
        allowed = self.np_random.random(self.exists.shape) < 0.5
        # One action always stays, a different one from step to step
        allowed[np.arange(len(allowed)), self.steps % self.exists.sum(axis=1)] = True
        # Agent 0 once dead is allowed nothing at all, the other dead are allowed everything: environments differ there
        allowed[0] &= alive[0] > 0
        allowed[self.dead] = True
        self.allowed = allowed & self.exists
        self.alive = alive
        return {
            "observation": super()._observation(),
            "state": self.np_random.standard_normal(self.state_dim).astype(np.float32),
            "action_mask": self.allowed.astype(np.int8),
            "agent_mask": alive,
        }

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, Info]:
        refused = [agent for agent, index in enumerate(action) if self.alive[agent] and not self.allowed[agent, index]]
        if refused:
            raise RuntimeError(f"Agents {refused} took actions of {action} that {self.allowed} does not allow.")
        return super().step(action * self.alive)


class BoxMasks(gym.ObservationWrapper):
    """``MaskedTeam`` whose masks are Boxes, which Stable-Baselines3's wrappers take for numbers like any other."""

    def __init__(self) -> None:
        super().__init__(MaskedTeam())
        assert isinstance(self.env.observation_space, spaces.Dict)
        parts = self.env.observation_space.spaces
        masks = {key: spaces.Box(0.0, 1.0, parts[key].shape) for key in ("action_mask", "agent_mask")}
        self.observation_space = spaces.Dict({**parts, **masks})

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: part.astype(np.float32) for key, part in observation.items()}


class Faulty(gym.Wrapper):
    """
    An environment in which something is not finite once, at a given step counted over all episodes.

    :param env: A joint environment
    :param part: ``"reward"``, ``"observation"``, the key of a Dict observation, ``"terminal observation"`` (at a time
        limit that comes at this step), or ``"first observation"`` (of the next episode after this step)
    :param at_step: At which step
    :param value: What stands there
    """

    def __init__(self, env: gym.Env, part: str, at_step: int, value: float = np.nan):
        super().__init__(env)
        self.part = part
        self.at_step = at_step
        self.value = value
        self.steps = 0
        self.done_once = False

    def _spoil(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            key = self.part if self.part in observation else "observation"
            return {**observation, key: self._spoil(observation[key])}
        spoilt = observation.copy()
        spoilt.flat[-1] = self.value
        return spoilt

    def reset(self, **kwargs: Any) -> tuple[Any, Info]:
        observation, info = self.env.reset(**kwargs)
        if self.part == "first observation" and self.steps >= self.at_step and not self.done_once:
            self.done_once = True
            observation = self._spoil(observation)
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, Info]:
        self.steps += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.steps != self.at_step or self.part == "first observation":
            return observation, float(reward), terminated, truncated, info
        if self.part == "reward":
            return observation, self.value, terminated, truncated, info
        if self.part == "terminal observation":
            return self._spoil(observation), float(reward), False, True, info
        return self._spoil(observation), float(reward), False, False, info
