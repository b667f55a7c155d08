"""Simulators that step a batch of worlds at once, as a ``VecEnv`` over the batch and as a joint environment of one world."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_cora.common.joint_env import JointObservations, observation_parts, select_observations


class WorldsStep(NamedTuple):
    """
    The outcome of one step of every world.

    :param observations: Observations of the states after the step, before any reset. In new memory, because they are kept.
    :param rewards: The team's rewards, ``(num_envs,)``, of any float type.
    :param agent_rewards: The agents' own rewards, ``(num_envs, n_agents)`` float32. In new memory, because they are kept.
    :param terminated: Whether the task is over, ``(num_envs,)`` bool.
    :param truncated: Whether a time limit is reached, ``(num_envs,)`` bool.
    """

    observations: JointObservations
    rewards: np.ndarray
    agent_rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Worlds(ABC):
    """
    A batch of worlds of one simulator. Spaces are joint, actions and observations are NumPy arrays, and nothing is reset
    automatically. A subclass is all that a new simulator needs: ``WorldsVecEnv`` and ``WorldsEnv`` make environments of it.

    A subclass calls ``super().__init__`` and writes ``seed``, ``reset`` and ``step``. It may write ``render`` together with
    ``render_modes``, ``close``, and, if the attributes and methods to show are those of another object, ``simulator`` and
    ``call``.

    :param num_envs: Number of worlds.
    :param observation_space: The joint observations of one world, ``Box(n_agents, obs_dim)`` or a ``Dict`` with it.
    :param action_space: Its joint actions, ``Box(n_agents, act_dim)`` or ``MultiDiscrete([k_1, .., k_n])``.
    """

    #: The values of ``render_mode`` besides ``None``
    render_modes: tuple[str, ...] = ("rgb_array",)

    def __init__(
        self, num_envs: int, observation_space: spaces.Box | spaces.Dict, action_space: spaces.Box | spaces.MultiDiscrete
    ) -> None:
        self.num_envs = num_envs
        self.observation_space = observation_space
        self.action_space = action_space

    @abstractmethod
    def seed(self, seed: int) -> None:
        """
        Seed the random numbers, with effect from the next reset. Before the first call they are seeded from entropy.

        :param seed: The seed, at least 0 and below 2**32.
        """

    @abstractmethod
    def reset(self, indices: np.ndarray | None = None) -> JointObservations:
        """
        Start new episodes.

        :param indices: The worlds whose episodes have just ended. ``None``: all worlds, whether their episodes have ended or
            not.
        :return: The first observations of these worlds, in new memory.
        """

    @abstractmethod
    def step(self, actions: np.ndarray) -> WorldsStep:
        """
        Advance every world by one step.

        :param actions: One joint action of the action space per world, ``(num_envs, *action_space.shape)``, in new memory.
        :return: The outcome of the step, before any reset.
        """

    def render(self, mode: str, index: int) -> np.ndarray | None:
        """
        Render one world.

        :param mode: One of ``render_modes``.
        :param index: The index of the world.
        :return: With ``"rgb_array"`` the picture, ``(height, width, 3)`` of uint8.
        :raises NotImplementedError: If the simulator cannot render.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot render: override its method render().")

    def close(self) -> None:  # noqa: B027 - most simulators have nothing to close
        """Close what the simulator has opened, such as windows."""

    @property
    def simulator(self) -> Any:
        """The object whose attributes and methods the environments show as their own."""
        return self

    def call(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        """
        Call a method of the simulator.

        :param method_name: Name of the method.
        :param args: Its arguments.
        :param kwargs: Its keyword arguments.
        :return: What it returns.
        """
        return getattr(self.simulator, method_name)(*args, **kwargs)


class WorldsVecEnv(VecEnv):
    """
    A Stable-Baselines3 ``VecEnv`` over worlds that are stepped as one batch.

    Each world is reset automatically when its episode ends. ``infos[i]`` has ``"agent_rewards"``, ``"TimeLimit.truncated"``
    and, if the episode has ended, ``"terminal_observation"``.

    The worlds share one simulator, and with it its random numbers: ``get_attr``, ``set_attr`` and ``env_method`` access this
    simulator, and ``seed(s)`` seeds all worlds at once, with effect from the next ``reset()``.

    :param worlds: The worlds, or the entry point of their class, ``"package.module:Class"``.
    :param num_envs: Number of worlds to make, 1 if ``None``. Given to the class under this name.
    :param seed: Seed of the first reset.
    :param render_mode: One of the worlds' ``render_modes``.
    :param worlds_kwargs: Further arguments of the class.
    :raises ValueError: If ``render_mode`` is unknown, or arguments are given for worlds that are already made.
    """

    actions: np.ndarray

    def __init__(
        self,
        worlds: Worlds | str,
        num_envs: int | None = None,
        seed: int | None = None,
        render_mode: str | None = None,
        **worlds_kwargs: Any,
    ) -> None:
        self.worlds = _make_worlds(worlds, num_envs, render_mode, worlds_kwargs)
        self.render_mode = render_mode
        self.spec: gym.envs.registration.EnvSpec | None = None
        super().__init__(self.worlds.num_envs, self.worlds.observation_space, self.worlds.action_space)
        if seed is not None:
            self.seed(seed)

    def reset(self) -> JointObservations:
        """
        Start new episodes in all worlds. If a seed was given since the last reset, the worlds are seeded with it first.

        :return: The first observations.
        """
        if self._seeds[0] is not None:
            self.worlds.seed(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        return self.worlds.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """
        :param actions: Of shape ``(num_envs, *action_space.shape)``.
        """
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: The observations, the team's rewards ``(num_envs,)`` of float32, whether the episodes have ended, and one
            info per world.
        :raises ValueError: If an action is not in the action space.
        """
        actions = np.array(self.actions)
        check_actions(actions, self.num_envs, self.worlds.action_space)
        observations, rewards, agent_rewards, terminated, truncated = self.worlds.step(actions)
        dones = terminated | truncated
        ended = np.flatnonzero(dones)
        # The rows below are views of arrays that are made anew in each step: cheaper than one array per world, and as safe to
        # keep.
        infos: list[dict[str, Any]]
        if len(ended) == self.num_envs:
            infos = [
                {"agent_rewards": own, "TimeLimit.truncated": False, "terminal_observation": last}
                for own, last in zip(agent_rewards, _one_by_one(observations), strict=True)
            ]
            observations = self.worlds.reset(ended)
        else:
            infos = [{"agent_rewards": own, "TimeLimit.truncated": False} for own in agent_rewards]
            if len(ended) > 0:
                for index, last in zip(ended.tolist(), _one_by_one(select_observations(observations, ended)), strict=True):
                    infos[index]["terminal_observation"] = last
                first = observation_parts(self.worlds.reset(ended))
                for key, part in observation_parts(observations).items():
                    part[ended] = first[key]
        for index in np.flatnonzero(truncated & ~terminated).tolist():
            infos[index]["TimeLimit.truncated"] = True
        # A copy, because SB3 adds the value at a time limit to the rewards in place.
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Close the worlds."""
        self.worlds.close()

    def get_images(self) -> list[np.ndarray | None]:
        """
        :return: One picture per world, ``(height, width, 3)`` of uint8.
        """
        return [self.worlds.render("rgb_array", index) for index in range(self.num_envs)]

    def render(self, mode: str | None = None) -> np.ndarray | None:
        """
        :param mode: Render mode, ``"rgb_array"`` for a picture of all worlds, ``"human"`` for a window.
        :return: With ``"rgb_array"`` the picture, ``(height, width, 3)`` of uint8.
        :raises ImportError: If OpenCV, in whose window SB3 shows pictures, is not installed.
        """
        if self.render_mode == "human" and mode in (None, "human"):
            # SB3 would call the simulator's own method of that name.
            self.worlds.render("human", 0)
            return None
        try:
            return super().render(mode)
        except ModuleNotFoundError as error:
            if error.name != "cv2":
                raise
            raise ImportError(
                'render("human") shows its pictures in a window of OpenCV, which is not installed: pip install opencv-python'
            ) from error

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        :param attr_name: An attribute of this object or of the simulator.
        :param indices: The worlds to ask, all if ``None``. They share the attribute.
        :return: Its value, once per world.
        """
        try:
            value = getattr(self, attr_name)
        except AttributeError:
            value = getattr(self.worlds.simulator, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        :param attr_name: An attribute of this object or of the simulator, of which it is a new one if neither has it.
        :param value: Its new value.
        :param indices: Must name all worlds, since they share the attribute; ``None`` does.
        :raises ValueError: If ``indices`` leaves out a world.
        """
        left_out = set(range(self.num_envs)) - set(self._get_indices(indices))
        if left_out:
            own_class = type(self).__name__
            raise ValueError(
                f"The worlds of a {own_class} share the attribute {attr_name!r}, so it cannot be set without the worlds "
                f"{sorted(left_out)}. Set it for all (indices=None), or make several {own_class}."
            )
        setattr(self if hasattr(self, attr_name) else self.worlds.simulator, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        Call a method of the simulator, once, for the whole batch.

        :param method_name: Name of the method.
        :param method_args: Its arguments.
        :param indices: The worlds to return the result for, all if ``None``.
        :param method_kwargs: Its keyword arguments.
        :return: What it returns, once per world.
        """
        answer = self.worlds.call(method_name, *method_args, **method_kwargs)
        return [answer for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        :param wrapper_class: A Gymnasium wrapper.
        :param indices: The worlds to ask, all if ``None``.
        :return: False for each, since worlds are not Gymnasium environments.
        """
        return [False for _ in self._get_indices(indices)]


class WorldsEnv(gym.Env):
    """
    One world as a joint ``gymnasium.Env``, with the spaces, rewards and episode ends of ``WorldsVecEnv``. For code that needs
    such an environment: to train, use ``WorldsVecEnv``, which steps many worlds in little more time than this takes for one.

    :param worlds: A batch of one world, or the entry point of the class, ``"package.module:Class"``.
    :param render_mode: One of the worlds' ``render_modes``.
    :param worlds_kwargs: Further arguments of the class.
    :raises ValueError: If ``render_mode`` is unknown, or worlds that are already made are more than one or given arguments.
    """

    # On the class, because gym.make reads it there before it makes the environment.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's interface

    def __init__(self, worlds: Worlds | str, render_mode: str | None = None, **worlds_kwargs: Any) -> None:
        self.worlds = _make_worlds(worlds, 1, render_mode, worlds_kwargs)
        self.observation_space = self.worlds.observation_space
        self.action_space = self.worlds.action_space
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        :param seed: Seed of the random numbers; without one they continue.
        :param options: Ignored.
        :return: The joint observation and an empty info.
        """
        super().reset(seed=seed)
        if seed is not None:
            self.worlds.seed(seed)
        return select_observations(self.worlds.reset(), 0), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        :param action: A joint action of the action space.
        :return: The joint observation, the team's reward, terminated, truncated, and the info with ``"agent_rewards"``,
            ``(n_agents,)``.
        :raises ValueError: If the action is not in the action space.
        """
        actions = np.array(action)[None]
        check_actions(actions, 1, self.worlds.action_space)
        observations, rewards, agent_rewards, terminated, truncated = self.worlds.step(actions)
        info = {"agent_rewards": agent_rewards[0]}
        return select_observations(observations, 0), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | None:
        """
        :return: With ``render_mode="rgb_array"`` the picture, ``(height, width, 3)`` of uint8.
        """
        return None if self.render_mode is None else self.worlds.render(self.render_mode, 0)

    def close(self) -> None:
        """Close the worlds."""
        self.worlds.close()


def check_actions(actions: np.ndarray, num_envs: int, space: spaces.Box | spaces.MultiDiscrete) -> None:
    """
    :param actions: The actions to check, which should be one joint action per world.
    :param num_envs: Number of worlds.
    :param space: The action space.
    :raises ValueError: If ``actions`` is of another shape or kind, or outside of the action space.
    """
    if actions.shape != (num_envs, *space.shape):
        raise ValueError(
            f"Actions are of shape {actions.shape}, expected {(num_envs, *space.shape)}: one joint action of {space} "
            f"for each of the {num_envs} worlds."
        )
    if isinstance(space, spaces.Box):
        if not _all((actions >= space.low) & (actions <= space.high)):
            raise ValueError(
                f"Actions range over [{actions.min()}, {actions.max()}], outside of {space}, or are NaN. "
                "Clip them to the action space, as SB3's predict() does."
            )
    # Negative indices are refused too, which NumPy would count from the end.
    elif actions.dtype.kind not in "iu" or not _all((actions >= 0) & (actions < space.nvec)):
        raise ValueError(
            f"Actions of type {actions.dtype} range over [{actions.min()}, {actions.max()}]. "
            f"Give integers from 0 and below {space.nvec.tolist()}, agent by agent."
        )


def _all(flags: np.ndarray) -> bool:
    """Whether all flags are true. For the few flags of a single world this is much faster than ``flags.all()``."""
    return np.count_nonzero(flags) == flags.size


def _make_worlds(worlds: Worlds | str, num_envs: int | None, render_mode: str | None, worlds_kwargs: dict[str, Any]) -> Worlds:
    """The worlds of a class given by its entry point, or those already made; see ``WorldsVecEnv``."""
    if isinstance(worlds, str):
        make: Callable[..., Worlds] = load_env_creator(worlds)  # type: ignore[assignment]
        worlds = make(num_envs=1 if num_envs is None else num_envs, **worlds_kwargs)
    elif worlds_kwargs or num_envs not in (None, worlds.num_envs):
        raise ValueError(
            f"The {type(worlds).__name__} is already made, with num_envs={worlds.num_envs}: give num_envs={num_envs}, "
            f"{worlds_kwargs} to its own constructor instead."
        )
    if render_mode not in (None, *worlds.render_modes):
        known = " or ".join(map(repr, (*worlds.render_modes, None)))
        raise ValueError(f"render_mode={render_mode!r} is unknown: use {known}.")
    return worlds


def _one_by_one(observations: JointObservations) -> Iterable[JointObservations]:
    """The observations of each world, one after another."""
    if isinstance(observations, dict):
        return (dict(zip(observations, parts, strict=True)) for parts in zip(*observations.values(), strict=True))
    return observations
