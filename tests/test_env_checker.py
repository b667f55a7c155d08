"""check_joint_env passes what is right, and says of each thing that is wrong what it is."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_cora.common.env_checker import check_joint_env


class TeamEnv(gym.Env):
    """
    Two agents, with two and three actions, for five steps; it tells everything a joint environment may tell.

    :param changes: what to put in the place of a part of the observation, of ``reward``, ``truncated`` or ``agent_rewards``
    """

    def __init__(self, **changes: Any) -> None:
        self.changes = changes
        self.observation_space = spaces.Dict(
            # The second agent's last entry is padding.
            observation=spaces.Box(np.array([[-1, -1], [-1, 0]], np.float32), np.array([[1, 1], [1, 0]], np.float32)),
            state=spaces.Box(0.0, 5.0, (1,)),
            action_mask=spaces.Box(0.0, 1.0, (2, 3)),
            agent_mask=spaces.MultiBinary(2),
        )
        self.action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        assert action[0] == 1, "the mask allows the first agent only its second action"
        self.steps += 1
        changed = {"reward": 1.5, "truncated": self.steps == 5, "agent_rewards": np.array([1.0, 2.0])} | self.changes
        return self.observe(), changed["reward"], False, changed["truncated"], {"agent_rewards": changed["agent_rewards"]}

    def observe(self) -> dict[str, np.ndarray]:
        observation = {
            "observation": np.array([[self.np_random.uniform(-1, 1), 0.5], [0.5, 0]], np.float32),
            "state": np.array([self.steps], np.float32),
            "action_mask": np.array([[0, 1, 0], [1, 1, 1]], np.float32),
            "agent_mask": np.ones(2, np.int8),
        }
        return observation | {key: value for key, value in self.changes.items() if key in observation}


class BoxTeamEnv(gym.Env):
    """Two agents that observe their last action, for three steps, with SB3's whole check_env applying."""

    observation_space = spaces.Box(-1.0, 1.0, (2, 1))
    action_space = spaces.Box(-1.0, 1.0, (2, 1))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros((2, 1), np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return action, float(action.sum()), self.steps == 3, False, {}


class LeftOut(VecEnvWrapper):
    """
    Leaves a key out of the infos, as many a vector environment does.

    :param key: the key
    """

    def __init__(self, env: gym.Env, key: str) -> None:
        super().__init__(DummyVecEnv([lambda: env]))
        self.key = key

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            info.pop(self.key, None)
        return observations, rewards, dones, infos


@pytest.mark.parametrize("env_class", [TeamEnv, BoxTeamEnv])
def test_right_environments_pass(env_class: type[gym.Env]) -> None:
    check_joint_env(env_class())
    check_joint_env(DummyVecEnv([env_class, env_class]))


FAULTS = [
    ({"observation": np.array([[0, 0], [0, 0.1]], np.float32)}, ValueError, "padding"),
    ({"observation": np.array([[0, np.nan], [0, 0]], np.float32)}, ValueError, "finite"),
    ({"observation": np.array([[0, np.inf], [0, 0]], np.float32)}, ValueError, "finite"),
    ({"observation": np.zeros((2, 3), np.float32)}, ValueError, r"\(2, 3\)"),
    ({"state": np.array([9.0], np.float32)}, ValueError, "The state"),
    ({"agent_mask": np.array([1, 2], np.int8)}, ValueError, "agent_mask holds"),
    ({"action_mask": np.array([[0, 0.5, 0], [1, 1, 1]], np.float32)}, ValueError, "action_mask holds"),
    ({"action_mask": np.array([[0, 1, 1], [1, 1, 1]], np.float32)}, ValueError, r"\[\[0, 2\]\]"),
    ({"action_mask": np.array([[0, 1, 0], [0, 0, 0]], np.float32)}, ValueError, r"agents \[1\] no action"),
    ({"reward": np.array([1.0, 2.0])}, TypeError, "one float"),
    ({"reward": np.inf}, ValueError, "inf"),
    ({"truncated": np.array([True, True])}, TypeError, "truncated"),
    ({"agent_rewards": np.zeros(3)}, ValueError, r"\(3,\)"),
    ({"agent_rewards": np.array([np.nan, 1.0])}, ValueError, "finite"),
]


@pytest.mark.parametrize(("changes", "error", "said"), FAULTS)
def test_faults_are_named(changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        check_joint_env(TeamEnv(**changes))


@pytest.mark.parametrize(
    ("changes", "error", "said"), [fault for fault in FAULTS if "mask" in str(fault[2]) or fault[2] == "finite"]
)
def test_faults_are_named_in_a_vec_env(changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        check_joint_env(DummyVecEnv([lambda: TeamEnv(**changes)]))


def test_an_agent_that_is_gone_needs_no_action() -> None:
    mask = np.array([[0, 1, 0], [0, 0, 0]], np.float32)
    # Its place in the random joint action is filled all the same, and the environment ignores it.
    check_joint_env(TeamEnv(agent_mask=np.array([1, 0], np.int8), action_mask=mask))


@pytest.mark.parametrize("key", ["TimeLimit.truncated", "terminal_observation"])
def test_a_vec_env_must_tell_how_episodes_end(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        check_joint_env(LeftOut(TeamEnv(), key))


def test_what_sb3_refuses_is_refused() -> None:
    class WildUnlessSeeded(BoxTeamEnv):
        def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
            observation, info = super().reset(**kwargs)
            return observation + (9 if kwargs.get("seed") is None else 0), info

    with pytest.raises(ValueError, match=r"SB3's check_env refuses the environment: .*bounds"):
        check_joint_env(WildUnlessSeeded())


@pytest.mark.parametrize(
    ("method", "returned", "said"),
    [
        ("reset", None, r"reset returned a NoneType\. Return the tuple \(observation, info\)"),
        ("reset", (None, {}), "The observation is None of type NoneType. Return an array of numbers"),
        ("reset", ([["far"], ["near"]], {}), "The observation is .* of type list. Return an array of numbers"),
        ("step", (np.zeros((2, 1), np.float32), 0.0, False, {}), r"step returned 4 values\. Return the tuple"),
        ("step", (None, 0.0, False, False, {}), "The observation is None"),
    ],
)
def test_what_is_returned_must_have_the_form(method: str, returned: Any, said: str) -> None:
    env = BoxTeamEnv()
    setattr(env, method, lambda *args, **kwargs: returned)
    with pytest.raises(TypeError, match=said):
        check_joint_env(env)


def test_reset_must_take_a_seed() -> None:
    env = BoxTeamEnv()
    env.reset = lambda: (np.zeros((2, 1), np.float32), {})  # type: ignore[method-assign,assignment]
    with pytest.raises(TypeError, match=r"takes no seed.*reset\(self, \*, seed=None, options=None\)"):
        check_joint_env(env)


def test_randomness_outside_the_seed_is_found() -> None:
    class Unseeded(BoxTeamEnv):
        def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
            super().reset(**kwargs)
            return np.random.default_rng().uniform(-1, 1, (2, 1)).astype(np.float32), {}

    with pytest.raises(ValueError, match="np_random"):
        check_joint_env(Unseeded())
    with pytest.raises(ValueError, match=r"seed\(0\) and reset\(\) gave two different observations \(observation\)"):
        check_joint_env(DummyVecEnv([Unseeded]))


def test_warnings() -> None:
    with pytest.warns(UserWarning, match="neither the mean nor the sum"):
        check_joint_env(TeamEnv(reward=7.0))
    with pytest.warns(UserWarning, match="No episode ended within 4 steps"):
        check_joint_env(TeamEnv(), max_steps=4)
    unbounded = BoxTeamEnv()
    unbounded.observation_space = unbounded.action_space = spaces.Box(-np.inf, np.inf, (2, 1))
    with pytest.warns(UserWarning, match="RescaleAction"):
        check_joint_env(unbounded)
    check_joint_env(TeamEnv(reward=7.0), warn=False, max_steps=4)


def test_what_is_no_environment_or_no_joint_one() -> None:
    with pytest.raises(TypeError, match=r"builtins\.str"):
        check_joint_env("give_way")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="agent axis"):
        check_joint_env(gym.make("CartPole-v1"))
