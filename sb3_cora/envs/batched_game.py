"""Common-payoff games that NumPy plays in thousands of worlds at once, as joint environments."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.error import ResetNeeded

from sb3_cora.common.counts import check_count
from sb3_cora.envs.registration import GAMES
from sb3_cora.envs.worlds import Worlds, WorldsEnv, WorldsStep, WorldsVecEnv

# Side of a game's square picture, and height of the bar below it, in pixels.
PICTURE_SIZE = 240
BAR_HEIGHT = 12

# The colormap viridis at equal distances from 0 to 1. It runs from dark to bright, also for the color-blind.
_COLORS = np.array(
    [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [253, 231, 37]]
)


class BatchedGame(ABC):
    """
    A cooperative game of a fixed number of simultaneous moves, whose rewards go to the whole team. ``GameVecEnv`` and
    ``GameEnv`` make environments of it.

    Rewards depend on nothing but the step and the joint action, and nothing random happens in an episode. So a game keeps no
    state, and any number of environments may share it. Random games are drawn at construction from a seed of their own
    (``game_seed``), so that training and evaluation play the same game, whatever their seeds.

    All agents observe the current step as the same one-hot vector, ``Box(n_agents, n_steps)``; in games of one step it is a
    constant 1. After the last step all entries are 0.

    A subclass calls ``super().__init__``, sets ``optimal_actions`` and writes ``rewards`` and ``draw``.

    :param n_steps: Number of moves in an episode.
    :param action_space: Joint action space, ``MultiDiscrete([k_1, .., k_n])`` or ``Box(n_agents, act_dim)``.
    :raises ValueError: If ``n_steps`` is less than 1.
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
        Undiscounted return of an episode in which all joint actions are optimal: the highest return of any policy.
        """
        return float(sum(self.rewards(step, best[None])[0] for step, best in enumerate(self.optimal_actions)))

    @abstractmethod
    def rewards(self, step: int, actions: np.ndarray) -> np.ndarray:
        """
        The rewards of joint actions.

        :param step: The step of the episode, counted from 0.
        :param actions: One joint action of the action space per world, ``(num_envs, *action_space.shape)``.
        :return: The team's reward in each world, ``(num_envs,)`` of float64, in new memory.
        """

    @abstractmethod
    def draw(self, step: int, action: np.ndarray | None = None) -> np.ndarray:
        """
        Render one step of the game.

        :param step: The step of the episode, counted from 0.
        :param action: The joint action to mark, if any.
        :return: The picture, ``(height, width, 3)`` of uint8.
        """

    def observations(self, step: int, num_envs: int) -> np.ndarray:
        """
        :param step: The next step, counted from 0; ``n_steps`` after the last one.
        :param num_envs: Number of worlds.
        :return: The step as one-hot vectors, ``(num_envs, n_agents, n_steps)`` of float32, in new memory.
        """
        observations = np.zeros((num_envs, self.n_agents, self.n_steps), dtype=np.float32)
        if step < self.n_steps:
            observations[:, :, step] = 1.0
        return observations


class GameWorlds(Worlds):
    """
    A game in many worlds, which takes a few NumPy operations per step.

    All worlds are at the same step, since they start together and their episodes are equally long.

    :param game: Name of a registered game (``"climbing"``), or a ``BatchedGame``.
    :param num_envs: Number of worlds.
    :param game_kwargs: Arguments of the game.
    :raises ValueError: If the game is unknown, a game already made is given arguments, or there is less than one world.
    """

    def __init__(self, game: str | BatchedGame, num_envs: int = 1, **game_kwargs: Any) -> None:
        check_count("num_envs", num_envs)
        self.game = make_game(game, **game_kwargs)
        super().__init__(num_envs, self.game.observation_space, self.game.action_space)
        self._all, self._none = np.ones(num_envs, dtype=bool), np.zeros(num_envs, dtype=bool)
        self._step = self.game.n_steps
        self._shown: tuple[int, np.ndarray | None] = (0, None)

    @property
    def simulator(self) -> BatchedGame:
        """The game."""
        return self.game

    def seed(self, seed: int) -> None:
        """
        :param seed: Has no effect, since nothing is random.
        """

    def reset(self, indices: np.ndarray | None = None) -> np.ndarray:
        """
        Start new episodes in all worlds.

        :param indices: All worlds, whose episodes have ended together, or ``None``.
        :return: The first observations, ``(num_envs, n_agents, n_steps)``.
        """
        self._step = 0
        if indices is None:
            # Not at the end of an episode, after which VecEnvs reset automatically: render() then still shows its last step.
            self._shown = (0, None)
        return self.game.observations(0, self.num_envs)

    def step(self, actions: np.ndarray) -> WorldsStep:
        """
        :param actions: Of shape ``(num_envs, *action_space.shape)``.
        :return: The outcome of the step, with the team's reward for every agent.
        :raises gymnasium.error.ResetNeeded: If the episode is over.
        """
        if self._step >= self.game.n_steps:
            raise ResetNeeded(f"The episode is over after its {self.game.n_steps} steps. Call reset() first.")
        rewards = self.game.rewards(self._step, actions)
        self._shown = (self._step, actions)
        self._step += 1
        agent_rewards = np.empty((self.num_envs, self.game.n_agents), dtype=np.float32)
        agent_rewards[:] = rewards[:, None]
        terminated = self._all if self._step == self.game.n_steps else self._none
        return WorldsStep(self.game.observations(self._step, self.num_envs), rewards, agent_rewards, terminated, self._none)

    def render(self, mode: str, index: int) -> np.ndarray:
        """
        :param mode: Must be ``"rgb_array"``.
        :param index: The index of the world.
        :return: The picture of the last step played since ``reset()``, or of the first step if none was played,
            ``(height, width, 3)`` of uint8.
        """
        step, actions = self._shown
        return self.game.draw(step, None if actions is None else actions[index])


class _GameAttributes:
    """The attributes of a game that its environments show."""

    #: The game that is played.
    game: BatchedGame

    @property
    def optimal_return(self) -> float:
        """The game's ``optimal_return``."""
        return self.game.optimal_return

    @property
    def optimal_actions(self) -> np.ndarray:
        """The game's ``optimal_actions``, ``(n_steps, *action_space.shape)``."""
        return self.game.optimal_actions


class GameVecEnv(_GameAttributes, WorldsVecEnv):
    """
    A Stable-Baselines3 ``VecEnv`` of a game in many worlds, see ``WorldsVecEnv``. In ``infos[i]["agent_rewards"]`` every
    agent has the team's reward.

    Episodes are terminated and never truncated, so ``"TimeLimit.truncated"`` is always false. The number of steps is part of
    the game and agents observe the step, so there is no value after the last step to bootstrap from.

    Nothing is random: worlds differ only in the actions taken in them.

    :param game: Name of a registered game (``"climbing"``), or a ``BatchedGame``.
    :param num_envs: Number of worlds.
    :param seed: Has no effect, since nothing is random.
    :param render_mode: Render mode, ``"rgb_array"`` or ``None``; ``render("human")`` shows its pictures in a window.
    :param game_kwargs: Arguments of the game.
    :raises ValueError: If the game or ``render_mode`` is unknown, a game already made is given arguments, or there is less
        than one world.
    """

    def __init__(
        self,
        game: str | BatchedGame,
        num_envs: int = 1,
        seed: int | None = None,
        render_mode: str | None = None,
        **game_kwargs: Any,
    ) -> None:
        worlds = GameWorlds(game, num_envs, **game_kwargs)
        self.game = worlds.game
        super().__init__(worlds, seed=seed, render_mode=render_mode)
        # A VecEnv resets worlds automatically, so it can be stepped at any time.
        worlds.reset()


class GameEnv(_GameAttributes, WorldsEnv):
    """
    One world of a game as a joint ``gymnasium.Env``, for code that needs such an environment.

    It has the spaces, rewards and episode ends (always terminated, never truncated) of ``GameVecEnv``. After the end of an
    episode, ``step`` raises ``gymnasium.error.ResetNeeded``.

    :param game: Name of a registered game (``"climbing"``), or a ``BatchedGame``.
    :param render_mode: Render mode, ``"rgb_array"`` or ``None``.
    :param game_kwargs: Arguments of the game.
    :raises ValueError: If the game or ``render_mode`` is unknown, or a game already made is given arguments.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's interface

    def __init__(self, game: str | BatchedGame, render_mode: str | None = None, **game_kwargs: Any) -> None:
        worlds = GameWorlds(game, **game_kwargs)
        self.game = worlds.game
        super().__init__(worlds, render_mode)


def make_game(game: str | BatchedGame, **game_kwargs: Any) -> BatchedGame:
    """
    :param game: Name of a registered game, or a game already made.
    :param game_kwargs: Arguments of the game.
    :return: The game.
    :raises ValueError: If the name is unknown, or a game already made is given arguments.
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
    make: Callable[..., Any] = load_env_creator(GAMES[game])
    return make(**game_kwargs)


def check_range(name: str, bounds: Sequence[float]) -> tuple[float, float]:
    """
    :param name: Name of an argument, for the error message.
    :param bounds: Its value.
    :return: Lower and upper bound.
    :raises ValueError: If these are not two finite numbers in ascending order.
    """
    if np.shape(bounds) != (2,) or not np.isfinite(bounds).all() or bounds[0] > bounds[1]:
        raise ValueError(f"{name}={bounds!r}, expected two finite numbers, the lower first.")
    return float(bounds[0]), float(bounds[1])


def game_generator(game_seed: int) -> np.random.Generator:
    """
    :param game_seed: The seed, on which a random game depends alone.
    :return: The generator from which the game is drawn.
    :raises ValueError: If ``game_seed`` is not an integer of at least 0. With ``None``, training and evaluation would play
        different games.
    """
    check_count("game_seed", game_seed, least=0)
    return np.random.default_rng(game_seed)


def color(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """
    :param values: Numbers of any shape.
    :param low: The number with the darkest color.
    :param high: The number with the brightest color.
    :return: Their colors, ``(*values.shape, 3)`` of uint8.
    """
    # If low equals high, all numbers get the same color, without a division by 0.
    positions = (values - low) / (high - low if high > low else 1.0)
    anchors = np.linspace(0.0, 1.0, len(_COLORS))
    return np.stack([np.interp(positions, anchors, channel) for channel in _COLORS.T], axis=-1).astype(np.uint8)
