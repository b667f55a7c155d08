"""Matrix games pay what their tables say, in one world and in thousands, and their optimum is the optimum."""

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from sb3_cora import make_joint_vec_env
from sb3_cora.common.env_checker import check_joint_env
from sb3_cora.common.env_util import as_joint_vec_env
from sb3_cora.envs.batched_game import BatchedGame, GameEnv, GameVecEnv, make_game
from sb3_cora.envs.matrix_game import ClimbingGame, MatrixGame, MatrixTeamGame, MultiPeakGame, PenaltyGame
from sb3_cora.envs.registration import GAMES

MATRIX_GAMES = [name for name, game in GAMES.items() if "matrix_game" in game]

over_games = pytest.mark.parametrize("name", GAMES)

# What step i + 1 pays for the joint action (i, j): a table of its own for each of two steps, unequal numbers of actions
PAYOFFS = np.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]])


def random_actions(game: BatchedGame, *shape: int) -> np.ndarray:
    """``(*shape, *action_space.shape)``"""
    game.action_space.seed(0)
    drawn = [game.action_space.sample() for _ in range(int(np.prod(shape)))]
    return np.array(drawn).reshape(*shape, *game.action_space.shape)


def play(vec_env: Any, actions: np.ndarray) -> float:
    """The return that the same joint actions, ``(n_steps, *action_space.shape)``, earn in every world."""
    vec_env.reset()
    total = np.zeros(vec_env.num_envs)
    for action in actions:
        total += vec_env.step(np.stack([action] * vec_env.num_envs))[1]
    assert (total == total[0]).all()
    return float(total[0])


def test_given_tables() -> None:
    vec_env = GameVecEnv(MatrixGame(PAYOFFS), num_envs=3)
    assert vec_env.action_space == gym.spaces.MultiDiscrete([2, 3])
    np.testing.assert_array_equal(vec_env.reset(), [[[1, 0], [1, 0]]] * 3)
    observations, rewards, dones, infos = vec_env.step(np.array([[0, 0], [1, 2], [0, 1]]))
    np.testing.assert_array_equal(observations, [[[0, 1], [0, 1]]] * 3)
    assert rewards.tolist() == [1, 6, 2] and not dones.any()
    assert [list(info) for info in infos] == [["agent_rewards", "TimeLimit.truncated"]] * 3
    observations, rewards, dones, infos = vec_env.step(np.array([[0, 0], [1, 2], [0, 1]]))
    np.testing.assert_array_equal(observations, [[[1, 0], [1, 0]]] * 3)
    assert rewards.tolist() == [-1, -6, -2] and dones.all()
    for info, reward in zip(infos, rewards, strict=True):
        assert info["agent_rewards"].tolist() == [reward, reward]
        # The end is the game's own, and no step is left
        assert info["TimeLimit.truncated"] is False and not info["terminal_observation"].any()
    assert vec_env.optimal_return == 5.0
    assert vec_env.optimal_actions.tolist() == [[1, 2], [0, 0]]


@pytest.mark.parametrize("name", MATRIX_GAMES)
def test_the_optimum_by_brute_force(name: str) -> None:
    game = make_game(name)
    joint_actions = np.array(list(itertools.product(*(range(k) for k in game.action_space.nvec))))
    earned = np.array([game.rewards(step, joint_actions) for step in range(game.n_steps)])
    assert game.optimal_return == pytest.approx(earned.max(axis=1).sum(), rel=1e-12)
    for step in range(game.n_steps):
        best = joint_actions[earned[step] == earned[step].max()]
        np.testing.assert_array_equal(game.best_joint_actions(step), best)
        np.testing.assert_array_equal(game.optimal_actions[step], best[0])


@over_games
def test_the_optimal_actions_earn_the_optimal_return(name: str) -> None:
    vec_env = make_joint_vec_env(name, n_envs=2)
    assert play(vec_env, vec_env.get_attr("optimal_actions")[0]) == pytest.approx(
        vec_env.get_attr("optimal_return")[0], rel=1e-6
    )


@pytest.mark.parametrize(
    ("name", "settings", "joint_action", "expected"),
    [
        ("climbing", {}, [0, 0], 275),
        ("climbing", {}, [1, 1], 175),
        ("climbing", {}, [1, 2], 150),
        ("climbing", {}, [2, 2], 125),
        ("climbing", {}, [0, 1], -750),
        ("climbing", {"n_steps": 2}, [1, 0], -60),
        ("penalty", {}, [0, 0], -2500),
        ("penalty", {}, [0, 2], 250),
        ("penalty", {}, [2, 0], 250),
        ("penalty", {}, [1, 1], 50),
        ("penalty", {"k": -25}, [2, 2], -625),
        ("penalty", {"k": 0}, [1, 0], 0),
    ],
)
def test_scripted_policies(name: str, settings: dict[str, Any], joint_action: list[int], expected: float) -> None:
    vec_env = make_joint_vec_env(name, n_envs=2, **settings)
    n_steps = vec_env.observation_space.shape[1]
    assert play(vec_env, np.array([joint_action] * n_steps)) == expected


def test_penalty_has_two_optima() -> None:
    assert PenaltyGame().best_joint_actions(3).tolist() == [[0, 2], [2, 0]]
    assert PenaltyGame().optimal_return == PenaltyGame(k=0).optimal_return == 250
    assert ClimbingGame().optimal_return == 275


def test_the_matrix_team_game_is_uniform_and_of_one_table_a_step() -> None:
    payoffs = MatrixTeamGame(n_agents=4, n_actions=8, n_steps=10, reward_range=(-1.0, 3.0)).payoffs
    assert payoffs.shape == (10, 8, 8, 8, 8)
    assert -1 <= payoffs.min() < -0.99 and 2.99 < payoffs.max() <= 3
    # 40960 draws: mean 1 and variance 16 / 12, to four standard errors
    assert abs(payoffs.mean() - 1) < 4 * np.sqrt(16 / 12 / payoffs.size)
    assert payoffs.var() == pytest.approx(16 / 12, rel=0.02)
    assert len({table.tobytes() for table in payoffs}) == 10


@pytest.mark.parametrize("n_agents", [2, 3, 4])
@pytest.mark.parametrize("game_seed", range(5))
def test_peaks(n_agents: int, game_seed: int) -> None:
    game = MultiPeakGame(n_agents=n_agents, n_actions=4, n_peaks=3, game_seed=game_seed)
    assert game.optimal_return == pytest.approx(100.0)
    for step, table in enumerate(game.payoffs):
        assert len(game.best_joint_actions(step)) == 1
        peaks = np.argwhere(table > 0)
        assert sorted(table[table > 0])[-1] == 10 and len(peaks) == 3
        assert ((table[table > 0] <= 8) | (table[table > 0] == 10)).all() and (table[table > 0] >= 2).all()
        assert (table[table < 0] >= -20).all() and (table[table < 0] <= -10).all()
        # Any proper coalition that leaves a peak falls into the background: no two peaks share an agent's action
        for agent in range(n_agents):
            assert len(np.unique(peaks[:, agent])) == 3


@pytest.mark.parametrize("name", ["matrix_team", "multi_peak"])
def test_the_game_is_that_of_its_own_seed(name: str) -> None:
    first, second = (make_joint_vec_env(name, n_envs=2, seed=seed, game_seed=3) for seed in (0, 1))
    np.testing.assert_array_equal(first.get_attr("game")[0].payoffs, second.get_attr("game")[1].payoffs)
    env = gym.make(name, game_seed=3)
    env.reset(seed=5)
    np.testing.assert_array_equal(env.unwrapped.game.payoffs, first.get_attr("game")[0].payoffs)
    other = make_joint_vec_env(name, n_envs=2, seed=0, game_seed=4)
    assert not np.array_equal(other.get_attr("game")[0].payoffs, first.get_attr("game")[0].payoffs)


@over_games
def test_nothing_is_random(name: str) -> None:
    """Worlds that act alike live alike, and a seed changes nothing."""
    game = make_game(name)
    actions = random_actions(game, game.n_steps)
    returns = [play(GameVecEnv(name, num_envs=3, seed=seed), actions) for seed in (None, 0, 7)]
    assert returns[0] == returns[1] == returns[2]


@over_games
def test_one_world_and_many_pay_the_same(name: str) -> None:
    game = make_game(name)
    batch, singles = GameVecEnv(name, num_envs=4), DummyVecEnv([lambda: GameEnv(name)] * 4)
    np.testing.assert_array_equal(batch.reset(), singles.reset())
    # More than one episode
    for actions in random_actions(game, 2 * game.n_steps + 1, 4):
        for expected, found in zip(singles.step(actions), batch.step(actions), strict=True):
            if isinstance(expected, np.ndarray):
                np.testing.assert_allclose(found, expected, rtol=1e-6)
                assert found.dtype == expected.dtype
                continue
            for expected_info, found_info in zip(expected, found, strict=True):
                assert found_info.keys() == expected_info.keys()
                for key, value in expected_info.items():
                    np.testing.assert_allclose(found_info[key], value, rtol=1e-6)


def test_what_a_step_has_given_stays_as_it_was() -> None:
    vec_env = GameVecEnv(MatrixGame(PAYOFFS), num_envs=2)
    given, copies = [], []
    vec_env.reset()
    for actions in random_actions(vec_env.game, 6, 2):
        observations, rewards, dones, infos = vec_env.step(actions)
        for array in (observations, rewards, dones, *(info["agent_rewards"] for info in infos)):
            given.append(array)
            copies.append(array.copy())
        for info in infos:
            if "terminal_observation" in info:
                given.append(info["terminal_observation"])
                copies.append(info["terminal_observation"].copy())
        # SB3 adds the value at a time limit in place
        before = infos[0]["agent_rewards"].copy()
        rewards += 0.0
        np.testing.assert_array_equal(infos[0]["agent_rewards"], before)
    for array, copy in zip(given, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@over_games
def test_the_checks_pass(name: str) -> None:
    env = gym.make(name)
    assert isinstance(env.unwrapped, GameEnv)
    check_joint_env(env)
    gymnasium_check_env(env.unwrapped, skip_render_check=True)
    check_joint_env(make_joint_vec_env(name, n_envs=3, seed=0))
    check_joint_env(GameVecEnv(name, num_envs=2))


@over_games
def test_ids_are_one_batch(name: str) -> None:
    vec_env = make_joint_vec_env(name, n_envs=4096)
    assert isinstance(vec_env, VecMonitor) and isinstance(vec_env.venv, GameVecEnv) and vec_env.num_envs == 4096
    assert vec_env.get_attr("spec", indices=[0])[0].id == name
    assert as_joint_vec_env(name).num_envs == 16


@over_games
def test_evaluation_is_stepping_by_hand(name: str) -> None:
    model = PPO("MlpPolicy", make_joint_vec_env(name, n_envs=2), n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu")
    by_hand, total, terminated = GameEnv(name), 0.0, False
    observation, _ = by_hand.reset()
    while not terminated:
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, terminated, _, _ = by_hand.step(action)
        total += reward
    mean, deviation = evaluate_policy(model, make_joint_vec_env(name, n_envs=3), n_eval_episodes=6)
    # Equal episodes, up to the rounding of VecMonitor's float32
    assert mean == pytest.approx(total, rel=1e-5) and deviation < 1e-3
    assert total <= by_hand.optimal_return


def test_pictures() -> None:
    vec_env = GameVecEnv("climbing", num_envs=2, render_mode="rgb_array")
    vec_env.reset()
    before = vec_env.get_images()
    np.testing.assert_array_equal(*before)
    vec_env.step(np.array([[0, 1], [1, 1]]))
    first, second = vec_env.get_images()
    assert first.shape == (252, 240, 3) and first.dtype == np.uint8
    # The cells of -30 and of 7, away from frame and dot, and that of 11, brightest
    assert first[20, 100].tolist() == [68, 1, 84] and first[20, 20].tolist() == [253, 231, 37]
    # A frame each, around the cell that was played
    assert (first != before[0])[:80, 80:160].any() and not (first != before[0])[80:240].any()
    assert (second != before[1])[80:160, 80:160].any() and not (second != before[1])[:80].any()
    # One step of 25 on the bar
    assert (first[-1, : 240 // 25] == 220).all() and (first[-1, 240 // 25 :] == 40).all()
    assert vec_env.render().shape == (504, 240, 3)
    env = gym.make("climbing", render_mode="rgb_array")
    env.reset()
    env.step(np.array([0, 1]))
    np.testing.assert_array_equal(env.render(), first)
    assert GameEnv("climbing").render() is None


@pytest.mark.parametrize("n_actions", [[2], [3, 2, 4], [2] * 5, [300, 2], [20, 20, 20, 20]])
def test_tables_of_any_size_are_drawn(n_actions: list[int]) -> None:
    game = MatrixGame(np.random.default_rng(0).uniform(size=(2, *n_actions)))
    for corner in ([0] * len(n_actions), [k - 1 for k in n_actions]):
        assert (game.draw(1, np.array(corner)) != game.draw(1)).any()
    assert (MatrixGame(np.zeros((1, 3, 3))).draw(0)[:240] != 220).any()


def test_attributes_and_methods() -> None:
    vec_env = GameVecEnv("penalty", num_envs=3, k=-25.0, render_mode="rgb_array")
    assert vec_env.get_attr("n_steps", indices=[0, 2]) == [25, 25]
    assert vec_env.get_attr("render_mode", indices=1) == ["rgb_array"]
    assert vec_env.env_method("best_joint_actions", 0, indices=[1])[0].tolist() == [[0, 2], [2, 0]]
    vec_env.set_attr("note", "mine")
    assert vec_env.get_attr("note") == ["mine"] * 3
    with pytest.raises(ValueError, match=r"without the worlds \[1, 2\]"):
        vec_env.set_attr("note", "other", indices=0)
    assert not vec_env.has_attr("no_such_attribute")
    assert vec_env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3
    vec_env.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GameVecEnv("climbin"), r"'climbin'. Did you mean 'climbing'"),
        (lambda: GameVecEnv(ClimbingGame(), n_steps=3), r"already made: give \{'n_steps': 3\}"),
        (lambda: GameVecEnv("climbing", num_envs=0), "num_envs=0"),
        (lambda: GameVecEnv("climbing", render_mode="human"), "'human'.*'rgb_array'"),
        (lambda: ClimbingGame(n_steps=0), "n_steps=0"),
        (lambda: PenaltyGame(k=1.0), "k=1.0"),
        (lambda: PenaltyGame(k=np.nan), "k=nan"),
        (lambda: MatrixGame(np.zeros(3)), r"shape \(3,\)"),
        (lambda: MatrixGame(np.full((1, 2, 2), np.nan)), "NaN"),
        (lambda: MatrixTeamGame(game_seed=None), "game_seed=None"),
        (lambda: MatrixTeamGame(n_actions=1), "n_actions=1"),
        (lambda: MatrixTeamGame(n_agents=12, n_actions=10), "10000000000000 entries"),
        (lambda: MatrixTeamGame(reward_range=(1.0, 0.0)), "reward_range"),
        (lambda: MultiPeakGame(n_actions=3, n_peaks=4), "n_peaks=4.*n_actions=3"),
        (lambda: MultiPeakGame(best_peak=8.0), "in ascending order without overlap"),
        (lambda: MultiPeakGame(background_range=(-1.0, 3.0)), "in ascending order without overlap"),
    ],
)
def test_bad_settings_are_named(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("actions", [[[0, 3]], [[-1, 0]], [[0.0, 1.0]], [[0, 1], [0, 1]], [0, 1]])
def test_actions_outside_the_space_are_refused(actions: Any) -> None:
    vec_env = GameVecEnv("climbing", num_envs=1)
    vec_env.reset()
    with pytest.raises(ValueError, match=r"^Actions (are )?of"):
        vec_env.step(np.array(actions))


def test_a_played_episode_must_be_reset() -> None:
    env = GameEnv("climbing", n_steps=1)
    with pytest.raises(ResetNeeded):
        env.step(np.array([0, 0]))
    env.reset()
    assert env.step(np.array([0, 0]))[1:4] == (11.0, True, False)
    with pytest.raises(ResetNeeded, match="Call reset"):
        env.step(np.array([0, 0]))
