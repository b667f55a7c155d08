"""What users of PPO change and replace: schedules, policies, networks, buffers. It takes effect, or is refused by name."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule

from sb3_cora import COMAPPO, CORAPPO, HAPPO, IPPO, MAPPO
from sb3_cora.common.buffers import JointRolloutBuffer
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.rollout import Rollout
from tests.algorithms import ALGORITHMS_WITH_Q, LEARNERS, assert_same_weights, assert_trained, make_tiny, weights
from tests.joint_games import MaskedTeam, NoisyTeam
from tests.one_agent import OneAgent

Algorithm = type[CooperativeOnPolicyAlgorithm]

over_learners = pytest.mark.parametrize("algorithm", LEARNERS)


class Assign(BaseCallback):
    """Sets an attribute of the model once, at the end of the first rollout."""

    def __init__(self, name: str, value: Any):
        super().__init__()
        self.name = name
        self.value = value

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        setattr(self.model, self.name, self.value)


@over_learners
def test_schedules_are_called_as_in_ppo(algorithm: Algorithm) -> None:
    settings = {"clip_range": LinearSchedule(0.3, 0.1, 1.0), "clip_range_vf": 0.4}
    ppo = PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=8, **settings)
    model = make_tiny(algorithm, NoisyTeam(), **settings)
    for remaining in (1.0, 0.5, 0.0):
        assert model.clip_range(remaining) == ppo.clip_range(remaining)
        assert model.clip_range_vf(remaining) == ppo.clip_range_vf(remaining) == 0.4


@pytest.mark.parametrize("value", [0.01, lambda remaining: 0.01], ids=["number", "schedule"])
@over_learners
def test_what_a_callback_changes_takes_effect(algorithm: Algorithm, value: Any, tmp_path: Path) -> None:
    make_tiny(algorithm, NoisyTeam(), clip_range_vf=0.2, vf_learning_rate=1e-3).save(tmp_path / "model")
    names = {"clip_range": "train/clip_range", "clip_range_vf": "train/clip_range_vf"}
    names["vf_learning_rate"] = "train/vf_learning_rate"
    for name, metric in names.items():
        model = make_tiny(algorithm, NoisyTeam(), clip_range_vf=0.2, vf_learning_rate=1e-3)
        model.learn(16, Assign(name, value))
        assert model.logger.name_to_value[metric] == 0.01, name
        loaded = algorithm.load(tmp_path / "model", env=NoisyTeam(), **{name: value}).learn(16)
        assert loaded.logger.name_to_value[metric] == 0.01, name


@over_learners
def test_a_learning_rate_that_a_callback_changes_is_everyones(algorithm: Algorithm) -> None:
    of_policy = {"q_learning_rate": None} if algorithm in ALGORITHMS_WITH_Q else {}
    model = make_tiny(algorithm, NoisyTeam(), **of_policy)
    model.learn(16, Assign("lr_schedule", lambda remaining: 0.01))
    assert [group["lr"] for group in model.policy.optimizer.param_groups] == [0.01, 0.01]
    if algorithm in ALGORITHMS_WITH_Q:
        assert model.policy.q_optimizer.param_groups[0]["lr"] == 0.01
        # One of their own stays, until it is changed itself
        model = make_tiny(algorithm, NoisyTeam(), q_learning_rate=0.5)
        model.learn(16, Assign("lr_schedule", lambda remaining: 0.01))
        assert model.policy.q_optimizer.param_groups[0]["lr"] == 0.5
        model.learn(16, Assign("q_learning_rate", 0.25))
        assert model.policy.q_optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("clip_range_vf", [0.0, -0.2, float("nan")])
@over_learners
def test_values_cannot_be_clipped_to_nothing(algorithm: Algorithm, clip_range_vf: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"clip_range_vf must be positive, not {clip_range_vf}; pass None"):
        make_tiny(algorithm, NoisyTeam(), clip_range_vf=clip_range_vf)
    make_tiny(algorithm, NoisyTeam()).save(tmp_path / "model")
    with pytest.raises(ValueError, match="clip_range_vf must be positive"):
        algorithm.load(tmp_path / "model", clip_range_vf=clip_range_vf)


class DoublePrecisionTeam(NoisyTeam):
    """Actions of float64, of unequal bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(np.full((3, 2), -2.0), np.full((3, 2), 1.0), dtype=np.float64)

    def step(self, action: np.ndarray) -> Any:
        assert action.dtype == np.float64 and self.action_space.contains(action)
        return super().step(action)


@pytest.mark.parametrize("settings", [{}, {"use_sde": True}, {"policy_kwargs": {"squash_mean": True}}], ids=str)
@over_learners
def test_actions_of_double_precision(algorithm: Algorithm, settings: dict[str, Any], tmp_path: Path) -> None:
    model = make_tiny(algorithm, DoublePrecisionTeam(), **settings)
    before = weights(model)
    assert_trained(before, model.learn(32))
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=DoublePrecisionTeam())
    assert_same_weights(weights(model), weights(loaded))
    loaded.learn(16)


def policy_with_optimizer(algorithm: Algorithm, kind: str) -> type:
    """A policy class of a user's, with an optimizer of the user's."""
    base = algorithm.policy_aliases["MlpPolicy"]

    class OwnPolicy(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            if kind == "one group":
                self.optimizer = self.optimizer_class(self.parameters(), lr=1e-3)
            else:
                self.temperature = th.nn.Parameter(th.ones(1))
                self.optimizer.add_param_group({"params": [self.temperature]})

        def values(self, observation: Any) -> th.Tensor:
            values = super().values(observation)
            return values if kind == "one group" else values * self.temperature

    return OwnPolicy


@pytest.mark.parametrize("separate_grad_norms", [False, True])
@pytest.mark.parametrize("kind", ["one group", "further group"])
@over_learners
def test_optimizers_of_the_users_own(algorithm: Algorithm, kind: str, separate_grad_norms: bool) -> None:
    policy_class = policy_with_optimizer(algorithm, kind)
    model = algorithm(
        policy_class, NoisyTeam(), n_steps=16, batch_size=8, n_epochs=2, separate_grad_norms=separate_grad_norms, seed=0
    )
    before = weights(model)
    assert_trained(before, model.learn(32))


@over_learners
def test_a_rate_for_the_value_function_wants_a_group_of_its_own(algorithm: Algorithm) -> None:
    policy_class = policy_with_optimizer(algorithm, "further group")
    further = algorithm(policy_class, NoisyTeam(), n_steps=8, batch_size=8, vf_learning_rate=0.5).learn(8)
    assert [group["lr"] for group in further.policy.optimizer.param_groups] == [3e-4, 0.5, 3e-4]
    with pytest.raises(ValueError, match=r"vf_learning_rate is given, but no parameter group .*Adam of OwnPolicy.* alone"):
        algorithm(policy_with_optimizer(algorithm, "one group"), NoisyTeam(), vf_learning_rate=0.5)


def test_the_norm_of_further_parameters_is_clipped() -> None:
    # With plain gradient descent a step is as long as the gradient
    policy_kwargs = {"optimizer_class": th.optim.SGD}
    settings: dict[str, Any] = {"separate_grad_norms": True, "max_grad_norm": 1e-3, "n_epochs": 1, "batch_size": 16}
    policy_class = policy_with_optimizer(MAPPO, "further group")
    model = MAPPO(policy_class, NoisyTeam(), n_steps=16, learning_rate=1.0, policy_kwargs=policy_kwargs, seed=0, **settings)
    model.learn(16)
    assert abs(model.policy.temperature.item() - 1.0) == pytest.approx(1e-3, rel=1e-2)  # type: ignore[attr-defined, operator]


@over_learners
def test_networks_without_hidden_layers(algorithm: Algorithm) -> None:
    net_arch: Any = []
    if algorithm in ALGORITHMS_WITH_Q:
        with pytest.raises(ValueError, match=r"net_arch\['qf'\] is empty: pass e.g. qf=\[64, 64\]"):
            make_tiny(algorithm, NoisyTeam(), policy_kwargs={"net_arch": net_arch})
        net_arch = {"pi": [], "vf": []}
    for settings in ({}, {"share_parameters": True}, {"use_sde": True}):
        model = make_tiny(algorithm, NoisyTeam(), policy_kwargs={"net_arch": net_arch}, **settings)
        before = weights(model)
        assert_trained(before, model.learn(32))
        # A layer for the actor and one for the value function, in HAPPO one for each agent's
        layers = [name for name in before if name.endswith("weight") and not name.startswith("q_critic")]
        assert len(layers) == (4 if algorithm is HAPPO and "share_parameters" not in settings else 2)


@over_learners
def test_the_legacy_form_of_net_arch(algorithm: Algorithm, tmp_path: Path) -> None:
    policy_kwargs = {"net_arch": [{"pi": [8], "vf": [16]}]}
    with pytest.warns(UserWarning, match="pass directly a dictionary"):
        model = make_tiny(algorithm, NoisyTeam(), policy_kwargs=policy_kwargs)
    assert (model.policy.net_arch["pi"], model.policy.net_arch["vf"]) == ([8], [16])
    model.save(tmp_path / "model")
    assert_same_weights(weights(model), weights(algorithm.load(tmp_path / "model")))


@pytest.mark.parametrize(
    ("policy_kwargs", "said"),
    [
        ({"full_std": False}, "full_std=False is not available"),
        ({"use_expln": True}, "use_expln=True is not available"),
        ({"squash_output": True}, "squash_output=True is not available .*squash_mean=True"),
        ({"share_features_extractor": True}, "share_features_extractor=True is not available .*critics the state"),
        ({"features_extractor_kwargs": {"features_dim": 3}}, "features_extractor_kwargs=.* without a features_extractor"),
    ],
)
@over_learners
def test_options_of_policies_that_are_not_there(algorithm: Algorithm, policy_kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_tiny(algorithm, NoisyTeam(), policy_kwargs=policy_kwargs)


@over_learners
def test_options_of_policies_as_they_are_by_default(algorithm: Algorithm) -> None:
    policy_kwargs = {"full_std": True, "use_expln": False, "squash_output": False, "normalize_images": False}
    model = make_tiny(algorithm, NoisyTeam(), policy_kwargs=policy_kwargs).learn(16)
    assert_same_weights(weights(model), weights(make_tiny(algorithm, NoisyTeam()).learn(16)))


class Sines(BaseFeaturesExtractor):
    """A layer and a sine, of one agent's observation."""

    def __init__(self, observation_space: gym.Space, features_dim: int = 6):
        super().__init__(observation_space, features_dim)
        assert isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1
        self.layer = th.nn.Linear(observation_space.shape[0], features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations).sin()


@pytest.mark.parametrize("env_class", [NoisyTeam, MaskedTeam])
@pytest.mark.parametrize("settings", [{"separate_grad_norms": True}, {"share_parameters": True}], ids=str)
@over_learners
def test_features_extractors(algorithm: Algorithm, settings: dict[str, Any], env_class: type, tmp_path: Path) -> None:
    policy_kwargs = {"features_extractor_class": Sines, "features_extractor_kwargs": {"features_dim": 5}}
    model = make_tiny(algorithm, env_class(), policy_kwargs=policy_kwargs, **settings)
    extractors = [module for module in model.policy.actor.modules() if isinstance(module, Sines)]
    # One for each actor, on what one agent observes
    assert len(extractors) == (1 if "share_parameters" in settings else 3)
    assert all(extractor.layer.weight.shape == (5, 4) for extractor in extractors)
    assert isinstance(model.policy.value_critic, th.nn.Module)
    in_critic = [module for module in model.policy.value_critic.modules() if isinstance(module, Sines)]
    assert len(in_critic) == (len(extractors) if algorithm is IPPO else 0)
    before = weights(model)
    model.learn(32)
    assert all(not th.equal(before[name], new) for name, new in weights(model).items())

    model.save(tmp_path / "model")
    assert_same_weights(weights(model), weights(algorithm.load(tmp_path / "model")))
    model.policy.save(str(tmp_path / "policy.pt"))
    # The class of the extractor is the user's: that the file may name it is the user's decision
    policy = type(model.policy).load(str(tmp_path / "policy.pt"))
    assert_same_weights(weights(model), dict(policy.named_parameters()))


def test_features_extractors_see_single_precision() -> None:
    env = NoisyTeam()
    env.observation_space = spaces.Box(-0.1, 0.1, (3, 4), dtype=np.float64)
    actor = make_tiny(MAPPO, env, policy_kwargs={"features_extractor_class": Sines}).policy.actor
    own = [module._observation_space for module in actor.modules() if isinstance(module, Sines)]
    # As SB3's preprocessing makes of observations; that the bounds are rounded is not worth a warning
    assert own == [spaces.Box(-0.1, 0.1, (4,), dtype=np.float32)] * 3


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_one_agent_with_a_features_extractor_acts_as_ppo(env_id: str) -> None:
    policy_kwargs = {"features_extractor_class": Sines, "net_arch": {"pi": [8], "vf": [8]}}
    ppo = PPO("MlpPolicy", env_id, policy_kwargs={**policy_kwargs, "share_features_extractor": False}, seed=0)
    model = make_tiny(IPPO, make_vec_env(lambda: OneAgent(gym.make(env_id)), 1), policy_kwargs=policy_kwargs)
    theirs, ours = ppo.policy, model.policy
    pairs = []
    for name, network in (("actor", theirs.pi_features_extractor), ("value_critic", theirs.vf_features_extractor)):
        (own,) = [module for module in getattr(ours, name).modules() if isinstance(module, Sines)]
        pairs.append((network.layer, own.layer))
    with th.no_grad():
        for their_layer, own_layer in pairs:
            own_layer.load_state_dict(their_layer.state_dict())
        stacks = (
            (theirs.mlp_extractor.policy_net[0], ours.actor.latent_net[0]),
            (theirs.action_net, ours.actor.output_net),
            (theirs.mlp_extractor.value_net[0], ours.value_critic.latent_net[0]),  # type: ignore[union-attr]
            (theirs.value_net, ours.value_critic.output_net),
        )
        for linear, stack in stacks:
            stack.weight[0] = linear.weight.T  # type: ignore[union-attr, operator]
            stack.bias[0, 0] = linear.bias  # type: ignore[union-attr, operator]
        observations = th.randn(7, *ppo.observation_space.shape)
        expected, actual = theirs.get_distribution(observations).distribution, ours.get_distribution(observations[:, None])
        parameter = "mean" if env_id == "Pendulum-v1" else "probs"
        found = getattr(actual.distribution, parameter)[:, 0]  # type: ignore[attr-defined]
        th.testing.assert_close(found, getattr(expected, parameter))
        th.testing.assert_close(ours.predict_values(observations[:, None]), theirs.predict_values(observations))


@over_learners
def test_a_flat_features_extractor_changes_nothing(algorithm: Algorithm) -> None:
    model = make_tiny(algorithm, NoisyTeam(), policy_kwargs={"features_extractor_class": FlattenExtractor}).learn(32)
    assert_same_weights(weights(model), weights(make_tiny(algorithm, NoisyTeam()).learn(32)))


@pytest.mark.parametrize(("env_class", "normalize_values"), [(NoisyTeam, False), (MaskedTeam, True)])
@over_learners
def test_a_rollout_can_be_trained_on_twice(algorithm: Algorithm, normalize_values: bool, env_class: type) -> None:
    model = make_tiny(algorithm, make_vec_env(env_class, 2, seed=0), normalize_values=normalize_values)
    rollouts: list[Rollout] = []
    allocate = model._allocate_credits

    def keep(rollout: Rollout) -> th.Tensor:
        rollouts.append(rollout)
        return allocate(rollout)

    model._allocate_credits = keep  # type: ignore[method-assign]
    model.learn(32)
    before = weights(model)
    model.train()
    assert_trained(before, model)
    first, second = rollouts
    for name in ("actions", "log_prob", "returns", "advantages", "td_errors"):
        assert th.equal(getattr(first, name), getattr(second, name)), name
    model.learn(32)
    assert model._n_updates == 6


def test_training_twice_is_training_with_more_epochs() -> None:
    settings: dict[str, Any] = {"normalize_advantage": False, "batch_size": 16, "max_grad_norm": 1e9}
    once, twice = (make_tiny(MAPPO, NoisyTeam(), n_epochs=n_epochs, **settings).learn(16) for n_epochs in (4, 2))
    twice.train()
    for name, parameter in weights(once).items():
        th.testing.assert_close(parameter, weights(twice)[name], rtol=1e-5, atol=1e-6)


@over_learners
def test_rollout_buffers_hold_what_is_collected(algorithm: Algorithm) -> None:
    for env in (NoisyTeam(), MaskedTeam()):
        fitting = make_tiny(algorithm, env)._default_rollout_buffer_class()
        wrong = [RolloutBuffer, *([JointRolloutBuffer] if fitting is not JointRolloutBuffer else [])]
        for buffer_class in wrong:
            with pytest.raises(ValueError, match=rf"rollout_buffer_class={buffer_class.__name__} .*{fitting.__name__}"):
                make_tiny(algorithm, env, rollout_buffer_class=buffer_class)

        class OwnBuffer(fitting):  # type: ignore[misc, valid-type]
            pass

        assert type(make_tiny(algorithm, env, rollout_buffer_class=OwnBuffer).learn(16).rollout_buffer) is OwnBuffer


class UnnormalizedCredits(CooperativeOnPolicyAlgorithm):
    """A hook of the user's own, for whatever algorithm it is put before."""

    def _normalize_credits(self, credits: th.Tensor, agent_mask: th.Tensor | None) -> th.Tensor:
        return credits


@pytest.mark.parametrize("hook", [UnnormalizedCredits, HAPPO])
def test_hooks_of_one_algorithm_are_put_before_another(hook: Algorithm) -> None:
    class Mixed(hook, CORAPPO):  # type: ignore[valid-type,misc]
        """Without a constructor of its own."""

        policy_aliases = CORAPPO.policy_aliases

    class MixedWithConstructor(hook, CORAPPO):  # type: ignore[valid-type,misc]
        """With one that hands on what it is given."""

        policy_aliases = CORAPPO.policy_aliases

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)

    for mixed in (Mixed, MixedWithConstructor):
        model = make_tiny(mixed, NoisyTeam(), credit="shapley")
        assert model.credit == "shapley"
        before = weights(model)
        assert_trained(before, model.learn(16))
    with pytest.raises(TypeError, match=r"Mixed\.__init__\(\) missing a required argument: 'env'"):
        Mixed("MlpPolicy")


@over_learners
def test_frozen_networks(algorithm: Algorithm) -> None:
    """All of one kind: nothing in the loss may have a gradient, as when an agent of HAPPO has its turn."""
    for part in ("actor", "value_critic", "q_critic"):
        model = make_tiny(algorithm, NoisyTeam(discrete=True))
        if not hasattr(model.policy, part):
            continue
        getattr(model.policy, part).requires_grad_(False)
        before = weights(model)
        model.learn(32)
        moved = {name.split(".")[0] for name, weight in weights(model).items() if not weight.equal(before[name])}
        assert part not in moved and moved


def test_credits_are_of_the_policy_that_acted() -> None:
    """Not of one in which dropout leaves out something else."""

    class Watched(COMAPPO):
        def _allocate_credits(self, rollout: Rollout) -> th.Tensor:
            flat = rollout.flatten()
            again = self.policy.distribution(flat.observation).log_prob(flat.actions)
            th.testing.assert_close(again, flat.log_prob)
            return super()._allocate_credits(rollout)

        def _update_policy(self, rollout: Rollout, credits: th.Tensor) -> None:
            assert self.policy.training
            super()._update_policy(rollout, credits)

    class Forgetful(Sines):
        def forward(self, observations: th.Tensor) -> th.Tensor:
            return th.nn.functional.dropout(super().forward(observations), 0.5, self.training)

    policy_kwargs = {"features_extractor_class": Forgetful, "output_gain": 1.0}
    make_tiny(Watched, NoisyTeam(discrete=True), policy_kwargs=policy_kwargs).learn(32)
