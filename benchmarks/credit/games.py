"""Games at random, of ten kinds. Their coalitions are ``masks``, boolean ``(n_coalitions, n_agents)``."""

from collections.abc import Callable

import numpy as np

Game = tuple[np.ndarray, np.ndarray]
"""Values ``(n_games, n_coalitions)`` and grand values ``(n_games,)``."""


def normal(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Independent standard normal values."""
    return rng.standard_normal((n_games, len(masks))), rng.standard_normal(n_games)


def heavy_tailed(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Independent values from Student's t with 1.5 degrees of freedom: no variance, now and then a coalition dominates."""
    return rng.standard_t(1.5, (n_games, len(masks))), rng.standard_t(1.5, n_games)


def supermodular(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Any two agents are worth more together than apart; the core is never empty."""
    n_agents = masks.shape[1]
    synergies = rng.exponential(size=(n_games, n_agents, n_agents))
    alone = rng.standard_normal((n_games, n_agents))
    everyone = np.concatenate([masks, np.ones((1, n_agents))]).astype(float)
    values = alone @ everyone.T + np.einsum("ci,bij,cj->bc", everyone, synergies, everyone, optimize=True)
    return values[:, :-1], values[:, -1]


def nearly_additive(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """A sum of the members' worths plus noise of 1e-6: all constraints nearly meet in one point."""
    worths = rng.standard_normal((n_games, masks.shape[1]))
    return worths @ masks.T + 1e-6 * rng.standard_normal((n_games, len(masks))), worths.sum(axis=1)


def zero(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Nothing is worth anything."""
    return np.zeros((n_games, len(masks))), np.zeros(n_games)


def one_coalition(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """One coalition is worth something."""
    values = np.zeros((n_games, len(masks)))
    values[np.arange(n_games), rng.integers(len(masks), size=n_games)] = rng.standard_normal(n_games)
    return values, np.zeros(n_games)


def ties(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """A coalition's worth depends on its size only."""
    worths = rng.standard_normal((n_games, masks.shape[1] + 1))
    return worths[:, masks.sum(axis=1)], worths[:, -1]


def small_integers(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Whole numbers from -2 to 2, with many ties."""
    return rng.integers(-2, 3, (n_games, len(masks))).astype(float), rng.integers(-2, 3, n_games).astype(float)


def tiny(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Normal values of size 1e-9."""
    values, grand_value = normal(rng, n_games, masks)
    return 1e-9 * values, 1e-9 * grand_value


def huge(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Normal values of size 1e7."""
    values, grand_value = normal(rng, n_games, masks)
    return 1e7 * values, 1e7 * grand_value


GAMES: dict[str, Callable[[np.random.Generator, int, np.ndarray], Game]] = {
    game.__name__: game
    for game in (
        normal,
        heavy_tailed,
        supermodular,
        nearly_additive,
        zero,
        one_coalition,
        ties,
        small_integers,
        tiny,
        huge,
    )
}
