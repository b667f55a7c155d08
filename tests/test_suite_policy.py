"""Trained models in the suites' own loops do what they do through the adapters, step for step."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_cora import CORAPPO, HAPPO, IPPO, MAPPO, make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.vec_normalize import JointVecNormalize
from tests.algorithms import make_tiny

vmas = pytest.importorskip("vmas")
pytest.importorskip("pettingzoo")
pytest.importorskip("mpe2")

import pettingzoo  # noqa: E402
from mpe2 import simple_speaker_listener_v4, simple_spread_v3  # noqa: E402

from sb3_cora.envs.pettingzoo import PettingZooEnv, PettingZooPolicy  # noqa: E402
from sb3_cora.envs.vmas import VmasPolicy, VmasVecEnv  # noqa: E402
from tests.test_pettingzoo import CROWDED, KNIGHTS, Shift  # noqa: E402

Algorithm = type[CooperativeOnPolicyAlgorithm]
# One of each kind of actors: in one stack, in separate networks, shared
over_models = pytest.mark.parametrize(
    ("algorithm", "settings", "deterministic"),
    [(CORAPPO, {}, True), (HAPPO, {}, False), (MAPPO, {"share_parameters": True}, False)],
)

SHIFTS = [(2, True), (4, False), (3, True)]


def spread(**kwargs: Any) -> Any:
    return simple_spread_v3.parallel_env(max_cycles=6, **kwargs)


def speaker_and_listener(**kwargs: Any) -> Any:
    return simple_speaker_listener_v4.parallel_env(max_cycles=6, **kwargs)


PARALLEL_ENVS: dict[str, Callable[[], Any]] = {
    "equal": spread,
    "unequal": speaker_and_listener,
    "unequal, continuous": lambda: speaker_and_listener(continuous_actions=True),
    "masks observed, agents that leave": lambda: Shift(SHIFTS, "observation", start=4),
    "masks in the infos": lambda: Shift(SHIFTS, "info"),
    "deaths": lambda: pettingzoo.make("parallel", KNIGHTS, **CROWDED),
    "turns": lambda: pettingzoo.make("aec", "classic/tictactoe-v3"),
}


def make_model(algorithm: Algorithm, env: Any, **settings: Any) -> CooperativeOnPolicyAlgorithm:
    """A model whose most likely actions differ from state to state, which those of a new one hardly do."""
    return make_tiny(algorithm, env, policy_kwargs={"output_gain": 1.0}, **settings)


def adapter_episode(model: CooperativeOnPolicyAlgorithm, env: Any, deterministic: bool) -> list[dict[Any, Any]]:
    """What the environment is told in each step of an episode through ``PettingZooEnv``."""
    adapter = PettingZooEnv(env)
    told: list[dict[Any, Any]] = []
    step = adapter.parallel_env.step
    adapter.parallel_env.step = lambda actions: [told.append(actions), step(actions)][1]
    observation, _ = adapter.reset(seed=3)
    th.manual_seed(0)
    ended = False
    while not ended:
        action, _ = model.predict(observation, deterministic=deterministic)
        observation, _, terminated, truncated, _ = adapter.step(action)
        ended = terminated or truncated
    return told


def assert_same_episodes(first: list[dict[Any, Any]], second: list[dict[Any, Any]]) -> None:
    assert len(first) == len(second) > 1
    for one, other in zip(first, second, strict=True):
        assert list(one) == list(other)
        for agent, action in one.items():
            np.testing.assert_array_equal(action, other[agent])
            assert type(action) is type(other[agent])


@over_models
@pytest.mark.parametrize("kind", PARALLEL_ENVS)
def test_an_episode_in_pettingzoo(kind: str, algorithm: Algorithm, settings: dict[str, Any], deterministic: bool) -> None:
    make = PARALLEL_ENVS[kind]
    model = make_model(algorithm, make(), **settings)
    expected = adapter_episode(model, make(), deterministic)

    env = PettingZooEnv(make()).parallel_env
    policy = PettingZooPolicy(model, env)
    observations, infos = env.reset(seed=3)
    th.manual_seed(0)
    told = []
    while env.agents:
        actions = policy.predict(observations, infos, deterministic=deterministic)
        assert all(env.action_space(agent).contains(action) for agent, action in actions.items())
        told.append(actions)
        observations, _, _, _, infos = env.step(dict(actions))
    assert_same_episodes(told, expected)
    assert policy.predict(observations, infos) == {}
    if kind == "deaths":
        # Agents had died before it ended, and not all did the same all the time
        assert {len(actions) for actions in told} > {4}
        assert deterministic or len({action for actions in told for action in actions.values()}) > 1


@pytest.mark.parametrize("make", [simple_spread_v3.env, simple_speaker_listener_v4.env])
def test_an_episode_in_turns(make: Callable[..., Any]) -> None:
    model = make_model(CORAPPO, make(max_cycles=6))
    expected = adapter_episode(model, make(max_cycles=6), deterministic=True)

    env = make(max_cycles=6)
    policy = PettingZooPolicy(model, env)
    env.reset(seed=3)
    told: list[dict[Any, Any]] = []
    for agent in env.agent_iter():
        observation, _, terminated, truncated, info = env.last()
        action = None
        if not (terminated or truncated):
            action = policy.predict({agent: observation}, {agent: info}, deterministic=True)[agent]
            if agent == env.possible_agents[0]:
                told.append({})
            told[-1][agent] = action
        env.step(action)
    assert_same_episodes(told, expected)


def test_tic_tac_toe_in_turns() -> None:
    env = pettingzoo.make("aec", "classic/tictactoe-v3")
    policy = PettingZooPolicy(make_model(MAPPO, pettingzoo.make("aec", "classic/tictactoe-v3")), env)
    env.reset(seed=0)
    fields = []
    # An illegal move is a warning here, and hence an error
    for agent in env.agent_iter():
        observation, _, terminated, truncated, _ = env.last()
        action = None if terminated or truncated else policy.predict({agent: observation})[agent]
        fields += [] if action is None else [action]
        env.step(action)
    assert len(set(fields)) == len(fields) >= 5


@pytest.mark.parametrize(("dict_spaces", "deterministic"), [(False, True), (True, False)])
@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize(("scenario", "num_envs"), [("give_way", 1), ("navigation", 3), ("simple_speaker_listener", 3)])
def test_an_episode_in_vmas(scenario: str, num_envs: int, continuous: bool, dict_spaces: bool, deterministic: bool) -> None:
    vec_env = VmasVecEnv(scenario, num_envs, seed=5, continuous_actions=continuous)
    model = make_model(MAPPO, vec_env)
    vec_env.seed(5)
    observations = vec_env.reset()
    expected = [observations]
    th.manual_seed(0)
    for _ in range(10):
        actions, _ = model.predict(observations, deterministic=deterministic)
        observations, _, _, _ = vec_env.step(actions)
        expected.append(observations)

    # The environment's own gradients are no obstacle
    settings = {"continuous_actions": continuous, "dict_spaces": dict_spaces, "grad_enabled": True}
    bare = vmas.make_env(scenario, num_envs=num_envs, **settings)
    policy = VmasPolicy(model, bare)
    own = bare.reset(seed=5)
    th.manual_seed(0)
    for step, joint in enumerate(expected):
        assert isinstance(own, dict) == dict_spaces
        for row, observation in enumerate(own.values() if isinstance(own, dict) else own):
            observation = observation.detach().numpy()
            np.testing.assert_array_equal(joint[:, row, : observation.shape[1]], observation, err_msg=f"step {step}")
        own_actions = policy.predict(own, deterministic=deterministic)
        assert list(own_actions) == list(own) if isinstance(own, dict) else isinstance(own_actions, list)
        own = bare.step(own_actions)[0]


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
def test_actions_are_where_vmas_is() -> None:
    bare = vmas.make_env("navigation", num_envs=3, device="cuda")
    policy = VmasPolicy(make_model(MAPPO, VmasVecEnv("navigation", 3)), bare)
    assert all(actions.device.type == "cuda" for actions in policy.predict(bare.reset()))


@pytest.mark.parametrize("loaded", [False, True])
def test_normalized_observations_in_pettingzoo(loaded: bool, tmp_path: Path) -> None:
    def make_vec_env() -> DummyVecEnv:
        return make_joint_vec_env(speaker_and_listener, seed=0)

    vec_env = JointVecNormalize(make_vec_env())
    model = make_model(CORAPPO, vec_env).learn(32)
    vec_normalize = None
    if loaded:
        model.save(tmp_path / "model")
        vec_env.save(str(tmp_path / "vec_normalize.pkl"))
        model = CORAPPO.load(tmp_path / "model", device="cpu")
        vec_normalize = VecNormalize.load(str(tmp_path / "vec_normalize.pkl"), make_vec_env())

    env = speaker_and_listener()
    policy = PettingZooPolicy(model, env, vec_normalize)
    adapter = PettingZooEnv(speaker_and_listener())
    observations, infos = env.reset(seed=1)
    joint, _ = adapter.reset(seed=1)
    for _ in range(5):
        th.manual_seed(0)
        action, _ = model.predict(vec_env.normalize_obs(joint))
        th.manual_seed(0)
        actions = policy.predict(observations, infos)
        assert list(actions.values()) == action.tolist()
        joint = adapter.step(action)[0]
        observations, _, _, _, infos = env.step(actions)
    # The statistics stay those of the training, and they matter
    assert vec_env.obs_rms["observation"].count == pytest.approx(33, abs=1e-3)
    if loaded:
        unnormalized = PettingZooPolicy(model, env).predict(observations)
        rows = [
            model.policy.get_distribution({k: th.as_tensor(v)[None] for k, v in o.items()}).distribution.probs
            for o in (joint, vec_env.normalize_obs(joint))
        ]
        assert unnormalized.keys() == actions.keys() and not th.allclose(*rows, rtol=0.01)


def test_normalized_observations_in_vmas() -> None:
    vec_env = VecNormalize(make_joint_vec_env("give_way", n_envs=3, seed=0))
    model = make_model(MAPPO, vec_env).learn(48)
    bare = vmas.make_env("give_way", num_envs=5, seed=1)
    observations = bare.reset()
    joint = np.stack([own.numpy() for own in observations], axis=1)
    expected, _ = model.predict(vec_env.normalize_obs(joint), deterministic=True)
    actions = VmasPolicy(model, bare).predict(observations, deterministic=True)
    np.testing.assert_array_equal(np.stack([own.numpy() for own in actions], axis=1), expected)
    assert not np.array_equal(expected, model.predict(joint, deterministic=True)[0])


def test_it_may_be_made_amid_an_episode() -> None:
    model = make_model(MAPPO, Shift(SHIFTS))
    env = Shift(SHIFTS)
    observations, infos = env.reset()
    for _ in range(2):
        observations, _, _, _, infos = env.step(PettingZooPolicy(model, env).predict(observations, infos))
    assert env.time == 2 and list(PettingZooPolicy(model, env).predict(observations)) == ["worker_1", "worker_2"]


def test_what_does_not_fit() -> None:
    model = make_model(MAPPO, spread())
    with pytest.raises(ValueError, match=r"trained on 3 agents that observe 18 numbers .*observations are of shape \(2, 11\)"):
        PettingZooPolicy(model, speaker_and_listener())
    with pytest.raises(ValueError, match=r"trained on 3 agents .*actions in Box.*wrappers of the training"):
        PettingZooPolicy(model, spread(continuous_actions=True))
    with pytest.raises(ValueError, match=r"trained on 3 agents .*of shape \(2, 4\)"):
        VmasPolicy(model, vmas.make_env("give_way", num_envs=1))
    policy = PettingZooPolicy(model, spread())
    with pytest.raises(ValueError, match=r"observations of \['observation', 'agent_mask'\], .*none of the agents \['agent_0'"):
        policy.predict({"observation": np.zeros((3, 18)), "agent_mask": np.ones(3)})
    masked = Shift(SHIFTS, "info")
    observations, infos = masked.reset()
    policy = PettingZooPolicy(make_model(IPPO, Shift(SHIFTS, "info")), masked)
    assert policy.predict(observations, infos) == {"worker_0": 0, "worker_1": 0, "worker_2": 0}
    with pytest.raises(ValueError, match=r"predict\(observations, infos\)"):
        policy.predict(observations)
    with pytest.raises(TypeError, match=r"observations are a list.*a dict by agent"):
        policy.predict(list(observations.values()))  # type: ignore[arg-type]
    give_way = vmas.make_env("give_way", num_envs=2)
    with pytest.raises(TypeError, match=r"not <vmas.*VmasPolicy.*model.predict"):
        PettingZooPolicy(model, give_way)
    with pytest.raises(TypeError, match=r"vmas.make_env makes, not .*PettingZooPolicy.*model.predict"):
        VmasPolicy(model, spread())
    vmas_policy = VmasPolicy(make_model(MAPPO, VmasVecEnv("give_way", 2)), give_way)
    for incomplete in (give_way.reset()[:1], np.zeros((2, 2, 4))):
        with pytest.raises(ValueError, match=r"observations of all 2 agents.*one tensor for each agent"):
            vmas_policy.predict(incomplete)
    ppo = PPO("MultiInputPolicy", make_joint_vec_env(spread), n_steps=8, batch_size=8)
    with pytest.raises(TypeError, match=r"PPO.*only the algorithms of sb3_cora.*make_joint_vec_env\(env\)"):
        PettingZooPolicy(ppo, spread())  # type: ignore[arg-type]


def test_acting_in_opposed_teams_is_not_announced_again() -> None:
    with pytest.warns(UserWarning, match="opposed teams"):
        model = make_model(IPPO, VmasVecEnv("simple_tag", 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VmasPolicy(model, vmas.make_env("simple_tag", num_envs=1))
