"""Whatever a user calls an environment becomes a VecEnv of joint environments, or a clear error."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

from sb3_cora.common.env_util import as_joint_vec_env, make_joint_vec_env, registered_ids
from tests.processes import run_python


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


def test_the_packages_of_suites_are_not_imported() -> None:
    suites = ["vmas", "pettingzoo", "mpe2", "gymnasium_robotics", "rl_zoo3", "cvxpylayers"]
    program = f"import sys, sb3_cora.envs; print([name for name in {suites} if name in sys.modules])"
    done = run_python("-c", program)
    assert done.stdout.strip() == "[]"


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


def test_a_missing_suite_names_its_extra() -> None:
    # A finder that knows no vmas stands for a machine without it.
    program = (
        "import sys\n"
        "sys.modules['vmas'] = None\n"
        "from sb3_cora.common.env_util import make_joint_vec_env\n"
        "try:\n"
        "    make_joint_vec_env('give_way')\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = run_python("-c", program)
    assert 'pip install "sb3-cora[vmas]"' in done.stdout


def test_sb3_ppo_trains_on_a_joint_environment() -> None:
    model = PPO("MlpPolicy", make_joint_vec_env("give_way", n_envs=2, seed=0), n_steps=8, batch_size=8, n_epochs=1)
    model.learn(16)
    assert model.predict(np.zeros((2, 4), np.float32))[0].shape == (2, 2)
