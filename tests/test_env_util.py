"""Whatever a user calls an environment becomes a VecEnv of joint environments, or a clear error."""

import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

from sb3_cora import MAPPO
from sb3_cora.common.env_util import as_joint_vec_env, is_batched, make_joint_vec_env, registered_ids


class TeamEnv(gym.Env):
    """Two agents, rewarded for equal actions, for four steps."""

    observation_space = spaces.Box(-1.0, 1.0, (2, 1))
    action_space = spaces.MultiDiscrete([3, 3])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros((2, 1), np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.zeros((2, 1), np.float32), float(action[0] == action[1]), False, self.steps == 4, {}


def test_the_tasks_are_registered_with_their_horizons() -> None:
    assert {"give_way", "multi_give_way", "navigation", "vmas/balance", "vmas/simple_spread"} <= set(registered_ids())
    horizons = {name: gym.spec(name).kwargs["max_steps"] for name in ("give_way", "multi_give_way", "navigation")}
    assert horizons == {"give_way": 300, "multi_give_way": 200, "navigation": 100}


def test_a_batch_is_used_where_the_suite_has_one() -> None:
    vec_env = make_joint_vec_env("give_way", n_envs=5, seed=3)
    assert isinstance(vec_env, VecMonitor) and vec_env.num_envs == 5
    assert type(vec_env.unwrapped).__name__ == "VmasVecEnv"
    assert vec_env.get_attr("spec")[0].id == "give_way"
    assert vec_env.render_mode == "rgb_array"
    again = make_joint_vec_env("give_way", n_envs=5, seed=3)
    np.testing.assert_array_equal(vec_env.reset(), again.reset())


def test_settings_reach_the_scenario() -> None:
    vec_env = make_joint_vec_env("navigation", n_envs=2, n_agents=3, max_steps=7)
    assert vec_env.observation_space.shape is not None and vec_env.observation_space.shape[0] == 3
    assert vec_env.get_attr("max_steps") == [7, 7]


@pytest.mark.parametrize("vec_env_cls", [DummyVecEnv, SubprocVecEnv])
def test_one_by_one_on_request(vec_env_cls: type[DummyVecEnv] | type[SubprocVecEnv]) -> None:
    vec_env = make_joint_vec_env("give_way", n_envs=2, seed=0, vec_env_cls=vec_env_cls, max_steps=3)
    assert isinstance(vec_env, vec_env_cls) and all(vec_env.env_is_wrapped(Monitor))
    vec_env.reset()
    for _ in range(3):
        _, _, dones, infos = vec_env.step(np.zeros((2, 2, 2), np.float32))
    vec_env.close()
    assert dones.all() and infos[1]["TimeLimit.truncated"] and infos[1]["episode"]["l"] == 3


def test_other_registered_joint_environments() -> None:
    gym.register("test/Team-v0", entry_point=TeamEnv)
    try:
        vec_env = make_joint_vec_env("test/Team-v0", n_envs=2, seed=0)
        assert isinstance(vec_env, DummyVecEnv) and all(vec_env.env_is_wrapped(Monitor))
    finally:
        del gym.registry["test/Team-v0"]


def test_monitor_files(tmp_path: Path) -> None:
    vec_env = make_joint_vec_env("give_way", n_envs=2, seed=0, monitor_dir=str(tmp_path / "logs"), max_steps=3)
    vec_env.reset()
    for _ in range(6):
        vec_env.step(np.zeros((2, 2, 2), np.float32))
    vec_env.close()
    assert load_results(str(tmp_path / "logs"))["l"].tolist() == [3, 3, 3, 3]


def test_an_id_with_its_module() -> None:
    for env in (make_joint_vec_env("sb3_cora:give_way", n_envs=2), as_joint_vec_env("sb3_cora:give_way", n_envs=2)):
        assert type(env.unwrapped).__name__ == "VmasVecEnv" and env.get_attr("spec")[0].id == "give_way"
    assert is_batched("sb3_cora:give_way") and not is_batched("sb3_cora:mpe2/simple_spread")


class Marked(gym.Wrapper):
    """A wrapper with an argument."""

    def __init__(self, env: gym.Env, mark: int = 0) -> None:
        super().__init__(env)
        self.mark = mark


class ManyTeams(TeamEnv):
    """``TeamEnv`` with an argument, and with infos."""

    def __init__(self, n_agents: int = 2) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (n_agents, 1))
        self.action_space = spaces.MultiDiscrete([3] * n_agents)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward, terminated, truncated = super().step(action)[1:4]
        return np.zeros(self.observation_space.shape, np.float32), reward, terminated, truncated, {"won": self.steps}


def sb3_arguments(folder: Path) -> dict[str, Any]:
    return dict(
        n_envs=2,
        seed=7,
        start_index=3,
        monitor_dir=str(folder),
        wrapper_class=Marked,
        env_kwargs={"n_agents": 4},
        vec_env_cls=DummyVecEnv,
        vec_env_kwargs={},
        monitor_kwargs={"info_keywords": ("won",)},
        wrapper_kwargs={"mark": 5},
    )


def test_the_arguments_are_those_of_make_vec_env(tmp_path: Path) -> None:
    names = list(inspect.signature(make_vec_env).parameters)
    assert list(inspect.signature(make_joint_vec_env).parameters)[: len(names)] == names

    told = []
    for name, make in (("ours", make_joint_vec_env), ("sb3", make_vec_env)):
        vec_env = make(ManyTeams, **sb3_arguments(tmp_path / name))
        assert vec_env.get_attr("mark") == [5, 5] and vec_env.observation_space.shape == (4, 1)
        actions = [space.sample() for space in vec_env.get_attr("action_space")]
        vec_env.reset()
        for _ in range(4):
            vec_env.step(np.stack(actions))
        vec_env.close()
        files = sorted(path.name for path in (tmp_path / name).iterdir())
        told.append((np.stack(actions).tolist(), files, load_results(str(tmp_path / name))[["l", "won"]].values.tolist()))
    assert told[0] == told[1]
    assert told[0][1:] == (["3.monitor.csv", "4.monitor.csv"], [[4, 4], [4, 4]])


def test_a_batch_has_a_monitor_with_the_same_arguments(tmp_path: Path) -> None:
    vec_env = make_joint_vec_env(
        "climbing",
        2,
        0,
        3,
        str(tmp_path),
        env_kwargs={"render_mode": None},
        monitor_kwargs={"info_keywords": ("agent_rewards",)},
    )
    assert vec_env.render_mode is None
    sampled = [vec_env.action_space.sample().tolist() for _ in range(5)]
    assert sampled == [
        space.sample().tolist() for space in [make_joint_vec_env("climbing", 2, 0, 3).action_space] for _ in range(5)
    ]
    vec_env.reset()
    for _ in range(25):
        vec_env.step(np.zeros((2, 2), int))
    vec_env.close()
    assert [path.name for path in tmp_path.iterdir()] == ["3.monitor.csv"]
    assert {"agent_rewards", "r"} <= set(load_results(str(tmp_path)).columns)


def test_arguments_of_the_environment_in_either_form() -> None:
    for given in ({"env_kwargs": {"n_agents": 3}}, {"n_agents": 3}):
        vec_env = make_joint_vec_env("matrix_team", n_steps=4, **given)
        assert vec_env.observation_space.shape == (3, 4)
    with pytest.raises(TypeError, match=r"\['n_agents'\] .* given twice: \[3\] in env_kwargs and \[4\] by name"):
        make_joint_vec_env("matrix_team", env_kwargs={"n_agents": 3}, n_agents=4)


def make_spread(**settings: Any) -> Any:
    return pytest.importorskip("mpe2.simple_spread_v3").parallel_env(**settings)


def make_spread_in_turns(**settings: Any) -> Any:
    return pytest.importorskip("mpe2.simple_spread_v3").env(**settings)


@pytest.mark.parametrize("make", [make_spread, make_spread_in_turns])
@pytest.mark.parametrize("vec_env_cls", [None, DummyVecEnv])
def test_functions_that_make_pettingzoo_environments(make: Callable[..., Any], vec_env_cls: Any) -> None:
    made = []

    def counted(**settings: Any) -> Any:
        made.append(settings)
        return make(**settings)

    vec_env = make_joint_vec_env(counted, n_envs=3, seed=0, N=2, vec_env_cls=vec_env_cls, env_kwargs={"max_cycles": 4})
    # What was made to see what it is is used
    assert made == [{"N": 2, "max_cycles": 4}] * 3
    assert type(vec_env) is DummyVecEnv and vec_env.num_envs == 3 and all(vec_env.env_is_wrapped(Monitor))
    observations = vec_env.reset()
    assert isinstance(observations, dict) and len(np.unique(observations["observation"], axis=0)) == 3
    assert len({id(env.unwrapped) for env in vec_env.envs}) == 3


def test_functions_that_make_a_batch(tmp_path: Path) -> None:
    vmas = pytest.importorskip("vmas")
    make = partial(vmas.make_env, "give_way", num_envs=3)
    for n_envs in (1, 3):
        vec_env = make_joint_vec_env(make, n_envs=n_envs, seed=4, max_steps=2, monitor_dir=str(tmp_path / str(n_envs)))
        assert isinstance(vec_env, VecMonitor) and vec_env.num_envs == 3
        np.testing.assert_array_equal(vec_env.reset(), make_joint_vec_env("give_way", n_envs=3, seed=4).reset())
        for _ in range(2):
            vec_env.step(np.zeros((3, 2, 2), np.float32))
        vec_env.close()
        assert load_results(str(tmp_path / str(n_envs)))["l"].tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match=r"makes a batch of 3 environments, but n_envs=2\. Have it make as many"):
        make_joint_vec_env(make, n_envs=2)
    with pytest.raises(ValueError, match="makes a batch of 3 environments, which vec_env_cls cannot hold one by one"):
        make_joint_vec_env(make, vec_env_cls=DummyVecEnv)
    with pytest.raises(ValueError, match=r"wrapper_class: this is for single .*as one batch\. Wrap the VecEnv"):
        make_joint_vec_env(make, wrapper_class=Marked)


def test_what_makes_no_environment() -> None:
    for vec_env_cls in (None, DummyVecEnv):
        with pytest.raises(TypeError, match=r"env is \{\} of type builtins.dict.*joint gymnasium.Env"):
            make_joint_vec_env(dict, vec_env_cls=vec_env_cls)
        with pytest.raises(ValueError, match="agent axis"):
            make_joint_vec_env(lambda: gym.make("CartPole-v1"), vec_env_cls=vec_env_cls)


@pytest.mark.parametrize("n_envs", [0, -1, 2.0])
@pytest.mark.parametrize("env_id", ["climbing", "navigation", "mpe2/simple_spread"])
def test_numbers_of_environments_that_are_none(env_id: str, n_envs: Any) -> None:
    with pytest.raises(ValueError, match=f"n_envs={n_envs}, expected an integer of at least 1"):
        make_joint_vec_env(env_id, n_envs=n_envs)


def test_environments_already_made() -> None:
    vmas = pytest.importorskip("vmas")
    spread = make_joint_vec_env(make_spread(), seed=3)
    np.testing.assert_array_equal(
        spread.reset()["observation"], make_joint_vec_env(make_spread, seed=3).reset()["observation"]
    )
    assert spread.env_is_wrapped(Monitor) == [True]
    worlds = make_joint_vec_env(vmas.make_env("give_way", num_envs=3), n_envs=3, seed=4)
    np.testing.assert_array_equal(worlds.reset(), make_joint_vec_env("give_way", n_envs=3, seed=4).reset())
    vec_env = make_vec_env(TeamEnv, n_envs=2)
    assert make_joint_vec_env(vec_env) is vec_env
    with pytest.raises(ValueError, match=r"n_envs=4: .* already made, with 1 environment\(s\)\. Give a function.*n_envs="):
        make_joint_vec_env(TeamEnv(), n_envs=4)
    with pytest.raises(ValueError, match=r"env_kwargs=\{'N': 2\}, monitor_dir='logs': .* already made"):
        make_joint_vec_env(TeamEnv(), monitor_dir="logs", N=2)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"wrapper_class": Marked}, ValueError, "wrapper_class: this is for single environments.*vec_env_cls=DummyVecEnv"),
        ({"vec_env_kwargs": {"start_method": "spawn"}}, ValueError, "vec_env_kwargs: this is for single environments"),
        ({"monitor_kwargs": {"allow_early_resets": False}}, ValueError, r"monitor_kwargs\['allow_early_resets'\]: this is"),
        ({"num_envs": 3}, TypeError, "num_envs=3 is no argument of the environment .*n_envs="),
        ({"env_kwargs": {"seed": 3}}, TypeError, "seed=3 is no argument of the environment .*seed="),
    ],
)
def test_arguments_that_mean_nothing_to_a_batch(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make_joint_vec_env("climbing", **arguments)
    if error is ValueError and "vec_env_kwargs" not in arguments:
        make_joint_vec_env("climbing", vec_env_cls=DummyVecEnv, **arguments).close()


def test_processes_of_their_own() -> None:
    # Nothing is imported there but what the constructors need, so that for SB3 an id has to name its module
    vec_env = make_vec_env("sb3_cora:climbing", vec_env_cls=SubprocVecEnv)
    assert np.shape(vec_env.reset()) == (1, 2, 25)
    vec_env.close()
    # Ours takes ids without, see test_one_by_one_on_request, and makes of the suite's environment a joint one there
    vec_env = make_joint_vec_env(make_spread, seed=0, vec_env_cls=SubprocVecEnv, N=2)
    expected = make_joint_vec_env(make_spread, seed=0, N=2)
    np.testing.assert_array_equal(vec_env.reset()["observation"], expected.reset()["observation"])
    vec_env.close()


def test_evaluation_of_what_sb3_does_not_know() -> None:
    vmas = pytest.importorskip("vmas")
    model = MAPPO("MlpPolicy", make_spread(max_cycles=4), n_steps=8, batch_size=8)
    # SB3 itself refuses it before anything of ours is asked
    with pytest.raises(ValueError, match="not a Gymnasium environment"):
        evaluate_policy(model, make_spread())
    _, lengths = evaluate_policy(model, make_joint_vec_env(make_spread(max_cycles=4)), 3, return_episode_rewards=True)
    assert lengths == [4, 4, 4]
    model = MAPPO("MlpPolicy", vmas.make_env("give_way", num_envs=2, max_steps=3), n_steps=4, batch_size=8)
    callback = EvalCallback(make_joint_vec_env(vmas.make_env("give_way", num_envs=2, max_steps=3)), eval_freq=4, verbose=0)
    model.learn(8, callback)
    assert np.isfinite(callback.last_mean_reward)


def test_a_window_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    vec_env = MAPPO("MlpPolicy", "climbing").get_env()
    assert vec_env is not None
    vec_env.reset()
    with pytest.raises(ImportError, match="pip install opencv-python"):
        vec_env.render("human")
    assert vec_env.render("rgb_array") is not None


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("giveway", "Did you mean 'give_way'"),
        ("vmas/navigate", "Did you mean 'vmas/navigation'"),
        ("nothing-like-it", "Registered joint environments: .*give_way, .*navigation, .*vmas/..."),
        ("CartPole-v1", "agent axis"),
    ],
)
def test_ids_that_are_none(env_id: str, said: str) -> None:
    for wrap in (make_joint_vec_env, as_joint_vec_env):
        with pytest.raises(ValueError, match=said):
            wrap(env_id)


def test_an_id() -> None:
    assert as_joint_vec_env("give_way", n_envs=3).num_envs == 3
    assert as_joint_vec_env("give_way").num_envs == 16


def test_a_joint_env_is_wrapped_as_sb3_wraps() -> None:
    vec_env = as_joint_vec_env(TeamEnv())
    assert isinstance(vec_env, DummyVecEnv) and vec_env.env_is_wrapped(Monitor) == [True]
    assert as_joint_vec_env(TeamEnv(), monitor_wrapper=False).env_is_wrapped(Monitor) == [False]


def test_a_vec_env_stays_what_it_is() -> None:
    vec_env = VecNormalize(make_vec_env(TeamEnv, n_envs=2))
    assert as_joint_vec_env(vec_env) is vec_env


def test_a_vmas_environment(capsys: pytest.CaptureFixture[str]) -> None:
    vmas = pytest.importorskip("vmas")
    vec_env = as_joint_vec_env(vmas.make_env("give_way", num_envs=3, max_steps=2), verbose=1)
    assert isinstance(vec_env, VecMonitor) and vec_env.num_envs == 3
    assert "VecMonitor" in capsys.readouterr().out
    vec_env.reset()
    vec_env.step(np.zeros((3, 2, 2), np.float32))
    _, _, dones, infos = vec_env.step(np.zeros((3, 2, 2), np.float32))
    assert dones.all() and infos[0]["episode"]["l"] == 2
    bare = as_joint_vec_env(vmas.make_env("give_way", num_envs=3), monitor_wrapper=False)
    assert not isinstance(bare, VecMonitor)


def test_a_parallel_env() -> None:
    mpe = pytest.importorskip("mpe2.simple_spread_v3")
    vec_env = as_joint_vec_env(mpe.parallel_env())
    assert isinstance(vec_env, DummyVecEnv) and vec_env.env_is_wrapped(Monitor) == [True]


def test_what_is_no_environment() -> None:
    with pytest.raises(TypeError, match=r"env is 3 of type builtins\.int.*give_way"):
        as_joint_vec_env(3)
    with pytest.raises(ValueError, match="agent axis"):
        as_joint_vec_env(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="agent axis"):
        as_joint_vec_env(make_vec_env("CartPole-v1"))


def test_an_aec_env() -> None:
    mpe = pytest.importorskip("mpe2.simple_spread_v3")
    vec_env = as_joint_vec_env(mpe.env())
    assert isinstance(vec_env, DummyVecEnv) and vec_env.env_is_wrapped(Monitor) == [True]


def test_sb3_ppo_trains_on_a_joint_environment() -> None:
    model = PPO("MlpPolicy", make_joint_vec_env("give_way", n_envs=2, seed=0), n_steps=8, batch_size=8, n_epochs=1)
    model.learn(16)
    assert model.predict(np.zeros((2, 4), np.float32))[0].shape == (2, 2)
