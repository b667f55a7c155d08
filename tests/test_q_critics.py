"""What Q-critics learn from."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_cora import CORAPPO
from sb3_cora.common.q_critic_algorithm import QCriticOnPolicyAlgorithm, shuffled_minibatches
from sb3_cora.envs.batched_game import GameVecEnv
from sb3_cora.envs.registration import GAMES
from tests.algorithms import ALGORITHMS_WITH_Q, make_tiny
from tests.joint_games import Lap, MaskedTeam, NoisyTeam

over_algorithms_with_q = pytest.mark.parametrize("algorithm", ALGORITHMS_WITH_Q)


def test_minibatches_go_through_epoch_after_epoch() -> None:
    minibatches = list(shuffled_minibatches(10, 4, 7))
    assert [len(indices) for indices in minibatches] == [4, 4, 2, 4, 4, 2, 4]
    for first in (0, 3):
        assert sorted(th.cat(minibatches[first : first + 3]).tolist()) == list(range(10))
    assert th.cat(minibatches[:3]).tolist() != th.cat(minibatches[3:6]).tolist()


@pytest.mark.parametrize("env", ["laps that end", "laps that are cut", "masked", "noisy"])
@over_algorithms_with_q
def test_past_rollouts_are_learned_from_as_if_they_were_new(algorithm: type[QCriticOnPolicyAlgorithm], env: str) -> None:
    """As long as the value function stays the same, so do the targets."""
    makers = {
        "laps that end": lambda: Lap(5, truncates=False),
        "laps that are cut": lambda: Lap(5, truncates=True),
        "masked": MaskedTeam,
        "noisy": NoisyTeam,
    }
    settings: dict[str, Any] = {"learning_rate": 0.0, "normalize_values": False, "n_steps": 12, "q_n_rollouts": 3}
    model = make_tiny(algorithm, make_vec_env(makers[env], n_envs=2, seed=0), **settings)
    assert isinstance(model, QCriticOnPolicyAlgorithm)
    learned_from = model._with_past_rollouts
    history: list[list[th.Tensor]] = []
    found: list[tuple[th.Tensor, ...]] = []

    def keep(rollout: Any) -> Any:
        history.append([rollout.observation.state, rollout.actions, rollout.q_targets])
        found.append(learned_from(rollout))
        return found[-1]

    model._with_past_rollouts = keep  # type: ignore[method-assign]
    model.learn(24 * 5)
    assert [len(targets) for *_, targets in found] == [24, 48, 72, 72, 72]
    # The current rollout first, then the past ones from the oldest on
    expected = [th.cat(parts) for parts in zip(history[4], history[2], history[3], strict=True)]
    for actual, wanted in zip(found[-1], expected, strict=True):
        th.testing.assert_close(actual, wanted, rtol=0, atol=1e-5)


@over_algorithms_with_q
def test_targets_of_past_rollouts_follow_the_value_function(algorithm: type[QCriticOnPolicyAlgorithm]) -> None:
    model = make_tiny(algorithm, NoisyTeam(), q_n_rollouts=2, learning_rate=0.01)
    assert isinstance(model, QCriticOnPolicyAlgorithm)
    model.learn(16)
    (past,) = model.past_transitions
    with th.no_grad():
        values, next_values = (model.policy.value_critic(states)[:, 0] for states in (past.states, past.next_states))
    model.rollout_buffer.restore()
    rollout = model._rollout()
    *_, targets = model._with_past_rollouts(rollout)
    expected = past.rewards + model.gamma * (1 - past.ends) * next_values - values
    th.testing.assert_close(targets[16:], expected)
    # The value function has been trained since the rollout
    assert not th.allclose(targets[16:], rollout.q_targets, atol=1e-3)


def test_past_rollouts_are_not_saved(tmp_path: Any) -> None:
    model = make_tiny(CORAPPO, NoisyTeam(), q_n_rollouts=3).learn(48)
    assert isinstance(model, CORAPPO) and len(model.past_transitions) == 2
    model.save(tmp_path / "model")
    loaded = CORAPPO.load(tmp_path / "model", env=NoisyTeam())
    assert len(loaded.past_transitions) == 0
    assert len(loaded.learn(48).past_transitions) == 2


@pytest.mark.parametrize("game", sorted(GAMES))
def test_critics_know_what_actions_do_in_every_game(game: str) -> None:
    """Credits say nothing before: by default, within 20 rollouts."""
    env = GameVecEnv(game, num_envs=16)
    # Whole episodes
    n_steps = {1: 8, 10: 40, 25: 50}[env.game.n_steps]
    model = CORAPPO("MlpPolicy", env, n_steps=n_steps, batch_size=n_steps * 16 // 4, learning_rate=1e-3, seed=0, device="cpu")
    explained: list[float] = []
    update = model._update_critics

    def look() -> None:
        update()
        explained.append(model.logger.name_to_value["train/q_explained_variance"])

    model._update_critics = look  # type: ignore[method-assign]
    model.learn(20 * n_steps * 16)
    assert np.nanmax(explained) > 0.5, explained
