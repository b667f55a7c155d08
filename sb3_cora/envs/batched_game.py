"""Games of common payoff that numpy plays in thousands of worlds at once, as joint environments."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_cora.common.batch_vec_env import BatchVecEnv
from sb3_cora.common.env_util import load_entry_point
from sb3_cora.envs.registration import GAMES

# Side of a game's picture without the bar below it, and height of that bar, in pixels
PICTURE_SIZE = 240
BAR_HEIGHT = 12

# Viridis at equal distances from 0 to 1, dark to bright also for the colour-blind
_COLOURS = np.array(
    [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [253, 231, 37]]
)


class BatchedGame(ABC):
    """
    A cooperative game of a fixed number of simultaneous moves, all of whose rewards go to the whole team.

    Neither the rewards nor what comes next depend on anything but the step and the joint action, so a game keeps no state
    of an episode: any number of environments may share one, which ``GameVecEnv`` and ``GameEnv`` make playable. Nothing in
    them is random. What a game draws at construction, it draws from a seed of its own (``game_seed``), so that training
    and evaluation, whatever their seeds, play the same game.

    All agents observe the step as the same one-hot vector, ``Box(n_agents, n_steps)``; in games of one step that is a
    constant 1. After the last step no entry is 1.

    A subclass calls ``super().__init__``, sets ``optimal_actions`` and writes ``rewards`` and ``draw``. It may write
    ``check_actions`` where its action space is not of the two kinds below.

    :param n_steps: number of moves in an episode
    :param action_space: ``MultiDiscrete([k_1, .., k_n])`` or ``Box(n_agents, act_dim)``
    :raises ValueError: if ``n_steps`` is less than 1
    """

    #: One of the best joint actions for each step, ``(n_steps, *action_space.shape)``
    optimal_actions: np.ndarray

    def __init__(self, n_steps: int, action_space: spaces.MultiDiscrete | spaces.Box) -> None:
        check_count("n_steps", n_steps)
        self.n_steps = n_steps
        self.action_space = action_space
        self.n_agents = action_space.shape[0]
        self.observation_space = spaces.Box(0.0, 1.0, (self.n_agents, n_steps), dtype=np.float32)

    @property
    def optimal_return(self) -> float:
        """
        Undiscounted return of an episode of the best joint actions: no policy's is higher.
        """
        return float(sum(self.rewards(step, best[None])[0] for step, best in enumerate(self.optimal_actions)))

    @abstractmethod
    def rewards(self, step: int, actions: np.ndarray) -> np.ndarray:
        """
        What joint actions earn.

        :param step: which step of the episode, from 0
        :param actions: one joint action of the action space a world, ``(num_envs, *action_space.shape)``
        :return: the team's reward in each world, ``(num_envs,)`` of float64, in new memory
        """

    @abstractmethod
    def draw(self, step: int, action: np.ndarray | None = None) -> np.ndarray:
        """
        Draw one step of the game.

        :param step: which step of the episode, from 0
        :param action: the joint action to mark, if any
        :return: ``(height, width, 3)`` of uint8
        """

    def check_actions(self, actions: np.ndarray, num_envs: int) -> None:
        """
        :param actions: what should be one joint action a world
        :param num_envs: number of worlds
        :raises ValueError: if ``actions`` is of another shape or kind, or outside of the action space
        """
        space = self.action_space
        if actions.shape != (num_envs, *space.shape):
            raise ValueError(
                f"Actions are of shape {actions.shape}, expected {(num_envs, *space.shape)}: one joint action of {space} "
                f"for each of the {num_envs} worlds."
            )
        if isinstance(space, spaces.Box):
            if not ((actions >= space.low) & (actions <= space.high)).all():
                raise ValueError(
                    f"Actions range over [{actions.min()}, {actions.max()}], outside of {space}, or are NaN. "
                    "Clip them to the action space, as SB3's predict() does."
                )
        # Written so that a negative index is refused, which numpy would count from the end
        elif actions.dtype.kind not in "iu" or not ((actions >= 0) & (actions < space.nvec)).all():
            raise ValueError(
                f"Actions of type {actions.dtype} range over [{actions.min()}, {actions.max()}]. "
                f"Give integers from 0 and below {space.nvec.tolist()}, agent by agent."
            )

    def observations(self, step: int, num_envs: int) -> np.ndarray:
        """
        :param step: which step comes next, from 0; ``n_steps`` after the last one
        :param num_envs: number of worlds
        :return: the step as one-hot, ``(num_envs, n_agents, n_steps)`` of float32, in new memory
        """
        observations = np.zeros((num_envs, self.n_agents, self.n_steps), dtype=np.float32)
        if step < self.n_steps:
            observations[:, :, step] = 1.0
        return observations


class GameVecEnv(BatchVecEnv):
    """
    A Stable-Baselines3 ``VecEnv`` of a game in many worlds, each step of which is a few operations of numpy.

    All worlds are at the same step: they start together and their episodes are equally long. ``infos[i]`` has
    ``"agent_rewards"``, ``(n_agents,)``, the team's reward for every agent; ``"TimeLimit.truncated"``; and, when the
    episode has ended, ``"terminal_observation"``.

    An episode ends by termination and never by truncation, so ``"TimeLimit.truncated"`` is always false: the number of
    steps belongs to the game, the agents observe how many are left, and there is nothing after the last for a value
    function to bootstrap from.

    Nothing is random, so worlds differ in nothing but their actions, and a seed is accepted and changes nothing.

    :param game: name of a registered game (``"climbing"``), or a ``BatchedGame``
    :param num_envs: number of worlds
    :param seed: changes nothing
    :param render_mode: ``"rgb_array"``; ``render("human")`` shows those pictures in a window
    :param game_kwargs: arguments of the game
    :raises ValueError: for an unknown game, arguments for a game already made, an unknown ``render_mode``, or less than
        one world
    """

    actions: np.ndarray

    def __init__(
        self,
        game: str | BatchedGame,
        num_envs: int = 1,
        seed: int | None = None,
        render_mode: str | None = None,
        **game_kwargs: Any,
    ) -> None:
        check_count("num_envs", num_envs)
        self.game = make_game(game, **game_kwargs)
        self.render_mode = _checked_render_mode(render_mode)
        self.spec: gym.envs.registration.EnvSpec | None = None
        super().__init__(num_envs, self.game.observation_space, self.game.action_space)
        if seed is not None:
            self.seed(seed)
        self._step = 0
        self._played: tuple[int, np.ndarray] | None = None

    @property
    def optimal_return(self) -> float:
        """The game's ``optimal_return``."""
        return self.game.optimal_return

    @property
    def optimal_actions(self) -> np.ndarray:
        """The game's ``optimal_actions``, ``(n_steps, *action_space.shape)``."""
        return self.game.optimal_actions

    def reset(self) -> np.ndarray:
        """
        Start new episodes in all worlds.

        :return: ``(num_envs, n_agents, n_steps)``
        """
        self._reset_seeds()
        self._reset_options()
        self._step = 0
        self._played = None
        return self.game.observations(0, self.num_envs)

    def step_async(self, actions: np.ndarray) -> None:
        """
        :param actions: ``(num_envs, *action_space.shape)``
        """
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations ``(num_envs, n_agents, n_steps)``, team rewards ``(num_envs,)``, whether the episodes have
            ended, and one info a world
        :raises ValueError: if an action is not in the action space
        """
        # A copy: the picture of this step must not change with the caller's array
        actions = np.array(self.actions)
        self.game.check_actions(actions, self.num_envs)
        rewards = self.game.rewards(self._step, actions).astype(np.float32)
        # The rows below are views of arrays made anew for each step: cheaper than one array a world, and as safe to keep
        agent_rewards = np.repeat(rewards[:, None], self.game.n_agents, axis=1)
        self._played = self._step, actions
        self._step += 1
        ended = self._step == self.game.n_steps
        infos: list[dict[str, Any]]
        if ended:
            terminal_observations = self.game.observations(self._step, self.num_envs)
            infos = [
                {"agent_rewards": own, "TimeLimit.truncated": False, "terminal_observation": terminal}
                for own, terminal in zip(agent_rewards, terminal_observations, strict=True)
            ]
            self._step = 0
        else:
            infos = [{"agent_rewards": own, "TimeLimit.truncated": False} for own in agent_rewards]
        return self.game.observations(self._step, self.num_envs), rewards, np.full(self.num_envs, ended), infos

    def close(self) -> None:
        """Nothing is open."""

    def get_images(self) -> list[np.ndarray | None]:
        """
        :return: one picture a world, ``(height, width, 3)`` of uint8, of the step played last, if one has been since
            ``reset()``, else of the first
        """
        if self._played is None:
            return [self.game.draw(self._step) for _ in range(self.num_envs)]
        step, actions = self._played
        return [self.game.draw(step, action) for action in actions]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        :param attr_name: an attribute of this object or of the game
        :param indices: which worlds; they all have the same
        :return: its value, once a world
        """
        owner = self if hasattr(self, attr_name) else self.game
        return [getattr(owner, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        :param attr_name: an attribute of the game
        :param value: its new value
        :param indices: must be all worlds, which share the attribute
        :raises ValueError: if ``indices`` leaves out a world
        """
        left_out = set(range(self.num_envs)) - set(self._get_indices(indices))
        if left_out:
            raise ValueError(
                f"The worlds of a GameVecEnv share the attribute {attr_name!r}, so it cannot be set without the worlds "
                f"{sorted(left_out)}. Set it for all (indices=None), or make several GameVecEnv."
            )
        setattr(self.game, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        Call a method of the game, once, for the whole batch.

        :param method_name: name of the method
        :param method_args: its arguments
        :param indices: which worlds want the answer
        :param method_kwargs: its keyword arguments
        :return: its answer, once a world
        """
        answer = getattr(self.game, method_name)(*method_args, **method_kwargs)
        return [answer for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        :param wrapper_class: a Gymnasium wrapper
        :param indices: which worlds
        :return: false for each: the worlds are no Gymnasium environments
        """
        return [False for _ in self._get_indices(indices)]


class GameEnv(gym.Env):
    """
    One world of a game as a joint ``gymnasium.Env``, for whatever wants such an environment.

    It has the spaces, rewards and ends of episodes (always terminated, never truncated) of ``GameVecEnv``.

    :param game: name of a registered game (``"climbing"``), or a ``BatchedGame``
    :param render_mode: ``"rgb_array"``
    :param game_kwargs: arguments of the game
    :raises ValueError: for an unknown game or ``render_mode``, or arguments for a game already made
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's interface

    def __init__(self, game: str | BatchedGame, render_mode: str | None = None, **game_kwargs: Any) -> None:
        self.game = make_game(game, **game_kwargs)
        self.observation_space = self.game.observation_space
        self.action_space = self.game.action_space
        self.render_mode = _checked_render_mode(render_mode)
        self._step = self.game.n_steps
        self._played: tuple[int, np.ndarray | None] = (0, None)

    @property
    def optimal_return(self) -> float:
        """The game's ``optimal_return``."""
        return self.game.optimal_return

    @property
    def optimal_actions(self) -> np.ndarray:
        """The game's ``optimal_actions``, ``(n_steps, *action_space.shape)``."""
        return self.game.optimal_actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        :param seed: changes nothing, because nothing is random
        :param options: games have none
        :return: the observation ``(n_agents, n_steps)`` and an empty info
        """
        super().reset(seed=seed)
        self._step = 0
        self._played = (0, None)
        return self.game.observations(0, 1)[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        :param action: a joint action of the action space
        :return: the observation ``(n_agents, n_steps)``, the team's reward, terminated, truncated, and the info with
            ``"agent_rewards"``, ``(n_agents,)``
        :raises ValueError: if the action is not in the action space
        :raises gymnasium.error.ResetNeeded: if no episode is going on
        """
        if self._step >= self.game.n_steps:
            raise ResetNeeded(f"No episode is going on: all of its {self.game.n_steps} steps are played. Call reset() first.")
        actions = np.array(action)[None]
        self.game.check_actions(actions, 1)
        reward = float(self.game.rewards(self._step, actions)[0])
        self._played = self._step, actions[0]
        self._step += 1
        info = {"agent_rewards": np.full(self.game.n_agents, reward, dtype=np.float32)}
        return self.game.observations(self._step, 1)[0], reward, self._step == self.game.n_steps, False, info

    def render(self) -> np.ndarray | None:
        """
        :return: the picture of the step played last, or of the first after ``reset()``, ``(height, width, 3)`` of uint8,
            with ``render_mode="rgb_array"``
        """
        return None if self.render_mode is None else self.game.draw(*self._played)


def make_game(game: str | BatchedGame, **game_kwargs: Any) -> BatchedGame:
    """
    :param game: name of a registered game, or a game already made
    :param game_kwargs: arguments of the game
    :return: the game
    :raises ValueError: for an unknown name, or arguments for a game already made
    """
    if isinstance(game, BatchedGame):
        if game_kwargs:
            raise ValueError(f"The {type(game).__name__} is already made: give {game_kwargs} to its own constructor instead.")
        return game
    if game not in GAMES:
        close = get_close_matches(game, GAMES) if isinstance(game, str) else []
        raise ValueError(
            f"There is no game {game!r}. "
            + (f"Did you mean {' or '.join(map(repr, close))}? " if close else "")
            + f"Give a BatchedGame or one of the names {sorted(GAMES)}."
        )
    return load_entry_point(GAMES[game])(**game_kwargs)


def check_count(name: str, value: int, least: int = 1) -> None:
    """
    :param name: name of an argument
    :param value: its value
    :param least: the smallest value allowed
    :raises ValueError: if the value is not an integer, or too small
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}={value!r}, expected an integer of at least {least}.")


def check_range(name: str, bounds: Sequence[float]) -> tuple[float, float]:
    """
    :param name: name of an argument
    :param bounds: its value
    :return: lower and upper bound
    :raises ValueError: if these are not two finite numbers in ascending order
    """
    if len(bounds) != 2 or not np.isfinite(bounds).all() or bounds[0] > bounds[1]:
        raise ValueError(f"{name}={bounds!r}, expected two finite numbers, the lower first.")
    return float(bounds[0]), float(bounds[1])


def game_generator(game_seed: int) -> np.random.Generator:
    """
    :param game_seed: what a game draws is a function of this alone
    :return: the generator to draw it from
    :raises ValueError: if ``game_seed`` is no integer of at least 0; with ``None``, training and evaluation would play
        different games
    """
    check_count("game_seed", game_seed, least=0)
    return np.random.default_rng(game_seed)


def colour(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """
    :param values: numbers of any shape
    :param low: the number that is darkest
    :param high: the number that is brightest
    :return: their colours, ``(*values.shape, 3)`` of uint8
    """
    # Equal numbers all the same colour, without a division by 0
    positions = (values - low) / (high - low if high > low else 1.0)
    anchors = np.linspace(0.0, 1.0, len(_COLOURS))
    return np.stack([np.interp(positions, anchors, channel) for channel in _COLOURS.T], axis=-1).astype(np.uint8)


def _checked_render_mode(render_mode: str | None) -> str | None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode={render_mode!r} is unknown: use 'rgb_array' or None.")
    return render_mode
