"""Normalization of observations and rewards, with statistics of each agent's own and with shared ones."""

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecNormalize, sync_envs_normalization

from sb3_cora import CORAPPO
from sb3_cora.common.vec_normalize import JointVecNormalize
from tests.algorithms import make_tiny
from tests.joint_games import BoxMasks, MaskedTeam, NoisyTeam

N_AGENTS, OBS_DIM = 2, 3


class Scaled(gym.Env):
    """Agent i observes noise around 10 i with deviation i + 1, and is paid noise of deviation i + 1; no episode ends."""

    observation_space = spaces.Box(-np.inf, np.inf, (N_AGENTS, OBS_DIM))
    action_space = spaces.Box(-1.0, 1.0, (N_AGENTS, 1))

    def _noise(self, *shape: int) -> np.ndarray:
        return self.np_random.standard_normal((N_AGENTS, *shape)) * (np.arange(N_AGENTS) + 1).reshape(-1, *[1] * len(shape))

    def _observation(self) -> np.ndarray:
        return (10.0 * np.arange(N_AGENTS)[:, None] + self._noise(OBS_DIM)).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        rewards = self._noise()
        return self._observation(), float(rewards.mean()), False, False, {"agent_rewards": rewards}


def played(env: Any, n_steps: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """The observations of the last 200 steps ``(200, n_envs, n_agents, obs_dim)`` and the agents' rewards."""
    env.seed(0)
    env.reset()
    observations, rewards = [], []
    for _ in range(n_steps):
        observation, _, _, infos = env.step(np.zeros((env.num_envs, N_AGENTS, 1)))
        observations.append(observation)
        rewards.append([info["agent_rewards"] for info in infos])
    return np.array(observations[-200:]), np.array(rewards[-200:])


def make_env(**kwargs: Any) -> JointVecNormalize:
    return JointVecNormalize(DummyVecEnv([Scaled, Scaled, Scaled]), **kwargs)


def test_each_agent_by_itself() -> None:
    observations, rewards = played(make_env(gamma=0.0))
    for agent in range(N_AGENTS):
        assert observations[:, :, agent].mean() == pytest.approx(0.0, abs=0.1)
        assert observations[:, :, agent].std() == pytest.approx(1.0, abs=0.1)
        assert rewards[:, :, agent].std() == pytest.approx(1.0, abs=0.1)


def test_all_agents_together() -> None:
    env = make_env(gamma=0.0, share_statistics=True)
    observations, rewards = played(env)
    # Means 0 and 10, variances 1 and 4: together a mean of 5 and a variance of 2.5 + 25
    np.testing.assert_allclose(env.obs_rms.mean, 5.0, atol=0.1)
    np.testing.assert_allclose(env.obs_rms.var, 27.5, rtol=0.05)
    assert observations.std() == pytest.approx(1.0, abs=0.05)
    for agent, deviation in enumerate((1.0, 2.0)):
        assert rewards[:, :, agent].std() == pytest.approx(deviation / 2.5**0.5, abs=0.1)


def test_the_rest_is_stable_baselines3s() -> None:
    ours, theirs = make_env(), VecNormalize(DummyVecEnv([Scaled, Scaled, Scaled]))
    for env in (ours, theirs):
        env.seed(0)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    for _ in range(20):
        (observations, rewards, *_), (expected, expected_rewards, *_) = (
            env.step(np.zeros((3, N_AGENTS, 1))) for env in (ours, theirs)
        )
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_array_equal(rewards, expected_rewards)


@pytest.mark.parametrize("share_statistics", [False, True])
def test_saved_statistics(share_statistics: bool, tmp_path: Path) -> None:
    env = make_env(share_statistics=share_statistics)
    played(env, 250)
    env.save(str(tmp_path / "statistics.pkl"))
    loaded = VecNormalize.load(str(tmp_path / "statistics.pkl"), DummyVecEnv([Scaled]))
    assert isinstance(loaded, JointVecNormalize) and loaded.agent_returns.shape == (1, N_AGENTS)
    np.testing.assert_array_equal(loaded.obs_rms.mean, env.obs_rms.mean)
    np.testing.assert_array_equal(loaded.agent_ret_rms.var, env.agent_ret_rms.var)
    before = pickle.dumps(loaded.agent_ret_rms)
    loaded.training = False
    played(loaded, 5)
    assert pickle.dumps(loaded.agent_ret_rms) == before


@pytest.mark.parametrize("share_statistics", [False, True])
def test_masks_are_left_alone(share_statistics: bool) -> None:
    env = JointVecNormalize(DummyVecEnv([MaskedTeam]), share_statistics=share_statistics)
    assert env.norm_obs_keys == ["observation", "state"]
    observation = env.reset()
    assert set(np.unique(observation["action_mask"])) <= {0, 1}
    assert env.obs_rms["observation"].mean.shape == ((4,) if share_statistics else (3, 4))
    assert env.obs_rms["state"].mean.shape == (MaskedTeam.state_dim,)


def test_without_rewards_of_their_own_or_without_normalization() -> None:
    env = JointVecNormalize(DummyVecEnv([NoisyTeam]))
    env.reset()
    *_, infos = env.step(np.zeros((1, 3, 2)))
    assert "agent_rewards" not in infos[0]
    unnormalized = make_env(norm_reward=False, norm_obs=False)
    _, rewards = played(unnormalized, 200)
    assert rewards[:, :, 1].std() == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("share_statistics", [False, True])
def test_evaluation_gets_the_statistics_of_the_agents(share_statistics: bool) -> None:
    env, evaluation_env = make_env(share_statistics=share_statistics), make_env(share_statistics=share_statistics)
    played(env, 250)
    sync_envs_normalization(env, evaluation_env)
    copied = pickle.dumps(evaluation_env.agent_ret_rms)
    assert copied == pickle.dumps(env.agent_ret_rms) and (env.agent_ret_rms.var != 1.0).all()
    np.testing.assert_array_equal(evaluation_env.ret_rms.var, env.ret_rms.var)
    # What is learned afterwards is not shared
    played(env, 250)
    assert pickle.dumps(evaluation_env.agent_ret_rms) == copied != pickle.dumps(env.agent_ret_rms)


def test_evaluation_beside_sb3s_normalization() -> None:
    env, evaluation_env = VecNormalize(make_env().venv), make_env()
    sync_envs_normalization(env, evaluation_env)
    evaluation_env.reset()
    _, _, _, infos = evaluation_env.step(np.zeros((evaluation_env.num_envs, N_AGENTS, 1), np.float32))
    assert infos[0]["agent_rewards"].shape == (N_AGENTS,)


def box_masks(n_envs: int = 2) -> VecNormalize:
    """Stable-Baselines3's normalization, which takes masks for observations."""
    return VecNormalize(make_vec_env(BoxMasks, n_envs, seed=0))


def assert_masks(model: Any) -> None:
    """Train, in an environment that raises on actions that are not allowed."""
    model.learn(64)
    observations = model.rollout_buffer.observations
    assert set(np.unique(observations["action_mask"])) == set(np.unique(observations["agent_mask"])) == {0, 1}
    normalize = model.get_vec_normalize_env()
    normalized = normalize.normalize_obs(normalize.old_obs)
    for key, original in normalize.old_obs.items():
        assert np.array_equal(normalized[key], original) == key.endswith("mask")


def test_sb3s_normalization_leaves_masks_alone(tmp_path: Path) -> None:
    model = make_tiny(CORAPPO, box_masks())
    assert_masks(model)
    model.set_env(VecCheckNan(box_masks()))
    assert_masks(model)
    model.save(tmp_path / "model")
    model.get_vec_normalize_env().save(str(tmp_path / "statistics.pkl"))
    assert_masks(CORAPPO.load(tmp_path / "model", env=box_masks(3), device="cpu"))
    loaded = VecNormalize.load(str(tmp_path / "statistics.pkl"), make_vec_env(BoxMasks, 2))
    observation = loaded.reset()
    assert set(np.unique(observation["action_mask"])) == {0, 1}


def test_sb3s_normalization_leaves_masks_alone_in_evaluation() -> None:
    evaluation_env = box_masks(1)
    evaluation = EvalCallback(evaluation_env, n_eval_episodes=5, eval_freq=8, deterministic=False, verbose=0)
    make_tiny(CORAPPO, box_masks()).learn(32, callback=evaluation)
    assert evaluation.best_mean_reward > -np.inf
    assert set(np.unique(evaluation_env.normalize_obs(evaluation_env.old_obs)["action_mask"])) == {0, 1}


def test_masks_that_are_named_are_left_alone() -> None:
    env = JointVecNormalize(DummyVecEnv([BoxMasks]), norm_obs_keys=["observation", "agent_mask"])
    np.testing.assert_array_equal(env.reset()["agent_mask"], 1)
