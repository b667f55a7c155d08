"""Games of large teams, in which it matters how many agents take each action, but not which."""

from abc import abstractmethod

import numpy as np
from gymnasium import spaces

from sb3_cora.common.counts import check_count
from sb3_cora.envs.batched_game import BAR_HEIGHT, PICTURE_SIZE, BatchedGame


class AnonymousGame(BatchedGame):
    """
    A game of one step whose reward depends on the shares of the agents that take each action. One agent among many changes
    the reward a little, while all others' exploration changes it a lot: a test of credit assignment.

    A subclass writes ``value``.

    :param optimal_counts: How many agents take each action in one of the best joint actions, ``(n_actions,)``.
    :raises ValueError: If that is worth nothing.
    """

    def __init__(self, optimal_counts: np.ndarray) -> None:
        self.optimal_counts = optimal_counts
        self.n_actions = len(optimal_counts)
        n_agents = int(optimal_counts.sum())
        super().__init__(1, spaces.MultiDiscrete([self.n_actions] * n_agents))
        self.optimal_actions = np.repeat(np.arange(self.n_actions), optimal_counts)[None]
        if not self.optimal_return > 0:
            raise ValueError("No joint action of this game is worth anything in double precision: choose other numbers.")

    @abstractmethod
    def value(self, shares: np.ndarray) -> np.ndarray:
        """
        :param shares: Of the agents that take each action, ``(batch, n_actions)``, in sum 1.
        :return: The team's reward, ``(batch,)``.
        """

    def rewards(self, step: int, actions: np.ndarray) -> np.ndarray:
        return self.value(self._counts(actions) / self.n_agents)

    def draw(self, step: int, action: np.ndarray | None = None) -> np.ndarray:
        """
        Render the number of agents that take each action as columns from left to right, the fullest one as high as the
        picture, those of the best joint action as outlines on the same scale. The bar below is the reward, of the highest
        possible.

        :param step: Always 0.
        :param action: The joint action to show, if any.
        :return: The picture, ``(252, 240, 3)`` of uint8.
        """
        taken = np.zeros_like(self.optimal_counts) if action is None else self._counts(np.asarray(action)[None])[0]
        highest = max(taken.max(), self.optimal_counts.max())
        # The action whose column each pixel is in, and how high it is.
        columns = np.arange(PICTURE_SIZE) * self.n_actions // PICTURE_SIZE
        height = PICTURE_SIZE - np.arange(PICTURE_SIZE)[:, None]
        picture = np.full((PICTURE_SIZE + BAR_HEIGHT, PICTURE_SIZE, 3), 40, dtype=np.uint8)
        field = picture[:PICTURE_SIZE]
        field[height <= taken[columns] / highest * PICTURE_SIZE] = (39, 173, 129)
        best = self.optimal_counts[columns] / highest * PICTURE_SIZE
        field[(height <= best) & (height > best - 3)] = 255
        share = 0.0 if action is None else self.rewards(step, np.asarray(action)[None])[0] / self.optimal_return
        picture[PICTURE_SIZE + 2 :, : round(PICTURE_SIZE * share)] = 220
        return picture

    def _counts(self, actions: np.ndarray) -> np.ndarray:
        """How many agents take each action, ``(batch, n_actions)``, of joint actions ``(batch, n_agents)``."""
        return np.stack([(actions == action).sum(axis=1) for action in range(self.n_actions)], axis=1)


class GaussianSqueezeGame(AnonymousGame):
    """
    The Gaussian squeeze (HolmesParker et al., 2014; Yang et al., 2018), in units of one agent: the agents choose numbers from
    0 to ``n_actions - 1``, and the team's reward is ``x exp(-((x - mean) / deviation)^2)``, where ``x`` is their mean.

    At first the mean is far too high, and nearly all joint actions are worth next to nothing.

    :param n_agents: Number of agents.
    :param n_actions: Number of actions of each.
    :param mean: The mean choice that is asked for, 0 or more.
    :param deviation: How far from it rewards fall to 1 / e of it, above 0.
    :raises ValueError: If a number is out of range.
    """

    def __init__(self, n_agents: int = 50, n_actions: int = 10, mean: float = 3.0, deviation: float = 0.6) -> None:
        check_count("n_agents", n_agents)
        check_count("n_actions", n_actions, least=2)
        if not 0.0 <= mean < np.inf or not 0.0 < deviation < np.inf:
            raise ValueError(f"mean={mean} and deviation={deviation}, expected finite numbers, the second above 0.")
        self.mean = mean
        self.deviation = deviation
        totals = np.arange(n_agents * (n_actions - 1) + 1)
        best = int(self._value_of_mean(totals / n_agents).argmax())
        low, n_above = divmod(best, n_agents)
        counts = np.zeros(n_actions, dtype=np.int64)
        counts[low] = n_agents - n_above
        counts[min(low + 1, n_actions - 1)] += n_above
        super().__init__(counts)

    def value(self, shares: np.ndarray) -> np.ndarray:
        return self._value_of_mean((shares * np.arange(self.n_actions)).sum(axis=1))

    def _value_of_mean(self, mean: np.ndarray) -> np.ndarray:
        return mean * np.exp(-np.square((mean - self.mean) / self.deviation))


class BarProblemGame(AnonymousGame):
    """
    The bar problem of several nights (Wolpert, Wheeler and Tumer, 2000, after Arthur's El Farol bar), in units of the team:
    every agent chooses a night, and a night with the share ``x`` of the agents adds ``x exp(-x / capacity)`` to the team's
    reward.

    With more agents than all nights have room for, the best joint action fills all nights but one to capacity and sends
    everybody else to that one. Which night it is nobody says. A team that acts at random earns most of the optimum.

    :param n_agents: Number of agents.
    :param n_actions: Number of nights.
    :param capacity: The share of the agents at which a night is worth most, above 0.
    :raises ValueError: If a number is out of range.
    """

    def __init__(self, n_agents: int = 50, n_actions: int = 5, capacity: float = 0.08) -> None:
        check_count("n_agents", n_agents)
        check_count("n_actions", n_actions, least=2)
        if not 0.0 < capacity < np.inf:
            raise ValueError(f"capacity={capacity}, expected a finite number above 0.")
        self.capacity = capacity
        super().__init__(_best_split(self._value_of_night(np.arange(n_agents + 1) / n_agents), n_actions))

    def value(self, shares: np.ndarray) -> np.ndarray:
        return self._value_of_night(shares).sum(axis=1)

    def _value_of_night(self, share: np.ndarray) -> np.ndarray:
        return share * np.exp(-share / self.capacity)


def _best_split(worth: np.ndarray, n_parts: int) -> np.ndarray:
    """
    Divide a number of agents among parts, by dynamic programming.

    :param worth: Of a part with 0, 1, .. and all agents, ``(n_agents + 1,)``.
    :param n_parts: Number of parts.
    :return: How many agents each part has where the sum of their worths is highest, ``(n_parts,)``.
    """
    n_agents = len(worth) - 1
    # Of the parts so far with a number of agents, and how many of these are in the last part.
    best, in_last = worth, [np.arange(n_agents + 1)]
    # Numbers of agents that parts so far and the next one have together, and that the next one has.
    together, of_next = np.indices((n_agents + 1, n_agents + 1))
    for _ in range(n_parts - 1):
        sums = np.where(of_next <= together, best[together - of_next] + worth[of_next], -np.inf)
        best = sums.max(axis=1)
        in_last.append(sums.argmax(axis=1))
    counts = []
    for split in reversed(in_last):
        counts.append(int(split[n_agents]))
        n_agents -= counts[-1]
    return np.array(counts)
