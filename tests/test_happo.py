"""HAPPO's sequence of updates, checked against likelihood ratios and gradients computed by hand."""

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from torch.distributions import Normal

from sb3_cora import HAPPO
from sb3_cora.common.on_policy_algorithm import Turn
from sb3_cora.common.rollout import Rollout
from tests.algorithms import actor_weights, make_tiny, weights
from tests.joint_games import MaskedTeam, NoisyTeam


class Observed(HAPPO):
    """Keeps each turn, and the policy as it was when the turn began."""

    turns: list[tuple[Turn, Any]]

    def _turns(self, rollout: Rollout) -> Any:
        self.turns = []
        for turn in super()._turns(rollout):
            self.turns.append((turn, copy.deepcopy(self.policy)))
            yield turn
        self.turns.append((Turn(slice(0, 0)), copy.deepcopy(self.policy)))


def trained(**settings: Any) -> Observed:
    model = make_tiny(Observed, make_vec_env(NoisyTeam, 2, seed=0), learning_rate=0.01, **settings)
    model.learn(32)
    assert isinstance(model, Observed)
    return model


def gaussian_log_prob(policy: Any, model: Observed, agent: int) -> th.Tensor:
    """Log-probability of an agent's actions of the rollout, from the layers of its network one by one."""
    observations = th.as_tensor(model.rollout_buffer.observations).flatten(end_dim=1)[:, agent]
    actions = th.as_tensor(model.rollout_buffer.actions).reshape(-1, 3, 2)[:, agent]
    network = policy.actor.networks[agent]
    hidden = observations
    for layer in (network.latent_net[0], network.latent_net[2]):
        hidden = th.tanh(hidden @ layer.weight[0] + layer.bias[0])
    mean = hidden @ network.output_net.weight[0] + network.output_net.bias[0]
    return Normal(mean, policy.log_stds[agent][0].exp()).log_prob(actions).sum(dim=1)


def test_the_factor_is_the_product_of_the_ratios_so_far() -> None:
    model = trained()
    assert [turn.with_value_function for turn, _ in model.turns] == [True, False, False, True]
    agents = [turn.agents.start for turn, _ in model.turns[:3]]
    assert sorted(agents) == [0, 1, 2]
    by_hand = th.ones(32)
    for position, agent in enumerate(agents):
        factor = model.turns[position][0].factor
        assert factor is not None
        th.testing.assert_close(factor[:, 0], by_hand, rtol=1e-4, atol=1e-5)
        old, new = (gaussian_log_prob(model.turns[index][1], model, agent).detach() for index in (position, position + 1))
        by_hand = by_hand * (new - old).exp()
    assert (by_hand - 1).abs().max() > 0.05


def test_a_turn_leaves_the_other_agents_as_they_are() -> None:
    model = trained()
    for (turn, before), (_, after) in zip(model.turns[:-1], model.turns[1:], strict=True):
        for agent in range(3):
            moved = [
                not th.equal(old, new)
                for old, new in zip(before.actor_stack().own[agent], after.actor_stack().own[agent], strict=True)
            ]
            # Biases, weights and standard deviations: all of the agent's own, none of the others'
            assert all(moved) if agent == turn.agents.start else not any(moved)
        pairs = zip(before.value_critic.parameters(), after.value_critic.parameters(), strict=True)
        moved = [not th.equal(old, new) for old, new in pairs]
        assert all(moved) if turn.with_value_function else not any(moved)
    # Two epochs of two minibatches: so many steps has each tensor made
    state = model.policy.optimizer.state_dict()["state"]
    assert {int(moments["step"]) for moments in state.values()} == {4}


def test_an_update_is_the_gradient_weighted_with_the_factor() -> None:
    settings = {
        "n_epochs": 1,
        "batch_size": 32,
        "normalize_advantage": False,
        "max_grad_norm": 1e9,
        "policy_kwargs": {"optimizer_class": th.optim.SGD},
    }
    model = trained(**settings)
    advantages = th.as_tensor(model.rollout_buffer.advantages).flatten()
    for (turn, before), (_, after) in zip(model.turns[:-1], model.turns[1:], strict=True):
        agent = turn.agents.start
        assert turn.factor is not None
        # At a ratio of 1 the gradient of the clipped surrogate is that of the logarithm
        surrogate = (advantages * turn.factor[:, 0] * gaussian_log_prob(before, model, agent)).mean()
        parameters = before.actor_stack().own[agent]
        for old, new, gradient in zip(
            parameters, after.actor_stack().own[agent], th.autograd.grad(surrogate, parameters), strict=True
        ):
            th.testing.assert_close(new, old + 0.01 * gradient, rtol=1e-4, atol=1e-6)


def test_the_order_is_random_and_follows_the_seed() -> None:
    def orders(seed: int) -> list[int]:
        model = make_tiny(Observed, make_vec_env(NoisyTeam, 2, seed=0), seed=seed)
        seen = []
        for _ in range(6):
            model.learn(32, reset_num_timesteps=False)
            seen += [turn.agents.start for turn, _ in model.turns[:3]]
        return seen

    first = orders(0)
    assert first == orders(0) and first != orders(1)
    assert len({tuple(first[start : start + 3]) for start in range(0, 18, 3)}) > 1


@pytest.mark.parametrize("share_parameters", [False, True], ids=["separate actors", "one actor"])
def test_dead_agents_leave_the_factor_alone(share_parameters: bool) -> None:
    env = make_vec_env(MaskedTeam, n_envs=2, seed=0, env_kwargs={"dead": (1,)})
    model = make_tiny(Observed, env, share_parameters=share_parameters, learning_rate=0.01)
    model.learn(32)
    alive = model.rollout_buffer.observations["agent_mask"].reshape(32, 3) > 0.5
    for (turn, _), (following, _) in zip(model.turns[:2], model.turns[1:3], strict=True):
        assert turn.factor is not None and following.factor is not None
        dead = ~alive[:, turn.agents.start]
        np.testing.assert_array_equal(following.factor[dead], turn.factor[dead])
        if turn.agents.start != 1:
            assert not th.equal(following.factor, turn.factor)


def test_shared_parameters_are_one_actor() -> None:
    model = make_tiny(HAPPO, NoisyTeam(), share_parameters=True)
    model.learn(16)
    assert {name for name in weights(model) if name.startswith("actor")} == {
        f"actor.{name}.{kind}" for name in ("latent_net.0", "latent_net.2", "output_net") for kind in ("weight", "bias")
    }
    separate = make_tiny(HAPPO, NoisyTeam())
    assert actor_weights(separate)["output_net.weight"].shape == (3, 64, 2)
