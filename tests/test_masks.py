"""Joint observations with state and masks: what is not allowed is not done, and who is dead does not count."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_cora import CORAPPO, IPPO
from sb3_cora.common.distributions import JointCategorical
from sb3_cora.common.losses import agent_mean, normalize_credits
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.rollout import Rollout
from sb3_cora.cora_ppo.cora_ppo import splits
from sb3_cora.credit import CONCEPTS
from tests.algorithms import (
    LEARNERS,
    actor_weights,
    agent_networks,
    assert_trained,
    make_tiny,
    weights,
)
from tests.joint_games import MaskedTeam

Algorithm = type[CooperativeOnPolicyAlgorithm]

over_learners = pytest.mark.parametrize("algorithm", LEARNERS)


def masked_model(algorithm: Algorithm, dead: tuple[int, ...] = (), **settings: Any) -> CooperativeOnPolicyAlgorithm:
    return make_tiny(algorithm, make_vec_env(MaskedTeam, n_envs=2, seed=0, env_kwargs={"dead": dead}), **settings)


@pytest.mark.parametrize("share_parameters", [False, True], ids=["separate actors", "one actor"])
@over_learners
def test_masked_actions_are_never_taken(algorithm: Algorithm, share_parameters: bool) -> None:
    # The environment raises on them. Large steps and no entropy bonus drive probabilities to their ends.
    env = make_vec_env(MaskedTeam, n_envs=8, seed=0)
    model = make_tiny(algorithm, env, share_parameters=share_parameters, learning_rate=0.03, batch_size=32, n_epochs=4)
    before = weights(model)
    model.learn(384)
    assert_trained(before, model)
    assert np.isfinite(model.rollout_buffer.log_probs).all()
    for deterministic in (True, False):
        episodes = 0
        observation = env.reset()
        while episodes < 8:
            action, _ = model.predict(observation, deterministic=deterministic)
            observation, _, dones, _ = env.step(action)
            episodes += dones.sum()


@over_learners
def test_the_dead_without_any_action_stay_within_the_space(algorithm: Algorithm) -> None:
    model = masked_model(algorithm, dead=(1,)).learn(64)
    counts = model.action_space.nvec
    # Agent 0 has 2 actions of the 4 that the networks know of, and is allowed none once it is dead
    observations, actions = model.rollout_buffer.observations, model.rollout_buffer.actions
    empty = ~observations["action_mask"].any(axis=-1)
    assert empty.sum() >= 8
    assert (actions < counts).all()
    assert len(np.unique(actions[empty])) == 2
    observation = {key: part[empty.any(axis=-1)].repeat(20, axis=0) for key, part in observations.items()}
    for deterministic in (True, False):
        assert (model.predict(observation, deterministic=deterministic)[0] < counts).all()


def test_an_agent_without_any_allowed_action_chooses_evenly_among_its_own() -> None:
    dimensions = th.tensor([[True, True, False], [True, True, True]])
    action_mask = th.tensor([[[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]])
    distribution = JointCategorical(th.tensor([[[3.0, 0.0, 0.0], [5.0, 0.0, 0.0]]]), dimensions, action_mask)
    np.testing.assert_allclose(distribution.probabilities(), [[[0.5, 0.5, 0], [0, 0.5, 0.5]]], rtol=1e-6)
    np.testing.assert_allclose(distribution.log_prob(th.tensor([[1, 2]])), [[-np.log(2)] * 2], rtol=1e-6)
    np.testing.assert_allclose(distribution.entropy(), [[np.log(2)] * 2], rtol=1e-6)


@pytest.mark.parametrize("share_parameters", [False, True], ids=["separate actors", "one actor"])
def test_no_gradient_reaches_what_is_masked(share_parameters: bool) -> None:
    model = masked_model(CORAPPO, share_parameters=share_parameters)
    observation, _ = model.policy.obs_to_tensor(model.get_env().reset())
    allowed = (observation["action_mask"] > 0.5) & model.policy.dimensions
    raw = {}
    model.policy.actor.output_net.register_forward_hook(lambda _, __, outputs: raw.update(outputs=outputs))
    actions, _, _ = model.policy(observation)
    _, log_prob, entropy = model.policy.evaluate_actions(observation, actions)
    # What the last layer says of each action, whatever its order of axes
    outputs = raw["outputs"]
    (gradient,) = th.autograd.grad(log_prob.sum() + entropy.sum(), outputs)
    gradient = gradient.reshape(allowed.shape) if share_parameters else gradient.transpose(0, 1).reshape(allowed.shape)
    assert not gradient[~allowed].any() and gradient[allowed].any()


@pytest.mark.parametrize("baseline_action", ["mode", "expectation"])
def test_baseline_actions_obey_the_masks(baseline_action: str) -> None:
    model = masked_model(CORAPPO, dead=(1,), baseline_action=baseline_action, n_baseline_samples=20)
    # Actors that would like something else everywhere
    with th.no_grad():
        model.policy.actor.output_net.bias.add_(5 * th.randn_like(model.policy.actor.output_net.bias))
    checked = []
    baseline_actions = model._baseline_actions

    def observed(rollout: Rollout) -> th.Tensor:
        drawn = baseline_actions(rollout)
        observation = rollout.observation
        assert observation.agent_mask is not None and observation.action_mask is not None
        alive = observation.agent_mask > 0.5
        allowed = (observation.action_mask > 0.5) & model.policy.dimensions
        assert not drawn[:, ~alive].any()
        np.testing.assert_array_equal(drawn[:, alive].sum(dim=-1), 1.0)
        assert not (drawn.bool() & ~allowed).any()
        checked.append(drawn.shape)
        return drawn

    model._baseline_actions = observed
    model.learn(32)
    assert checked == [(20 if baseline_action == "expectation" else 1, 32, 3, 4)]


def test_the_dead_have_no_weight_in_normalization_and_loss() -> None:
    credits = th.tensor([[1.0, 1e6], [3.0, 5.0]])
    agent_mask = th.tensor([[1.0, 0.0], [1.0, 1.0]])
    normalized = normalize_credits(credits, agent_mask)
    # 1, 3 and 5: mean 3, deviation 2
    np.testing.assert_allclose(normalized[agent_mask > 0.5], [-1, 0, 1], atol=1e-6)
    assert agent_mean(credits, agent_mask) == 3.0
    assert agent_mean(credits, th.zeros(2, 2)) == 0.0


def test_coalitions_of_the_living() -> None:
    masks = th.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1]], dtype=th.bool)
    players = th.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=th.bool)
    expected = [[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(splits(masks, players), expected)


@pytest.mark.parametrize("credit_scale", ["batch", "sample", "paper"])
def test_a_lone_survivor_plays_no_game(credit_scale: str) -> None:
    model = masked_model(CORAPPO, dead=(0, 1), credit_scale=credit_scale)
    model.learn(32)
    logged = model.logger.name_to_value
    for name in ("credit/epsilon", "credit/spread", "credit/core_violation", "credit/unconverged"):
        assert logged[name] == 0.0, name


@over_learners
def test_actors_that_are_dead_throughout_do_not_change(algorithm: Algorithm) -> None:
    model = masked_model(algorithm, dead=(1,), ent_coef=0.1)
    before = actor_weights(model)
    model.learn(64)
    for name, parameter in actor_weights(model).items():
        assert th.isfinite(parameter).all()
        moved = (parameter != before[name]).flatten(start_dim=1).any(dim=1)
        assert moved.tolist() == [True, False, True], name


@over_learners
def test_the_dead_leave_no_trace_in_the_others(algorithm: Algorithm) -> None:
    # An agent that is dead throughout may as well have had a mind to do something else
    trained = []
    for scale in (1.0, -100.0):
        model = masked_model(algorithm, dead=(2,), ent_coef=0.1)
        network, position = agent_networks(model)[2]
        with th.no_grad():
            network.output_net.weight[position] *= scale
        model.learn(64)
        trained.append({name: parameter[:2] for name, parameter in actor_weights(model).items()})
    for name, parameter in trained[0].items():
        th.testing.assert_close(parameter, trained[1][name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        *({"credit": credit} for credit in CONCEPTS),
        # Estimates along orders in which the dead stand among the living
        {"credit": "shapley", "n_coalitions": 4, "coalition_sampling": "permutations"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_credits_of_the_dead_are_zero(settings: dict[str, Any]) -> None:
    model = masked_model(CORAPPO, dead=(1,), **settings)
    kept: dict[str, np.ndarray] = {}
    allocate = model._allocate_credits

    def observed(rollout: Rollout) -> th.Tensor:
        kept["alive"] = model.rollout_buffer.observations["agent_mask"].astype(bool)
        kept["advantages"] = model.rollout_buffer.advantages.copy()
        credits = allocate(rollout)
        kept["credits"] = credits.numpy()
        return credits

    model._allocate_credits = observed
    model.learn(32)
    alive, credits = kept["alive"], kept["credits"]
    assert not alive[..., 1].any() and alive[..., 2].all() and set(alive[..., 0].ravel()) == {True, False}
    assert not credits[~alive].any() and np.isfinite(credits).all()
    if CONCEPTS[settings["credit"]].efficient:
        # The mean over the living is the team's advantage
        np.testing.assert_allclose(credits.sum(axis=2) / alive.sum(axis=2), kept["advantages"], rtol=1e-4, atol=1e-4)
    lone = alive.sum(axis=2) == 1
    np.testing.assert_allclose(credits[lone][:, 2], kept["advantages"][lone], rtol=1e-5, atol=1e-6)


@over_learners
def test_nobody_alive(algorithm: Algorithm) -> None:
    model = masked_model(algorithm, dead=(0, 1, 2), ent_coef=0.1)
    before = weights(model)
    model.learn(32)
    for name, parameter in weights(model).items():
        assert th.isfinite(parameter).all()
        # Nor is there anyone of whose observation to learn a value; the team's value is of the state
        network = name.partition(".")[0]
        assert th.equal(parameter, before[name]) == (network == "actor" or algorithm is IPPO), name


@over_learners
def test_critics_see_the_state_and_actors_their_own_row(algorithm: Algorithm) -> None:
    model = masked_model(algorithm)
    observation = model.get_env().reset()
    tensors, _ = model.policy.obs_to_tensor(observation)
    value = model.policy.predict_values(tensors)
    logits = model.policy.actor.forward_with_latent(tensors["observation"])[0]

    changed = {**tensors, "observation": tensors["observation"].clone()}
    changed["observation"][:, 0] += 1.0
    difference = (model.policy.predict_values(changed) - value).abs().amax(dim=0)
    if algorithm is IPPO:
        assert difference[0] > 0 and not difference[1:].any()
    else:
        assert not difference.any()
    difference = (model.policy.actor.forward_with_latent(changed["observation"])[0] - logits).abs().amax(dim=(0, 2))
    assert difference[0] > 0 and not difference[1:].any()

    changed = {**tensors, "state": tensors["state"] + 1.0}
    unchanged = th.isclose(model.policy.predict_values(changed), value)
    assert unchanged.all() if algorithm is IPPO else not unchanged.any()
