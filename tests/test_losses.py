"""The terms of the loss and the options of MAPPO and HARL, against numbers worked out beforehand."""

from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule

from sb3_cora import CORAPPO, HAPPO, IPPO, MAPPO, OptimisticMAPPO
from sb3_cora.common.losses import clipped_surrogate, normalize_credits, regression_errors, value_errors
from sb3_cora.common.networks import StackedLayerNorm, StackedLinear, StackParameters, clip_grad_norm_of_members_
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.return_normalizer import ReturnNormalizer
from sb3_cora.common.rollout import Rollout
from tests.algorithms import ALGORITHMS, ALGORITHMS_WITH_Q, actor_weights, assert_same_weights, make_tiny, weights
from tests.joint_games import MaskedTeam, NoisyTeam

Algorithm = type[CooperativeOnPolicyAlgorithm]

over_algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
ONE = th.ones(1)


def column(*numbers: float) -> th.Tensor:
    return th.tensor(numbers)[:, None]


def test_surrogate() -> None:
    # Within the range, beyond it where that still costs, and beyond it where it no longer pays
    credits, ratio = th.tensor([[2.0, 2.0, -2.0, -2.0]]), th.tensor([[1.1, 1.5, 0.5, 1.5]])
    np.testing.assert_allclose(clipped_surrogate(credits, ratio, 0.2), [[2.2, 2.4, -1.6, -3.0]], rtol=1e-6)


def test_a_lone_credit_beside_others() -> None:
    """There is nothing that it is better or worse than, which leaves its sign, or, once centered, nothing."""
    credits, agent_mask = column(500.0, 3.0, -2.0), column(1.0, 0.0, 0.0)
    assert normalize_credits(credits, agent_mask)[0].item() == 0
    assert normalize_credits(credits, agent_mask, center=False)[0].item() == pytest.approx(1)
    # A minibatch of one sample stays as it is in Stable-Baselines3
    assert normalize_credits(credits[:1], None).item() == 500


def test_huber_errors() -> None:
    targets, predictions = column(0.0, 0.0, 0.0, 0.0), column(0.0, 1.0, -2.0, 10.0)
    np.testing.assert_array_equal(regression_errors(targets - predictions, None), column(0, 1, 4, 100))
    # From 2 on with the slope of 4 that the square has there
    np.testing.assert_array_equal(regression_errors(targets - predictions, 2.0), column(0, 1, 4, 4 + 8 * 4))


def test_clipped_values() -> None:
    # Old values of 0, returns of 1. Moved beyond the range towards the return, away from it, and past it
    values, zeros, returns = column(0.5, -0.5, 2.5), th.zeros(3, 1), th.ones(3, 1)
    np.testing.assert_allclose(value_errors(values, zeros, returns, ONE, 0.2), column(0.64, 1.44, 0.64), rtol=1e-6)
    pessimistic = value_errors(values, zeros, returns, ONE, 0.2, pessimistic_vf_clip=True)
    np.testing.assert_allclose(pessimistic, column(0.64, 2.25, 2.25), rtol=1e-6)
    # The range is in units of the scale, and so is the error
    scaled = value_errors(10 * values, zeros, 10 * returns, 10 * ONE, 0.2)
    np.testing.assert_allclose(scaled, column(0.64, 1.44, 0.64), rtol=1e-6)


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=9), min_size=1, max_size=5))
def test_return_statistics_are_those_of_all_returns(batches: list[list[float]]) -> None:
    normalizer = ReturnNormalizer()
    outputs = column(-1.0, 0.0, 2.0)
    np.testing.assert_array_equal(normalizer(outputs), outputs)
    for batch in batches:
        normalizer.update(column(*batch))
    returns = np.concatenate(batches)
    std = max(returns.std(), ReturnNormalizer.MIN_STD)
    np.testing.assert_allclose(normalizer.mean[0], returns.mean(), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(normalizer.std[0], std, rtol=1e-3, atol=0.1)
    np.testing.assert_allclose(normalizer(outputs), outputs * normalizer.std + normalizer.mean, rtol=1e-6)


def test_layer_normalization_of_a_stack_is_that_of_each_member() -> None:
    stack = StackedLayerNorm(2, 5)
    with th.no_grad():
        stack.weight.copy_(th.randn(2, 1, 5))
        stack.bias.copy_(th.randn(2, 1, 5))
    inputs = th.randn(2, 7, 5)
    for member in range(2):
        single = th.nn.LayerNorm(5)
        single.weight.data, single.bias.data = stack.weight.data[member, 0], stack.bias.data[member, 0]
        th.testing.assert_close(stack(inputs)[member], single(inputs[member]))


def test_gradient_norms_of_a_stack_are_those_of_each_member() -> None:
    layer = StackedLinear(3, 4, 2)
    unused = th.nn.Parameter(th.zeros(3, 1))
    # In front of the second member stands a module that no other has
    alone = th.nn.Linear(4, 4)
    inputs = th.randn(3, 6, 4)
    scales = th.tensor([0.1, 1.0, 10.0])
    inputs = th.stack([inputs[0], alone(inputs[1]), inputs[2]])
    # Of unequal parts in the loss
    parts = th.tensor([0.5, 0.2, 0.3])
    (layer(inputs).square().sum(dim=(1, 2)) * scales * parts).sum().backward()
    expected = []
    for member in range(3):
        own = [th.nn.Parameter(parameter.data[member].clone()) for parameter in layer.parameters()]
        for parameter, whole in zip(own, layer.parameters(), strict=True):
            parameter.grad = whole.grad[member] / parts[member]
        if member == 1:
            for parameter in alone.parameters():
                own.append(th.nn.Parameter(parameter.data.clone()))
                own[-1].grad = parameter.grad / parts[member]
        norm = th.nn.utils.clip_grad_norm_(own, 5.0)
        expected.append((norm, [parameter.grad * parts[member] for parameter in own]))
    stack = StackParameters([*layer.parameters(), unused], [[], list(alone.parameters()), []])
    norms = clip_grad_norm_of_members_(stack, 5.0, parts)
    assert norms.min() < 5.0 < norms.max()
    for member, (norm, gradients) in enumerate(expected):
        th.testing.assert_close(norms[member], norm)
        actual = [parameter.grad[member] for parameter in layer.parameters()]
        if member == 1:
            actual += [parameter.grad for parameter in alone.parameters()]
        for gradient, own_gradient in zip(gradients, actual, strict=True):
            th.testing.assert_close(own_gradient, gradient)
    assert len(clip_grad_norm_of_members_(StackParameters([unused], [[], [], []]), 1.0, parts)) == 0


@over_algorithms
def test_value_statistics_are_saved(algorithm: Algorithm, tmp_path: Any) -> None:
    model = make_tiny(algorithm, NoisyTeam(), normalize_values=True)
    model.learn(64)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    ours, theirs = model.policy.state_dict(), loaded.policy.state_dict()
    names = [name for name in ours if "normalizer" in name]
    assert len(names) == (6 if algorithm in ALGORITHMS_WITH_Q else 3)
    for name in names:
        assert th.equal(ours[name], theirs[name]) and (ours[name] != 0).all(), name


@over_algorithms
def test_the_value_functions_own_learning_rate(algorithm: Algorithm) -> None:
    model = make_tiny(algorithm, NoisyTeam(), vf_learning_rate=0.0)
    before = weights(model)
    model.learn(32)
    for name, parameter in weights(model).items():
        assert th.equal(parameter, before[name]) == name.startswith("value_critic"), name
    decaying = make_tiny(algorithm, NoisyTeam(), vf_learning_rate=LinearSchedule(0.1, 0.0, 1.0), learning_rate=0.01)
    decaying.learn(32)
    assert decaying.logger.name_to_value["train/vf_learning_rate"] == 0.0
    actors, critic = decaying.policy.optimizer.param_groups
    assert (actors["lr"], critic["lr"]) == (0.01, 0.0)


@over_algorithms
def test_gradients_are_clipped_apart(algorithm: Algorithm) -> None:
    settings: dict[str, Any] = {"separate_grad_norms": True, "max_grad_norm": 1e-3, "n_epochs": 1, "batch_size": 16}
    policy_kwargs = {"optimizer_class": th.optim.SGD}
    model = make_tiny(algorithm, NoisyTeam(), learning_rate=1.0, policy_kwargs=policy_kwargs, **settings)
    before, actors_before = weights(model), actor_weights(model)
    model.learn(16)
    # One step of plain gradient descent is as long as the gradient: 0.001 for the critic and for each agent's actor
    moved = [parameter - before[name] for name, parameter in weights(model).items() if name.startswith("value_critic")]
    # IPPO's are a value function for each agent, of a third of the loss each
    length = 1e-3 / 3**0.5 if algorithm is IPPO else 1e-3
    assert th.cat([part.flatten() for part in moved]).norm() == pytest.approx(length, rel=1e-2)
    actors = {name: parameter - actors_before[name] for name, parameter in actor_weights(model).items()}
    for agent in range(3):
        # An agent is a third of the loss, unless it is updated by itself
        part = 1.0 if algorithm is HAPPO else 1 / 3
        # The standard deviations are clipped with their actor, hence a little shorter
        length = th.cat([moved[agent].flatten() for moved in actors.values()]).norm().item()
        assert 1e-4 < length <= 1.01e-3 * part
    assert model.logger.name_to_value["train/actor_grad_norm"] > 1e-3
    assert model.logger.name_to_value["train/critic_grad_norm"] > 1e-3


@over_algorithms
def test_the_norm_of_an_agents_gradient_is_that_of_its_own_loss(algorithm: Algorithm) -> None:
    # Agent 0 dies after three steps of an episode: its own loss is a mean over fewer samples
    settings: dict[str, Any] = {
        "separate_grad_norms": True,
        "max_grad_norm": 1e6,
        "n_epochs": 1,
        "batch_size": 32,
        "n_steps": 32,
    }
    model = make_tiny(algorithm, MaskedTeam(), learning_rate=0.0, **settings)
    seen: dict[str, list[float]] = {}
    record, allocate = model._clip_gradients, model._allocate_credits
    allocated: list[th.Tensor] = []

    def keep(agents: slice, agent_mask: th.Tensor | None, metrics: dict[str, list[th.Tensor]]) -> None:
        before = len(metrics["actor_grad_norm"])
        record(agents, agent_mask, metrics)
        seen.setdefault("norms", []).extend(norm.item() for norm in metrics["actor_grad_norm"][before:])
        seen.setdefault("agents", []).extend(range(3)[agents])

    def allocate_and_keep(rollout: Rollout) -> th.Tensor:
        allocated.append(allocate(rollout))
        return allocated[-1]

    model._clip_gradients = keep  # type: ignore[method-assign]
    model._allocate_credits = allocate_and_keep  # type: ignore[method-assign]
    model.learn(32)
    rollout = model._rollout().flatten()
    observation = rollout.observation
    assert observation.agent_mask is not None
    credits = model._normalize_credits(allocated[0].flatten(end_dim=1), observation.agent_mask)
    log_prob = model.policy.distribution(observation).log_prob(rollout.actions)
    for agent, norm in zip(seen["agents"], seen["norms"], strict=True):
        living = observation.agent_mask[:, agent] > 0.5
        assert 0 < living.sum() < 32 or agent > 0
        # The gradient of a surrogate at ratio 1 is that of the likelihood, weighted by the credits
        loss = (credits[living, agent] * log_prob[living, agent]).mean()
        parameters = list(model.policy.actor.parameters())
        gradients = th.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        expected = th.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm().item()
        assert norm == pytest.approx(expected, rel=1e-3), agent


@over_algorithms
def test_where_nobody_lives_no_norm_is_logged(algorithm: Algorithm) -> None:
    model = make_tiny(algorithm, MaskedTeam(dead=(0, 1, 2)), separate_grad_norms=True)
    before, logged = actor_weights(model), model.learn(16).logger.name_to_value
    assert "train/actor_grad_norm" not in logged and "train/loss" in logged
    assert_same_weights(before, actor_weights(model))


class Rich(NoisyTeam):
    """Rewards around 1000."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        return observation, 1000.0 + 100.0 * reward, *rest


@over_algorithms
def test_values_are_clipped_around_what_the_network_said(algorithm: Algorithm) -> None:
    # Returns of 2000 move the statistics, which is no learning: before a gradient step nothing may count as clipped
    settings: dict[str, Any] = {
        "normalize_values": True,
        "clip_range_vf": 0.05,
        "n_epochs": 1,
        "batch_size": 64,
        "n_steps": 64,
    }
    still = make_tiny(algorithm, Rich(), learning_rate=0.0, gamma=0.5, **settings)
    still.learn(128)
    rollout = still._rollout().flatten()
    with th.no_grad():
        values = still.policy.values(rollout.observation)
    np.testing.assert_allclose(rollout.values, values, rtol=1e-4)
    moving = make_tiny(algorithm, Rich(), gamma=0.5, **settings)
    before = weights(moving)
    moving.learn(64)
    # A clipped value has no gradient
    assert not any(th.equal(before[name], new) for name, new in weights(moving).items() if name.startswith("value_critic"))


@over_algorithms
@pytest.mark.parametrize("discrete", [False, True], ids=["Box", "MultiDiscrete"])
def test_normalized_features_ignore_the_scale_of_observations(algorithm: Algorithm, discrete: bool) -> None:
    model = make_tiny(algorithm, NoisyTeam(discrete=discrete), policy_kwargs={"normalize_features": True})
    before = weights(model)
    model.learn(32)
    assert all(not th.equal(parameter, before[name]) for name, parameter in weights(model).items())
    observations = th.randn(5, 3, 4)
    with th.no_grad():
        first, second = (model.policy.get_distribution(scale * observations).mode() for scale in (1.0, 100.0))
        np.testing.assert_allclose(first, second, rtol=1e-2, atol=1e-3)
        values = [model.policy.predict_values(scale * observations) for scale in (1.0, 100.0)]
        np.testing.assert_allclose(*values, rtol=1e-2, atol=1e-3)
        if isinstance(model, CORAPPO):
            # What coalitions are evaluated with is the same function
            actions = model.policy.action_features(model.policy.get_distribution(observations).sample())
            states = observations.flatten(start_dim=1)
            bound = model.policy.q_critic.bind(states)
            everyone = slice(0, 5)
            terms = bound.state_terms(everyone) + bound.action_terms(actions, everyone).sum(dim=2)
            expected = model.policy.q_critic(states, actions).amin(dim=0)
            np.testing.assert_allclose(bound.output(terms), expected, rtol=1e-4, atol=1e-5)


def test_output_gain() -> None:
    spreads = []
    for gain in (0.01, 1.0):
        model = make_tiny(MAPPO, NoisyTeam(), policy_kwargs={"output_gain": gain})
        (weight,) = [parameter for name, parameter in weights(model).items() if name == "actor.output_net.weight"]
        # Orthogonal columns of length gain
        np.testing.assert_allclose(weight[0].T @ weight[0], gain**2 * np.eye(2), atol=1e-6)
        spreads.append(weights(model)["value_critic.output_net.weight"].norm().item())
    assert spreads == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("optimism", ["after_normalization", "before_normalization"])
def test_an_optimist_with_eta_1_is_mappo(optimism: str) -> None:
    settings = {"n_steps": 32, "ent_coef": 0.01}
    mappo = make_tiny(MAPPO, make_vec_env(NoisyTeam, 2, seed=0), **settings).learn(192)
    optimist = make_tiny(OptimisticMAPPO, make_vec_env(NoisyTeam, 2, seed=0), eta=1.0, optimism=optimism, **settings)
    assert_same_weights(weights(mappo), weights(optimist.learn(192)))


def test_what_an_optimist_does_with_negative_advantages() -> None:
    credits = column(-3.0, -1.0, 1.0, 3.0)
    after = make_tiny(OptimisticMAPPO, NoisyTeam(), eta=0.5)
    z = np.array([-3.0, -1.0, 1.0, 3.0]) / np.std([-3.0, -1.0, 1.0, 3.0], ddof=1)
    np.testing.assert_allclose(after._normalize_credits(credits, None)[:, 0], np.maximum(0.5 * z, z), rtol=1e-5)
    # The released code's order: what was shrunk to 0 is worse than the mean, hence negative again
    before = make_tiny(OptimisticMAPPO, NoisyTeam(), eta=0.0, optimism="before_normalization")
    shrunk = np.array([0.0, 0.0, 1.0, 3.0])
    expected = (shrunk - 1.0) / np.std(shrunk, ddof=1)
    np.testing.assert_allclose(before._normalize_credits(credits, None)[:, 0], expected, rtol=1e-5)
    raw = make_tiny(OptimisticMAPPO, NoisyTeam(), eta=0.25, normalize_advantage=False)
    np.testing.assert_array_equal(raw._normalize_credits(credits, None), column(-0.75, -0.25, 1.0, 3.0))


@over_algorithms
def test_credits_that_are_not_centered_keep_their_signs(algorithm: Algorithm) -> None:
    model = make_tiny(algorithm, NoisyTeam(), center_advantage=False, eta=0.5)
    credits = th.tensor([[-3.0, 4.0, 5.0], [5.0, -4.0, -3.0]])
    normalized = model._normalize_credits(credits, None)
    shrunk = th.where(credits > 0, credits, 0.5 * credits)
    # IPPO's are normalized agent by agent
    squares = credits.square().mean(dim=0) if algorithm is IPPO else credits.square().mean()
    th.testing.assert_close(normalized, shrunk / squares.sqrt())
    # The root mean square of the living
    living = th.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    masked = model._normalize_credits(credits, living)[:, 0]
    squares = th.tensor(17.0) if algorithm is IPPO else th.tensor((9 + 16 + 25) / 3)
    th.testing.assert_close(masked, shrunk[:, 0] / squares.sqrt())


def test_optimism_and_entropy_follow_schedules() -> None:
    class Seen(MAPPO):
        def _normalize_credits(self, credits: th.Tensor, agent_mask: th.Tensor | None) -> th.Tensor:
            assert callable(self.ent_coef)
            seen.append((self._scheduled(self.eta), self._scheduled(self.ent_coef)))
            return super()._normalize_credits(credits, agent_mask)

    seen: list[tuple[float, float]] = []
    schedules = {"eta": LinearSchedule(0.0, 1.0, 1.0), "ent_coef": LinearSchedule(0.1, 0.0, 1.0)}
    make_tiny(Seen, NoisyTeam(), **schedules, n_epochs=1, batch_size=16).learn(64)
    np.testing.assert_allclose(seen, [(0.25, 0.075), (0.5, 0.05), (0.75, 0.025), (1.0, 0.0)], atol=1e-9)


def test_shared_credit_is_mappos_actor_update() -> None:
    models = []
    for algorithm, settings in ((MAPPO, {}), (CORAPPO, {"credit": "shared", "grand_advantage": "gae"})):
        model = make_tiny(algorithm, make_vec_env(NoisyTeam, 2, seed=0), **settings)
        for iteration in range(4):
            # Q-critics draw minibatches of their own, which must not change the actions of the next rollout
            th.manual_seed(iteration)
            np.random.seed(iteration)
            model.learn(32, reset_num_timesteps=False)
        models.append(weights(model))
    mappo, cora = models
    assert_same_weights(mappo, {name: parameter for name, parameter in cora.items() if name in mappo})
