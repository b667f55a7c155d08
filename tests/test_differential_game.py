"""The differential game pays equation 7, knows its optimum, and can be looked at."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from scipy.optimize import minimize

from sb3_cora import make_joint_vec_env
from sb3_cora.envs.batched_game import GameEnv, GameVecEnv
from sb3_cora.envs.differential_game import DifferentialGame, gaussian_fields


def test_equation_7_against_a_loop() -> None:
    game = DifferentialGame(n_agents=3, n_fields=4, game_seed=1)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 3, 1)).astype(np.float32)
    expected = []
    for action in actions[:, :, 0].tolist():
        total = 0.0
        for centre, height, width in zip(game.centres.tolist(), game.heights, game.widths, strict=True):
            distance = sum((a - c) ** 2 for a, c in zip(action, centre, strict=True))
            total += height * math.exp(-distance / (2 * width**2))
        expected.append(total)
    np.testing.assert_allclose(game.rewards(0, actions), expected, rtol=1e-12)
    np.testing.assert_allclose(GameVecEnv(game, num_envs=6).step(actions)[1], expected, rtol=1e-6)
    assert GameVecEnv(game, num_envs=6).step(actions)[1].dtype == np.float32


def test_a_field_by_its_numbers() -> None:
    # At the centre its height; one width away its height times exp(-1/2)
    centres, heights, widths = np.array([[0.1, -0.2]]), np.array([3.0]), np.array([0.4])
    points = np.array([[0.1, -0.2], [0.5, -0.2], [0.1, 0.2]])
    half = 3.0 * math.exp(-0.5)
    np.testing.assert_allclose(gaussian_fields(points, centres, heights, widths), [3.0, half, half], rtol=1e-14)


@pytest.mark.parametrize("n_agents", [1, 2, 5])
def test_one_hill_is_best_at_its_centre(n_agents: int) -> None:
    game = DifferentialGame(n_agents=n_agents, n_fields=1, best_height=9.0)
    assert game.optimal_return == pytest.approx(9.0, abs=1e-12)
    np.testing.assert_allclose(game.optimal_actions[0, :, 0], game.centres[0], atol=1e-9)


@pytest.mark.parametrize("n_fields", [5, 12])
@pytest.mark.parametrize("n_agents, n_points", [(2, 401), (3, 61)])
@pytest.mark.parametrize("game_seed", range(4))
def test_the_optimum_by_brute_force(n_agents: int, n_points: int, n_fields: int, game_seed: int) -> None:
    """A grid over all joint actions, and a descent from its best points by another method."""
    game = DifferentialGame(n_agents=n_agents, n_fields=n_fields, game_seed=game_seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n_points)] * n_agents), axis=-1).reshape(-1, n_agents)
    heights = game.rewards(0, grid[:, :, None])
    assert heights.max() <= game.optimal_return + 1e-9
    refined = [
        -minimize(lambda point: -game.rewards(0, point[None, :, None])[0], start, tol=1e-12).fun
        for start in grid[np.argsort(heights)[-5:]]
    ]
    assert max(refined) == pytest.approx(game.optimal_return, abs=1e-9)
    assert (np.abs(game.optimal_actions) <= 1).all() and game.optimal_actions.shape == (1, n_agents, 1)


@pytest.mark.parametrize("n_agents", [2, 5])
@pytest.mark.parametrize("game_seed", range(10))
def test_there_are_several_local_optima_and_one_best(n_agents: int, game_seed: int) -> None:
    game = DifferentialGame(n_agents=n_agents, game_seed=game_seed)
    heights = game.rewards(0, game.local_optima[:, :, None])
    assert len(heights) >= 3 and heights[0] == game.optimal_return and (np.diff(heights) <= 0).all()
    assert heights[1] < 0.9 * heights[0]
    # Nowhere near a hilltop is it higher
    steps = np.random.default_rng(0).normal(0, 1e-3, (200, n_agents))
    for optimum, height in zip(game.local_optima, heights, strict=True):
        assert (game.rewards(0, (optimum + steps)[:, :, None]) < height).all()


def test_scripted_policies() -> None:
    vec_env = make_joint_vec_env("differential", n_envs=3)
    game = vec_env.get_attr("game")[0]
    assert vec_env.reset().tolist() == [[[1.0], [1.0]]] * 3
    actions = np.stack([game.optimal_actions[0], game.local_optima[1][:, None], np.zeros((2, 1))])
    observations, rewards, dones, infos = vec_env.step(actions)
    assert dones.all() and observations.tolist() == [[[1.0], [1.0]]] * 3
    assert rewards[0] == pytest.approx(game.optimal_return) and rewards[1] < rewards[0]
    assert rewards[2] == pytest.approx(gaussian_fields(np.zeros((1, 2)), game.centres, game.heights, game.widths)[0])
    assert [info["TimeLimit.truncated"] for info in infos] == [False] * 3
    assert infos[0]["episode"]["l"] == 1 and infos[0]["terminal_observation"].tolist() == [[0.0], [0.0]]


def test_the_game_is_that_of_its_own_seed() -> None:
    first, second, third = (DifferentialGame(game_seed=game_seed) for game_seed in (2, 2, 3))
    for name in ("centres", "heights", "widths", "local_optima"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.centres, third.centres)
    games = [make_joint_vec_env("differential", n_envs=1, seed=seed).get_attr("game")[0] for seed in (0, 1)]
    np.testing.assert_array_equal(games[0].centres, games[1].centres)


def test_the_hills_are_as_asked() -> None:
    game = DifferentialGame(n_agents=8, n_fields=50, best_height=9.0, height_range=(1.0, 2.0), width_range=(0.1, 0.2))
    assert np.abs(game.centres).max() <= 0.8 and game.centres.shape == (50, 8)
    assert game.heights[0] == 9 and (game.heights[1:] >= 1).all() and (game.heights[1:] <= 2).all()
    # Twice as wide with four times as many agents
    assert (game.widths >= 0.2).all() and (game.widths <= 0.4).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DifferentialGame(n_agents=0), "n_agents=0"),
        (lambda: DifferentialGame(n_fields=2.5), "n_fields=2.5"),
        (lambda: DifferentialGame(game_seed=-1), "game_seed=-1"),
        (lambda: DifferentialGame(width_range=(0.0, 1.0)), r"width_range=\(0.0, 1.0\)"),
        (lambda: DifferentialGame(height_range=(2.0, 1.0)), "height_range"),
        (lambda: DifferentialGame(best_height=8.0), "best_height=8.0"),
        (lambda: DifferentialGame(n_agents=3).plot_surface(), "n_agents=3"),
        (lambda: DifferentialGame().plot_trajectory(np.zeros((4, 3))), r"shape \(4, 3\)"),
        (lambda: DifferentialGame().plot_trajectory(np.full((4, 2), np.nan)), "8 NaN"),
        (lambda: GameVecEnv("differential").step(np.full((1, 2, 1), 1.1)), "Clip them"),
        (lambda: GameVecEnv("differential").step(np.full((1, 2, 1), np.nan)), "Clip them"),
        (lambda: GameVecEnv("differential").step(np.zeros((1, 2))), r"shape \(1, 2\), expected \(1, 2, 1\)"),
    ],
)
def test_what_cannot_be_is_named(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("n_agents", [1, 2, 5])
def test_pictures(n_agents: int) -> None:
    env = gym.make("differential", n_agents=n_agents, render_mode="rgb_array")
    env.reset()
    before = env.render()
    assert before.shape == (252, 240, 3) and before.dtype == np.uint8
    assert len(np.unique(before[:240].reshape(-1, 3), axis=0)) > 50
    # The cross at the optimum, the first agent from left to right, the second upwards
    optimum = env.unwrapped.optimal_actions[0, :, 0]
    column = round((optimum[0] + 1) / 2 * 239)
    row = round((1 - optimum[1]) / 2 * 239) if n_agents > 1 else 0
    assert before[row, column].tolist() == [255, 255, 255]
    action = np.full((n_agents, 1), -0.9, np.float32)
    env.step(action)
    dot = round(0.05 * 239)
    assert env.render()[239 - dot if n_agents > 1 else 0, dot].tolist() == [255, 255, 255]
    env.reset()
    np.testing.assert_array_equal(env.render(), before)


def n_colors(axes: Any, picture: Path) -> int:
    """How many colors a plot has once it is saved."""
    from matplotlib.image import imread

    axes.figure.savefig(picture, dpi=50)
    return len(np.unique(imread(picture).reshape(-1, 4), axis=0))


def test_plots(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    game = GameEnv("differential").game
    assert isinstance(game, DifferentialGame)
    means = np.linspace([-2.0, 0.0], game.local_optima[0], 20)[:, :, None]
    surface = game.plot_surface()
    assert surface.name == "3d" and n_colors(surface, tmp_path / "surface.png") > 100
    way = game.plot_trajectory(means)
    assert way.name == "rectilinear" and n_colors(way, tmp_path / "way.png") > 100
    # Means that are out of reach are where they act
    drawn = way.lines[0].get_xydata()
    assert drawn.shape == (20, 2) and drawn[0].tolist() == [-1.0, 0.0]
    np.testing.assert_allclose(drawn[-1], game.local_optima[0])
    axes = pyplot.figure().add_subplot(projection="3d")
    assert game.plot_trajectory(means[:, :, 0], axes) is axes
    assert n_colors(axes, tmp_path / "both.png") > 100
    flat = pyplot.figure().add_subplot()
    assert game.plot_surface(flat) is flat and n_colors(flat, tmp_path / "map.png") > 100
    pyplot.close("all")


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'^matplotlib is not installed: pip install "sb3-cora\[plots\]"'):
        DifferentialGame().plot_surface()
