"""VMAS through VmasVecEnv is VMAS, with episodes, and with a random stream of its own."""

import os
import sys
from subprocess import CompletedProcess
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecCheckNan, VecMonitor, VecNormalize

from sb3_cora import IPPO, MAPPO
from sb3_cora.common.env_checker import check_joint_env
from sb3_cora.common.env_util import make_joint_vec_env, registered_ids
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from tests.algorithms import make_tiny
from tests.processes import run_python

vmas = pytest.importorskip("vmas")

from vmas.simulator.core import Agent, World  # noqa: E402
from vmas.simulator.environment import Environment  # noqa: E402
from vmas.simulator.scenario import BaseScenario  # noqa: E402

from sb3_cora.envs.vmas import VmasEnv, VmasVecEnv  # noqa: E402


def random_actions(vec_env: VmasVecEnv, n_steps: int, seed: int = 0) -> np.ndarray:
    """``(n_steps, num_envs, *action shape)``, uniform in the action space."""
    space = vec_env.action_space
    shape = (n_steps, vec_env.num_envs, *space.shape)
    return np.random.default_rng(seed).uniform(space.low, space.high, shape).astype(np.float32)


def play(vec_env: VmasVecEnv, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All observations, the first included, and all rewards."""
    observations, rewards = [vec_env.reset()], []
    for action in actions:
        observation, reward, _, _ = vec_env.step(action)
        # Not copied, because what step() has given must not change with later steps.
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), np.array(rewards)


@pytest.mark.parametrize(
    ("scenario", "num_envs"), [("give_way", 1), ("multi_give_way", 3), ("navigation", 3), ("simple_speaker_listener", 3)]
)
def test_an_episode_is_that_of_bare_vmas(scenario: str, num_envs: int) -> None:
    n_steps = 20
    vec_env = VmasVecEnv(scenario, num_envs, max_steps=n_steps + 1, seed=5)
    actions = random_actions(vec_env, n_steps)
    observations, rewards = play(vec_env, actions)

    bare = vmas.make_env(scenario, num_envs=num_envs)
    bare_observations = [bare.reset(seed=5)]
    bare_rewards = []
    for action in actions:
        own = [th.from_numpy(action[:, i, : space.shape[0]].copy()) for i, space in enumerate(bare.action_space)]
        observation, reward, _, _ = bare.step(own)
        bare_observations.append(observation)
        bare_rewards.append(th.stack(reward).mean(dim=0))

    np.testing.assert_allclose(rewards, np.array(bare_rewards), rtol=1e-6, atol=1e-7)
    for i in range(bare.n_agents):
        own = np.array([observation[i] for observation in bare_observations])
        np.testing.assert_array_equal(observations[:, :, i, : own.shape[-1]], own)
        assert not observations[:, :, i, own.shape[-1] :].any()


def test_agent_rewards_and_their_sum() -> None:
    mean, total = (VmasVecEnv("navigation", 3, seed=0, team_reward=how, shared_rew=False) for how in ("mean", "sum"))
    action = random_actions(mean, 1)[0]
    mean.reset(), total.reset()
    _, mean_rewards, _, infos = mean.step(action)
    _, total_rewards, _, _ = total.step(action)
    own = np.array([info["agent_rewards"] for info in infos])
    assert own.shape == (3, 4) and own.dtype == mean_rewards.dtype == np.float32
    assert len(np.unique(own)) > 3
    np.testing.assert_allclose(mean_rewards, own.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(total_rewards, own.sum(axis=1), rtol=1e-6)


def test_the_terminal_observation_is_the_true_last_one() -> None:
    vec_env, unlimited = VmasVecEnv("give_way", 2, max_steps=20, seed=1), VmasVecEnv("give_way", 2, seed=1)
    actions = random_actions(unlimited, 20)
    expected, _ = play(unlimited, actions)
    vec_env.reset()
    for step, action in enumerate(actions, start=1):
        observations, _, dones, infos = vec_env.step(action)
        assert dones.tolist() == [step == 20] * 2
    for world, info in enumerate(infos):
        assert info["TimeLimit.truncated"] is True
        np.testing.assert_array_equal(info["terminal_observation"], expected[-1][world])
        # And what step() gave is the start of the next episode: back within the spawn noise of 0.02, at rest.
        np.testing.assert_allclose(observations[world], [[-2, 0, 0, 0], [2, 0, 0, 0]], atol=0.02)


def test_termination_is_no_truncation() -> None:
    # The goal of an agent that need not move is reached at once, and at the time limit as well.
    vec_env = VmasVecEnv("navigation", 2, max_steps=1, seed=0)
    vec_env.reset()
    with th.inference_mode():
        for agent in vec_env.worlds.environment.agents:
            agent.goal.set_pos(agent.state.pos[0], batch_index=0)
    _, _, dones, infos = vec_env.step(np.zeros((2, 4, 2), np.float32))
    assert dones.tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]


@pytest.mark.parametrize("scenario", ["give_way", "navigation"])
def test_a_world_is_reset_by_itself(scenario: str) -> None:
    """World 1 starts later, so that it ends by itself; the others live on as if nothing had happened."""
    vec_env, untouched = (VmasVecEnv(scenario, 3, max_steps=steps, seed=2) for steps in (8, None))
    actions = random_actions(vec_env, 8)
    expected, _ = play(untouched, actions)
    vec_env.reset()
    with th.inference_mode():
        vec_env.worlds.environment.steps[1] = 3
    for step, action in enumerate(actions, start=1):
        observations, _, dones, infos = vec_env.step(action)
        assert dones.tolist() == [step == 8, step == 5, step == 8]
        if step < 8:
            np.testing.assert_array_equal(observations[[0, 2]], expected[step][[0, 2]])
        if step == 5:
            np.testing.assert_array_equal(infos[1]["terminal_observation"], expected[5][1])
            assert "terminal_observation" not in infos[0]
            assert not np.array_equal(observations[1], expected[5][1])
            # At rest: the velocities of both agents.
            assert not observations[1][:, 2:4].any()


@pytest.mark.parametrize("scenario", ["give_way", "navigation", "balance"])
def test_worlds_differ(scenario: str) -> None:
    observations = VmasVecEnv(scenario, 4, seed=0).reset()
    assert len(np.unique(observations.reshape(4, -1), axis=0)) == 4


def test_seeds() -> None:
    vec_env = VmasVecEnv("give_way", 2, max_steps=3, seed=7)
    first = vec_env.reset()
    assert not np.array_equal(first, vec_env.reset())
    vec_env.seed(7)
    np.testing.assert_array_equal(first, vec_env.reset())
    vec_env.seed(8)
    assert not np.array_equal(first, vec_env.reset())
    assert not np.array_equal(VmasVecEnv("give_way", 2).reset(), VmasVecEnv("give_way", 2).reset())


def test_vmas_streams_do_not_touch_each_other() -> None:
    """Bit-equal runs, whether or not other VMAS environments are made, reset, stepped and seeded in between."""
    actions = random_actions(VmasVecEnv("navigation", 2), 12)

    def run(disturbed: bool) -> list[np.ndarray]:
        vec_env = VmasVecEnv("navigation", 2, max_steps=4, seed=3)
        observations = [vec_env.reset()]
        evaluation = VmasVecEnv("give_way", 2, max_steps=5, seed=9, obs_noise=0.1)
        for step, action in enumerate(actions):
            observations.append(vec_env.step(action)[0])
            if disturbed:
                if step % 3 == 0:
                    evaluation.reset()
                evaluation.step(np.zeros((2, 2, 2), np.float32))
                vmas.make_env("navigation", num_envs=1, seed=step).reset()
        return observations

    np.testing.assert_array_equal(run(disturbed=False), run(disturbed=True))


def test_a_bare_vmas_environment_is_not_disturbed() -> None:
    def run(disturbed: bool) -> list[th.Tensor]:
        bare = vmas.make_env("navigation", num_envs=2, seed=4)
        if disturbed:
            play(vec_env := VmasVecEnv("give_way", 2, max_steps=2, seed=0), random_actions(vec_env, 3))
        return bare.reset()

    for undisturbed, disturbed in zip(run(False), run(True), strict=True):
        assert th.equal(undisturbed, disturbed)


def test_the_random_numbers_of_the_process_are_not_drawn_from() -> None:
    th.manual_seed(0)
    expected = th.rand(3)
    th.manual_seed(0)
    before = np.random.get_state()[1].copy()
    play(vec_env := VmasVecEnv("navigation", 2, max_steps=2), random_actions(vec_env, 3))
    assert th.equal(th.rand(3), expected)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def script(observation: np.ndarray, phase: int) -> tuple[np.ndarray, int]:
    """
    A solution of give_way: the first agent steps into the niche in the middle and lets the second pass.

    :param observation: ``(2, 4)``, position and velocity of each agent
    :param phase: 0 to the middle, 1 up into the niche, 2 the other passes, 3 down, 4 to the goal
    :return: the action, ``(2, 2)``, and the next phase
    """
    (x, y), (other_x, _) = observation[:, :2]
    arrived = (x > -0.07, y > 0.37, other_x < -0.33, y < 0.10, False)[phase]
    phase += int(arrived)
    first = ((0.0, 0.0), (0.0, 0.5), (0.0, 0.5), (0.0, 0.0), (2.29, 0.0))[phase]
    second = (0.42, 0.0) if phase < 2 else (-2.29, 0.0)
    velocity = 4 * (np.array([first, second]) - observation[:, :2])
    speed = np.linalg.norm(velocity, axis=1, keepdims=True)
    return (velocity / np.maximum(speed / 0.5, 1)).clip(-0.5, 0.5).astype(np.float32), phase


def test_a_scripted_team_solves_give_way_in_its_300_steps() -> None:
    """Both arrive: the progress, 8.58 less what is left within the goals' radius, and 0.01 for each step that they stay."""
    vec_env = make_joint_vec_env("give_way", n_envs=2, seed=0)
    observations = vec_env.reset()
    phases = [0, 0]
    for step in range(1, 301):
        actions, phases = zip(*map(script, observations, phases), strict=True)
        observations, _, dones, infos = vec_env.step(np.stack(actions))
        assert dones.tolist() == [step == 300] * 2
    for info in infos:
        assert info["TimeLimit.truncated"] and 8.6 < info["episode"]["r"] < 8.9


def test_standing_still_earns_nothing_in_give_way() -> None:
    _, rewards = play(VmasVecEnv("give_way", 2, seed=0), np.zeros((10, 2, 2, 2), np.float32))
    assert not rewards.any()


def test_discrete_actions() -> None:
    vec_env = VmasVecEnv("simple_speaker_listener", 2, max_steps=3, seed=0, continuous_actions=False)
    # Nine moves each (three an axis), times three words for the speaker.
    assert vec_env.action_space == gym.spaces.MultiDiscrete([27, 9])
    check_joint_env(vec_env)


def test_an_environment_already_made() -> None:
    for settings in ({}, {"dict_spaces": True}, {"terminated_truncated": True}):
        environment = vmas.make_env("navigation", num_envs=2, max_steps=3, seed=0, n_agents=3, **settings)
        vec_env = VmasVecEnv(environment)
        assert vec_env.observation_space.shape == (3, 18) and vec_env.worlds.environment is environment
        check_joint_env(vec_env)
        vec_env.reset()
        for _ in range(3):
            _, _, dones, infos = vec_env.step(np.zeros((2, 3, 2), np.float32))
        assert dones.all() and all(info["TimeLimit.truncated"] for info in infos)
        assert environment.terminated_truncated == settings.get("terminated_truncated", False)


def test_environments_already_made_have_random_numbers_of_their_own() -> None:
    def starts(*seeds: int) -> list[np.ndarray]:
        made = [vmas.make_env("navigation", num_envs=2, seed=seed) for seed in seeds]
        return [VmasVecEnv(environment).reset() for environment in made]

    # Whether or not they were made with the same seed, and yet the seeds decide
    for first, second in (starts(0, 1), starts(0, 0)):
        assert (first != second).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(starts(0, 1), starts(0, 1))


@pytest.mark.parametrize("max_steps", [0, -5])
def test_episodes_have_steps(max_steps: int) -> None:
    with pytest.raises(ValueError, match=f"max_steps={max_steps}, expected at least 1, or None"):
        VmasVecEnv("give_way", 2, max_steps=max_steps)


def test_an_environment_already_made_without_a_limit_never_truncates() -> None:
    vec_env = VmasVecEnv(vmas.make_env("give_way", num_envs=1, seed=0))
    vec_env.reset()
    assert not any(vec_env.step(np.zeros((1, 2, 2), np.float32))[2][0] for _ in range(5))


def test_settings_that_come_too_late() -> None:
    environment = vmas.make_env("give_way", num_envs=2, max_steps=5)
    for settings in ({"num_envs": 3}, {"max_steps": 7}, {"observe_rel_pos": True}):
        with pytest.raises(ValueError, match=r"already made.*vmas\.make_env"):
            VmasVecEnv(environment, **settings)
    with pytest.raises(ValueError, match="num_envs=2"):
        VmasEnv(environment)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"'giveway'. Did you mean give_way"):
        VmasVecEnv("giveway")
    with pytest.raises(ValueError, match="'max'"):
        VmasVecEnv("give_way", team_reward="max")
    with pytest.raises(ValueError, match="multidiscrete_actions=True"):
        VmasVecEnv(vmas.make_env("simple", num_envs=1, continuous_actions=False, multidiscrete_actions=True))


@pytest.mark.parametrize("value", [0.6, np.nan])
def test_actions_outside_the_space_are_refused(value: float) -> None:
    vec_env = VmasVecEnv("give_way", 2, seed=0)
    vec_env.reset()
    with pytest.raises(ValueError, match="Clip them"):
        vec_env.step(np.full((2, 2, 2), value, np.float32))


def test_attributes_and_methods() -> None:
    vec_env = VmasVecEnv("give_way", 3, max_steps=4, seed=0, render_mode="rgb_array")
    assert vec_env.get_attr("max_steps", indices=[0, 2]) == [4, 4]
    assert vec_env.get_attr("render_mode", indices=1) == ["rgb_array"]
    vec_env.set_attr("max_steps", 6)
    assert vec_env.get_attr("max_steps") == [6, 6, 6]
    with pytest.raises(ValueError, match=r"without the worlds \[1, 2\]"):
        vec_env.set_attr("max_steps", 9, indices=0)
    assert not vec_env.has_attr("no_such_attribute")
    positions = vec_env.env_method("get_random_actions", indices=[0])
    assert len(positions) == 1 and len(positions[0]) == 2
    assert vec_env.env_is_wrapped(gym.wrappers.TimeLimit) == [False, False, False]


def test_random_methods_of_one_environment_leave_the_others_alone() -> None:
    state = [th.clone(Environment.vmas_random_state[0]), *Environment.vmas_random_state[1:]]
    VmasVecEnv("give_way", 1, seed=0).env_method("get_random_actions")
    assert th.equal(state[0], Environment.vmas_random_state[0])


# VMAS states no bounds of what its agents observe, and its actions are in its own units.
@pytest.mark.filterwarnings("ignore:.*(A Box observation space|normalized Box action|not normalized)")
def test_the_environment_of_one_world() -> None:
    env = gym.make("give_way", max_steps=5)
    assert isinstance(env.unwrapped, VmasEnv)
    check_joint_env(env)
    check_env(env, warn=False)
    gymnasium_check_env(env.unwrapped, skip_render_check=True)


def test_the_seed_of_an_environment_is_that_of_its_first_reset() -> None:
    first = VmasEnv("navigation", seed=5).reset()[0]
    np.testing.assert_array_equal(first, VmasEnv("navigation", seed=4).reset(seed=5)[0])
    np.testing.assert_array_equal(first, VmasVecEnv("navigation", 1, seed=5).reset()[0])


def test_one_world_is_the_batch_of_one() -> None:
    env, vec_env = VmasEnv("navigation", max_steps=6), VmasVecEnv("navigation", 1, max_steps=6, seed=11)
    actions = random_actions(vec_env, 6)
    expected, rewards = play(vec_env, actions)
    observation, _ = env.reset(seed=11)
    np.testing.assert_array_equal(observation, expected[0][0])
    for step, action in enumerate(actions):
        observation, reward, terminated, truncated, info = env.step(action[0])
        assert reward == pytest.approx(rewards[step][0]) and info["agent_rewards"].shape == (4,)
        assert not terminated and truncated == (step == 5)


SLOW_SCENARIOS = {"vmas/road_traffic", "vmas/sampling"}


@pytest.mark.parametrize("env_id", sorted({name for name in registered_ids() if name.startswith("vmas/")} - SLOW_SCENARIOS))
# vel_control warns of its own controller.
@pytest.mark.filterwarnings("ignore:Force limits not specified")
# Some are games between two teams, see test_opposed_teams_are_announced.
@pytest.mark.filterwarnings("ignore:The agents are opposed teams")
def test_every_scenario_is_a_joint_environment(env_id: str) -> None:
    check_joint_env(make_joint_vec_env(env_id, n_envs=2, seed=0, max_steps=2))


@pytest.mark.slow
@pytest.mark.parametrize("env_id", sorted(SLOW_SCENARIOS))
def test_every_slow_scenario_is_a_joint_environment(env_id: str) -> None:
    check_joint_env(make_joint_vec_env(env_id, n_envs=2, seed=0, max_steps=2))


def test_dicts_of_agents_are_in_the_agents_order() -> None:
    # The speaker comes first, and would not by the alphabet. It observes 3 numbers and the listener 11
    vec_envs = [
        VmasVecEnv(vmas.make_env("simple_speaker_listener", num_envs=2, dict_spaces=dict_spaces, seed=0), seed=1)
        for dict_spaces in (False, True)
    ]
    assert vec_envs[0].action_space == vec_envs[1].action_space
    assert vec_envs[0].observation_space == vec_envs[1].observation_space
    actions = random_actions(vec_envs[0], 3)
    for expected, found in zip(play(vec_envs[0], actions), play(vec_envs[1], actions), strict=True):
        np.testing.assert_array_equal(expected, found)


LEARNING_FOOTBALL = {"n_blue_agents": 2, "n_red_agents": 2, "ai_red_agents": False}


@pytest.mark.parametrize(
    ("scenario", "said", "settings"),
    [
        ("simple_tag", "adversary_0, adversary_1, adversary_2 against agent_0, ", {}),
        ("simple_crypto", "eve_0 against bob_0, alice_0, ", {}),
        ("football", "agent_red_0, agent_red_1 against agent_blue_0, agent_blue_1, ", LEARNING_FOOTBALL),
    ],
)
@pytest.mark.parametrize("adapter", [VmasEnv, VmasVecEnv])
def test_opposed_teams_are_announced(adapter: Any, scenario: str, said: str, settings: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match=f"opposed teams, {said}.*the sum over both sides.*IPPO") as caught:
        adapter(scenario, team_reward="sum", **settings)
    assert len(caught) == 1


def test_a_team_against_a_script_is_one_team() -> None:
    # Warnings are errors here
    assert VmasEnv("football", n_blue_agents=2, n_red_agents=2).observation_space.shape[0] == 2


class Lap(BaseScenario):
    """
    Two agents are carried around a ring of four positions, one a step, and paid 1 for each completed lap. What they do
    has no effect. The lap ends the episode, or does not, and then a time limit of four steps may.

    :param ends: whether a completed lap is the end
    """

    def make_world(self, batch_dim: int, device: th.device, **kwargs: Any) -> World:
        self.ends = kwargs["ends"]
        world = World(batch_dim, device)
        for number in range(2):
            world.add_agent(Agent(name=f"agent_{number}", movable=False, collide=False))
        self.position = th.zeros(batch_dim, dtype=th.long, device=device)
        return world

    def reset_world_at(self, env_index: int | None = None) -> None:
        self.position[slice(None) if env_index is None else env_index] = 0

    def pre_step(self) -> None:
        self.position = (self.position + 1) % 4

    def observation(self, agent: Agent) -> th.Tensor:
        return th.nn.functional.one_hot(self.position, 4).float()

    def reward(self, agent: Agent) -> th.Tensor:
        return (self.position == 0).float()

    def done(self) -> th.Tensor:
        return (self.position == 0) & self.ends


# The algorithms' own part in it is in tests/test_learning.py. Limits are where these two differ: one takes the team's reward,
# the other the agents' own
@pytest.mark.parametrize(("algorithm", "truncates"), [(MAPPO, False), (MAPPO, True), (IPPO, True)])
def test_a_time_limit_is_bootstrapped_and_a_termination_is_not(
    algorithm: type[CooperativeOnPolicyAlgorithm], truncates: bool
) -> None:
    gamma = 0.9
    # Steps to the end of the lap, discounted; a time limit lets the laps go on
    expected = gamma ** np.arange(3, -1, -1) / (1 - gamma**4 if truncates else 1)
    model = algorithm(
        "MlpPolicy",
        VmasVecEnv(Lap(), 16, max_steps=4 if truncates else None, seed=0, ends=not truncates),
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
    with th.no_grad():
        values = model.policy.predict_values(th.eye(4)[:, None].repeat(1, 2, 1))[:, 0]
    np.testing.assert_allclose(values, expected, rtol=0.05)


def test_every_scenario_of_vmas_is_registered() -> None:
    shipped = [*vmas.scenarios, *vmas.debug_scenarios, *vmas.mpe_scenarios]
    assert {f"vmas/{name}" for name in shipped} == {name for name in registered_ids() if name.startswith("vmas/")}


def test_wrappers_and_evaluation_of_sb3() -> None:
    vec_env = VecNormalize(VecCheckNan(VecMonitor(VmasVecEnv("give_way", 4, max_steps=5, seed=0))))
    model = PPO("MlpPolicy", vec_env, n_steps=10, batch_size=20, n_epochs=1, seed=0)
    model.learn(80)
    assert [episode["l"] for episode in model.ep_info_buffer] == [5] * len(model.ep_info_buffer)
    assert vec_env.obs_rms.mean.shape == (2, 4)
    returns, lengths = evaluate_policy(
        model, VecMonitor(VmasVecEnv("give_way", 3, max_steps=5, seed=1)), n_eval_episodes=7, return_episode_rewards=True
    )
    assert lengths == [5] * 7 and np.isfinite(returns).all()


@pytest.mark.parametrize(("scenario", "max_steps", "ends"), [("give_way", 30, False), ("balance", 60, True)])
def test_evaluate_policy_is_stepping_bare_vmas(scenario: str, max_steps: int, ends: bool) -> None:
    """One world, a policy of its own: returns and lengths of two episodes, time limits and the falls of ``balance`` alike."""
    # Actions of full size, under which nothing stays in balance
    policy_kwargs = {"output_gain": 1.0}
    model = make_tiny(MAPPO, VmasVecEnv(scenario, 2, max_steps=10, seed=0), policy_kwargs=policy_kwargs)
    returns, lengths = evaluate_policy(
        model, VecMonitor(VmasVecEnv(scenario, 1, max_steps=max_steps, seed=4)), n_eval_episodes=2, return_episode_rewards=True
    )

    bare = vmas.make_env(scenario, num_envs=1, max_steps=max_steps, terminated_truncated=True)
    observation, expected = bare.reset(seed=4), []
    while len(expected) < 2:
        total, n_steps, over = 0.0, 0, False
        while not over:
            joint = np.stack([own.numpy()[0] for own in observation])
            action, _ = model.predict(joint, deterministic=True)
            own = [th.from_numpy(action[None, i].copy()) for i in range(bare.n_agents)]
            observation, reward, terminated, truncated, _ = bare.step(own)
            total += th.stack(reward).mean().item()
            n_steps += 1
            over = bool((terminated | truncated).all())
        expected.append((total, n_steps))
        bare.reset_at(0)
        observation = bare.get_from_scenario(get_observations=True, get_rewards=False, get_infos=False, get_dones=False)[0]
    np.testing.assert_allclose(returns, [total for total, _ in expected], rtol=1e-4, atol=1e-5)
    assert lengths == [n_steps for _, n_steps in expected]
    assert (min(lengths) < max_steps) == ends


RENDER = """
import numpy as np
from sb3_cora.envs.vmas import VmasEnv, VmasVecEnv
{body}
"""


def render(body: str, display: str | None) -> CompletedProcess[str]:
    """In a process of its own: OpenGL keeps state in the process, and a broken driver can take it down."""
    return run_python("-c", RENDER.format(body=body), environment={"DISPLAY": display}, check=False)


def test_pictures() -> None:
    done = render(
        "vec_env = VmasVecEnv('give_way', 3, seed=0, render_mode='rgb_array')\n"
        "vec_env.reset()\n"
        "images = vec_env.get_images()\n"
        "print(all(image.shape == (700, 1600, 3) and image.dtype == np.uint8 and image.std() > 1 for image in images))\n"
        "print(vec_env.render('rgb_array').shape)\n"
        "vec_env.close()",
        display=os.environ.get("DISPLAY"),
    )
    if done.returncode != 0 and "no display" in done.stderr:
        pytest.skip("nothing to draw on: neither a display nor EGL")
    assert done.stdout.split("\n")[:2] == ["True", "(1400, 3200, 3)"], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only X11 wants a DISPLAY")
def test_a_window_without_a_display() -> None:
    done = render("VmasEnv('give_way', render_mode='human').render()", display=None)
    assert "RuntimeError: VMAS renders through OpenGL and found no display" in done.stderr
    done = render("VmasVecEnv('give_way', 2, render_mode='human').render()", display=None)
    assert "RuntimeError: VMAS renders through OpenGL and found no display" in done.stderr


def test_settings_of_the_registry_can_be_changed() -> None:
    kwargs: dict[str, Any] = {"max_steps": 2, "observe_rel_pos": True}
    assert make_joint_vec_env("give_way", n_envs=1, **kwargs).observation_space.shape == (2, 6)
    assert gym.make("give_way", **kwargs).observation_space.shape == (2, 6)
