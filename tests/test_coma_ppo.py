"""COMA's counterfactual, checked against a sum over all alternatives."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_cora import COMAPPO
from tests.algorithms import make_tiny
from tests.joint_games import MaskedTeam, MatrixGame, NoisyTeam


def credits_and_model(env_class: Any, **settings: Any) -> tuple[np.ndarray, COMAPPO, th.Tensor]:
    """The credits of a rollout, the model as it was when they were computed, and the state of the generator before."""
    model = make_tiny(COMAPPO, make_vec_env(env_class, 2, seed=0), learning_rate=0.01, **settings)
    assert isinstance(model, COMAPPO)
    # Two rollouts, so that critics and actors have something to say
    model.learn(64)
    model.collect_rollouts(model.env, _Nothing(), model.rollout_buffer, model.n_steps)
    generator = th.get_rng_state()
    return model._allocate_credits(model._rollout()).numpy(), model, generator


class _Nothing:
    """Stands in for callbacks where a rollout is collected outside of ``learn``."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: True


@pytest.mark.parametrize("env_class", [lambda: NoisyTeam(discrete=True), MaskedTeam], ids=["NoisyTeam", "MaskedTeam"])
def test_counterfactual_is_the_expectation(env_class: Any) -> None:
    credits, model, _ = credits_and_model(env_class)
    rollout = model._rollout().flatten()
    actions = model._action_features(rollout.observation, rollout.actions)
    policy = model.policy
    alive = rollout.observation.agent_mask
    with th.no_grad():
        probabilities = policy.distribution(rollout.observation).distribution.probs
        # Agents have 2, 3 and 4 actions, and no more, unless they are dead
        living = th.ones(32, 3) if alive is None else alive
        assert not (probabilities[:, 0, 2:] * living[:, 0, None]).any()
        assert not (probabilities[:, 1, 3:] * living[:, 1, None]).any()
        value = policy.q_critic(rollout.observation.state, actions).min(dim=0).values
        for agent in range(3):
            expectation = th.zeros_like(value)
            for action in range(4):
                joint = actions.clone()
                joint[:, agent] = 0.0
                # What the dead do is not seen by the critic
                joint[:, agent, action] = living[:, agent]
                alternative = policy.q_critic(rollout.observation.state, joint).min(dim=0).values
                expectation += probabilities[:, agent, action] * alternative
            expected = (value - expectation).reshape(16, 2)
            np.testing.assert_allclose(credits[:, :, agent], expected, rtol=1e-4, atol=1e-5)
    assert credits.std() > 1e-3


def test_continuous_counterfactual_is_the_mean_over_draws() -> None:
    credits, model, generator = credits_and_model(NoisyTeam, n_policy_samples=5)
    rollout = model._rollout().flatten()
    actions = model._action_features(rollout.observation, rollout.actions)
    policy = model.policy
    th.set_rng_state(generator)
    with th.no_grad():
        draws = policy.distribution(rollout.observation).sample_n(5)
        value = policy.q_critic(rollout.observation.state, actions).min(dim=0).values
        for agent in range(3):
            estimates = []
            for drawn in draws:
                joint = actions.clone()
                joint[:, agent] = policy.action_features(drawn)[:, agent]
                estimates.append(policy.q_critic(rollout.observation.state, joint).min(dim=0).values)
            expected = (value - th.stack(estimates).mean(dim=0)).reshape(16, 2)
            np.testing.assert_allclose(credits[:, :, agent], expected, rtol=1e-4, atol=1e-5)


def test_credits_of_a_known_game() -> None:
    # Once the critic has learned the payoffs, the credit is what the paper's equation says of them
    payoffs = np.array([[2.0, 0.0], [0.0, 1.0]])
    env = make_vec_env(MatrixGame, n_envs=8, seed=0, env_kwargs={"payoffs": payoffs})
    # A policy that stays uniform, so that all joint actions are seen
    model = COMAPPO(
        "MlpPolicy", env, n_steps=32, batch_size=256, seed=0, learning_rate=0.0, q_learning_rate=0.01, q_n_epochs=40
    )
    model.learn(256 * 12)
    model.collect_rollouts(model.env, _Nothing(), model.rollout_buffer, model.n_steps)
    credits = model._allocate_credits(model._rollout()).numpy()
    first, second = model.rollout_buffer.actions.astype(int)[:, :, 0], model.rollout_buffer.actions.astype(int)[:, :, 1]
    np.testing.assert_allclose(credits[:, :, 0], payoffs[first, second] - payoffs.mean(axis=0)[second], atol=0.1)
    np.testing.assert_allclose(credits[:, :, 1], payoffs[first, second] - payoffs.mean(axis=1)[first], atol=0.1)
