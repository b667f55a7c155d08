"""PettingZoo through PettingZooEnv: the same numbers, one agent axis, and ends of episodes kept apart."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_cora.common.env_checker import check_joint_env
from sb3_cora.common.env_util import as_joint_vec_env
from sb3_cora.common.joint_env import JointSpaces

pytest.importorskip("pettingzoo")
pytest.importorskip("mpe2")

from mpe2 import simple_speaker_listener_v4, simple_spread_v3
from pettingzoo import ParallelEnv

from sb3_cora.envs.pettingzoo import PettingZooEnv


class Shift(ParallelEnv):
    """
    Workers whose shifts end at times of their own, with actions that are allowed in turn.

    Each observes the time; worker ``i`` has ``i + 2`` actions, numbered from ``start``, of which ``time % (i + 2)`` alone
    is allowed, and is rewarded ``i + 1`` each step.

    :param ends: for each worker, the step at which it is done and whether that is a termination (else a truncation)
    :param mask_in: where the action mask is given: ``"observation"``, ``"info"`` or ``""`` for nowhere
    :param start: number of the first action
    """

    metadata = {"name": "shift"}  # noqa: RUF012 - PettingZoo's interface

    def __init__(self, ends: list[tuple[int, bool]], mask_in: str = "observation", start: int = 0) -> None:
        self.possible_agents = [f"worker_{i}" for i in range(len(ends))]
        self.ends = dict(zip(self.possible_agents, ends, strict=True))
        self.mask_in = mask_in
        self.start = start
        self.received: list[dict] = []

    def observation_space(self, agent: str) -> spaces.Space:
        own = spaces.Box(0.0, 9.0, (self.possible_agents.index(agent) + 1,))
        if self.mask_in != "observation":
            return own
        return spaces.Dict(observation=own, action_mask=spaces.MultiBinary(int(self.action_space(agent).n)))

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(self.possible_agents.index(agent) + 2, start=self.start)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.agents = list(self.possible_agents)
        self.time = 0
        self.received = []
        return self._tell(self.agents)

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        for agent, action in actions.items():
            allowed = self.time % self.action_space(agent).n + self.start
            assert self.mask_in == "" or action == allowed, f"{agent} was allowed {allowed} and did {action}"
        self.received.append(actions)
        self.time += 1
        acted = self.agents
        over = {agent: self.time == self.ends[agent][0] for agent in acted}
        self.agents = [agent for agent in acted if not over[agent]]
        return (
            self._tell(acted)[0],
            {agent: float(self.possible_agents.index(agent) + 1) for agent in acted},
            {agent: over[agent] and self.ends[agent][1] for agent in acted},
            {agent: over[agent] and not self.ends[agent][1] for agent in acted},
            self._tell(acted)[1],
        )

    def _tell(self, agents: list[str]) -> tuple[dict, dict]:
        observations: dict[str, Any] = {}
        infos: dict[str, dict] = {}
        for agent in agents:
            n_actions = self.action_space(agent).n
            mask = (np.arange(n_actions) == self.time % n_actions).astype(np.int8)
            own = np.full(self.possible_agents.index(agent) + 1, self.time, np.float32)
            observations[agent] = {"observation": own, "action_mask": mask} if self.mask_in == "observation" else own
            infos[agent] = {"action_mask": mask} if self.mask_in == "info" else {}
        return observations, infos


def allowed_actions(observation: dict[str, np.ndarray]) -> np.ndarray:
    return observation["action_mask"].argmax(axis=1)


@pytest.mark.parametrize("suite", [simple_spread_v3, simple_speaker_listener_v4])
@pytest.mark.parametrize("continuous", [False, True])
def test_an_episode_is_that_of_the_bare_environment(suite: Any, continuous: bool) -> None:
    env = PettingZooEnv(suite.parallel_env(max_cycles=5, continuous_actions=continuous))
    bare = suite.parallel_env(max_cycles=5, continuous_actions=continuous)
    observation, _ = env.reset(seed=3)
    expected, _ = bare.reset(seed=3)
    env.action_space.seed(0)
    for step in range(1, 6):
        for row, agent in zip(observation["observation"], bare.possible_agents, strict=True):
            np.testing.assert_array_equal(row[: len(expected[agent])], expected[agent])
            assert not row[len(expected[agent]) :].any()
        np.testing.assert_array_equal(observation["state"], bare.state().astype(np.float32))
        np.testing.assert_array_equal(observation["agent_mask"], 1)
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        own = {
            agent: row[: bare.action_space(agent).shape[0]] if continuous else int(row)
            for agent, row in zip(bare.possible_agents, action, strict=True)
        }
        expected, rewards, _, _, _ = bare.step(own)
        np.testing.assert_allclose(info["agent_rewards"], [rewards[agent] for agent in bare.possible_agents], rtol=1e-6)
        assert reward == pytest.approx(np.mean(list(rewards.values())), rel=1e-6)
        # max_cycles is a time limit.
        assert not terminated and truncated == (step == 5)
    np.testing.assert_array_equal(observation["agent_mask"], 1)


@pytest.mark.parametrize("suite", [simple_spread_v3, simple_speaker_listener_v4])
@pytest.mark.parametrize("continuous", [False, True])
def test_checkers_pass(suite: Any, continuous: bool) -> None:
    env = PettingZooEnv(suite.parallel_env(max_cycles=5, continuous_actions=continuous))
    check_env(env, warn=False)
    check_joint_env(env)
    check_joint_env(as_joint_vec_env(suite.parallel_env(max_cycles=5, continuous_actions=continuous)))


def test_unequal_agents_are_padded() -> None:
    joint = spaces_of(PettingZooEnv(simple_speaker_listener_v4.parallel_env(continuous_actions=True)))
    # The speaker says one of three words, the listener moves in five ways; they observe 3 and 11 numbers.
    np.testing.assert_array_equal(joint.action_mask, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    assert (joint.obs_dim, joint.state_dim, joint.has_state, joint.has_agent_mask) == (11, 14, True, True)
    discrete = PettingZooEnv(simple_speaker_listener_v4.parallel_env(continuous_actions=False))
    assert discrete.action_space == spaces.MultiDiscrete([3, 5])


def spaces_of(env: PettingZooEnv) -> JointSpaces:
    return JointSpaces.from_spaces(env.observation_space, env.action_space)


@pytest.mark.parametrize("mask_in", ["observation", "info"])
@pytest.mark.parametrize("start", [0, 4])
def test_masks_and_agents_that_leave(mask_in: str, start: int) -> None:
    shift = Shift([(2, True), (4, False), (3, True)], mask_in, start)
    env = PettingZooEnv(shift)
    joint = spaces_of(env)
    assert joint.has_action_mask and joint.has_agent_mask and not joint.has_state and joint.discrete
    observation, _ = env.reset(seed=0)
    # Actions allowed at time 0: the first of 2, of 3 and of 4.
    np.testing.assert_array_equal(observation["action_mask"], [[1, 0, 0, 0]] * 3)

    told = []
    for _ in range(4):
        observation, reward, terminated, truncated, info = env.step(allowed_actions(observation))
        told.append((observation["agent_mask"].tolist(), reward, terminated, truncated, info["agent_rewards"].tolist()))
    assert told == [
        ([1, 1, 1], 2.0, False, False, [1, 2, 3]),
        ([0, 1, 1], 2.0, False, False, [1, 2, 3]),
        ([0, 1, 0], pytest.approx(5 / 3), False, False, [0, 2, 3]),
        # Two terminated and one was cut off by its time limit: the episode is truncated, and only that one has a future.
        ([0, 1, 0], pytest.approx(2 / 3), False, True, [0, 2, 0]),
    ]
    # Agents that are gone are not stepped: with the actions counted from `start`, those allowed at times 0 to 3.
    numbered = [{agent: action - start for agent, action in actions.items()} for actions in shift.received]
    assert numbered == [
        {"worker_0": 0, "worker_1": 0, "worker_2": 0},
        {"worker_0": 1, "worker_1": 1, "worker_2": 1},
        {"worker_1": 2, "worker_2": 2},
        {"worker_1": 0},
    ]
    # Of an agent long gone: nothing observed, every action of its own allowed.
    assert not observation["observation"][0].any()
    np.testing.assert_array_equal(observation["action_mask"][0], [1, 1, 0, 0])
    check_joint_env(env)
    check_joint_env(DummyVecEnv([lambda: env]))


def test_the_episode_terminates_when_every_agent_has() -> None:
    shift = Shift([(1, True), (2, True)], mask_in="")
    env = PettingZooEnv(shift, team_reward="sum")
    env.reset()
    assert env.step(np.zeros(2, int))[1:4] == (3.0, False, False)
    observation, reward, terminated, truncated, _ = env.step(np.zeros(2, int))
    assert (reward, terminated, truncated) == (2.0, True, False)
    np.testing.assert_array_equal(observation["agent_mask"], 0)
    # A new episode knows nothing of the last: now both are cut off.
    shift.ends = dict.fromkeys(shift.possible_agents, (1, False))
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation["agent_mask"], 1)
    assert env.step(np.zeros(2, int))[2:4] == (False, True)


def test_a_time_limit_reaches_sb3() -> None:
    vec_env = as_joint_vec_env(Shift([(2, False), (2, False)], mask_in=""))
    vec_env.reset()
    vec_env.step(np.zeros((1, 2), int))
    _, _, dones, infos = vec_env.step(np.zeros((1, 2), int))
    assert dones[0] and infos[0]["TimeLimit.truncated"]
    np.testing.assert_array_equal(infos[0]["terminal_observation"]["observation"], [[2, 0], [2, 2]])
    np.testing.assert_array_equal(infos[0]["terminal_observation"]["agent_mask"], [1, 1])


def test_sb3_ppo_trains_on_it() -> None:
    vec_env = as_joint_vec_env(simple_spread_v3.parallel_env(max_cycles=5))
    PPO("MultiInputPolicy", vec_env, n_steps=16, batch_size=8, n_epochs=1).learn(16)


def test_bad_team_reward() -> None:
    with pytest.raises(ValueError, match="'median'"):
        PettingZooEnv(Shift([(1, True)]), team_reward="median")
