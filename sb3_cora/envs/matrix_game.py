"""Games whose rewards are given by tables: one table for each step, with an entry for each joint action."""

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from sb3_cora.common.counts import check_count
from sb3_cora.envs.batched_game import (
    BAR_HEIGHT,
    PICTURE_SIZE,
    BatchedGame,
    check_range,
    color,
    game_generator,
)

CLIMBING_PAYOFFS = ((11.0, -30.0, 0.0), (-30.0, 7.0, 6.0), (0.0, 0.0, 5.0))

# 800 MB in float64.
MAX_ENTRIES = 10**8


class MatrixGame(BatchedGame):
    """
    A game with given tables, for example played as ``GameVecEnv(MatrixGame(payoffs), num_envs=64)``.

    :param payoffs: The team's reward for each step and joint action, ``(n_steps, k_1, .., k_n)``, where agent ``i`` has
        ``k_i`` actions.
    :raises ValueError: If there is no step, no agent, or an agent without actions, or if an entry is not finite.
    """

    def __init__(self, payoffs: np.ndarray) -> None:
        self.payoffs = np.asarray(payoffs, dtype=np.float64)
        if self.payoffs.ndim < 2 or self.payoffs.size == 0:
            raise ValueError(
                f"The payoffs are of shape {self.payoffs.shape}, expected (n_steps, k_1, .., k_n) with at least one step, "
                "one agent and one action each. For the same table T in every step, give "
                "np.broadcast_to(T, (n_steps, *T.shape))."
            )
        if not np.isfinite(self.payoffs).all():
            raise ValueError("The payoffs hold NaN or infinity. Give every joint action a finite reward.")
        super().__init__(len(self.payoffs), spaces.MultiDiscrete(list(self.payoffs.shape[1:])))
        best = self.payoffs.reshape(self.n_steps, -1).argmax(axis=1)
        self.optimal_actions = np.stack(np.unravel_index(best, self.payoffs.shape[1:]), axis=1)

    def rewards(self, step: int, actions: np.ndarray) -> np.ndarray:
        return self.payoffs[step][tuple(actions.T)]

    def best_joint_actions(self, step: int) -> np.ndarray:
        """
        All optimal joint actions of a step; ``optimal_actions[step]`` is the first of them.

        :param step: The step of the episode, counted from 0.
        :return: The joint actions, ``(n_best, n_agents)``.
        """
        return np.argwhere(self.payoffs[step] == self.payoffs[step].max())

    def draw(self, step: int, action: np.ndarray | None = None) -> np.ndarray:
        """
        Render the table of a step, from dark (the lowest reward of all steps) to bright (the highest). The actions of the
        first half of the agents determine the row, those of the others the column, where the last agent's action varies
        fastest. Optimal joint actions have a dot, the joint action played has a frame, and the bar below shows the progress
        of the episode.

        :param step: The step of the episode, counted from 0.
        :param action: The joint action to mark, if any.
        :return: The picture, ``(252, 240, 3)`` of uint8.
        """
        n_actions = self.payoffs.shape[1:]
        # With an odd number of agents, the rows take one agent more than the columns.
        row_agents = (self.n_agents + 1) // 2
        shape = int(np.prod(n_actions[:row_agents])), int(np.prod(n_actions[row_agents:]))
        table = self.payoffs[step].reshape(shape)
        # A table with more cells than pixels is subsampled.
        rows, columns = (np.arange(PICTURE_SIZE) * count // PICTURE_SIZE for count in shape)
        picture = np.empty((PICTURE_SIZE + BAR_HEIGHT, PICTURE_SIZE, 3), dtype=np.uint8)
        picture[:PICTURE_SIZE] = color(table[np.ix_(rows, columns)], self.payoffs.min(), self.payoffs.max())
        # With more dots nothing else would be seen.
        for best in self.best_joint_actions(step)[:100]:
            top, bottom, left, right = self._cell(best, shape)
            row, column = (top + bottom) // 2, (left + right) // 2
            picture[max(row - 4, 0) : row + 4, max(column - 4, 0) : column + 4] = 0
            picture[max(row - 2, 0) : row + 2, max(column - 2, 0) : column + 2] = 255
        if action is not None:
            top, bottom, left, right = self._cell(action, shape)
            for value, width in ((255, 4), (0, 2)):
                framed = picture[top:bottom, left:right].copy()
                picture[top:bottom, left:right] = value
                picture[top + width : bottom - width, left + width : right - width] = framed[width:-width, width:-width]
        picture[PICTURE_SIZE:] = 40
        picture[PICTURE_SIZE + 2 :, : PICTURE_SIZE * (step + 1) // self.n_steps] = 220
        return picture

    def _cell(self, action: np.ndarray, shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """Pixels of a joint action's cell: top, bottom (exclusive), left, right (exclusive)."""
        row, column = np.unravel_index(np.ravel_multi_index(tuple(action), self.payoffs.shape[1:]), shape)
        pixels = []
        for index, count in zip((int(row), int(column)), shape, strict=True):
            # At least 10 pixels, so that marks of smaller cells are visible.
            start = min(index * PICTURE_SIZE // count, PICTURE_SIZE - 10)
            pixels += [start, max((index + 1) * PICTURE_SIZE // count, start + 10)]
        top, bottom, left, right = pixels
        return top, bottom, left, right


class MatrixTeamGame(MatrixGame):
    """
    The matrix team game of the CORA paper (section 5.1). Every step has a random table of its own, so the best joint action
    changes from step to step. Agents observe the step.

    :param n_agents: Number of agents.
    :param n_actions: Number of actions of each agent.
    :param n_steps: Number of steps of an episode.
    :param reward_range: Lowest and highest reward; the entries are drawn uniformly in between.
    :param game_seed: Seed of the tables.
    :raises ValueError: If a number is out of range, or the tables are too large.
    """

    def __init__(
        self,
        n_agents: int = 3,
        n_actions: int = 5,
        n_steps: int = 10,
        reward_range: Sequence[float] = (-10.0, 10.0),
        game_seed: int = 0,
    ) -> None:
        shape = _checked_shape(n_agents, n_actions, n_steps)
        low, high = check_range("reward_range", reward_range)
        super().__init__(game_generator(game_seed).uniform(low, high, shape))


class MultiPeakGame(MatrixGame):
    """
    The multi-peak matrix team game of the CORA paper (section 5.1). In every step a few joint actions are peaks, one of them
    the best, and all other joint actions, the background, have lower rewards.

    No agent plays the same action in two peaks of a step, so each peak is a local optimum: unless all agents change to the
    same other peak together, the team gets a reward of the background.

    :param n_agents: Number of agents.
    :param n_actions: Number of actions of each agent.
    :param n_steps: Number of steps of an episode.
    :param n_peaks: Number of peaks in each step, the best one included; at most ``n_actions``.
    :param best_peak: Reward of the best peak.
    :param peak_range: Lowest and highest reward of the other peaks, which are drawn uniformly in between.
    :param background_range: Lowest and highest reward of all other joint actions, which are drawn likewise.
    :param game_seed: Seed of the tables.
    :raises ValueError: If a number is out of range, the ranges of background, peaks and best peak are not in ascending order
        without overlap, or the tables are too large.
    """

    def __init__(
        self,
        n_agents: int = 3,
        n_actions: int = 5,
        n_steps: int = 10,
        n_peaks: int = 3,
        best_peak: float = 10.0,
        peak_range: Sequence[float] = (2.0, 8.0),
        background_range: Sequence[float] = (-20.0, -10.0),
        game_seed: int = 0,
    ) -> None:
        shape = _checked_shape(n_agents, n_actions, n_steps)
        check_count("n_peaks", n_peaks)
        if n_peaks > n_actions:
            raise ValueError(
                f"n_peaks={n_peaks} is more than n_actions={n_actions}, but no agent plays the same action in two peaks. "
                "Lower n_peaks or raise n_actions."
            )
        low, high = check_range("background_range", background_range)
        peak_low, peak_high = check_range("peak_range", peak_range)
        if not high < peak_low or not peak_high < best_peak < np.inf:
            raise ValueError(
                f"background_range={background_range}, peak_range={peak_range} and best_peak={best_peak} must be in ascending "
                "order without overlap: lower the first or raise the last."
            )
        generator = game_generator(game_seed)
        payoffs = generator.uniform(low, high, shape)
        for table in payoffs:
            actions = tuple(generator.permutation(n_actions)[:n_peaks] for _ in range(n_agents))
            table[actions] = [best_peak, *generator.uniform(peak_low, peak_high, n_peaks - 1)]
        super().__init__(payoffs)


class ClimbingGame(MatrixGame):
    """
    The climbing game of Claus and Boutilier (1998), two agents with three actions, repeated.

    If one agent deviates from the best joint action, (0, 0) with reward 11, the team may get the worst reward, -30. So agents
    that are not yet coordinated do better with other actions, and most methods settle at a reward of 7 or 5 per step.

    :param n_steps: Number of steps of an episode.
    :raises ValueError: If ``n_steps`` is less than 1.
    """

    def __init__(self, n_steps: int = 25) -> None:
        super().__init__(_repeated(CLIMBING_PAYOFFS, n_steps))


class PenaltyGame(MatrixGame):
    """
    The penalty game of Claus and Boutilier (1998), two agents with three actions, repeated.

    There are two best joint actions, (0, 2) and (2, 0) with reward 10. Agents that mix them up get the reward ``k``; (1, 1)
    with reward 2 is safe.

    :param k: The penalty, at most 0; the lower, the harder.
    :param n_steps: Number of steps of an episode.
    :raises ValueError: If ``k`` is positive or not finite, or ``n_steps`` less than 1.
    """

    def __init__(self, k: float = -100.0, n_steps: int = 25) -> None:
        if not -np.inf < k <= 0:
            raise ValueError(f"k={k}, expected a penalty: a finite number of at most 0, such as 0, -25 or -100.")
        super().__init__(_repeated(((k, 0.0, 10.0), (0.0, 2.0, 0.0), (10.0, 0.0, k)), n_steps))


def _repeated(table: Sequence[Sequence[float]], n_steps: int) -> np.ndarray:
    """The same table for each step, ``(n_steps, k_1, k_2)``, as a view that takes the memory of one table."""
    check_count("n_steps", n_steps)
    payoffs = np.array(table)
    return np.broadcast_to(payoffs, (n_steps, *payoffs.shape))


def _checked_shape(n_agents: int, n_actions: int, n_steps: int) -> tuple[int, ...]:
    """The shape of the tables, ``(n_steps, n_actions, .., n_actions)``."""
    check_count("n_agents", n_agents)
    check_count("n_actions", n_actions, least=2)
    check_count("n_steps", n_steps)
    n_entries = int(n_steps) * int(n_actions) ** int(n_agents)
    if n_entries > MAX_ENTRIES:
        raise ValueError(
            f"n_agents={n_agents}, n_actions={n_actions} and n_steps={n_steps} make tables of {n_entries} entries, expected "
            f"at most {MAX_ENTRIES}. Lower one of them."
        )
    return (n_steps, *(n_actions,) * n_agents)
