"""What a user gets wrong ends in an error that names the value and the remedy."""

import itertools
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_cora import COMAPPO, CORAPPO, MAPPO, OptimisticMAPPO, ShapleyPPO
from sb3_cora.common.bootstrapping_vec_env import check_finite
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.credit import SOLVERS
from tests.algorithms import ALGORITHMS, assert_same_weights, assert_trained, make_tiny, weights
from tests.joint_games import Faulty, MaskedTeam, NoisyTeam
from tests.processes import run_python

Algorithm = type[CooperativeOnPolicyAlgorithm]

over_algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


class DictActions(NoisyTeam):
    """Each agent's action under a key of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Dict({str(agent): spaces.Box(-1.0, 1.0, (2,)) for agent in range(3)})


class TwoAgents(NoisyTeam):
    def __init__(self) -> None:
        super().__init__(n_agents=2)


@pytest.mark.parametrize(
    ("env", "error", "said"),
    [
        (lambda: gym.make("CartPole-v1"), ValueError, r"agent axis.*ReshapeObservation"),
        (lambda: make_vec_env("Pendulum-v1", 2), ValueError, r"agent axis.*ReshapeObservation"),
        (lambda: "CartPole-v1", ValueError, r"agent axis"),
        (lambda: "give_wya", ValueError, r"no environment 'give_wya'. Did you mean 'give_way'"),
        (lambda: DictActions(), TypeError, r"action space is Dict.*joint_action_space"),
        (lambda: DummyVecEnv([DictActions]), TypeError, r"action space is Dict.*joint_action_space"),
        (lambda: [NoisyTeam()], TypeError, r"of type builtins.list.*joint gymnasium.Env.*give_way"),
        (lambda: NoisyTeam, TypeError, r"NoisyTeam.*joint gymnasium.Env.*make_joint_vec_env\(class_or_function"),
        (lambda: "nowhere:give_way", ValueError, r"module 'nowhere' of the id 'nowhere:give_way' cannot be imported"),
        (lambda: "sb3_cora:give_wya", ValueError, r"no environment 'give_wya'. Did you mean 'give_way'"),
    ],
    ids=[
        "no joint env",
        "no joint VecEnv",
        "no joint id",
        "no id",
        "Dict actions",
        "VecEnv with Dict actions",
        "list",
        "class",
        "no module",
        "no id of a module",
    ],
)
@over_algorithms
def test_what_is_no_joint_environment(algorithm: Algorithm, env: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        algorithm("MlpPolicy", env())


@over_algorithms
def test_unknown_arguments_name_the_algorithm(algorithm: Algorithm) -> None:
    with pytest.raises(TypeError, match=rf"^{algorithm.__name__}\.__init__\(\) got an unexpected keyword argument 'foo'"):
        algorithm("MlpPolicy", NoisyTeam(), foo=1)
    with pytest.raises(TypeError, match=rf"^{algorithm.__name__}\.__init__\(\) missing a required argument: 'env'"):
        algorithm("MlpPolicy")  # type: ignore[call-arg]


@over_algorithms
def test_a_file_of_another_algorithm_names_both(algorithm: Algorithm, tmp_path: Path) -> None:
    make_tiny(algorithm, NoisyTeam()).save(tmp_path / "model")
    assert isinstance(algorithm.load(tmp_path / "model"), algorithm)
    for other in ALGORITHMS:
        if other is not algorithm:
            with pytest.raises(ValueError, match=rf"saved by {algorithm.__name__}, and {other.__name__} cannot load it"):
                other.load(tmp_path / "model")


def test_a_class_derived_from_an_algorithm_shares_its_files(tmp_path: Path) -> None:
    class Renamed(MAPPO):
        """A user's own."""

    with pytest.raises(TypeError, match=r"Renamed\.__init__\(\) got an unexpected keyword argument 'foo'"):
        Renamed("MlpPolicy", NoisyTeam(), foo=1)  # type: ignore[call-arg]
    make_tiny(MAPPO, NoisyTeam()).save(tmp_path / "parent")
    make_tiny(Renamed, NoisyTeam()).save(tmp_path / "child")
    assert isinstance(Renamed.load(tmp_path / "parent"), Renamed)
    assert isinstance(MAPPO.load(tmp_path / "child"), MAPPO)


def test_files_that_do_not_say_which_algorithm_saved_them(tmp_path: Path) -> None:
    PPO("MlpPolicy", NoisyTeam(), n_steps=16, batch_size=8).save(tmp_path / "ppo")
    with pytest.raises(
        ValueError, match=r"of another package, .* and MAPPO cannot load it: load it with the class that saved"
    ):
        MAPPO.load(tmp_path / "ppo")
    # As files were before
    model = make_tiny(MAPPO, NoisyTeam())
    model.save(tmp_path / "unnamed", exclude=["algorithm"])
    assert_same_weights(weights(MAPPO.load(tmp_path / "unnamed")), weights(model))
    with pytest.raises(TypeError, match=r"CORAPPO cannot use the policy .*\.CooperativeActorCriticPolicy"):
        CORAPPO.load(tmp_path / "unnamed")


@over_algorithms
def test_observations_of_a_suite_name_the_helper(algorithm: Algorithm) -> None:
    by_agent = {f"agent_{i}": np.zeros(4, np.float32) for i in range(3)}
    tensors = [th.zeros(3, 4) for _ in range(3)]
    for env, observation, said in (
        (NoisyTeam(), by_agent, r"dict of \['agent_0', 'agent_1', 'agent_2'\]"),
        (MaskedTeam(), by_agent, r"dict of \['agent_0', 'agent_1', 'agent_2'\]"),
        # As many worlds as agents, which would pass for a batch of joint observations
        (NoisyTeam(), tensors, "list of 3 tensors"),
    ):
        model = make_tiny(algorithm, env)
        with pytest.raises(
            ValueError, match=rf"{said}.*PettingZooPolicy\(model, env\).*VmasPolicy.*make_joint_vec_env\(env\)"
        ):
            model.predict(observation)  # type: ignore[arg-type]


@over_algorithms
def test_unbounded_actions(algorithm: Algorithm) -> None:
    env = NoisyTeam()
    env.action_space = spaces.Box(-np.inf, np.inf, (3, 2))
    # Refused by Stable-Baselines3, in its own words
    with pytest.raises(AssertionError, match="finite lower and upper bound"):
        algorithm("MlpPolicy", env)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_steps": 0}, "n_steps=0, expected an integer of at least 1"),
        ({"batch_size": 0}, "batch_size=0, expected an integer"),
        ({"n_epochs": -1}, "n_epochs=-1, expected an integer"),
        ({"batch_size": 1}, r"batch_size=1 .*normalize_advantage=False"),
        ({"n_steps": 1, "batch_size": 1}, r"n_steps \* n_envs = 1 \* 1.*normalize_advantage=False"),
        ({"huber_delta": 0.0}, "huber_delta must be positive, not 0.0; pass None"),
        ({"pessimistic_vf_clip": True}, "pessimistic_vf_clip=True .*clip_range_vf=None: set it"),
        ({"policy_kwargs": {"net_arch": {"pi": [8], "q": [8]}}}, r"net_arch has the keys \['q'\], expected .*pi=\[64, 64\]"),
    ],
)
@over_algorithms
def test_settings_out_of_range(algorithm: Algorithm, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_tiny(algorithm, NoisyTeam(), **settings)


@pytest.mark.parametrize(("name", "value"), [("n_steps", 32.0), ("batch_size", None), ("n_epochs", "many")])
def test_settings_that_are_no_integers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}={value!r}, expected an integer"):
        make_tiny(MAPPO, NoisyTeam(), **{name: value})


@over_algorithms
def test_unknown_policy_kwargs(algorithm: Algorithm) -> None:
    with pytest.raises(TypeError, match=r"policy_kwargs has 'layers', which \w+Policy does not take: it takes .*net_arch"):
        make_tiny(algorithm, NoisyTeam(), policy_kwargs={"layers": 3})


@over_algorithms
def test_rewards_whose_squares_overflow(algorithm: Algorithm) -> None:
    env = faulty_vec_env("reward", at_step=5, value=1e20)
    with pytest.raises(ValueError, match=r"the reward .*e\+20.* in environment 1, larger than 1e\+15.*JointVecNormalize"):
        make_tiny(algorithm, env).learn(96)


@over_algorithms
def test_state_dependent_exploration_of_choices(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match="only be used with continuous actions"):
        make_tiny(algorithm, NoisyTeam(discrete=True), use_sde=True)


@over_algorithms
def test_unknown_policy(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match=r"'CnnPolicy' unknown, expected one of \['MlpPolicy', 'MultiInputPolicy'\]"):
        algorithm("CnnPolicy", NoisyTeam())


@over_algorithms
def test_truncated_minibatches_are_announced(algorithm: Algorithm) -> None:
    with pytest.warns(UserWarning, match=r"16 \* 1 = 16 samples is no multiple of batch_size=12.*minibatch of 4 samples"):
        make_tiny(algorithm, NoisyTeam(), batch_size=12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"credit": "nucleus"}, r"credit='nucleus' is unknown, expected one of .*'least_core'"),
        ({"solver": "simplex"}, r"solver='simplex' is unknown, expected one of .*'active_set'"),
        ({"baseline": "mean"}, r"baseline='mean' is unknown, expected one of \['v', 'q'\]"),
        ({"grand_advantage": "td"}, r"grand_advantage='td' is unknown, expected one of \['gae', 'q'\]"),
        ({"q_target": "mc"}, r"q_target='mc' is unknown, expected one of \['td0', 'lambda'\]"),
        ({"credit_scale": 2.0}, r"credit_scale=2.0 is unknown, expected one of \['batch', 'sample', 'paper'\]"),
        ({"variance_weight": -0.1}, "variance_weight must not be negative, got -0.1"),
        ({"variance_weight": float("nan")}, "variance_weight must not be negative, got nan"),
        ({"n_critics": 0}, "n_critics=0, expected an integer"),
        ({"q_n_epochs": 0}, "q_n_epochs=0, expected an integer"),
        ({"q_n_epochs": 1.5}, "q_n_epochs=1.5, expected an integer"),
        ({"n_coalitions": 4.0}, "n_coalitions=4.0, expected an integer"),
        ({"n_coalitions": 0}, "n_coalitions=0, expected an integer"),
        ({"n_coalitions": 7}, r"n_coalitions=7 is out of range: 3 agents form 6 .*choose a number in \[1, 6\]"),
        ({"n_coalitions": 3, "credit": "nucleolus"}, "n_coalitions=3 is odd, .*complements: add one"),
        ({"n_coalitions": 3, "epsilon_bound": "free"}, "n_coalitions=3 is odd, .*complements: add one"),
        ({"n_coalitions": 5, "credit": "difference"}, "n_coalitions=5 is too small: the singletons and their complements"),
        (
            {"n_coalitions": 3, "credit": "shapley"},
            "n_coalitions=3 is too small: an order and its reverse of 3 agents meets 4",
        ),
        ({"coalition_sampling": "sobol"}, r"coalition_sampling='sobol' is unknown, expected one of \[None, 'uniform'"),
        ({"epsilon_bound": "none"}, r"epsilon_bound='none' is unknown, expected one of \['nonnegative', 'free'\]"),
        ({"baseline_action": "mean"}, r"baseline_action='mean' is unknown, expected one of \['mode', 'expectation'\]"),
        ({"n_baseline_samples": 0}, "n_baseline_samples=0, expected an integer"),
        (
            {"solver": "cvxpylayers", "solver_kwargs": {"backend": "simplex"}},
            "backend='simplex' is unknown, expected one of .*'diffcp'",
        ),
        ({"policy_kwargs": {"net_arch": {"qf": []}}}, r"net_arch\['qf'\] is empty: pass e.g. qf=\[64, 64\]"),
    ],
)
def test_credit_settings_out_of_range(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_tiny(CORAPPO, NoisyTeam(), **settings)


def test_the_shapley_value_is_no_setting_of_its_own_algorithm() -> None:
    for name, value in (("credit", "core"), ("variance_weight", 0.1), ("credit_scale", "batch"), ("solver", "active_set")):
        with pytest.raises(TypeError, match=rf"ShapleyPPO\.__init__\(\) got an unexpected keyword argument '{name}'"):
            make_tiny(ShapleyPPO, NoisyTeam(), **{name: value})


@over_algorithms
def test_set_env_wants_an_environment_that_fits(algorithm: Algorithm, tmp_path: Path) -> None:
    model = make_tiny(algorithm, make_vec_env(NoisyTeam, 2))
    # In Stable-Baselines3's own words
    with pytest.raises(AssertionError, match=rf"3 != 2.*{algorithm.__name__}.load\(path, env\)"):
        model.set_env(make_vec_env(NoisyTeam, 3))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(make_vec_env(TwoAgents, 2))
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        algorithm.load(tmp_path / "model", env=make_vec_env(TwoAgents, 2))
    with pytest.raises(ValueError, match="Action spaces do not match"):
        algorithm.load(tmp_path / "model", env=make_vec_env(NoisyTeam, 2, env_kwargs={"discrete": True}))
    with pytest.raises(ValueError, match="agent axis"):
        model.set_env(make_vec_env("CartPole-v1", 2))


def faulty_vec_env(part: str, at_step: int, faulty: int = 1, env_class: type[gym.Env] = NoisyTeam, **kwargs: Any) -> VecEnv:
    """Three environments, of which one has a fault at a step."""

    def make(index: int) -> gym.Env:
        return Faulty(env_class(), part, at_step if index == faulty else 10**9, **kwargs)

    return DummyVecEnv([lambda index=index: make(index) for index in range(3)])


FAULTS = [
    ("observation", {}, "non-finite observation in environment 1: .*nan"),
    ("observation", {"value": np.inf}, "non-finite observation in environment 1: .*inf"),
    ("reward", {}, "non-finite reward in environment 1: nan"),
    ("reward", {"value": -np.inf}, "non-finite reward in environment 1: -inf"),
    ("first observation", {}, "non-finite observation in environment 1: .*nan"),
    ("terminal observation", {}, "non-finite terminal observation in environment 1: .*nan"),
    ("observation", {"env_class": MaskedTeam}, 'non-finite observation."observation". in environment 1: .*nan'),
    ("state", {"env_class": MaskedTeam}, 'non-finite observation."state". in environment 1: .*nan'),
    ("terminal observation", {"env_class": MaskedTeam}, 'non-finite terminal observation."observation". in environment 1'),
]


@pytest.mark.parametrize(
    ("part", "kwargs", "said", "normalized", "algorithm"),
    # The algorithms in turn, because it is not they who look
    [
        pytest.param(
            *fault, normalized, algorithm, id=f"{fault[0]}-{'VecNormalize' if normalized else 'plain'}-{algorithm.__name__}"
        )
        for (fault, normalized), algorithm in zip(itertools.product(FAULTS, (False, True)), itertools.cycle(ALGORITHMS))
    ],
)
def test_what_is_not_finite_stops_the_training(
    algorithm: Algorithm, part: str, kwargs: dict[str, Any], said: str, normalized: bool, tmp_path: Path
) -> None:
    # In the second rollout: the first one and its update are sound
    env = faulty_vec_env(part, at_step=10, **kwargs)
    if normalized:
        keys = ["observation", "state"] if isinstance(env.observation_space, spaces.Dict) else None
        env = VecNormalize(env, norm_obs_keys=keys)
    model = make_tiny(algorithm, env, n_steps=8, batch_size=12)
    before = weights(model)
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=f"(?s){said}") as caught:
        model.learn(240)
    assert "can be saved" in str(caught.value)
    if normalized:
        statistics = env.obs_rms if isinstance(env.obs_rms, dict) else {"observation": env.obs_rms}
        assert all(np.isfinite([each.mean, each.var]).all() for each in (*statistics.values(), env.ret_rms))
        assert np.isfinite(env.returns).all()
    assert 24 + 3 * 1 <= model.num_timesteps < 48 and model._n_updates == 2
    assert_trained(before, model)

    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", env=make_vec_env(kwargs.get("env_class", NoisyTeam), 3))
    for name, parameter in weights(again).items():
        assert th.equal(parameter, weights(model)[name])
    again.learn(24)


@over_algorithms
def test_an_environment_that_starts_with_nan(algorithm: Algorithm) -> None:
    env = faulty_vec_env("first observation", at_step=0, faulty=2)
    with pytest.raises(ValueError, match="non-finite observation in environment 2: "):
        make_tiny(algorithm, env).learn(48)


def test_a_policy_that_is_not_finite_is_told_from_an_environment() -> None:
    model = make_tiny(MAPPO, make_vec_env(NoisyTeam, 2))
    with th.no_grad():
        next(model.policy.actor.parameters()).fill_(np.nan)
    with pytest.raises(ValueError, match=r"policy chose an action that is not finite.*Load a model.*lower learning_rate"):
        model.learn(32)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_large_numbers_are_no_fault() -> None:
    # The sum of these is infinite, they are not
    large = np.full((2, 3), 3e38, np.float32)
    check_finite("observation", large)
    check_finite("observation", {"state": large, "agent_mask": np.ones((2, 3), np.int8)})
    large[1, 2] = np.inf
    with pytest.raises(ValueError, match="environment 1"):
        check_finite("observation", large)


MISSING = """
import json, sys
for name in ("vmas", "pettingzoo", "cvxpylayers", "rl_zoo3", "tqdm", "tensorboard"):
    sys.modules[name] = None  # makes every import of it fail, as where it is not installed

from sb3_cora import CORAPPO, MAPPO
from tests.joint_games import NoisyTeam

def message(attempt):
    try:
        attempt()
    except ImportError as error:
        return str(error)

def adapt():
    import sb3_cora.envs.pettingzoo

def command_line():
    import sb3_cora.zoo.train

print(json.dumps({
    "vmas": message(lambda: CORAPPO("MlpPolicy", "give_way")),
    "pettingzoo": message(adapt),
    "cvxpylayers": message(lambda: CORAPPO("MlpPolicy", NoisyTeam(), solver="cvxpylayers")),
    "zoo": message(command_line),
}))
# In Stable-Baselines3's own words
print(message(lambda: MAPPO("MlpPolicy", NoisyTeam()).learn(8, progress_bar=True)))
print(message(lambda: MAPPO("MlpPolicy", NoisyTeam(), tensorboard_log=sys.argv[1]).learn(8)))
CORAPPO("MlpPolicy", NoisyTeam(), n_steps=8, batch_size=8).learn(8)
"""


def test_missing_extras_name_their_installation(tmp_path: Path) -> None:
    assert "cvxpylayers" in SOLVERS
    # What needs none of them trains
    extras, progress_bar, tensorboard = run_python("-c", MISSING, tmp_path).stdout.splitlines()
    for extra, message in json.loads(extras).items():
        assert message is not None and f'pip install "sb3-cora[{extra}]"' in message, extra
    assert "tqdm" in progress_bar and "install" in progress_bar and "tensorboard" in tensorboard


def test_the_solver_fails_before_the_first_step() -> None:
    steps = []

    class Counted(NoisyTeam):
        def step(self, action: np.ndarray) -> Any:
            steps.append(action)
            return super().step(action)

    with pytest.raises(ValueError, match="solver"):
        CORAPPO("MlpPolicy", Counted(), solver="none").learn(8)
    assert not steps


@pytest.mark.parametrize(
    ("algorithm", "settings", "said"),
    [
        (OptimisticMAPPO, {"eta": -0.1}, r"eta must be in \[0, 1\], got -0.1"),
        (OptimisticMAPPO, {"eta": 1.5}, r"eta must be in \[0, 1\], got 1.5"),
        (OptimisticMAPPO, {"optimism": "always"}, "optimism='always' is unknown, expected one of .*'after_normalization'"),
        (COMAPPO, {"n_policy_samples": 0}, "n_policy_samples=0, expected an integer"),
        (COMAPPO, {"q_aggregation": "max"}, "q_aggregation='max' is unknown, expected one of .'min', 'mean'"),
        (MAPPO, {"noise_correlation": 1.0}, r"noise_correlation must be in \[0, 1\), got 1.0"),
        (MAPPO, {"noise_correlation": 0.5, "use_sde": True}, "noise_correlation=0.5 is for Gaussian noise.*use_sde=True"),
    ],
)
def test_settings_of_one_algorithm_out_of_range(algorithm: Algorithm, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_tiny(algorithm, NoisyTeam(), **settings)
