"""Noise that is correlated in time."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_cora import CORAPPO, MAPPO
from sb3_cora.common.noise import autoregressive_noise
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.rollout import Rollout
from tests.algorithms import ALGORITHMS, make_tiny
from tests.joint_games import NoisyTeam

over_algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


class Push(gym.Env):
    """
    Two agents with a position each, which moves by a hundredth of the action. The team is paid 1 where both have gone beyond
    0.5, and otherwise nothing: the walk of independent noise gets 0.1 far in the 100 steps of an episode.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2, 1))
    action_space = spaces.Box(-10.0, 10.0, (2, 1))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = np.zeros((2, 1), np.float32)
        self.n_steps = 0
        return self.position, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.position = self.position + 0.01 * action
        self.n_steps += 1
        passed = bool((self.position > 0.5).all())
        return self.position, float(passed), passed, self.n_steps == 100, {}


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_autoregressive_noise(correlation: float) -> None:
    th.manual_seed(0)
    series = [th.randn(20_000)]
    for _ in range(20):
        series.append(autoregressive_noise(series[-1], correlation))
    # Five standard errors
    assert series[-1].mean().abs() < 5 / 20_000**0.5
    assert abs(series[-1].std() - 1.0) < 5 / 40_000**0.5
    for lag in (1, 3):
        estimate = (series[-1] * series[-1 - lag]).mean()
        assert abs(estimate - correlation**lag) < 5 * 2**0.5 / 20_000**0.5


@over_algorithms
def test_actions_of_a_rollout_are_correlated(algorithm: type[CooperativeOnPolicyAlgorithm]) -> None:
    env = make_vec_env(NoisyTeam, n_envs=64, seed=0)
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 2048, "n_epochs": 1, "learning_rate": 0.0}
    model = make_tiny(algorithm, env, noise_correlation=0.9, **settings)
    taken: list[np.ndarray] = []

    def keep(rollout: Rollout) -> th.Tensor:
        taken.append(model.rollout_buffer.actions.reshape(32, 64, -1).copy())
        taken.append(model.rollout_buffer.log_probs.copy())
        return allocate(rollout)

    allocate, model._allocate_credits = model._allocate_credits, keep  # type: ignore[method-assign]
    model.learn(2048)
    actions, log_probs = taken
    # The output gain of 0.01 leaves next to nothing but the noise, of standard deviation 1
    noise = actions / actions.std()
    assert (noise[1:] * noise[:-1]).mean() == pytest.approx(0.9, abs=0.05)
    # Environments and agents have noise of their own
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 0.15
    assert abs((noise[:, :, 1:] * noise[:, :, :-1]).mean()) < 0.15
    # Log-probabilities are those of the policy, whatever the steps before
    expected = -0.5 * (np.square(actions) + np.log(2 * np.pi))
    n_agents = log_probs.shape[2]
    np.testing.assert_allclose(log_probs, expected.reshape(32, 64, n_agents, -1).sum(axis=3), atol=0.3)


def test_equal_seeds_give_equal_noise_and_a_loaded_model_has_noise_as_well(tmp_path: Any) -> None:
    first, second = (make_tiny(CORAPPO, make_vec_env(NoisyTeam, 2, seed=0), noise_correlation=0.9).learn(64) for _ in range(2))
    for name, parameter in first.policy.named_parameters():
        assert th.equal(parameter, dict(second.policy.named_parameters())[name]), name
    first.save(tmp_path / "model")
    loaded = CORAPPO.load(tmp_path / "model", make_vec_env(NoisyTeam, 3, seed=0))
    assert loaded.noise_correlation == loaded.policy.noise_correlation == 0.9
    assert len(loaded.learn(64).policy.noise) == 3


def test_correlated_noise_goes_where_independent_noise_does_not() -> None:
    found = {}
    for correlation in (0.0, 0.95):
        env = make_vec_env(Push, n_envs=64, seed=0)
        settings: dict[str, Any] = {"n_steps": 500, "batch_size": 32_000, "n_epochs": 1, "learning_rate": 0.0}
        model = make_tiny(MAPPO, env, noise_correlation=correlation, stats_window_size=320, **settings).learn(32_000)
        assert model.ep_info_buffer is not None
        found[correlation] = np.mean([episode["r"] for episode in model.ep_info_buffer])
    # The sum of 100 standard normal numbers has a standard deviation of 10, or of 62 where they are correlated. To exceed 50
    # takes 5 deviations there and 0.8 here, where both agents do in more than one episode of 25
    assert found[0.0] == 0.0 and found[0.95] > 0.02, found
