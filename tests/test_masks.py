"""Joint observations with state and masks: what is not allowed is not done, and who is dead does not count."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.credit import CONCEPTS
from tests.algorithms import ALGORITHMS, ALGORITHMS_WITH_Q, assert_trained, make_tiny, weights
from tests.joint_games import MaskedTeam

Algorithm = type[CooperativeOnPolicyAlgorithm]

over_algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


def masked_model(algorithm: Algorithm, dead: tuple[int, ...] = (), **settings: Any) -> CooperativeOnPolicyAlgorithm:
    return make_tiny(algorithm, make_vec_env(MaskedTeam, n_envs=2, seed=0, env_kwargs={"dead": dead}), **settings)


@pytest.mark.parametrize("share_parameters", [False, True], ids=["separate actors", "one actor"])
@over_algorithms
def test_masked_actions_are_never_taken(algorithm: Algorithm, share_parameters: bool) -> None:
    # The environment raises on them. Large steps and no entropy bonus drive probabilities to their ends.
    model = masked_model(algorithm, share_parameters=share_parameters, learning_rate=0.01)
    before = weights(model)
    model.learn(640)
    assert_trained(before, model)
    assert np.isfinite(model.rollout_buffer.log_probs).all()
    for deterministic in (True, False):
        env, episodes = model.get_env(), 0
        observation = env.reset()
        while episodes < 5:
            action, _ = model.predict(observation, deterministic=deterministic)
            observation, _, dones, _ = env.step(action)
            episodes += dones.sum()


@over_algorithms
def test_actors_that_are_dead_throughout_do_not_change(algorithm: Algorithm) -> None:
    model = masked_model(algorithm, dead=(1,), ent_coef=0.1)
    before = weights(model)
    model.learn(64)
    assert_trained(before, model)
    for name, parameter in weights(model).items():
        if name.startswith("actor."):
            moved = (parameter != before[name]).flatten(start_dim=1).any(dim=1)
            assert moved.tolist() == [True, False, True], name


@over_algorithms
def test_the_dead_leave_no_trace_in_the_others(algorithm: Algorithm) -> None:
    # An agent that is dead throughout may as well have had a mind to do something else
    trained = []
    for scale in (1.0, -100.0):
        model = masked_model(algorithm, dead=(2,), ent_coef=0.1)
        with th.no_grad():
            model.policy.actor.output_net.weight[2] *= scale
        model.learn(64)
        trained.append({name: p[:2] for name, p in weights(model).items() if name.startswith("actor.")})
    for name, parameter in trained[0].items():
        th.testing.assert_close(parameter, trained[1][name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS_WITH_Q)
@pytest.mark.parametrize("credit", CONCEPTS)
def test_credits_of_the_dead_are_zero(algorithm: Algorithm, credit: str) -> None:
    model = masked_model(algorithm, dead=(1,), credit=credit)
    kept: dict[str, np.ndarray] = {}
    allocate = model._allocate_credits

    def observed() -> np.ndarray:
        kept["alive"] = model.rollout_buffer.observations["agent_mask"].astype(bool)
        kept["advantages"] = model.rollout_buffer.advantages.copy()
        kept["credits"] = allocate()
        return kept["credits"]

    model._allocate_credits = observed
    model.learn(32)
    alive, credits = kept["alive"], kept["credits"]
    assert not alive[..., 1].any() and alive[..., 2].all() and set(alive[..., 0].ravel()) == {True, False}
    assert not credits[~alive].any() and np.isfinite(credits).all()
    if credit in ("core", "least_core", "shapley", "equal"):
        # The mean over the living is the team's advantage
        np.testing.assert_allclose(credits.sum(axis=2) / alive.sum(axis=2), kept["advantages"], rtol=1e-4, atol=1e-4)
    lone = alive.sum(axis=2) == 1
    np.testing.assert_allclose(credits[lone][:, 2], kept["advantages"][lone], rtol=1e-5, atol=1e-6)


@over_algorithms
def test_nobody_alive(algorithm: Algorithm) -> None:
    model = masked_model(algorithm, dead=(0, 1, 2), ent_coef=0.1)
    before = weights(model)
    model.learn(32)
    for name, parameter in weights(model).items():
        assert th.isfinite(parameter).all()
        assert th.equal(parameter, before[name]) == name.startswith("actor."), name


@over_algorithms
def test_critics_see_the_state_and_actors_their_own_row(algorithm: Algorithm) -> None:
    model = masked_model(algorithm)
    observation = model.get_env().reset()
    tensors, _ = model.policy.obs_to_tensor(observation)
    value = model.policy.predict_values(tensors)
    logits = model.policy.actor(tensors["observation"])

    changed = {**tensors, "observation": tensors["observation"].clone()}
    changed["observation"][:, 0] += 1.0
    assert th.equal(model.policy.predict_values(changed), value)
    difference = (model.policy.actor(changed["observation"]) - logits).abs().amax(dim=(0, 2))
    assert difference[0] > 0 and not difference[1:].any()

    changed = {**tensors, "state": tensors["state"] + 1.0}
    assert not th.isclose(model.policy.predict_values(changed), value).any()
