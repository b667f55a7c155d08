"""What is logged about critics and credits says what it claims to say."""

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_cora import CORAPPO, make_joint_vec_env
from sb3_cora.common.diagnostics import diagnostic_sample, explained_variance_within_states, relative_spread
from sb3_cora.common.q_critic_algorithm import QCriticOnPolicyAlgorithm
from sb3_cora.common.rollout import Rollout
from tests.algorithms import ALGORITHMS_WITH_Q, make_tiny
from tests.joint_games import MaskedTeam, NoisyTeam

over_algorithms_with_q = pytest.mark.parametrize("algorithm", ALGORITHMS_WITH_Q)


def one_hot_states(n_states: int, repeats: int) -> th.Tensor:
    return th.eye(n_states).repeat(repeats, 1)


def test_only_what_differs_within_a_state_counts() -> None:
    generator = th.Generator().manual_seed(0)
    # Targets are 100 times the index of the state plus an effect of the action and noise
    states = one_hot_states(5, 200)
    base = 100.0 * states.argmax(dim=1).float()
    action, noise = th.randn(2, 1000, generator=generator)
    targets = base + action + 0.5 * noise

    def explained(estimates: th.Tensor) -> float:
        return explained_variance_within_states(states, estimates, targets)

    assert explained(targets) == 1.0
    # A value function explains 99.99 % of the variance, and nothing of what counts
    assert explained(base) == 0.0
    # The variance of the action's effect is 1 of 1.25; an error that is a function of the state does no harm
    assert explained(base + action) == pytest.approx(0.8, abs=0.04)
    assert explained(-7.0 * base + action) == pytest.approx(0.8, abs=0.04)
    assert explained(base - action) < -2.0


def test_neighborhoods_of_continuous_states() -> None:
    generator = th.Generator().manual_seed(0)
    # Entries of the state in units of their own
    states = th.rand(1024, 2, generator=generator) * th.tensor([1.0, 1000.0])
    value = 10.0 * states[:, 0] + 0.01 * states[:, 1]
    action = th.randn(1024, generator=generator)
    targets = value + action
    assert explained_variance_within_states(states, value + action, targets) > 0.99
    # What is left of the value within a neighborhood of 8
    assert explained_variance_within_states(states, value, targets) < 0.15
    assert explained_variance_within_states(states, 0.0 * value, targets - value) == pytest.approx(0.0, abs=1e-6)


def test_where_there_is_nothing_to_explain() -> None:
    states = one_hot_states(2, 4)
    assert np.isnan(explained_variance_within_states(states, th.zeros(8), th.ones(8)))
    assert np.isnan(explained_variance_within_states(states[:1], th.zeros(1), th.ones(1)))
    # Where means of equal targets are rounded: one state, or 25, in each of which the policy is certain
    generator = th.Generator().manual_seed(0)
    for n_states in (1, 25):
        states = th.randint(n_states, (1024, 1), generator=generator).float()
        for target in (0.3, 1.1, 18.3):
            assert np.isnan(explained_variance_within_states(states, th.randn(1024), target * (1 + states[:, 0])))
    states = one_hot_states(2, 4)
    # Two samples are each other's neighborhood
    assert explained_variance_within_states(states[:2], th.tensor([1.0, 2.0]), th.tensor([3.0, 4.0])) == 1.0


def test_a_sample_is_taken_without_a_trace() -> None:
    state = th.get_rng_state()
    taken = diagnostic_sample(5000)
    assert th.equal(th.get_rng_state(), state) and th.equal(taken, diagnostic_sample(5000))
    assert len(taken.unique()) == 512 and 0 <= taken.min() < 100 and 4900 < taken.max() < 5000
    assert diagnostic_sample(3).sort().values.tolist() == [0, 1, 2]


def test_spread_of_known_credits() -> None:
    # Deviations 1 and 0 among the agents, of advantages that deviate by 2
    credits = th.tensor([[3.0, 1.0, 9.0], [5.0, 5.0, 0.0]])
    advantages = th.tensor([2.0, 6.0])
    players = th.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert relative_spread(credits, advantages, players) == pytest.approx(0.5 / 2.0)
    assert relative_spread(10.0 * credits, 10.0 * advantages, players) == pytest.approx(0.5 / 2.0)
    assert relative_spread(credits, advantages, th.zeros(2, 3)) == 0.0
    assert relative_spread(credits, th.ones(2), players) == pytest.approx(0.5)


@pytest.mark.parametrize("env_class", [NoisyTeam, MaskedTeam])
@over_algorithms_with_q
def test_critics_are_judged_before_they_are_trained(algorithm: type[QCriticOnPolicyAlgorithm], env_class: Any) -> None:
    model = make_tiny(algorithm, env_class(), q_learning_rate=0.1, n_steps=64)
    assert isinstance(model, QCriticOnPolicyAlgorithm)
    expected = []
    train = model._update_critics

    def judge_and_train(rollout: Rollout) -> None:
        flat = rollout.flatten()
        state, q_targets = flat.observation.state, model._q_targets(flat)
        actions = model._action_features(flat.observation, flat.actions)
        with th.no_grad():
            estimates = model.policy.q_critic(state, actions).amin(dim=0)
        expected.append(explained_variance_within_states(state, estimates, q_targets))
        train(rollout)
        with th.no_grad():
            trained = model.policy.q_critic(state, actions).amin(dim=0)
        # They learn something by heart, which must not be what is logged
        assert explained_variance_within_states(state, trained, q_targets) != expected[-1]

    model._update_critics = judge_and_train  # type: ignore[method-assign]
    model.learn(128)
    logged = model.logger.name_to_value
    assert logged["train/q_explained_variance"] == pytest.approx(expected[-1], rel=1e-4) and len(expected) == 2
    assert logged["credit/spread"] > 0


def test_credits_that_are_shared_do_not_spread() -> None:
    for credit, spreads in (("shared", False), ("equal", False), ("core", True)):
        model = make_tiny(CORAPPO, NoisyTeam(), credit=credit)
        assert (model.learn(32).logger.name_to_value["credit/spread"] > 1e-6) == spreads


def test_a_critic_that_knows_the_actions_is_told_from_one_that_does_not() -> None:
    explained = {}
    for learns in (False, True):
        env = make_joint_vec_env("climbing", n_envs=4, n_steps=5)
        # The actors stand still, so the critics see the same nine joint actions throughout
        settings: dict[str, Any] = {"learning_rate": 0.0, "n_steps": 50, "batch_size": 50, "normalize_values": True}
        model = make_tiny(CORAPPO, env, **settings, q_learning_rate=0.01 if learns else 0.0, q_n_epochs=10)
        model.learn(8 * 200)
        explained[learns] = model.logger.name_to_value["train/q_explained_variance"]
    assert abs(explained[False]) < 0.05 and explained[True] > 0.8
