"""What Stable-Baselines3 users do with PPO, they can do with every algorithm here."""

import copy
import importlib
import inspect
import itertools
import pickle
import pkgutil
import pydoc
import re
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

import sb3_cora
from sb3_cora import COMAPPO, CORAPPO, HAPPO, IPPO, MAPPO, OptimisticMAPPO, ShapleyPPO, make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm, OnPolicyArgumentsWithEta
from sb3_cora.common.policies import CooperativeActorQCriticPolicy
from sb3_cora.common.q_critic_algorithm import QCriticArguments, QCriticOnPolicyAlgorithm
from sb3_cora.cora_ppo.cora_ppo import CoalitionArguments
from tests.algorithms import (
    ALGORITHMS,
    ALGORITHMS_WITH_GAME,
    ALGORITHMS_WITH_Q,
    LEARNERS,
    actor_weights,
    assert_same_weights,
    assert_trained,
    learns_as,
    make_tiny,
    weights,
)
from tests.joint_games import Lap, MaskedTeam, MatrixGame, NoisyTeam, TargetGame

Algorithm = type[CooperativeOnPolicyAlgorithm]

over_algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
over_learners = pytest.mark.parametrize("algorithm", LEARNERS)

# Everything that a model is made of and that saving must not lose
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "gamma": 0.9,
    "clip_range": 0.3,
    "clip_range_vf": 0.4,
    "ent_coef": 0.01,
    "target_kl": 0.5,
    "share_parameters": True,
    "vf_learning_rate": 3e-3,
    "normalize_values": True,
    "huber_delta": 2.0,
    "pessimistic_vf_clip": True,
    "separate_grad_norms": True,
    "policy_kwargs": {
        "net_arch": {"pi": [8], "vf": [16, 8], "qf": [12]},
        "log_std_init": -0.5,
        "normalize_features": True,
        "output_gain": 0.1,
    },
}
GAME_SETTINGS: dict[str, Any] = {"baseline": "q", "grand_advantage": "q", "n_coalitions": 6}
Q_SETTINGS: dict[str, Any] = {
    "n_critics": 3,
    "q_aggregation": "mean",
    "q_target": "lambda",
    "q_learning_rate": 2e-3,
    "q_n_epochs": 1,
}
OWN_SETTINGS: dict[Algorithm, dict[str, Any]] = {
    CORAPPO: {**GAME_SETTINGS, "credit": "least_core", "variance_weight": 0.7, "credit_scale": "sample", "n_coalitions": 3},
    ShapleyPPO: GAME_SETTINGS,
    COMAPPO: {"n_policy_samples": 3},
    OptimisticMAPPO: {"eta": 0.3, "optimism": "before_normalization"},
}


def all_settings(algorithm: Algorithm) -> dict[str, Any]:
    return {**SETTINGS, **(Q_SETTINGS if algorithm in ALGORITHMS_WITH_Q else {}), **OWN_SETTINGS.get(algorithm, {})}


def noisy_vec_env(n_envs: int = 2, **kwargs: Any) -> VecEnv:
    return make_vec_env(NoisyTeam, n_envs=n_envs, seed=0, env_kwargs=kwargs)


def optimizers(model: CooperativeOnPolicyAlgorithm) -> dict[str, dict[str, Any]]:
    """State of each optimizer of a model, by name."""
    return {name: state for name, state in model.get_parameters().items() if name.endswith("optimizer")}


def assert_same_optimizers(first: CooperativeOnPolicyAlgorithm, second: CooperativeOnPolicyAlgorithm) -> None:
    ours, theirs = optimizers(first), optimizers(second)
    assert ours.keys() == theirs.keys() and len(ours) == (2 if type(first) in ALGORITHMS_WITH_Q else 1)
    for name, state in ours.items():
        assert state["param_groups"] == theirs[name]["param_groups"]
        assert len(state["state"]) == sum(len(group["params"]) for group in state["param_groups"])
        for index, moments in state["state"].items():
            for key, moment in moments.items():
                assert th.equal(moment, theirs[name]["state"][index][key]), (name, index, key)


class LoggedMetrics(Logger):
    """Keeps the metrics of each dump."""

    def __init__(self) -> None:
        super().__init__(folder=None, output_formats=[])
        self.history: list[dict[str, Any]] = []

    def dump(self, step: int = 0) -> None:
        self.history.append(dict(self.name_to_value))
        super().dump(step)


def test_every_algorithm_of_the_package_is_tested() -> None:
    for module in pkgutil.iter_modules(sb3_cora.__path__):
        importlib.import_module(f"sb3_cora.{module.name}")
    found, stack = set(), [CooperativeOnPolicyAlgorithm]
    while stack:
        subclasses = [cls for cls in stack.pop().__subclasses__() if cls.__module__.startswith("sb3_cora.")]
        found.update(subclasses)
        stack += subclasses
    # What the algorithms have in common is not one
    found = {cls for cls in found if not cls.__module__.startswith("sb3_cora.common.")}
    assert {CORAPPO, MAPPO} <= found
    assert set(ALGORITHMS) == found
    # Those that stand for others do, and the others have code of their own
    learners = {algorithm.__name__: learns_as(algorithm) for algorithm in LEARNERS}
    assert learners.pop("MAPPO") is CooperativeOnPolicyAlgorithm
    assert learners == {cls.__name__: cls for cls in (COMAPPO, CORAPPO, HAPPO, IPPO)}
    assert {learns_as(algorithm) for algorithm in ALGORITHMS} == {*learners.values(), CooperativeOnPolicyAlgorithm}


@over_algorithms
def test_constructors_agree(algorithm: Algorithm) -> None:
    base = inspect.signature(CooperativeOnPolicyAlgorithm).parameters
    own = inspect.signature(algorithm).parameters
    # By position, too, as far as Stable-Baselines3's arguments go
    theirs = list(inspect.signature(PPO).parameters)
    n_positions = theirs.index("rollout_buffer_class")
    assert list(own)[:n_positions] == theirs[:n_positions]
    for name, parameter in base.items():
        default = 0.0 if (algorithm, name) == (OptimisticMAPPO, "eta") else parameter.default
        assert (own[name].default == default and own[name].annotation == parameter.annotation) or name == "policy", name
    assert all(parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY) for parameter in own.values())
    # Each described once
    assert re.findall(r"^:param (\w+):", algorithm.__doc__ or "", flags=re.MULTILINE) == list(own)
    assert str(inspect.signature(algorithm)).replace("'", '"')[1:40] in pydoc.render_doc(algorithm).replace("'", '"')


@pytest.mark.parametrize(
    ("arguments", "algorithm"),
    [
        (OnPolicyArgumentsWithEta, CooperativeOnPolicyAlgorithm),
        (QCriticArguments, QCriticOnPolicyAlgorithm),
        (CoalitionArguments, CORAPPO),
    ],
)
def test_arguments_that_are_handed_on_have_the_types_of_their_constructor(arguments: Any, algorithm: Algorithm) -> None:
    parameters = inspect.signature(algorithm).parameters
    assert arguments.__annotations__ == {name: parameters[name].annotation for name in arguments.__annotations__}
    if algorithm is not CORAPPO:
        # All of them
        assert {"policy", "env", *arguments.__annotations__} == set(parameters)


@over_learners
def test_from_an_id_to_an_evaluated_model(algorithm: Algorithm, tmp_path: Path) -> None:
    # Sixteen worlds, for the length of rollout that a test can wait for
    model = algorithm("MlpPolicy", "give_way", n_steps=2, batch_size=16, n_epochs=2, seed=0)
    before = weights(model)
    assert model.learn(3.2e1) is model
    assert model.num_timesteps == 32
    assert_trained(before, model)

    model.save(tmp_path / "give_way")
    loaded = algorithm.load(tmp_path / "give_way", env="give_way")
    assert_same_weights(weights(model), weights(loaded))

    env = make_joint_vec_env("give_way", n_envs=4, seed=0, max_steps=5)
    observations = env.reset()
    actions, state = loaded.predict(observations, deterministic=True)
    assert state is None and actions.shape == (4, 2, 2) and env.action_space.contains(actions[0])
    np.testing.assert_array_equal(actions, model.predict(observations, deterministic=True)[0])
    returns, lengths = evaluate_policy(loaded, env, n_eval_episodes=8, return_episode_rewards=True)
    assert np.isfinite(returns).all() and lengths == [5] * 8


@over_algorithms
def test_a_model_on_a_registered_id_has_the_vec_env_that_users_get(algorithm: Algorithm) -> None:
    env = algorithm("MlpPolicy", "give_way").get_env()
    assert env is not None and type(env.unwrapped).__name__ == "VmasVecEnv"


def give_way_of_vmas() -> Any:
    return pytest.importorskip("vmas").make_env("give_way", num_envs=4, max_steps=6)


def simple_spread(**kwargs: Any) -> Any:
    return pytest.importorskip("mpe2.simple_spread_v3").parallel_env(max_cycles=6, **kwargs)


# What is called an environment, of how many environments and agents it is, by the kind
CALLED_ENVIRONMENTS: dict[str, tuple[Callable[[], Any], int, int]] = {
    "joint env": (NoisyTeam, 1, 3),
    "joint env with a monitor": (lambda: Monitor(NoisyTeam(discrete=True)), 1, 3),
    "VecEnv": (noisy_vec_env, 2, 3),
    "Dict observations": (MaskedTeam, 1, 3),
    "vmas Environment": (give_way_of_vmas, 4, 2),
    "PettingZoo, discrete": (simple_spread, 1, 3),
    "PettingZoo, continuous": (lambda: simple_spread(continuous_actions=True), 1, 3),
    "id": (lambda: "vmas/simple_spread", 16, 3),
}


@pytest.mark.parametrize(
    ("algorithm", "make_env", "n_envs", "n_agents"),
    # The algorithms in turns, because what they are given is adapted before they see it
    [
        pytest.param(algorithm, *called, id=f"{algorithm.__name__}-{kind}")
        for (kind, called), algorithm in zip(CALLED_ENVIRONMENTS.items(), itertools.cycle(ALGORITHMS))
    ],
)
def test_whatever_is_called_an_environment(
    algorithm: Algorithm, make_env: Callable[[], Any], n_envs: int, n_agents: int
) -> None:
    model = make_tiny(algorithm, make_env(), batch_size=8 * n_envs)
    before = weights(model)
    model.learn(16 * n_envs)
    assert (model.n_envs, model.n_agents) == (n_envs, n_agents)
    assert_trained(before, model)
    model.get_env().close()


def test_environments_in_processes_of_their_own() -> None:
    # For one algorithm only: starting the processes takes seconds, and the algorithm has no part in it
    trained = []
    for vec_env_cls in (DummyVecEnv, SubprocVecEnv):
        model = make_tiny(CORAPPO, make_vec_env(NoisyTeam, 2, vec_env_cls=vec_env_cls))
        trained.append(weights(model.learn(32)))
        model.get_env().close()
    assert_same_weights(*trained)


class WholeRewards(Lap):
    """Is paid in whole numbers, which processes pass on as such, and ends at a time limit."""

    def __init__(self) -> None:
        super().__init__(length=3, truncates=True)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, int, bool, bool, dict[str, Any]]:  # type: ignore[override]
        observation, reward, *rest = super().step(action)
        return observation, int(reward), *rest


def test_whole_rewards_are_topped_up_at_time_limits_as_others() -> None:
    trained = []
    for vec_env_cls, settings in ((DummyVecEnv, {}), (SubprocVecEnv, {"vec_env_kwargs": {"start_method": "fork"}})):
        model = make_tiny(MAPPO, make_vec_env(WholeRewards, 2, vec_env_cls=vec_env_cls, **settings))
        trained.append(weights(model.learn(32)))
        model.get_env().close()
    assert_same_weights(*trained)


def test_sb3_ppo_trains_on_the_same_environment() -> None:
    model = PPO("MlpPolicy", make_joint_vec_env("give_way", n_envs=8, seed=0), n_steps=16, batch_size=64, n_epochs=1)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(128)
    after = list(model.policy.parameters())
    assert all(th.isfinite(parameter).all() for parameter in after)
    assert not any(th.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("discrete", [False, True], ids=["Box", "MultiDiscrete"])
@over_learners
def test_predict(algorithm: Algorithm, discrete: bool) -> None:
    env = NoisyTeam(discrete=discrete)
    model = make_tiny(algorithm, env, policy_kwargs={"log_std_init": 1.0})
    observation, _ = env.reset(seed=0)
    batch = np.stack([observation, observation + 1, observation - 1])

    single, _ = model.predict(observation, deterministic=True)
    several, _ = model.predict(batch, deterministic=True)
    assert single.shape == env.action_space.shape and env.action_space.contains(single)
    assert several.shape == (3, *env.action_space.shape)
    np.testing.assert_allclose(several[0], single, atol=1e-6)
    np.testing.assert_array_equal(model.predict(observation, deterministic=True)[0], single)

    # With a standard deviation of e the samples leave [-1, 1] two times in three, unless they are clipped
    samples, _ = model.predict(np.repeat(observation[None], 200, axis=0))
    assert len(np.unique(samples.reshape(200, -1), axis=0)) > 10
    assert all(env.action_space.contains(sample) for sample in samples)


@over_learners
def test_predict_from_dict_observations(algorithm: Algorithm) -> None:
    env = MaskedTeam()
    model = make_tiny(algorithm, env)
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert action.shape == (3,)
    batch = {key: np.stack([part] * 50) for key, part in observation.items()}
    assert (model.predict(batch, deterministic=True)[0] == action).all()
    samples, _ = model.predict(batch)
    assert samples.shape == (50, 3) and observation["action_mask"][np.arange(3), samples].all()
    # Without the mask actions would be taken that are not allowed
    with pytest.raises(ValueError, match=r"a dict without \['action_mask'\], which is a part"):
        model.predict({key: part for key, part in observation.items() if key != "action_mask"})


@pytest.mark.parametrize("discrete", [False, True], ids=["Box", "MultiDiscrete"])
@over_learners
def test_the_policys_own_actions_are_evaluated(algorithm: Algorithm, discrete: bool) -> None:
    model = make_tiny(algorithm, NoisyTeam(discrete=discrete))
    observation, _ = model.policy.obs_to_tensor(np.zeros((4, *model.observation_space.shape), np.float32))
    actions, values, log_prob = model.policy(observation)
    for form in (actions, actions.flatten(start_dim=1)):
        again = model.policy.evaluate_actions(observation, form)
        th.testing.assert_close(again[0], values)
        th.testing.assert_close(again[1], log_prob)


@over_learners
def test_evaluate_policy_knows_the_return(algorithm: Algorithm) -> None:
    # Whatever is played, one step pays 2.5
    model = make_tiny(algorithm, MatrixGame(np.full((2, 3), 2.5)))
    assert evaluate_policy(model, model.get_env(), n_eval_episodes=3) == (2.5, 0.0)


@pytest.mark.parametrize("with_env", [True, False], ids=["with env", "without env"])
@over_algorithms
def test_save_and_load(algorithm: Algorithm, with_env: bool, tmp_path: Path) -> None:
    settings = all_settings(algorithm)
    model = make_tiny(algorithm, noisy_vec_env(), **settings)
    model.learn(32)
    model.save(tmp_path / "model.zip")
    # Only for a different number of environments, and read from an open file as well
    env = noisy_vec_env(n_envs=4) if with_env else None
    with open(tmp_path / "model.zip", "rb") as file:
        loaded = algorithm.load(file, env=env)

    assert_same_weights(weights(model), weights(loaded))
    assert_same_optimizers(model, loaded)
    for name, value in settings.items():
        loaded_value = getattr(loaded, name)
        # Rates and clipping parameters become schedules, as in PPO
        assert (loaded_value(0.3) if isinstance(loaded_value, FloatSchedule) else loaded_value) == value, name
    assert loaded.policy.share_parameters and loaded.policy.net_arch == settings["policy_kwargs"]["net_arch"]
    assert loaded.num_timesteps == 32 and loaded.n_agents == 3
    assert (loaded.get_env() is None) != with_env
    observation = noisy_vec_env().reset()
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])
@over_algorithms
def test_copies_train_on_as_the_model(algorithm: Algorithm, copied: Callable[[Any], Any]) -> None:
    model = make_tiny(algorithm, noisy_vec_env()).learn(32)
    same = copied(model)
    assert_same_weights(weights(same), weights(model))
    for each in (model, same):
        each.set_random_seed(3)
        each.learn(32)
    assert_same_weights(weights(same), weights(model))


@over_algorithms
def test_load_takes_the_same_policy_kwargs_and_no_others(algorithm: Algorithm, tmp_path: Path) -> None:
    policy_kwargs = SETTINGS["policy_kwargs"]
    model = make_tiny(algorithm, noisy_vec_env(), policy_kwargs=policy_kwargs)
    assert model.policy_kwargs == policy_kwargs
    model.save(tmp_path / "model")
    assert algorithm.load(tmp_path / "model", policy_kwargs=policy_kwargs).policy_kwargs == policy_kwargs
    with pytest.raises(ValueError, match="policy kwargs"):
        algorithm.load(tmp_path / "model", policy_kwargs={"net_arch": [4]})


@over_algorithms
def test_load_can_change_settings(algorithm: Algorithm, tmp_path: Path) -> None:
    make_tiny(algorithm, noisy_vec_env()).save(tmp_path / "model")
    changes = {"n_steps": 4, "learning_rate": 0.5, "clip_range": 0.05, "n_epochs": 1}
    loaded = algorithm.load(tmp_path / "model", env=noisy_vec_env(), **changes)
    loaded.learn(8)
    assert loaded.rollout_buffer.rewards.shape == ((4, 2, 3) if algorithm is IPPO else (4, 2))
    assert loaded.policy.optimizer.param_groups[0]["lr"] == 0.5
    assert loaded.logger.name_to_value["train/clip_range"] == 0.05


@over_algorithms
def test_learn_again(algorithm: Algorithm, tmp_path: Path) -> None:
    model = make_tiny(algorithm, noisy_vec_env(), **all_settings(algorithm))
    model.learn(32)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=noisy_vec_env())
    before = weights(loaded)
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == 96
    # Two epochs for each of the three rollouts, unless target_kl has stopped one
    assert model._n_updates < loaded._n_updates <= 6
    assert_trained(before, loaded)
    loaded.learn(32)
    assert loaded.num_timesteps == 32


@pytest.mark.parametrize("discrete", [False, True], ids=["Box", "MultiDiscrete"])
@over_learners
def test_a_loaded_model_goes_on_as_if_never_saved(algorithm: Algorithm, discrete: bool, tmp_path: Path) -> None:
    def run(interrupted: bool) -> dict[str, th.Tensor]:
        model = make_tiny(algorithm, noisy_vec_env(discrete=discrete), **all_settings(algorithm))
        model.learn(32)
        if interrupted:
            model.save(tmp_path / "model")
            model = algorithm.load(tmp_path / "model", env=noisy_vec_env(discrete=discrete))
        model.set_env(noisy_vec_env(discrete=discrete))
        model.set_random_seed(1)
        return weights(model.learn(32, reset_num_timesteps=False))

    assert_same_weights(run(interrupted=False), run(interrupted=True))


@over_learners
def test_set_env(algorithm: Algorithm) -> None:
    model = make_tiny(algorithm, noisy_vec_env())
    model.learn(32)
    env = noisy_vec_env()
    model.set_env(env)
    assert model.get_env() is env
    before = weights(model)
    model.learn(32)
    assert_trained(before, model)

    single = make_tiny(algorithm, "give_way", n_steps=2)
    single.set_env("give_way")
    single.learn(32)


@over_algorithms
def test_get_and_set_parameters(algorithm: Algorithm, tmp_path: Path) -> None:
    model, other = (make_tiny(algorithm, noisy_vec_env(), seed=seed) for seed in (0, 1))
    model.learn(32)
    parameters = model.get_parameters()
    names = {"policy", "policy.optimizer"} | ({"policy.q_optimizer"} if algorithm in ALGORITHMS_WITH_Q else set())
    assert set(parameters) == names
    assert not th.equal(actor_weights(model)["output_net.weight"], actor_weights(other)["output_net.weight"])

    other.set_parameters(parameters)
    assert_same_weights(weights(model), weights(other))
    assert_same_optimizers(model, other)

    model.save(tmp_path / "model")
    third = make_tiny(algorithm, noisy_vec_env(), seed=2)
    third.set_parameters(tmp_path / "model")
    assert_same_weights(weights(model), weights(third))
    with pytest.raises(ValueError, match="Names of parameters"):
        third.set_parameters({"policy": parameters["policy"]})


@pytest.mark.parametrize("discrete", [False, True], ids=["Box", "MultiDiscrete"])
@over_algorithms
def test_policy_save_and_load(algorithm: Algorithm, discrete: bool, tmp_path: Path) -> None:
    own = {"n_critics": 3, "q_aggregation": "mean"} if algorithm in ALGORITHMS_WITH_Q else {}
    settings: dict[str, Any] = {
        "share_parameters": True,
        "policy_kwargs": {
            "net_arch": {"pi": [8], "vf": [16, 8], "qf": [12]},
            "activation_fn": th.nn.ReLU,
            "normalize_features": True,
            "ortho_init": False,
            "output_gain": 0.1,
            "log_std_init": -0.7,
            "optimizer_class": th.optim.SGD,
            "optimizer_kwargs": {"momentum": 0.5},
        },
    }
    env = NoisyTeam(discrete=discrete)
    policy = make_tiny(algorithm, env, **settings, **own).policy
    policy.save(tmp_path / "policy.pt")
    loaded = type(policy).load(tmp_path / "policy.pt")

    for name, value in {**settings["policy_kwargs"], "share_parameters": True, **own}.items():
        assert getattr(policy, name) == getattr(loaded, name) == value, name
    assert_same_weights(dict(policy.named_parameters()), dict(loaded.named_parameters()))
    observation = np.stack([env.reset(seed=seed)[0] for seed in range(5)])
    np.testing.assert_array_equal(
        policy.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )


@over_learners
def test_eval_callback_saves_the_best_model(algorithm: Algorithm, tmp_path: Path) -> None:
    model = make_tiny(algorithm, noisy_vec_env())
    callback = EvalCallback(
        noisy_vec_env(),
        eval_freq=8,
        n_eval_episodes=2,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        verbose=0,
    )
    model.learn(64, callback=callback)
    evaluations = np.load(tmp_path / "evaluations.npz")
    np.testing.assert_array_equal(evaluations["timesteps"], [16, 32, 48, 64])
    assert callback.best_mean_reward == evaluations["results"].mean(axis=1).max()
    best = algorithm.load(tmp_path / "best_model")
    assert weights(best).keys() == weights(model).keys()


@over_learners
def test_checkpoints(algorithm: Algorithm, tmp_path: Path) -> None:
    model = make_tiny(algorithm, VecNormalize(noisy_vec_env()))
    model.learn(64, callback=CheckpointCallback(save_freq=16, save_path=str(tmp_path), save_vecnormalize=True))
    names = {path.name for path in tmp_path.iterdir()}
    steps = (32, 64)
    assert names == {f"rl_model_{n}_steps.zip" for n in steps} | {f"rl_model_vecnormalize_{n}_steps.pkl" for n in steps}
    assert [algorithm.load(tmp_path / f"rl_model_{n}_steps").num_timesteps for n in steps] == [32, 64]


@over_learners
def test_callbacks_see_the_training_and_can_stop_it(algorithm: Algorithm) -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            # What SB3's documentation promises to callbacks
            assert self.training_env is self.model.get_env()
            assert self.locals["rewards"].shape == ((2, 3) if algorithm is IPPO else (2,))
            assert self.locals["log_probs"].shape == (2, 3)
            return self.num_timesteps < 24

    steps = []
    model = make_tiny(algorithm, noisy_vec_env())
    model.learn(320, callback=[Stop(), CallbackList([])])
    assert model.num_timesteps == 24
    model.learn(32, callback=lambda local_variables, global_variables: steps.append(model.num_timesteps) or True)
    assert steps == list(range(2, 33, 2))


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
@over_learners
def test_progress_bar(algorithm: Algorithm, capfd: pytest.CaptureFixture[str]) -> None:
    make_tiny(algorithm, noisy_vec_env()).learn(64, progress_bar=True)
    assert "64/64" in capfd.readouterr().out


@over_learners
def test_vec_normalize_keeps_statistics_of_each_agent(algorithm: Algorithm, tmp_path: Path) -> None:
    model = make_tiny(algorithm, VecNormalize(noisy_vec_env()))
    before = weights(model)
    model.learn(64)
    assert_trained(before, model)
    normalize = model.get_vec_normalize_env()
    assert normalize is not None and normalize.obs_rms.mean.shape == (3, NoisyTeam.obs_dim)
    assert len(np.unique(normalize.obs_rms.mean)) == 3 * NoisyTeam.obs_dim

    model.save(tmp_path / "model")
    normalize.save(str(tmp_path / "normalize.pkl"))
    loaded_env = VecNormalize.load(str(tmp_path / "normalize.pkl"), noisy_vec_env())
    loaded = algorithm.load(tmp_path / "model", env=loaded_env)
    assert loaded.get_vec_normalize_env() is loaded_env
    np.testing.assert_array_equal(loaded_env.obs_rms.mean, normalize.obs_rms.mean)
    loaded.learn(32)

    loaded_env.training = loaded_env.norm_reward = False
    mean = loaded_env.obs_rms.mean.copy()
    evaluate_policy(loaded, loaded_env, n_eval_episodes=2)
    np.testing.assert_array_equal(loaded_env.obs_rms.mean, mean)


@over_learners
def test_vec_normalize_of_dict_observations(algorithm: Algorithm) -> None:
    env = VecNormalize(make_vec_env(MaskedTeam, n_envs=2, seed=0), norm_obs_keys=["observation", "state"])
    model = make_tiny(algorithm, env)
    before = weights(model)
    model.learn(64)
    assert_trained(before, model)
    assert env.obs_rms["observation"].mean.shape == (3, 4) and env.obs_rms["state"].mean.shape == (5,)


EVERYONE_LOGS = {
    "train/policy_gradient_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/approx_kl",
    "train/clip_fraction",
    "train/clip_range",
    "train/explained_variance",
    "train/learning_rate",
    "train/loss",
    "train/std",
}
Q_LOGS = {"train/q_loss", "train/q_explained_variance", "credit/spread"}
CREDIT_LOGS = {
    "credit/epsilon",
    "credit/core_violation",
    "credit/solver_residual",
}


@over_algorithms
def test_tensorboard(algorithm: Algorithm, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = make_tiny(algorithm, noisy_vec_env(), tensorboard_log=str(tmp_path))
    model.learn(96)
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"{algorithm.__name__}_1"
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert EVERYONE_LOGS <= scalars
    assert CREDIT_LOGS & scalars == (CREDIT_LOGS if algorithm in ALGORITHMS_WITH_GAME else set())
    assert Q_LOGS & scalars == (Q_LOGS if algorithm in ALGORITHMS_WITH_Q else set())
    # SB3 logs a rollout before the update it leads to, hence one entry less than rollouts
    assert [event.step for event in events.Scalars("train/loss")] == [64, 96]
    model.learn(32, tb_log_name="named", reset_num_timesteps=False)
    assert (tmp_path / "named_0").is_dir() or (tmp_path / "named_1").is_dir()


@over_algorithms
def test_what_is_logged_makes_sense(algorithm: Algorithm) -> None:
    model = make_tiny(algorithm, noisy_vec_env())
    logger = LoggedMetrics()
    model.set_logger(logger)
    model.learn(96)
    assert len(logger.history) == 3
    for metrics in logger.history[1:]:
        assert metrics["train/std"] == pytest.approx(1.0, abs=0.1)
        if algorithm in ALGORITHMS_WITH_GAME:
            assert metrics["credit/spread"] > 0 and metrics["train/q_loss"] > 0
            # In the core program the largest excess left is what eps measures
            if algorithm is CORAPPO:
                assert metrics["credit/core_violation"] == pytest.approx(metrics["credit/epsilon"], abs=1e-5)
            assert 0 <= metrics["credit/solver_residual"] < 1e-6


@pytest.mark.parametrize("settings", [{}, {"share_parameters": True}, {"use_sde": True}], ids=str)
def test_deviations_of_padded_dimensions_are_not_logged(settings: dict[str, Any]) -> None:
    model = make_tiny(MAPPO, TargetGame([[0.5], [0.1, -0.2]]), ent_coef=1.0, learning_rate=0.1, **settings)
    logger = LoggedMetrics()
    model.set_logger(logger)
    model.learn(16)
    std = model.policy.agent_log_std(slice(None)).exp()
    first, second = std[0], std[-1]
    real = th.cat((first[..., :1].flatten(), second[..., 0].flatten(), second[..., 1].flatten()))
    assert logger.name_to_value["train/std"] == pytest.approx(real.mean().item())
    assert (std == 1.0).any() != ("share_parameters" in settings)


def test_mappo_has_no_q_critic() -> None:
    model = make_tiny(MAPPO, noisy_vec_env())
    assert not isinstance(model.policy, CooperativeActorQCriticPolicy)
    assert {name.partition(".")[0] for name in weights(model)} == {"actor", "value_critic", "log_std"}
    held = sum(parameter.numel() for group in model.policy.optimizer.param_groups for parameter in group["params"])
    assert held == sum(parameter.numel() for parameter in model.policy.parameters())


@pytest.mark.parametrize("algorithm", ALGORITHMS_WITH_Q)
def test_optimizers_share_no_parameter_and_leave_none_out(algorithm: Algorithm) -> None:
    model = make_tiny(algorithm, noisy_vec_env())
    held = [
        parameter
        for optimizer in (model.policy.optimizer, model.policy.q_optimizer)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(held) == len({id(parameter) for parameter in held}) == len(list(model.policy.parameters()))


@over_learners
def test_schedules(algorithm: Algorithm) -> None:
    own = {"q_learning_rate": lambda remaining: 0.01 * remaining} if algorithm in ALGORITHMS_WITH_Q else {}
    model = make_tiny(
        algorithm,
        noisy_vec_env(),
        learning_rate=lambda remaining: 0.1 * remaining,
        clip_range=lambda remaining: 0.2 * remaining,
        clip_range_vf=lambda remaining: 0.4 * remaining,
        **own,
    )
    logger = LoggedMetrics()
    model.set_logger(logger)
    model.learn(128)
    # After the first of four rollouts, three quarters of the training remain
    for index, remaining in ((1, 0.75), (2, 0.5), (3, 0.25)):
        metrics = logger.history[index]
        assert metrics["train/learning_rate"] == pytest.approx(0.1 * remaining)
        assert metrics["train/clip_range"] == pytest.approx(0.2 * remaining)
        assert metrics["train/clip_range_vf"] == pytest.approx(0.4 * remaining)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0
    if own:
        assert model.policy.q_optimizer.param_groups[0]["lr"] == 0.0
        assert model.q_learning_rate(0.5) == pytest.approx(0.005)


@over_learners
def test_target_kl_stops_the_epochs(algorithm: Algorithm, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"learning_rate": 0.1, "n_epochs": 8}
    free = make_tiny(algorithm, noisy_vec_env(), **settings)
    free.learn(32)
    assert free._n_updates == 8
    bound = make_tiny(algorithm, noisy_vec_env(), target_kl=0.01, verbose=1, **settings)
    bound.learn(32)
    assert bound._n_updates < 8
    assert "Early stopping" in capsys.readouterr().out


@over_learners
def test_a_policy_class_of_the_users_own(algorithm: Algorithm) -> None:
    base = algorithm.policy_aliases["MlpPolicy"]

    class OwnPolicy(base):  # type: ignore[misc, valid-type]
        pass

    model = algorithm(OwnPolicy, noisy_vec_env(), n_steps=16, batch_size=8, n_epochs=1)
    assert type(model.policy) is OwnPolicy
    model.learn(32)


@over_learners
def test_state_dependent_exploration(algorithm: Algorithm, tmp_path: Path) -> None:
    model = make_tiny(algorithm, noisy_vec_env(), use_sde=True, sde_sample_freq=4)
    before = weights(model)
    assert_trained(before, model.learn(64))
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=noisy_vec_env())
    assert (loaded.use_sde, loaded.sde_sample_freq, loaded.policy.use_sde) == (True, 4, True)
    assert_same_weights(weights(model), weights(loaded))
    assert_trained(before, loaded.learn(32))
    model.policy.save(str(tmp_path / "policy.pt"))
    policy = type(model.policy).load(str(tmp_path / "policy.pt"))
    assert_same_weights(weights(model), dict(policy.named_parameters()))


@over_algorithms
def test_multi_input_policy_is_the_same(algorithm: Algorithm) -> None:
    model = algorithm("MultiInputPolicy", MaskedTeam(), n_steps=16, batch_size=8, seed=0)
    assert_same_weights(weights(model), weights(make_tiny(algorithm, MaskedTeam())))


@over_learners
def test_monitor_infos_reach_the_rollout_statistics(algorithm: Algorithm) -> None:
    model = make_tiny(algorithm, MatrixGame(np.full((2, 2), 3.0)))
    logger = LoggedMetrics()
    model.set_logger(logger)
    model.learn(16)
    assert logger.history[0]["rollout/ep_rew_mean"] == 3.0 and logger.history[0]["rollout/ep_len_mean"] == 1.0


def test_a_rollout_may_end_in_the_step_after_a_time_limit() -> None:
    """Its info is its own, not that of the time limit, which is put back after the rollout."""
    told: list[dict[str, Any]] = []

    class EndsAfterLimit(BaseCallback):
        def _on_step(self) -> bool:
            told.append(self.locals["infos"][0])
            return len(told) < 4

    env = make_vec_env(NoisyTeam, wrapper_class=TimeLimit, wrapper_kwargs={"max_episode_steps": 3})
    make_tiny(MAPPO, env).learn(32, EndsAfterLimit())
    assert [info["TimeLimit.truncated"] for info in told] == [False, False, True, False]
    assert "terminal_observation" in told[2] and "terminal_observation" not in told[3]
