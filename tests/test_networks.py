"""Stacked networks, joint distributions and centralized critics against their one-at-a-time counterparts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from torch import nn

from sb3_cora.common.critics import QCritic, ValueCritic
from sb3_cora.common.distributions import JointCategorical, JointDiagGaussian, JointStateDependentGaussian
from sb3_cora.common.networks import AgentNetwork, StackedLinear, create_stacked_mlp, init_orthogonal
from sb3_cora.common.policies import CooperativeActorCriticPolicy, SequentialActorCriticPolicy
from sb3_cora.credit import all_coalitions, coalition_values


@pytest.fixture(autouse=True)
def _seed() -> None:
    th.manual_seed(0)


def separate_networks(stack: nn.Sequential) -> list[nn.Sequential]:
    """The members of a stack as ordinary networks with the same weights."""
    members = []
    for index in range(next(layer for layer in stack if isinstance(layer, StackedLinear)).n_members):
        layers: list[nn.Module] = []
        for layer in stack:
            if isinstance(layer, StackedLinear):
                linear = nn.Linear(layer.in_features, layer.out_features)
                linear.weight.data = layer.weight.data[index].T
                linear.bias.data = layer.bias.data[index, 0]
                layers.append(linear)
            else:
                layers.append(layer)
        members.append(nn.Sequential(*layers))
    return members


def test_stack_equals_separate_networks() -> None:
    stack = create_stacked_mlp(3, 5, 2, [8, 7], nn.ReLU)
    inputs = th.randn(3, 11, 5)
    expected = th.stack([member(inputs[i]) for i, member in enumerate(separate_networks(stack))])
    th.testing.assert_close(stack(inputs), expected)


def test_orthogonal_initialization_of_each_member() -> None:
    stack = create_stacked_mlp(3, 16, 4, [16])
    init_orthogonal(stack, gain=2.0)
    for member in separate_networks(stack):
        for linear in (member[0], member[2]):
            gram = linear.weight @ linear.weight.T
            th.testing.assert_close(gram, 4.0 * th.eye(len(gram)), atol=1e-5, rtol=0)
            assert not linear.bias.any()
    assert not th.equal(stack[0].weight[0], stack[0].weight[1])


def test_agents_are_independent_without_shared_parameters() -> None:
    network = AgentNetwork(3, 4, 2, [8])
    observations = th.randn(6, 3, 4)
    changed = observations.clone()
    changed[:, 1] += 1.0
    difference = (network(observations) - network(changed)).abs().amax(dim=(0, 2))
    assert difference[1] > 1e-3
    assert difference[0] == difference[2] == 0.0


def test_shared_parameters_tell_the_agents_apart() -> None:
    network = AgentNetwork(3, 4, 2, [8], share_parameters=True)
    outputs = network(th.ones(1, 1, 4).expand(5, 3, 4))
    assert not th.allclose(outputs[:, 0], outputs[:, 1])
    member = separate_networks(nn.Sequential(*network.latent_net, network.output_net))[0]
    expected = member(th.cat((th.ones(3, 4), th.eye(3)), dim=1))
    th.testing.assert_close(outputs[0], expected)


def test_gaussian_equals_sb3_for_each_agent() -> None:
    mean, log_std = th.randn(7, 3, 2), th.randn(3, 2)
    joint = JointDiagGaussian(mean, log_std, th.ones(3, 2, dtype=th.bool))
    actions = joint.sample()
    for agent in range(3):
        single = DiagGaussianDistribution(2).proba_distribution(mean[:, agent], log_std[agent])
        th.testing.assert_close(joint.log_prob(actions)[:, agent], single.log_prob(actions[:, agent]))
        th.testing.assert_close(joint.entropy()[:, agent], single.entropy())
    assert th.equal(joint.mode(), mean)


def test_state_dependent_exploration_equals_sb3_for_each_agent() -> None:
    mean, latent = th.randn(7, 3, 2), th.randn(7, 3, 5)
    log_std, noise_weights = th.randn(3, 5, 2), th.randn(7, 3, 5, 2)
    joint = JointStateDependentGaussian(mean, log_std, th.ones(3, 2, dtype=th.bool), latent, noise_weights)
    actions = joint.sample()
    for agent in range(3):
        single = StateDependentNoiseDistribution(2)
        single.proba_distribution_net(latent_dim=5)
        single.exploration_matrices = noise_weights[:, agent]
        single.proba_distribution(mean[:, agent], log_std[agent], latent[:, agent])
        th.testing.assert_close(actions[:, agent], single.sample())
        th.testing.assert_close(joint.log_prob(actions)[:, agent], single.log_prob(actions[:, agent]))
        th.testing.assert_close(joint.entropy()[:, agent], single.entropy())


@pytest.mark.parametrize("policy_class", [CooperativeActorCriticPolicy, SequentialActorCriticPolicy])
def test_exploration_noise_follows_the_networks(policy_class: type[CooperativeActorCriticPolicy]) -> None:
    def make_policy(n_envs: int) -> CooperativeActorCriticPolicy:
        policy = policy_class(spaces.Box(-1, 1, (3, 4)), spaces.Box(-1, 1, (3, 2)), lambda _: 1e-3, use_sde=True)
        policy.reset_noise(n_envs)
        return policy

    policy = make_policy(5)
    drawn = policy.noise_weights.clone()
    assert policy.to(th.float64).noise_weights.dtype == th.float64
    th.testing.assert_close(policy.noise_weights, drawn.double())
    # Models hold no noise, so whoever loads one may have another number of environments
    other = make_policy(2)
    drawn = other.noise_weights.clone()
    other.load_state_dict(policy.state_dict())
    assert th.equal(other.noise_weights, drawn) and not any("noise" in name for name in policy.state_dict())
    # Drawn before the move, as in the constructor of an algorithm; "meta" stands for any device but the CPU
    other.to("meta")
    actions, _, _ = other(th.zeros(2, 3, 4, device="meta"))
    assert actions.device.type == other.noise_weights.device.type == "meta"
    other.reset_noise(7)
    assert other.noise_weights.device.type == "meta" and len(other.noise_weights) == 7


def test_squashed_means_stay_within_the_bounds_and_padding_at_zero() -> None:
    low, high = np.array([[-2.0, -1.0], [0.0, 0.0]]), np.array([[2.0, 3.0], [1.0, 0.0]])
    action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
    policy = CooperativeActorCriticPolicy(
        spaces.Box(-np.inf, np.inf, (2, 3)), action_space, lambda _: 1e-3, squash_mean=True, ortho_init=False
    )
    with th.no_grad():
        for parameter in policy.actor.parameters():
            parameter.fill_(0.0)
    middle, _ = policy.predict(np.zeros((2, 3), np.float32), deterministic=True)
    np.testing.assert_allclose(middle, [[0.0, 1.0], [0.5, 0.0]])
    with th.no_grad():
        policy.actor.output_net.bias.fill_(100.0)
    top, _ = policy.predict(np.zeros((2, 3), np.float32), deterministic=True)
    np.testing.assert_allclose(top, high)


def test_squashed_means_are_refused_for_discrete_actions() -> None:
    with pytest.raises(ValueError, match=r"squash_mean=True is for continuous actions.*MultiDiscrete"):
        CooperativeActorCriticPolicy(spaces.Box(-1, 1, (2, 3)), spaces.MultiDiscrete([2, 2]), lambda _: 1e-3, squash_mean=True)


def test_padded_dimensions_do_not_count() -> None:
    dimensions = th.tensor([[True, True, True], [True, False, False]])
    mean, log_std = th.randn(5, 2, 3, requires_grad=True), th.zeros(2, 3, requires_grad=True)
    joint = JointDiagGaussian(mean, log_std, dimensions)
    actions = joint.sample().detach()
    assert not actions[:, 1, 1:].any() and not joint.mode()[:, 1, 1:].any()
    single = DiagGaussianDistribution(1).proba_distribution(mean[:, 1, :1], log_std[1, :1])
    th.testing.assert_close(joint.log_prob(actions)[:, 1], single.log_prob(actions[:, 1, :1]))
    (joint.log_prob(actions).sum() + joint.entropy().sum()).backward()
    assert not mean.grad[:, 1, 1:].any() and not log_std.grad[1, 1:].any()
    assert mean.grad[:, 1, 0].all() and log_std.grad[1, 0] != 0


def test_categorical_equals_sb3_for_each_agent() -> None:
    logits = th.randn(7, 2, 4)
    joint = JointCategorical(logits, th.ones(2, 4, dtype=th.bool))
    actions = joint.sample()
    for agent in range(2):
        single = CategoricalDistribution(4).proba_distribution(logits[:, agent])
        th.testing.assert_close(joint.log_prob(actions)[:, agent], single.log_prob(actions[:, agent]))
        th.testing.assert_close(joint.entropy()[:, agent], single.entropy())
        assert th.equal(joint.mode()[:, agent], single.mode())


def test_masked_actions_are_never_taken_and_carry_no_gradient() -> None:
    logits = th.zeros(4000, 2, 3, requires_grad=True)
    allowed = th.tensor([[True, False, True], [False, True, False]])
    joint = JointCategorical(logits, allowed)
    actions = joint.sample()
    assert set(actions[:, 0].tolist()) == {0, 2} and set(actions[:, 1].tolist()) == {1}
    np.testing.assert_allclose(joint.entropy().detach()[0], [np.log(2), 0.0], atol=1e-6)
    np.testing.assert_allclose(joint.log_prob(actions).detach()[:, 1], 0.0, atol=1e-6)
    (joint.log_prob(actions).sum() + joint.entropy().sum()).backward()
    assert not logits.grad[:, ~allowed].any()
    assert logits.grad[:, 0, 0].any()


def test_agent_without_any_allowed_action_takes_one_that_it_has() -> None:
    logits = th.randn(4000, 2, 3, requires_grad=True)
    dimensions = th.tensor([[True, True, True], [True, True, False]])
    joint = JointCategorical(logits, dimensions, th.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).expand(4000, 2, 3))
    actions = joint.sample()
    assert set(actions[:, 0].tolist()) == {0, 2} and set(actions[:, 1].tolist()) == {0, 1}
    np.testing.assert_allclose(joint.probabilities().detach()[:, 1], [[0.5, 0.5, 0.0]] * 4000)
    assert set(joint.sample_n(3)[:, :, 1].flatten().tolist()) == {0, 1}
    assert (joint.mode()[:, 1] < 2).all()
    assert th.isfinite(joint.log_prob(actions)).all() and th.isfinite(joint.entropy()).all()
    (joint.log_prob(actions).sum() + joint.entropy().sum()).backward()
    assert th.isfinite(logits.grad).all() and not logits.grad[:, 1].any()


@pytest.mark.parametrize("aggregation, together", [("min", th.amin), ("mean", th.mean)], ids=["min", "mean"])
@pytest.mark.parametrize("net_arch", [[16], [16, 8]])
def test_factored_q_values_equal_the_networks(
    net_arch: list[int], aggregation: str, together: Callable[..., th.Tensor]
) -> None:
    critic = QCritic(state_dim=5, n_agents=3, action_dim=2, net_arch=net_arch, n_critics=2, aggregation=aggregation)
    states, actions, baseline = th.randn(13, 5), th.randn(13, 3, 2), th.randn(13, 3, 2)
    masks = all_coalitions(3)
    values = coalition_values(critic.bind(states), actions, baseline, masks)
    for index, mask in enumerate(masks):
        mixed = th.where(mask[:, None], actions, baseline)
        expected = together(critic(states, mixed), dim=0)
        th.testing.assert_close(values[:, index], expected)
        assert th.equal(critic.estimate(states, mixed), expected)


def test_critics_learn_independently() -> None:
    critic = QCritic(state_dim=5, n_agents=2, action_dim=2, net_arch=[16], n_critics=2)
    critic(th.randn(4, 5), th.randn(4, 2, 2))[0].sum().backward()
    assert critic.first_layer.weight.grad[0].any() and not critic.first_layer.weight.grad[1].any()


def test_q_critic_refuses_impossible_shapes() -> None:
    with pytest.raises(ValueError, match="hidden layer"):
        QCritic(5, 2, 2, net_arch=[])
    with pytest.raises(ValueError, match="n_critics"):
        QCritic(5, 2, 2, net_arch=[8], n_critics=0)
    with pytest.raises(ValueError, match="aggregation='median'"):
        QCritic(5, 2, 2, net_arch=[8], aggregation="median")


def test_value_critic_without_hidden_layers_is_linear() -> None:
    critic = ValueCritic(3, [])
    states = th.randn(6, 3)
    th.testing.assert_close(critic(2 * states) - critic(states), critic(states) - critic(0 * states))
