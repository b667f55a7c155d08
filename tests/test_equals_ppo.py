"""With one agent, every algorithm is Stable-Baselines3's PPO: same losses, same weights."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from sb3_cora import COMAPPO, HAPPO, MAPPO, OptimisticMAPPO
from sb3_cora.common.networks import ALL_AGENTS, StackedLinear
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.rollout import Rollout
from tests.algorithms import ALGORITHMS
from tests.one_agent import OneAgent

TRAIN_METRICS = (
    "train/loss",
    "train/policy_gradient_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/approx_kl",
    "train/clip_fraction",
    "train/explained_variance",
)


def actor_and_critic_layers(model: PPO | CooperativeOnPolicyAlgorithm) -> list[th.nn.Module]:
    """Linear layers of the model, actor first, each list from input to output."""
    if isinstance(model, PPO):
        extractor = model.policy.mlp_extractor
        modules = [extractor.policy_net, model.policy.action_net, extractor.value_net, model.policy.value_net]
    else:
        modules = [model.policy.actor, model.policy.value_critic]
    layers = (th.nn.Linear, StackedLinear)
    return [layer for module in modules for layer in module.modules() if isinstance(layer, layers)]


def flat_weights(model: PPO | CooperativeOnPolicyAlgorithm) -> list[np.ndarray]:
    """All weights, as ``(out_features, in_features)`` and ``(out_features,)``."""
    arrays = []
    for layer in actor_and_critic_layers(model):
        weight = layer.weight[0].T if isinstance(layer, StackedLinear) else layer.weight
        arrays += [weight.detach().numpy(), layer.bias.detach().numpy().ravel()]
    if isinstance(model.action_space, gym.spaces.Box):
        log_std = model.policy.log_std if isinstance(model, PPO) else model.policy.agent_log_std(ALL_AGENTS)
        arrays.append(log_std.detach().numpy().ravel())
    return [array.copy() for array in arrays]


@th.no_grad()
def copy_weights(source: PPO, target: CooperativeOnPolicyAlgorithm) -> None:
    for theirs, ours in zip(actor_and_critic_layers(source), actor_and_critic_layers(target), strict=True):
        weight = theirs.weight.T[None] if isinstance(ours, StackedLinear) else theirs.weight
        ours.weight.copy_(weight)
        ours.bias.copy_(theirs.bias.reshape(ours.bias.shape))
    if hasattr(source.policy, "log_std"):
        own = target.policy.log_stds[0] if isinstance(target, HAPPO) else target.policy.log_std
        own.copy_(source.policy.log_std[None])


def record_training(model: PPO | CooperativeOnPolicyAlgorithm, total_timesteps: int) -> list[dict[str, float]]:
    """Train from a fixed state of the random generators; return the metrics of each update."""
    history: list[dict[str, float]] = []

    class Recorder(Logger):
        def dump(self, step: int = 0) -> None:
            history.append(dict(self.name_to_value))

    class KeepRandomState(BaseCallback):
        """Q-critics draw minibatches of their own, which must not change what is drawn after them."""

        def _on_step(self) -> bool:
            return True

        def _on_training_start(self) -> None:
            self.random_state = th.get_rng_state()

        def _on_rollout_start(self) -> None:
            th.set_rng_state(self.random_state)

        def _on_rollout_end(self) -> None:
            self.random_state = th.get_rng_state()

    model.set_logger(Recorder(folder=None, output_formats=[]))
    model.env.seed(1)
    th.manual_seed(2)
    np.random.seed(3)
    model.learn(total_timesteps, callback=KeepRandomState())
    history.append(dict(model.logger.name_to_value))
    return [metrics for metrics in history if "train/loss" in metrics]


class PPOWithAdvantages(PPO):
    """PPO that is handed its advantages, one array ``(n_steps, n_envs)`` for each rollout, instead of those of GAE."""

    advantages: list[np.ndarray]

    def train(self) -> None:
        self.rollout_buffer.advantages = self.advantages.pop(0)
        super().train()


OPTIONS = {
    "default": {},
    "value clipping and entropy": {"clip_range_vf": 0.3, "ent_coef": 0.02},
    "raw advantages": {"normalize_advantage": False, "max_grad_norm": 10.0},
    "target_kl": {"target_kl": 3e-5},
}
# What makes the algorithm's credit of one agent the team's advantage, where that is a question of settings
OWN_SETTINGS: dict[type[CooperativeOnPolicyAlgorithm], dict[str, Any]] = {OptimisticMAPPO: {"eta": 1.0}}


@pytest.mark.parametrize(
    ("algorithm", "option"),
    [(MAPPO, option) for option in OPTIONS] + [(algorithm, "default") for algorithm in ALGORITHMS if algorithm is not MAPPO],
)
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_one_agent_equals_ppo(env_id: str, algorithm: type[CooperativeOnPolicyAlgorithm], option: str) -> None:
    settings: dict[str, Any] = OPTIONS[option]
    arguments: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 4, "seed": 0, "device": "cpu", **settings}
    joint_arguments = {**arguments, "normalize_values": False, **OWN_SETTINGS.get(algorithm, {})}

    def make_env() -> gym.Env:
        # Pendulum only ever ends at its time limit, and so do some of CartPole's episodes. They are short, because from
        # step to step a pendulum lets differences of rounding grow
        env = gym.make(env_id, max_episode_steps=20)
        # Pendulum's rewards reach -16: losses in the thousands would hide a relative error of 1e-6 in their units
        return gym.wrappers.TransformReward(env, lambda reward: 0.1 * reward)

    # All but COMA, whose advantage is no GAE by definition, find PPO's own advantages
    ppo_class = PPOWithAdvantages if algorithm is COMAPPO else PPO
    ppo = ppo_class("MlpPolicy", make_vec_env(make_env, n_envs=2, seed=0), **arguments)
    joint_env = make_vec_env(lambda: OneAgent(make_env()), n_envs=2, seed=0)
    model = algorithm("MlpPolicy", joint_env, **joint_arguments)
    copy_weights(ppo, model)
    start = flat_weights(ppo)

    credits: list[np.ndarray] = []
    allocate = model._allocate_credits

    def recorded(rollout: Rollout) -> th.Tensor:
        allocated = allocate(rollout)
        credits.append(allocated.numpy())
        return allocated

    model._allocate_credits = recorded  # type: ignore[method-assign]
    actual = record_training(model, 128)
    ppo.advantages = [array[:, :, 0] for array in credits]
    expected = record_training(ppo, 128)

    assert len(expected) == len(actual) == 2
    assert model._n_updates == ppo._n_updates
    assert (ppo._n_updates < 8) == ("target_kl" in settings)
    for theirs, ours in zip(expected, actual, strict=True):
        for name in TRAIN_METRICS:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-6), name
    for before, theirs, ours in zip(start, flat_weights(ppo), flat_weights(model), strict=True):
        assert (theirs != before).any()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    # A thousand times the tolerance, if not for every bias
    assert max(np.abs(theirs - before).max() for before, theirs in zip(start, flat_weights(ppo), strict=True)) > 1e-3
    # PPO has flattened its own, one environment after the other
    returns = model.rollout_buffer.returns.T.ravel()
    np.testing.assert_allclose(returns, ppo.rollout_buffer.returns.ravel(), rtol=1e-5, atol=1e-4)
