"""Games in which it matters how many agents take each action: published formulas, known optima, pictures."""

import itertools
import math
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest

from sb3_cora.envs.anonymous_game import AnonymousGame, BarProblemGame, GaussianSqueezeGame


def test_the_squeeze_against_its_published_formula() -> None:
    """``x exp(-(x - mu)^2 / sigma^2)`` of the sum ``x`` of the actions, here for each agent."""
    n_agents, mu, sigma = 50, 150.0, 30.0
    actions = np.random.default_rng(0).integers(0, 10, (20, n_agents))
    sums = actions.sum(axis=1)
    expected = sums * np.exp(-((sums - mu) ** 2) / sigma**2) / n_agents
    np.testing.assert_allclose(GaussianSqueezeGame(n_agents).rewards(0, actions), expected, rtol=1e-12)


def test_the_bar_against_its_published_formula() -> None:
    """The sum over nights of ``x exp(-x / c)`` of the number ``x`` of agents, here for each agent."""
    counts, capacity = (4, 6, 0, 15, 25), 4.0
    actions = np.random.default_rng(0).permutation(np.repeat(np.arange(5), counts))
    expected = sum(count * math.exp(-count / capacity) for count in counts) / 50
    assert BarProblemGame(50).rewards(0, actions[None])[0] == pytest.approx(expected, rel=1e-12)


def test_optima_by_hand() -> None:
    # x exp(-((x - 3) / 0.6)^2) is highest where 2 x (x - 3) = 0.36, which 47 times 3 and 3 times 4 come nearest to
    squeeze = GaussianSqueezeGame()
    assert squeeze.optimal_counts.tolist() == [0, 0, 0, 47, 3, 0, 0, 0, 0, 0]
    assert squeeze.optimal_return == pytest.approx(3.06 * math.exp(-0.01))
    # Four nights at capacity, everybody else in one
    bar = BarProblemGame()
    assert sorted(bar.optimal_counts) == [4, 4, 4, 4, 34]
    assert bar.optimal_return == pytest.approx((16 * math.exp(-1) + 34 * math.exp(-34 / 4)) / 50)


@pytest.mark.parametrize(
    "game",
    [
        *(BarProblemGame(n, k, capacity) for n, k in [(1, 2), (6, 3), (7, 2), (5, 4)] for capacity in (0.05, 0.3, 2.0)),
        *(GaussianSqueezeGame(n, k, mean) for n, k in [(1, 2), (6, 3), (7, 2), (5, 4)] for mean in (0.0, 1.2, 9.0)),
    ],
    ids=lambda game: f"{type(game).__name__}-{game.n_agents}-{game.n_actions}",
)
def test_the_optimum_by_brute_force(game: AnonymousGame) -> None:
    joint_actions = np.array(list(itertools.product(range(game.n_actions), repeat=game.n_agents)))
    assert game.optimal_return == pytest.approx(game.rewards(0, joint_actions).max(), rel=1e-12)
    assert game.rewards(0, game.optimal_actions)[0] == game.optimal_return


@pytest.mark.parametrize("game", [BarProblemGame(), GaussianSqueezeGame()], ids=["bar_problem", "gaussian_squeeze"])
def test_renaming_agents_changes_nothing(game: AnonymousGame) -> None:
    generator = np.random.default_rng(0)
    actions = generator.integers(0, game.n_actions, (30, game.n_agents))
    renamed = generator.permuted(actions, axis=1)
    np.testing.assert_array_equal(game.rewards(0, actions), game.rewards(0, renamed))


def test_the_picture() -> None:
    env = gym.make("bar_problem", n_agents=8, n_actions=2, capacity=0.125, render_mode="rgb_array")
    env.reset()
    # One agent alone in a night and seven in the other: the other way round is as good
    assert env.unwrapped.game.optimal_counts.tolist() == [1, 7]
    env.step(np.array([0, 0, 0, 0, 0, 0, 0, 1]))
    picture = env.render()
    assert picture.shape == (252, 240, 3) and picture.dtype == np.uint8
    columns = (picture[:240] == (39, 173, 129)).all(axis=2).sum(axis=0)
    outline = (picture[:240] == 255).all(axis=2).sum(axis=0)
    # The full height for seven agents, less the outline that crosses it, and a seventh of it for one
    assert columns[0] == 240 - 3 and columns[-1] == 240 // 7 and outline[0] == outline[-1] == 3
    assert (picture[242:, :, 0] == 220).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianSqueezeGame(0), "n_agents=0, expected an integer of at least 1"),
        (lambda: GaussianSqueezeGame(n_actions=1), "n_actions=1, expected an integer of at least 2"),
        (lambda: GaussianSqueezeGame(mean=-1.0), "mean=-1.0 and deviation=0.6, expected finite numbers"),
        (lambda: GaussianSqueezeGame(deviation=0.0), "mean=3.0 and deviation=0.0, expected finite numbers"),
        (lambda: GaussianSqueezeGame(mean=100.0), "No joint action of this game is worth anything"),
        (lambda: BarProblemGame(2.5), "n_agents=2.5, expected an integer"),
        (lambda: BarProblemGame(capacity=math.inf), "capacity=inf, expected a finite number above 0"),
    ],
)
def test_settings_out_of_range(make: Callable[[], AnonymousGame], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
