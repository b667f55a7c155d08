"""PettingZoo through PettingZooEnv: the same numbers, one agent axis, and ends of episodes kept apart."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_cora import CORAPPO, IPPO, MAPPO, make_joint_vec_env
from sb3_cora.common.env_checker import check_joint_env
from sb3_cora.common.env_util import as_joint_vec_env, registered_ids
from sb3_cora.common.joint_env import JointSpaces, pad_observations
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from tests.algorithms import ALGORITHMS_WITH_Q, make_tiny
from tests.processes import run_zoo

pytest.importorskip("pettingzoo")
pytest.importorskip("supersuit")
pytest.importorskip("mpe2")

import pettingzoo
import supersuit
from mpe2 import simple_speaker_listener_v4, simple_spread_v3
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel

from sb3_cora.envs.pettingzoo import PettingZooEnv, TeamMember
from sb3_cora.envs.registration import MPE2_TASKS

Algorithm = type[CooperativeOnPolicyAlgorithm]

over_algorithms = pytest.mark.parametrize("algorithm", [CORAPPO, MAPPO])

KNIGHTS = "butterfly/knights_archers_zombies-v11"
# Zombies come in crowds, so that agents die early and not all at once
CROWDED = {"spawn_delay": 1, "max_zombies": 60, "max_cycles": 200}


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


@pytest.mark.parametrize(
    ("space", "chosen", "expected"),
    [
        # 0.1 in single precision is more than 0.1
        (spaces.Box(-0.1, 0.1, (1,), np.float64), 0.1, 0.1),
        (spaces.Box(0, 2, (1,), np.int64), 1.6, 2),
        (spaces.Box(0, 2, (1,), np.int64), 0.4, 0),
        (spaces.Box(-1, 1, (1,), np.float32), 0.25, 0.25),
    ],
)
def test_actions_are_within_the_agents_own_space(space: spaces.Box, chosen: float, expected: float) -> None:
    member = TeamMember("worker", spaces.Box(0, 1, (1,)), space)
    action = member.own_action(np.array([chosen, 0.0], np.float32))
    assert space.contains(action) and action.tolist() == [expected]


class Late(Shift):
    """Never observes a zero while it is there."""

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(1.0, 9.0, (1,))

    def _tell(self, agents: list[str]) -> tuple[dict, dict]:
        return {agent: np.full(1, 1.0 + self.time, np.float32) for agent in agents}, {agent: {} for agent in agents}


def test_those_who_have_left_observe_zeros_within_the_space() -> None:
    check_joint_env(PettingZooEnv(Late([(1, True), (3, True)], mask_in="")))


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


@pytest.mark.parametrize("part", range(4))
def test_who_is_left_out_is_named(part: int) -> None:
    name = ("observations", "rewards", "terminations", "truncations")[part]
    env = PettingZooEnv(Shift([(3, True), (3, True)], mask_in=""))
    env.reset()
    bare = env.parallel_env
    returned = bare.step

    def step(actions: dict) -> tuple[dict, ...]:
        told = returned(actions)
        del told[part]["worker_1"]
        return told

    bare.step = step
    with pytest.raises(ValueError, match=rf"step\(\) returned {name} of \['worker_0'\], without agent 'worker_1'"):
        env.step(np.zeros(2, int))


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


@pytest.mark.parametrize(
    ("ends", "truncated", "valued"),
    [
        ([(2, False), (4, False)], True, [0, 1]),
        ([(2, False), (4, True)], False, [0, 0]),
        ([(2, True), (4, False)], True, [0, 1]),
        ([(4, True), (4, False)], True, [0, 1]),
        ([(4, False), (4, False)], True, [1, 1]),
    ],
    ids=["both truncated", "truncated and terminated", "terminated and truncated", "at once", "truncated at once"],
)
def test_only_who_is_cut_off_by_the_last_step_has_a_future(
    ends: list[tuple[int, bool]], truncated: bool, valued: list[int]
) -> None:
    env = PettingZooEnv(Shift(ends, mask_in=""), team_reward="sum")
    env.reset()
    for _ in range(3):
        assert env.step(np.zeros(2, int))[2:4] == (False, False)
    observation, _, *flags, _ = env.step(np.zeros(2, int))
    assert flags == [not truncated, truncated]
    np.testing.assert_array_equal(observation["agent_mask"], valued)


@pytest.mark.parametrize("algorithm", [IPPO, MAPPO])
def test_a_team_that_has_ended_has_no_future(algorithm: Algorithm) -> None:
    def bootstrapped(ends: list[tuple[int, bool]]) -> np.ndarray:
        """What is added to the rewards of the steps of an episode, of the team or of each agent."""
        model = make_tiny(algorithm, PettingZooEnv(Shift(ends, mask_in="")), gamma=0.9)
        with th.no_grad():
            model.policy.value_critic.output_net.weight.zero_()
            model.policy.value_critic.output_net.bias.fill_(10.0)
        model.learn(16)
        rewards = model.rollout_buffer.rewards[:4, 0] if algorithm is IPPO else model.rollout_buffer.rewards[:4]
        earned = np.array([[1, 2], [1, 2], [0, 2], [0, 2]])
        return rewards - (earned if algorithm is IPPO else earned.mean(axis=1, keepdims=True))

    assert not bootstrapped([(2, False), (4, True)]).any()
    # Where the survivor is cut off, its value counts, and not that of who had left: 0.9 * 10
    added = bootstrapped([(2, False), (4, False)])
    assert not added[:3].any()
    np.testing.assert_allclose(added[3], [0, 9] if algorithm is IPPO else 9, rtol=1e-5)


class Told(Shift):
    """``Shift`` whose workers are told whether all is done, and how much each has done."""

    def _tell(self, agents: list[str]) -> tuple[dict, dict]:
        observations, _ = super()._tell(agents)
        told = {"is_success": self.time >= 3, "trace": np.arange(self.time)}
        return observations, {agent: {**told, "done": self.time * self.possible_agents.index(agent)} for agent in agents}


def told_env(**settings: Any) -> PettingZooEnv:
    return PettingZooEnv(Told([(2, True), (3, True)], mask_in=""), **settings)


@pytest.mark.parametrize("vec_env_cls", [DummyVecEnv, SubprocVecEnv])
def test_infos_are_handed_on(vec_env_cls: Any, tmp_path: Path) -> None:
    vec_env = make_vec_env(
        told_env,
        n_envs=2,
        monitor_dir=str(tmp_path),
        monitor_kwargs={"info_keywords": ("is_success",)},
        env_kwargs={"team_info_keys": ["is_success", "never told"]},
        vec_env_cls=vec_env_cls,
    )
    vec_env.reset()
    assert [info["agent_infos"]["worker_1"]["done"] for info in vec_env.reset_infos] == [0, 0]
    for step in range(1, 4):
        _, _, dones, infos = vec_env.step(np.zeros((2, 2), int))
        for info in infos:
            assert info["is_success"] == (step == 3) and "done" not in info
            assert info["agent_rewards"].tolist() == ([1, 2] if step < 3 else [0, 2])
            # Who has left is told nothing
            assert {agent: own["done"] for agent, own in info["agent_infos"].items()} == (
                {"worker_0": 0, "worker_1": step} if step < 3 else {"worker_1": 3}
            )
            np.testing.assert_array_equal(info["agent_infos"]["worker_1"]["trace"], np.arange(step))
    assert dones.all() and all(info["episode"]["is_success"] for info in infos)
    vec_env.close()


def test_successes_are_counted() -> None:
    model = make_tiny(MAPPO, told_env(team_info_keys="is_success")).learn(16)
    # Of what the log's rollout/success_rate is the mean
    assert list(model.ep_success_buffer) == [True] * 5


def test_infos_are_copies() -> None:
    env = told_env()
    shared: dict[str, Any] = {"step": 0}
    env.parallel_env._tell = lambda agents: (Shift._tell(env.parallel_env, agents)[0], dict.fromkeys(agents, shared))
    _, info = env.reset()
    shared["step"] = 1
    assert info == {"agent_infos": {"worker_0": {"step": 0}, "worker_1": {"step": 0}}}


def test_what_the_team_shares_may_be_unknown() -> None:
    env = told_env(team_info_keys="score")
    shared = {"score": np.nan}
    env.parallel_env._tell = lambda agents: (Shift._tell(env.parallel_env, agents)[0], dict.fromkeys(agents, shared))
    assert np.isnan(env.reset()[1]["score"])


def test_what_is_not_the_teams_is_refused() -> None:
    with pytest.raises(ValueError, match=r"team_info_keys='episode' names \['episode'\], which the info already has"):
        told_env(team_info_keys="episode")
    env = told_env(team_info_keys=["trace", "done"])
    env.reset()
    with pytest.raises(ValueError, match=r"names 'done', .* differ: \{'worker_0': 0, 'worker_1': 1\}.*agent_infos"):
        env.step(np.zeros(2, int))


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


def joint_observation(env: ParallelEnv, observations: dict) -> dict[str, np.ndarray]:
    """The joint observation of mpe2's environments, put together here, with a batch axis of 1."""
    rows = pad_observations([observations[agent] for agent in env.possible_agents])
    return {
        "observation": rows[None],
        "state": env.state().astype(np.float32)[None],
        "agent_mask": np.ones((1, len(rows)), np.int8),
    }


@pytest.mark.parametrize("suite", [simple_spread_v3, simple_speaker_listener_v4])
@over_algorithms
def test_evaluate_policy_counts_the_episodes_of_the_bare_environment(algorithm: Algorithm, suite: Any) -> None:
    env = make_vec_env(lambda: PettingZooEnv(suite.parallel_env(max_cycles=7), team_reward="sum"), seed=5)
    model = make_tiny(algorithm, env)
    evaluation_env = make_vec_env(lambda: PettingZooEnv(suite.parallel_env(max_cycles=7), team_reward="sum"), seed=5)
    returns, lengths = evaluate_policy(model, evaluation_env, n_eval_episodes=3, return_episode_rewards=True)

    bare = suite.parallel_env(max_cycles=7)
    expected = []
    for seed in (5, None, None):
        observations, _ = bare.reset(seed=seed)
        expected.append(0.0)
        while bare.agents:
            action = model.predict(joint_observation(bare, observations), deterministic=True)[0][0]
            observations, rewards, _, _, _ = bare.step(
                {agent: int(own) for agent, own in zip(bare.possible_agents, action, strict=True)}
            )
            expected[-1] += sum(rewards.values())
    np.testing.assert_allclose(returns, expected, rtol=1e-5)
    assert lengths == [7, 7, 7] and len(set(returns)) == 3


def play_random(env: ParallelEnv, seed: int, n_actions: int) -> list[tuple[list[int], list[float]]]:
    """Who is alive after each step of an episode of random actions, and the rewards of all possible agents."""
    rng = np.random.default_rng(seed)
    agents = list(env.possible_agents)
    env.reset(seed=seed)
    history = []
    while env.agents:
        actions = dict(zip(agents, rng.integers(n_actions, size=len(agents)), strict=True))
        _, rewards, terminations, truncations, _ = env.step({agent: int(actions[agent]) for agent in env.agents})
        alive = [int(agent in terminations and not terminations[agent] and not truncations[agent]) for agent in agents]
        history.append((alive, [float(rewards.get(agent, 0.0)) for agent in agents]))
    return history


def test_knights_who_die_are_masked_and_keep_what_they_earned() -> None:
    history = play_random(pettingzoo.make("parallel", KNIGHTS, **CROWDED), seed=0, n_actions=6)
    env = PettingZooEnv(pettingzoo.make("parallel", KNIGHTS, **CROWDED), team_reward="sum")
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    total = 0.0
    for step, (alive, rewards) in enumerate(history):
        before = observation["agent_mask"]
        observation, reward, terminated, truncated, info = env.step(rng.integers(6, size=4))
        total += reward
        np.testing.assert_array_equal(observation["agent_mask"], alive)
        np.testing.assert_array_equal(info["agent_rewards"], rewards)
        assert not observation["observation"][(before == 0)].any()
        assert (terminated, truncated) == (step == len(history) - 1, False)
    deaths = [sum(alive[agent] for alive, _ in history) for agent in range(4)]
    # They died at different times, and had shot zombies before
    assert len(set(deaths)) > 1 and total == sum(sum(rewards) for _, rewards in history) > 0


def assert_saved_model_acts_alike(model: CooperativeOnPolicyAlgorithm, folder: Path) -> None:
    model.save(folder / "model")
    loaded = type(model).load(folder / "model", device="cpu")
    observation = model.get_env().reset()
    for _ in range(5):
        action, _ = model.predict(observation, deterministic=True)
        np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], action)
        observation, _, _, _ = model.get_env().step(action)


@over_algorithms
def test_knights_are_trained_saved_and_loaded(algorithm: Algorithm, tmp_path: Path) -> None:
    vec_env = make_joint_vec_env("pettingzoo", seed=0, env=KNIGHTS, **CROWDED)
    model = make_tiny(algorithm, vec_env, n_steps=160, batch_size=40).learn(160)
    alive = model.rollout_buffer.observations["agent_mask"]
    assert 0 < alive.mean() < 1
    # The dead took no part in the division
    if isinstance(model, CORAPPO):
        assert not model._allocate_credits(model._rollout())[th.as_tensor(alive == 0)].any()
    assert_saved_model_acts_alike(model, tmp_path)


@over_algorithms
def test_shifts_are_trained_saved_and_loaded(algorithm: Algorithm, tmp_path: Path) -> None:
    # Worker 0 is masked after 2 of 4 steps, worker 2 after 3. Shift fails on actions that are not allowed.
    ends = [(2, True), (4, False), (3, True)]
    model = make_tiny(algorithm, Shift(ends)).learn(64)
    masks = model.rollout_buffer.observations["agent_mask"].reshape(4, 4, 3)
    np.testing.assert_array_equal(masks, np.tile([[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 0]], (4, 1, 1)))
    assert_saved_model_acts_alike(model, tmp_path)
    model = algorithm.load(tmp_path / "model.zip", env=PettingZooEnv(Shift(ends), team_reward="sum"), device="cpu")
    # 6 + 6 + 5 + 2
    returns, lengths = evaluate_policy(model, model.get_env(), n_eval_episodes=2, return_episode_rewards=True)
    assert returns == [19.0, 19.0] and lengths == [4, 4]


@over_algorithms
def test_speaker_and_listener_are_trained_saved_and_loaded(algorithm: Algorithm, tmp_path: Path) -> None:
    # Unequal in what they observe and in how they act
    env = PettingZooEnv(simple_speaker_listener_v4.parallel_env(max_cycles=5, continuous_actions=False))
    assert_saved_model_acts_alike(make_tiny(algorithm, env).learn(32), tmp_path)


@over_algorithms
def test_a_game_of_turns(algorithm: Algorithm, tmp_path: Path) -> None:
    # An AECEnv in which agents act in turn, with masks of the free fields; it ends on an illegal move, with a warning.
    model = make_tiny(algorithm, pettingzoo.make("aec", "classic/tictactoe-v3"), n_steps=64, learning_rate=0.01).learn(256)
    observations, actions = model.rollout_buffer.observations, model.rollout_buffer.actions.astype(int)
    masks = observations["action_mask"].astype(bool)
    assert np.take_along_axis(masks, actions[..., None], axis=-1).all()
    # Whose turn it is not has no choice but its first action; nor has whose turn it is when a single field is left
    forced = masks.sum(axis=-1) == 1
    assert (forced & (actions == 0)).any(axis=-1).all()
    np.testing.assert_array_equal(model.rollout_buffer.log_probs[forced], 0.0)
    assert_saved_model_acts_alike(model, tmp_path)
    _, lengths = evaluate_policy(model, model.get_env(), n_eval_episodes=5, deterministic=False, return_episode_rewards=True)
    assert all(5 <= length <= 9 for length in lengths)


def test_turns_are_those_of_the_aec_environment() -> None:
    aec = pettingzoo.make("aec", "classic/tictactoe-v3")
    env = PettingZooEnv(pettingzoo.make("aec", "classic/tictactoe-v3"))
    observation, _ = env.reset(seed=0)
    aec.reset(seed=0)
    # Player 1 fills the left column; what the one who waits is said to do is not done
    for turn, field in enumerate((0, 3, 1, 4, 2)):
        waiting = (turn + 1) % 2
        np.testing.assert_array_equal(observation["action_mask"][waiting], [1, 0, 0, 0, 0, 0, 0, 0, 0])
        mover = aec.agent_selection
        np.testing.assert_array_equal(observation["action_mask"][1 - waiting], aec.observe(mover)["action_mask"])
        aec.step(field)
        observation, reward, terminated, _, info = env.step(np.array([field, 8] if turn % 2 == 0 else [8, field]))
        np.testing.assert_array_equal(observation["observation"][0], aec.observe("player_1")["observation"].ravel())
        assert terminated == (turn == 4)
    np.testing.assert_array_equal(info["agent_rewards"], [1, -1])
    assert reward == 0


class Nobody(ParallelEnv):
    """Two agents that may do nothing, one of which is never there; they observe nothing."""

    metadata = {"name": "nobody"}  # noqa: RUF012 - PettingZoo's interface
    possible_agents = ["present", "absent"]  # noqa: RUF012 - as above

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Dict(observation=spaces.Box(0.0, 1.0, (1,)), action_mask=spaces.MultiBinary(3))

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.agents = ["present"]
        return self._tell(), {"present": {}}

    def _tell(self) -> dict:
        return {"present": {"observation": np.ones(1, np.float32), "action_mask": np.zeros(3, np.int8)}}

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        assert actions == {"present": 0}
        self.agents = []
        return self._tell(), {"present": 1.0}, {"present": True}, {"present": False}, {"present": {}}


def test_agents_without_choice_and_agents_that_never_come() -> None:
    env = PettingZooEnv(Nobody())
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation["agent_mask"], [1, 0])
    np.testing.assert_array_equal(observation["action_mask"], [[1, 0, 0], [1, 1, 1]])
    # All agents that were in the episode terminated
    assert env.step(np.array([0, 2]))[1:4] == (0.5, True, False)


class Lap(ParallelEnv):
    """
    Two agents are carried around a ring of four positions, one a step, each is paid 1 for the completed lap, at which the
    episode ends. See ``tests.joint_games.Lap``, which is this without PettingZoo.

    :param truncates: Whether the end is a time limit
    """

    metadata = {"name": "lap"}  # noqa: RUF012 - PettingZoo's interface
    possible_agents = ["left", "right"]  # noqa: RUF012 - as above

    def __init__(self, truncates: bool) -> None:
        self.truncates = truncates

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(0.0, 1.0, (4,))

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(2)

    def _all(self, value: Any) -> dict[str, Any]:
        return dict.fromkeys(self.possible_agents, value)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.agents = list(self.possible_agents)
        self.position = 0
        return self._all(np.eye(4, dtype=np.float32)[0]), self._all({})

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        self.position = (self.position + 1) % 4
        home = self.position == 0
        if home:
            self.agents = []
        observations = self._all(np.eye(4, dtype=np.float32)[self.position])
        ends = self._all(home and not self.truncates), self._all(home and self.truncates)
        return observations, self._all(float(home)), *ends, self._all({})


# The algorithms' own part in it is in tests/test_learning.py. Limits are where these two differ: one takes the team's reward,
# the other the agents' own
@pytest.mark.parametrize(("algorithm", "truncates"), [(CORAPPO, False), (CORAPPO, True), (IPPO, True)])
def test_a_time_limit_is_bootstrapped_and_a_termination_is_not(algorithm: Algorithm, truncates: bool) -> None:
    gamma = 0.9
    # Steps to the end of the lap, discounted; a time limit lets the laps go on
    expected = gamma ** np.arange(3, -1, -1) / (1 - gamma**4 if truncates else 1)
    model = algorithm(
        "MlpPolicy",
        make_vec_env(lambda: PettingZooEnv(Lap(truncates)), n_envs=16),
        **{"n_steps": 8, "batch_size": 64, "n_epochs": 5, "learning_rate": 0.02, "gamma": gamma},
        **{"vf_coef": 1.0, "max_grad_norm": 10.0},
        # No action is better than another: what is left of the credits is noise, which must not end exploration
        normalize_advantage=False,
        ent_coef=0.1,
        policy_kwargs={"net_arch": {"pi": [16], "vf": [16], "qf": [32]}},
        seed=0,
        device="cpu",
        # Beyond a time limit, values are learned from values
    ).learn(2048 if truncates else 1024)
    observations = {"observation": th.eye(4)[:, None].repeat(1, 2, 1), "agent_mask": th.ones(4, 2)}
    with th.no_grad():
        np.testing.assert_allclose(model.policy.predict_values(observations)[:, 0], expected, rtol=0.05)
        if algorithm in ALGORITHMS_WITH_Q:
            actions = model.policy.action_features(th.zeros(4, 2, dtype=th.long))
            estimates = model.policy.q_values(model.policy.split_observation(observations), actions)
            np.testing.assert_allclose(estimates, expected, rtol=0.08)


def test_equal_seeds_give_equal_rollouts() -> None:
    def rollout(seed: int, vec_env_cls: Any = DummyVecEnv) -> dict[str, np.ndarray]:
        vec_env = make_joint_vec_env("mpe2/simple_spread", n_envs=2, vec_env_cls=vec_env_cls, max_cycles=5)
        buffer = make_tiny(CORAPPO, vec_env, seed=seed).learn(32).rollout_buffer
        vec_env.close()
        state = buffer.observations["state"]
        return {"state": state, "actions": buffer.actions, "returns": buffer.returns, "advantages": buffer.advantages}

    first, other = rollout(seed=3), rollout(seed=4)
    for again in (rollout(seed=3), rollout(seed=3, vec_env_cls=SubprocVecEnv)):
        for name, array in first.items():
            np.testing.assert_array_equal(array, again[name], err_msg=name)
    # Worlds differ in every step, those of the second and later episodes included, and so do seeds
    assert not (first["state"][0] == first["state"][1]).all(axis=-1).any()
    assert not (first["state"] == other["state"]).all(axis=-1).any()


@pytest.mark.parametrize("suite", [simple_spread_v3, simple_speaker_listener_v4])
def test_an_aec_environment_is_its_parallel_one(suite: Any) -> None:
    assert isinstance(suite.env(), AECEnv)
    from_aec, from_parallel = (PettingZooEnv(env) for env in (suite.env(max_cycles=4), suite.parallel_env(max_cycles=4)))
    assert from_aec.observation_space == from_parallel.observation_space
    from_aec.action_space.seed(1)
    told = [env.reset(seed=1)[0] for env in (from_aec, from_parallel)]
    for _ in range(4):
        for name, value in told[0].items():
            np.testing.assert_array_equal(value, told[1][name])
        action = from_aec.action_space.sample()
        steps = [env.step(action) for env in (from_aec, from_parallel)]
        told = [step[0] for step in steps]
        assert steps[0][1:4] == steps[1][1:4]
    assert steps[0][3]


@over_algorithms
def test_an_aec_environment_is_trained_on_as_it_is(algorithm: Algorithm) -> None:
    model = make_tiny(algorithm, simple_speaker_listener_v4.env(max_cycles=5, continuous_actions=True)).learn(16)
    assert model.action_space.shape == (2, 5) and model.n_agents == 2


def test_images_are_refused_with_the_remedy() -> None:
    pong = "butterfly/cooperative_pong-v6"
    images = pettingzoo.make("parallel", pong, render_mode="rgb_array")
    with pytest.raises(ValueError, match=r"'paddle_0' observes images, Box\(0, 255, .*supersuit.*resize_v1.*flatten_v0"):
        PettingZooEnv(images)
    # As the error says
    images = supersuit.flatten_v0(supersuit.resize_v1(supersuit.color_reduction_v0(images, "full"), 6, 5))
    with pytest.raises(ValueError, match=r"state is an image, uint8 of shape .*use_state=False"):
        PettingZooEnv(images)
    env = PettingZooEnv(images, use_state=False)
    assert env.observation_space["observation"].shape == (2, 30) and "state" not in env.observation_space.spaces
    env.close()


@pytest.mark.parametrize(
    ("space", "refused"),
    [
        (spaces.Dict(camera=spaces.Box(0, 255, (8, 8), np.uint8), speed=spaces.Box(0, 1, (1,))), True),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 255, (8, 8, 3), np.uint8)]), True),
        (spaces.Box(0, 1, (3, 3, 2), np.uint8), False),
        (spaces.Box(0, 255, (128,), np.uint8), False),
        (spaces.Box(0, 255, (4, 4), np.float32), False),
    ],
)
def test_what_is_an_image(space: spaces.Space, refused: bool) -> None:
    class Camera(Lap):
        def observation_space(self, agent: str) -> spaces.Space:
            return space

        def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
            super().reset(seed, options)
            return self._all(space.sample()), self._all({})

    if refused:
        with pytest.raises(ValueError, match="'left' observes images"):
            PettingZooEnv(Camera(truncates=True))
    else:
        PettingZooEnv(Camera(truncates=True)).reset()


def test_pictures_pass_through() -> None:
    env = PettingZooEnv(simple_spread_v3.parallel_env(render_mode="rgb_array"))
    bare = simple_spread_v3.parallel_env(render_mode="rgb_array")
    assert env.render_mode == "rgb_array" and "rgb_array" in env.metadata["render_modes"]
    env.reset(seed=0)
    bare.reset(seed=0)
    np.testing.assert_array_equal(env.render(), bare.render())
    env.close()
    bare.close()


STACK = {"supersuit.frame_stack_v1": {"stack_size": 2}}


@pytest.mark.parametrize(
    "make",
    [
        lambda: PettingZooEnv(supersuit.frame_stack_v1(simple_spread_v3.parallel_env(), 2)),
        lambda: PettingZooEnv(supersuit.frame_stack_v1(aec_to_parallel(simple_spread_v3.env()), 2)),
        lambda: gym.make("mpe2/simple_spread", suite_wrappers=STACK),
        lambda: gym.make("pettingzoo", env="mpe2.simple_spread_v3:env", suite_wrappers=[STACK]),
    ],
    ids=["around ParallelEnv", "around a conversion", "by name", "by name, of an AECEnv"],
)
def test_supersuit_wraps_the_suite(make: Callable[[], gym.Env]) -> None:
    env, bare = make(), PettingZooEnv(simple_spread_v3.parallel_env())
    observation, _ = env.reset(seed=2)
    now = bare.reset(seed=2)[0]["observation"]
    before = np.zeros_like(now)
    for action in ([1, 2, 3], [4, 0, 1], [2, 2, 2]):
        np.testing.assert_array_equal(observation["observation"], np.concatenate([before, now], axis=1))
        observation, before = env.step(np.array(action))[0], now
        now = bare.step(np.array(action))[0]["observation"]


def test_supersuit_wrappers_in_a_row() -> None:
    wrappers = ["supersuit.dtype_v0", {"supersuit.clip_reward_v0": {"lower_bound": -0.1}}, "supersuit.flatten_v0"]
    with pytest.raises(TypeError, match="dtype"):
        gym.make("mpe2/simple_spread", suite_wrappers=wrappers)
    wrappers[0] = {"supersuit.dtype_v0": {"dtype": "float32"}}
    env = make_joint_vec_env("mpe2/simple_spread", suite_wrappers=wrappers, team_reward="sum", seed=0)
    env.reset()
    # The agents are further than that from their landmarks
    assert env.step(np.zeros((1, 3), int))[1] == pytest.approx(-0.3)


@pytest.mark.parametrize(
    ("wrappers", "said"),
    [
        ("supersuit.frame_stack_v0", "frame_stack_v0 is now deprecated, use frame_stack_v1"),
        (["frame_stack_v1"], "Give its full name"),
        (["nowhere.frame_stack_v1"], "No module named 'nowhere'"),
        (["supersuit.pettingzoo_env_to_vec_env_v1"], "Leave vector wrappers out"),
        ([{**STACK, "supersuit.flatten_v0": {}}], "has 2 names"),
    ],
)
def test_wrappers_that_are_none(wrappers: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make_joint_vec_env("mpe2/simple_spread", suite_wrappers=wrappers)


def test_wrappers_that_would_observe_the_past_are_refused() -> None:
    remembering = supersuit.dtype_v0(supersuit.frame_stack_v1(simple_spread_v3.env(), 2), "float32")
    with pytest.raises(ValueError, match=r"FrameStackModifier.*Convert first"):
        PettingZooEnv(remembering)
    with pytest.raises(ValueError, match=r"FrameStackModifier.*Convert first"):
        PettingZooEnv(aec_to_parallel(remembering))
    PettingZooEnv(supersuit.dtype_v0(simple_spread_v3.env(), "float32"))


@pytest.mark.parametrize("task", MPE2_TASKS)
def test_tasks_of_mpe2_have_an_id(task: str) -> None:
    assert {f"mpe2/{task}", "pettingzoo"} <= set(registered_ids())
    check_joint_env(make_joint_vec_env(f"mpe2/{task}", n_envs=2, seed=0, max_cycles=3))


@pytest.mark.parametrize(
    ("module", "said"),
    [("simple_tag_v3", "adversary_0, adversary_1, adversary_2 against agent_0, "), ("simple_crypto_v3", "eve_0 against ")],
)
def test_opposed_teams_are_announced(module: str, said: str) -> None:
    with pytest.warns(UserWarning, match=f"opposed teams, {said}.*the mean over both sides.*IPPO") as caught:
        make_joint_vec_env("pettingzoo", env=f"mpe2.{module}:parallel_env")
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (None, "does not say which"),
        ("classic/tictactoe_v9", "Available version: v3"),
        ("mpe2.nothing:parallel_env", "No module named 'mpe2.nothing'"),
        ("mpe2.simple_spread_v3:nothing", "no attribute 'nothing'"),
    ],
)
def test_environments_that_are_none(env: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(said)}.*mpe2\.simple_spread_v3:parallel_env"):
        make_joint_vec_env("pettingzoo", env=env)


def test_normalization_leaves_the_masks_alone() -> None:
    vec_env = VecNormalize(as_joint_vec_env(Shift([(2, True), (4, False)])), norm_obs_keys=["observation"])
    model = make_tiny(CORAPPO, vec_env).learn(32)
    assert set(np.unique(model.rollout_buffer.observations["agent_mask"])) == {0, 1}


SETTINGS = {
    "default": {"policy": "MlpPolicy", "n_envs": 2, "n_timesteps": 32, "n_steps": 8, "batch_size": 8, "n_epochs": 1},
    "mpe2/simple_spread": {
        "env_kwargs": {
            "max_cycles": 6,
            "team_reward": "sum",
            "suite_wrappers": [{"supersuit.dtype_v0": {"dtype": "float32"}}, {"supersuit.frame_stack_v1": {"stack_size": 3}}],
        },
        "normalize": True,
    },
    "pettingzoo": {
        "env_kwargs": {"env": KNIGHTS, "max_cycles": 6, "use_state": False, "suite_wrappers": "supersuit.flatten_v0"},
        "frame_stack": 2,
    },
}


@pytest.mark.parametrize(("env_id", "observed"), [("mpe2/simple_spread", (3, 54)), ("pettingzoo", (4, 270))])
def test_the_zoo_reads_suite_and_wrappers_from_its_settings(env_id: str, observed: tuple[int, int], tmp_path: Path) -> None:
    settings = {env_id: {**SETTINGS["default"], **SETTINGS[env_id]}}
    (tmp_path / "settings.yml").write_text(yaml.safe_dump(settings))
    arguments = ("--algo", "cora_ppo", "--env", env_id, "--conf-file", "settings.yml", "--seed", "1")
    evaluation = ("--eval-freq", "32", "--eval-episodes", "2", "--n-eval-envs", "1")
    output = run_zoo("train.py", *arguments, *evaluation, folder=tmp_path).stdout
    assert "length 6.0 +- 0.0, 20 episodes" in output
    (saved,) = (path for path in tmp_path.glob("logs/cora_ppo/**/*.zip") if path.stem == env_id.replace("/", "-"))
    assert CORAPPO.load(saved).observation_space["observation"].shape == observed
    enjoyed = run_zoo("enjoy.py", "--algo", "cora_ppo", "--env", env_id, "--eval-episodes", "2", folder=tmp_path).stdout
    assert "length 6.0 +- 0.0, 2 episodes" in enjoyed
