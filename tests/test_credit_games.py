"""Coalition values: the joint actions that are judged, and the two ways of judging them."""

import pytest
import torch as th

from sb3_cora.credit import FactoredQFunction, all_coalitions, coalition_values, draw_coalitions


class TwinCritic:
    """Two small networks over state and joint action, in the factored form; ``joint_values`` is the same, the plain way."""

    def __init__(self, states: th.Tensor, n_agents: int, action_dim: int, hidden: int = 8) -> None:
        generator = th.Generator().manual_seed(0)
        self.states = states
        self.state_weight = th.randn(2, states.shape[1], hidden, generator=generator)
        self.action_weight = th.randn(2, n_agents, action_dim, hidden, generator=generator)
        self.bias = th.randn(2, 1, hidden, generator=generator)
        self.output_weight = th.randn(2, hidden, 1, generator=generator)
        self.largest_call = 0

    def state_terms(self, samples: slice) -> th.Tensor:
        return self.states[samples] @ self.state_weight + self.bias

    def action_terms(self, actions: th.Tensor, samples: slice) -> th.Tensor:
        assert len(actions) == len(self.states[samples])
        return th.einsum("kna,cnah->cknh", actions, self.action_weight)

    def output(self, preactivations: th.Tensor) -> th.Tensor:
        self.largest_call = max(self.largest_call, preactivations.numel())
        return (preactivations.tanh() @ self.output_weight)[..., 0].amin(dim=0)

    def joint_values(self, joint_actions: th.Tensor, samples: slice) -> th.Tensor:
        self.largest_call = max(self.largest_call, joint_actions.numel())
        terms = th.einsum("kmna,cnah->ckmh", joint_actions, self.action_weight)
        preactivations = self.state_terms(samples)[:, :, None] + terms
        return (preactivations.tanh() @ self.output_weight[:, None])[..., 0].amin(dim=0)


@pytest.fixture
def play() -> tuple[TwinCritic, th.Tensor, th.Tensor]:
    generator = th.Generator().manual_seed(1)
    n_samples, n_agents, action_dim = 23, 4, 3
    states = th.randn(n_samples, 5, generator=generator)
    actions = th.randn(n_samples, n_agents, action_dim, generator=generator)
    baseline_actions = th.randn(n_samples, n_agents, action_dim, generator=generator)
    return TwinCritic(states, n_agents, action_dim), actions, baseline_actions


def test_members_act_as_sampled_and_the_others_as_in_the_baseline():
    """A Q-function that reads the joint action as a number in base ten: 1 is sampled, 2 is baseline."""
    actions, baseline_actions = th.full((1, 3, 1), 1.0), th.full((1, 3, 1), 2.0)
    place = th.tensor([100.0, 10.0, 1.0])[:, None]
    masks = th.tensor([[True, False, False], [False, True, True]])
    values = coalition_values(lambda joint, samples: (joint * place).sum(dim=(2, 3)), actions, baseline_actions, masks)
    assert values.tolist() == [[122.0, 211.0]]


def test_each_sample_meets_its_own_state():
    states = th.arange(7.0)
    actions = th.zeros(7, 2, 1)
    values = coalition_values(
        lambda joint, samples: states[samples, None].expand(joint.shape[:2]),
        actions,
        actions,
        all_coalitions(2),
        max_elements=6,
    )
    assert values.equal(states[:, None].expand(7, 2))


def test_a_critic_is_recognized_by_its_methods(play):
    critic, _, _ = play
    assert isinstance(critic, FactoredQFunction)
    assert not isinstance(critic.joint_values, FactoredQFunction)


@pytest.mark.parametrize("max_elements", [1, 50, 333, 2**20])
def test_factored_values_equal_plain_ones_in_any_pieces(play, max_elements):
    critic, actions, baseline_actions = play
    masks = all_coalitions(4)
    expected = critic.joint_values(th.where(masks[None, :, :, None], actions[:, None], baseline_actions[:, None]), slice(None))
    plain = coalition_values(critic.joint_values, actions, baseline_actions, masks, max_elements=max_elements)
    factored = coalition_values(critic, actions, baseline_actions, masks, max_elements=max_elements)
    th.testing.assert_close(plain, expected, rtol=1e-5, atol=1e-5)
    th.testing.assert_close(factored, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["plain", "factored"])
@pytest.mark.parametrize("max_elements", [100, 2000])
def test_no_temporary_is_larger_than_allowed(play, form, max_elements):
    critic, actions, baseline_actions = play
    q_fn = critic if form == "factored" else critic.joint_values
    coalition_values(q_fn, actions, baseline_actions, all_coalitions(4), max_elements=max_elements)
    assert 0 < critic.largest_call <= max_elements


def test_many_agents():
    n_agents = 50
    actions, baseline_actions = th.ones(3, n_agents, 1), th.zeros(3, n_agents, 1)
    masks = draw_coalitions(n_agents, 20, generator=th.Generator().manual_seed(0)).masks
    values = coalition_values(lambda joint, samples: joint.sum(dim=(2, 3)), actions, baseline_actions, masks)
    assert values.equal(masks.sum(dim=1).float().expand(3, 20))


@pytest.mark.parametrize("form", ["plain", "factored"])
def test_several_baseline_actions_are_averaged(play, form):
    critic, actions, baseline_actions = play
    q_fn = critic if form == "factored" else critic.joint_values
    draws = th.stack([baseline_actions, actions, 2 * baseline_actions])
    masks = all_coalitions(4)
    expected = th.stack([coalition_values(q_fn, actions, drawn, masks) for drawn in draws]).mean(dim=0)
    th.testing.assert_close(coalition_values(q_fn, actions, draws, masks), expected)


def test_no_gradient_flows(play):
    critic, actions, baseline_actions = play
    critic.output_weight.requires_grad_()
    assert not coalition_values(critic, actions, baseline_actions, all_coalitions(4)).requires_grad


def test_no_coalition_and_no_sample(play):
    critic, actions, baseline_actions = play
    assert coalition_values(critic, actions, baseline_actions, all_coalitions(4)[:0]).shape == (23, 0)
    assert coalition_values(critic, actions[:0], baseline_actions[:0], all_coalitions(4)).shape == (0, 14)


def test_arguments_that_do_not_belong_together_are_refused(play):
    critic, actions, baseline_actions = play
    masks = all_coalitions(4)
    with pytest.raises(ValueError, match="One-hot encode"):
        coalition_values(critic, actions[..., 0], baseline_actions[..., 0], masks)
    with pytest.raises(ValueError, match="baseline_actions the same, with an axis of draws"):
        coalition_values(critic, actions, baseline_actions[:5], masks)
    with pytest.raises(ValueError, match="baseline_actions must hold at least one draw"):
        coalition_values(critic, actions, baseline_actions[None][:0], masks)
    with pytest.raises(ValueError, match="n_agents=4"):
        coalition_values(critic, actions, baseline_actions, all_coalitions(3))
    with pytest.raises(ValueError, match="max_elements must be positive, got 0"):
        coalition_values(critic, actions, baseline_actions, masks, max_elements=0)
