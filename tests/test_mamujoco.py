"""MaMuJoCo through MaMuJoCoEnv is gymnasium-robotics' own, with one agent axis; and what HARL shows of it, by hand."""

import inspect
import re
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_cora import CORAPPO, MAPPO, make_joint_vec_env
from sb3_cora.common.env_checker import check_joint_env
from sb3_cora.common.env_util import registered_ids
from sb3_cora.common.joint_env import JointSpaces
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.envs.registration import MAMUJOCO_SEGMENTED, MAMUJOCO_SPLITS
from tests.algorithms import assert_trained, make_tiny, weights
from tests.processes import run_python

pytest.importorskip("gymnasium_robotics")

import mujoco
from gymnasium_robotics import mamujoco_v1
from gymnasium_robotics.envs.multiagent_mujoco import mujoco_multi, obsk

from sb3_cora.envs.mamujoco import MaMuJoCoEnv

SPLITS = [(scenario, split) for scenario, splits in MAMUJOCO_SPLITS.items() for split in splits]
# It needs a MuJoCo before 3.6
COUPLED = ("CoupledHalfCheetah", "1p1")
RUNNABLE = [split for split in SPLITS if split != COUPLED]
MUJOCO_VERSION = tuple(map(int, mujoco.__version__.split(".")[:2]))
IDS = {
    f"mujoco/{scenario}-{split.replace('|', '-')}": (scenario, split)
    for scenario, split in (RUNNABLE if MUJOCO_VERSION >= (3, 6) else SPLITS)
}
PAPER = [("Ant", "4x2"), ("HalfCheetah", "2x3"), ("HalfCheetah", "6x1"), ("Walker2d", "2x3"), ("Hopper", "3x1")]
# Its steps are slow, and its episodes never end early: more than 20 seconds where the machine is busy
SLOW_IDS = {"mujoco/HumanoidStandup-9-8"}


def random_actions(space: gym.Space, n_steps: int, seed: int = 0) -> np.ndarray:
    """``(n_steps, *space.shape)``, uniform in the action space."""
    assert isinstance(space, gym.spaces.Box)
    return np.random.default_rng(seed).uniform(space.low, space.high, (n_steps, *space.shape)).astype(np.float32)


def own_actions(bare: Any, action: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of a joint action as the suite takes them."""
    return {agent: row[: bare.action_space(agent).shape[0]] for agent, row in zip(bare.possible_agents, action, strict=True)}


def test_the_table_is_what_the_suite_accepts() -> None:
    source = inspect.getsource(obsk.get_parts_and_edges)
    scenarios = {name for names in re.findall(r"label in \[(.*?)\]", source) for name in re.findall(r'"(\w+)"', names)}
    candidates = set(re.findall(r'partitioning == "(.+?)"', source)) | {"2x2", "3x3", "1x1"}
    accepted: dict[str, set[str]] = {}
    for scenario in scenarios:
        accepted[scenario] = set()
        for candidate in candidates:
            try:
                parts, _, _ = obsk.get_parts_and_edges(scenario, candidate)
            except Exception:
                continue
            if all(parts):
                accepted[scenario].add(candidate)
    for scenario in MAMUJOCO_SEGMENTED:
        assert {"2x2", "3x3", "1x1"} <= accepted.pop(scenario)
    assert accepted == {
        scenario: set(splits) for scenario, splits in MAMUJOCO_SPLITS.items() if splits and scenario not in MAMUJOCO_SEGMENTED
    }
    # The others are robots that are there as one agent only.
    assert set(MAMUJOCO_SPLITS) == scenarios | set(mujoco_multi._MUJOCO_GYM_ENVIROMENTS)


def test_every_split_has_an_id() -> None:
    registered = {env_id for env_id in registered_ids() if env_id.startswith("mujoco/")}
    assert registered == set(IDS)
    assert {f"mujoco/{scenario}-{split}" for scenario, split in PAPER} <= registered
    assert {env_id: (gym.spec(env_id).kwargs["scenario"], gym.spec(env_id).kwargs["agent_conf"]) for env_id in IDS} == IDS


def test_no_ids_without_the_suite() -> None:
    # A path finder that does not know gymnasium_robotics stands for a machine without it.
    program = (
        "import importlib.util\n"
        "find_spec = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'gymnasium_robotics' else find_spec(name, *rest)\n"
        "from sb3_cora.common.env_util import registered_ids\n"
        "print([env_id for env_id in registered_ids() if env_id.startswith('mujoco/')])\n"
    )
    done = run_python("-c", program)
    assert done.stdout.strip() == "[]"


# The suite writes the robots of many segments to a file in its own folder, and removes it: two processes would meet there
@pytest.mark.xdist_group("bare mujoco")
@pytest.mark.parametrize(
    ("scenario", "split", "agent_obsk"),
    # How far an agent sees is the suite's to say, on the way through that every robot shares
    [(*split, agent_obsk) for agent_obsk in (0, 1, 2) for split in (RUNNABLE if agent_obsk == 1 else PAPER)],
)
def test_an_episode_is_that_of_the_bare_suite(scenario: str, split: str, agent_obsk: int) -> None:
    n_steps = 30
    env = MaMuJoCoEnv(scenario, split, agent_obsk=agent_obsk, max_steps=n_steps)
    bare = mamujoco_v1.parallel_env(scenario, split, agent_obsk=agent_obsk, max_episode_steps=n_steps)
    # The suite leaves the order of two joints of Pusher to chance.
    for joints in (joints for by_distance in bare.k_dicts for joints in by_distance.values()):
        joints.sort(key=lambda joint: (joint.label, joint.act_ids))
    observation, _ = env.reset(seed=3)
    expected, _ = bare.reset(seed=3)
    ended = []
    for action in random_actions(env.action_space, n_steps):
        for row, agent in zip(observation["observation"], bare.possible_agents, strict=True):
            np.testing.assert_array_equal(row[: len(expected[agent])], expected[agent].astype(np.float32))
            assert not row[len(expected[agent]) :].any()
        np.testing.assert_array_equal(observation["state"], bare.state().astype(np.float32))
        observation, reward, terminated, truncated, info = env.step(action)
        expected, rewards, terminations, truncations, infos = bare.step(own_actions(bare, action))
        assert {reward} == set(rewards.values())
        assert {terminated} == set(terminations.values()) and {truncated} == set(truncations.values())
        np.testing.assert_array_equal(info.pop("agent_rewards"), np.float32(list(rewards.values())))
        np.testing.assert_equal(info, infos["agent_0"])
        if terminated or truncated:
            ended.append((terminated, truncated))
            observation, _ = env.reset()
            expected, _ = bare.reset()
    assert ended


@pytest.mark.parametrize(("scenario", "split"), [*PAPER, ("Humanoid", "9|8"), ("Reacher", "2x1")])
def test_full_state_and_id_by_hand(scenario: str, split: str) -> None:
    env = MaMuJoCoEnv(scenario, split, observation="full_state_id")
    bare = mamujoco_v1.parallel_env(scenario, split)
    observation, _ = env.reset(seed=1)
    bare.reset(seed=1)
    n_agents = len(bare.possible_agents)
    for action in random_actions(env.action_space, 20):
        state = bare.state()
        for row, one_hot in zip(observation["observation"], np.eye(n_agents), strict=True):
            vector = np.concatenate([state, one_hot])
            np.testing.assert_allclose(row, (vector - np.mean(vector)) / np.std(vector), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(observation["state"], (state - np.mean(state)) / np.std(state), rtol=1e-5, atol=1e-6)
        observation, reward, _, _, _ = env.step(action)
        assert reward == bare.step(own_actions(bare, action))[1]["agent_0"]


def test_a_state_of_equal_entries_has_no_deviation() -> None:
    env = MaMuJoCoEnv("HalfCheetah", "2x3", observation="full_state_id", reset_noise_scale=0.0)
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation["state"], np.zeros(17))
    # 17 zeros and a one-hot of 2: mean 1/19, deviation sqrt(1/19 - 1/19^2)
    np.testing.assert_allclose(observation["observation"][1, -2:], [-(18**-0.5), 18**0.5], rtol=1e-6)


def test_pushers_of_one_seed_are_alike() -> None:
    # Two of its joints bear one name, and an order by name alone differs between environments.
    first, *others = (MaMuJoCoEnv("Pusher", "3p") for _ in range(8))
    first.reset(seed=0)
    action = random_actions(first.action_space, 1)[0]
    expected, *_ = first.step(action)
    for other in others:
        other.reset(seed=0)
        np.testing.assert_array_equal(other.step(action)[0]["observation"], expected["observation"])


def test_unequal_agents_are_padded() -> None:
    cheetah = MaMuJoCoEnv("HalfCheetah", "6x1")
    space = cheetah.observation_space["observation"]
    assert isinstance(space, gym.spaces.Box)
    assert (space.high > space.low).sum(axis=1).tolist() == [9, 9, 8, 9, 9, 8]
    assert set(cheetah.observation_space) == {"observation", "state"}
    humanoid = MaMuJoCoEnv("Humanoid", "9|8")
    joint = JointSpaces.from_spaces(humanoid.observation_space, humanoid.action_space)
    assert joint.action_mask.sum(axis=1).tolist() == [9, 8]
    assert (joint.n_agents, joint.obs_dim, joint.state_dim, joint.action_dim) == (2, 242, 348, 9)


def test_an_actuator_obeys_its_agent() -> None:
    # The joints of Humanoid's agents lie scattered over its 17 actuators.
    env = MaMuJoCoEnv("Humanoid", "9|8")
    bare = mamujoco_v1.parallel_env("Humanoid", "9|8")
    action = random_actions(env.action_space, 1)[0]
    expected = bare.map_local_actions_to_global_action(own_actions(bare, action))
    env.reset(seed=0)
    env.step(action)
    np.testing.assert_array_equal(env.robot.unwrapped.data.ctrl, expected)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"ctrl_cost_weight": 0.5},
        {"local_categories": [["qpos"], ["qvel"]]},
        {"exclude_current_positions_from_observation": False},
    ],
)
def test_arguments_of_the_suite_and_the_robot(kwargs: dict[str, Any]) -> None:
    env = MaMuJoCoEnv("HalfCheetah", "2x3", **kwargs)
    bare = mamujoco_v1.parallel_env("HalfCheetah", "2x3", **kwargs)
    env.reset(seed=0)
    bare.reset(seed=0)
    action = random_actions(env.action_space, 1)[0]
    observation, reward, _, _, _ = env.step(action)
    expected, rewards, _, _, _ = bare.step(own_actions(bare, action))
    np.testing.assert_array_equal(observation["observation"], np.float32(list(expected.values())))
    assert reward == rewards["agent_0"]


def test_a_factorisation_of_ones_own() -> None:
    parts, edges, globals_ = obsk.get_parts_and_edges("HalfCheetah", "6x1")
    pairs = [sum(parts[i : i + 2], ()) for i in (0, 2, 4)]
    for agent_conf in ("3x2", None):
        factorization = {"partition": pairs, "edges": edges, "globals": globals_}
        env = MaMuJoCoEnv("HalfCheetah", agent_conf, agent_factorization=factorization)
        assert env.action_space.shape == (3, 2)
    check_joint_env(env)


def test_one_agent_in_the_place_of_the_team() -> None:
    for scenario in ("HalfCheetah", "InvertedPendulum", "InvertedDoublePendulum"):
        env = MaMuJoCoEnv(scenario, None)
        observation, _ = env.reset(seed=0)
        np.testing.assert_array_equal(observation["observation"][0], observation["state"])
        check_joint_env(env)


def play(vec_env: VecEnv, actions: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that a vector environment says, by what it is."""
    observations, rewards, dones = [vec_env.reset()], [], []
    for action in actions:
        observation, reward, done, _ = vec_env.step(action)
        observations.append({key: part.copy() for key, part in observation.items()})
        rewards.append(reward)
        dones.append(done)
    vec_env.close()
    # SB3's two classes give rewards in different precision.
    told = {key: np.array([observation[key] for observation in observations]) for key in observations[0]}
    return {**told, "rewards": np.array(rewards, dtype=np.float32), "dones": np.array(dones)}


# Swimmers of many segments have their model written at construction, at the same time in all processes.
@pytest.mark.parametrize(
    ("env_id", "other_class"), [("mujoco/Hopper-3x1", DummyVecEnv), ("mujoco/ManySegmentSwimmer-10x2", SubprocVecEnv)]
)
def test_same_seed_same_rollout_in_one_process_and_in_several(
    env_id: str, other_class: type[DummyVecEnv | SubprocVecEnv]
) -> None:
    def make(vec_env_cls: type[DummyVecEnv | SubprocVecEnv], seed: int = 7) -> VecEnv:
        return make_joint_vec_env(env_id, n_envs=2, seed=seed, vec_env_cls=vec_env_cls, max_steps=40)

    space = make(DummyVecEnv).action_space
    actions = np.stack([random_actions(space, 100)] * 2, axis=1)
    one, other = (play(make(cls), actions) for cls in (DummyVecEnv, other_class))
    for key, part in one.items():
        np.testing.assert_array_equal(part, other[key])
    assert one["dones"].sum() >= 4
    # The same actions in both worlds, and in the same world of another seed
    assert not np.array_equal(one["state"][:, 0], one["state"][:, 1])
    assert not np.array_equal(one["state"], play(make(DummyVecEnv, seed=8), actions)["state"])


@pytest.mark.parametrize("action", [np.zeros((4, 7)), np.zeros((3, 2)), np.full((2, 3), np.nan), np.zeros(6)], ids=str)
def test_actions_that_are_none(action: np.ndarray) -> None:
    env = MaMuJoCoEnv("HalfCheetah", "2x3")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected finite numbers of shape \(2, 3\)"):
        env.step(action)
    # A list is as good as an array
    assert np.isfinite(env.step(np.zeros((2, 3)).tolist())[1])
    env.close()


def test_worlds_are_stepped_in_one_process_by_default() -> None:
    vec_env = make_joint_vec_env("mujoco/HalfCheetah-2x3", n_envs=2)
    assert type(vec_env) is DummyVecEnv and vec_env.env_is_wrapped(Monitor) == [True, True]


def test_a_time_limit_reaches_sb3() -> None:
    vec_env = make_joint_vec_env("mujoco/HalfCheetah-2x3", n_envs=1, seed=0, max_steps=5)
    single = MaMuJoCoEnv("HalfCheetah", "2x3", max_steps=5)
    observation = vec_env.reset()
    expected, _ = single.reset(seed=0)
    for step, action in enumerate(random_actions(single.action_space, 5), start=1):
        np.testing.assert_array_equal(observation["observation"][0], expected["observation"])
        observation, _, dones, infos = vec_env.step(action[None])
        expected, _, terminated, truncated, _ = single.step(action)
        assert not terminated and truncated == dones[0] == (step == 5)
    assert infos[0]["TimeLimit.truncated"]
    for key, part in infos[0]["terminal_observation"].items():
        np.testing.assert_array_equal(part, expected[key])


def test_a_fall_is_no_time_limit() -> None:
    # Pushed at full strength from every joint, a hopper falls within a hundred steps.
    vec_env = make_joint_vec_env("mujoco/Hopper-3x1", n_envs=1, seed=0)
    vec_env.reset()
    for _ in range(100):
        _, _, dones, infos = vec_env.step(np.ones((1, 3, 1), np.float32))
        if dones[0]:
            break
    assert dones[0] and not infos[0]["TimeLimit.truncated"] and infos[0]["episode"]["l"] < 100


@pytest.mark.parametrize(
    ("env_id", "limit"), [("mujoco/HalfCheetah-2x3", 1000), ("mujoco/Reacher-2x1", 50), ("mujoco/Pusher-3p", 100)]
)
def test_limits_of_the_robots(env_id: str, limit: int) -> None:
    env = gym.make(env_id)
    env.reset(seed=0)
    idle = np.zeros(env.action_space.shape, np.float32)
    assert [env.step(idle)[2:4] for _ in range(limit)] == [(False, False)] * (limit - 1) + [(False, True)]


class Swing:
    """A policy that swings all joints, each at a phase of its own."""

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return np.tanh(observation["observation"][:, :, :3] * 5), None


def test_evaluate_policy_is_stepping_by_hand() -> None:
    vec_env = make_joint_vec_env("mujoco/HalfCheetah-2x3", n_envs=1, seed=2, max_steps=50)
    returns, lengths = evaluate_policy(Swing(), vec_env, n_eval_episodes=2, return_episode_rewards=True)
    bare = mamujoco_v1.parallel_env("HalfCheetah", "2x3", max_episode_steps=50)
    observations, _ = bare.reset(seed=2)
    expected = []
    for _ in range(2):
        total = 0.0
        while bare.agents:
            actions = {agent: np.tanh(own[:3].astype(np.float32) * 5) for agent, own in observations.items()}
            observations, rewards, _, _, _ = bare.step(actions)
            total += rewards["agent_0"]
        expected.append(total)
        observations, _ = bare.reset()
    assert lengths == [50, 50]
    np.testing.assert_allclose(returns, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "env_id",
    [pytest.param(env_id, marks=pytest.mark.slow) if env_id in SLOW_IDS else env_id for env_id in IDS],
)
def test_checkers_pass(env_id: str) -> None:
    # On short episodes: what the limits of the robots are by default is tested above
    env = gym.make(env_id, max_steps=20)
    check_env(env, warn=False)
    check_joint_env(env)
    check_joint_env(gym.make(env_id, observation="full_state_id", max_steps=20))
    check_joint_env(make_joint_vec_env(env_id, n_envs=2, max_steps=20))


def test_coupled_cheetahs_need_an_older_mujoco() -> None:
    if MUJOCO_VERSION < (3, 6):
        check_joint_env(MaMuJoCoEnv(*COUPLED, max_steps=20))
    else:
        with pytest.raises(ValueError, match=r'pip install "mujoco<3\.6"'):
            MaMuJoCoEnv(*COUPLED)
    with pytest.raises(ValueError, match="no arguments of its own, got ctrl_cost_weight: drop"):
        MaMuJoCoEnv(*COUPLED, ctrl_cost_weight=1.0)


@pytest.mark.parametrize("algorithm", [CORAPPO, MAPPO])
@pytest.mark.parametrize("env_id", ["mujoco/HalfCheetah-6x1", "mujoco/Humanoid-9-8"])
def test_training(algorithm: type[CooperativeOnPolicyAlgorithm], env_id: str, tmp_path: Path) -> None:
    env = make_joint_vec_env(env_id, n_envs=2, seed=0, max_steps=10)
    model = make_tiny(algorithm, env)
    before = weights(model)
    model.learn(2 * 2 * model.n_steps)
    assert model.num_timesteps == 2 * 2 * model.n_steps
    assert_trained(before, model)
    model.save(tmp_path / "team")
    loaded = algorithm.load(tmp_path / "team", env=env)
    observation = env.reset()
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(action[0])
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], action)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scenario": "Cheetah"}, "no scenario 'Cheetah'.*HalfCheetah, Hopper"),
        ({"agent_conf": "3x2"}, "agent_conf='3x2' is no split of MaMuJoCo's HalfCheetah. Use '2x3' or '6x1' or None"),
        ({"scenario": "ManySegmentAnt", "agent_conf": None}, "agent_conf=None is no split.*'<agents>x<segments each>'"),
        ({"scenario": "ManySegmentAnt", "agent_conf": "0x2"}, "agent_conf='0x2' is no split"),
        ({"scenario": "InvertedPendulum"}, "agent_conf='2x3' is no split.*Use None for one agent"),
        ({"observation": "global"}, "observation='global' is unknown: use 'local' or 'full_state_id'"),
        ({"agent_obsk": None}, "agent_obsk=None is no number of joints.*full_state_id"),
        ({"agent_obsk": -1}, "agent_obsk=-1"),
        ({"max_steps": 0}, "max_steps=0, expected at least 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MaMuJoCoEnv(**{"scenario": "HalfCheetah", "agent_conf": "2x3", **arguments})


@pytest.mark.parametrize(
    ("env_id", "said"), [("mujoco/Humanoid-9|8", "'mujoco/Humanoid-9-8'"), ("mujoco/Ant-4x4", "'mujoco/Ant-2x4'")]
)
def test_ids_that_are_none(env_id: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"There is no environment.*Did you mean .*{said}"):
        make_joint_vec_env(env_id)


@pytest.mark.parametrize("name", ["coma_ppo", "cora_ppo", "happo", "ippo", "mappo", "optimistic_mappo", "shapley_ppo"])
def test_the_robots_of_the_paper_have_the_settings_that_were_found(name: str) -> None:
    yaml = pytest.importorskip("yaml")
    root = Path(__file__).resolve().parent.parent
    settings = yaml.safe_load((root / "hyperparams" / f"{name}.yml").read_text(encoding="utf-8"))
    search = yaml.safe_load((root / "benchmarks" / "suites" / "mujoco_search.yml").read_text(encoding="utf-8"))
    found = search["trials"]["trial 4"]
    for scenario, split in PAPER:
        own = settings[f"mujoco/{scenario}-{split}"]
        assert {key: own[key] for key in found} == found


DRAW = """
import gymnasium as gym, sb3_cora.envs
env = gym.make("mujoco/HalfCheetah-2x3", render_mode="rgb_array", width=64, height=48)
env.reset(seed=0)
picture = env.render()
env.close()
print(picture.shape, picture.dtype, picture.std() > 1)
"""


def draw(backend: str) -> CompletedProcess[str]:
    # What is drawn with is chosen when MuJoCo is imported, so by the environment of a process of its own.
    environment = {"DISPLAY": None, "WAYLAND_DISPLAY": None, "MUJOCO_GL": backend}
    return run_python("-c", DRAW, environment=environment, check=False)


def test_pictures_without_a_display() -> None:
    done = [draw(backend) for backend in ("egl", "osmesa")]
    if all("MuJoCo cannot render" in run.stderr for run in done):
        pytest.skip("this machine has neither EGL nor OSMesa")
    assert "(48, 64, 3) uint8 True\n" in {run.stdout for run in done}


def test_what_drawing_needs_is_named() -> None:
    done = draw("glfw")
    assert done.returncode == 1
    assert "RuntimeError: MuJoCo cannot render" in done.stderr and "libosmesa6" in done.stderr


def test_a_joint_env_in_the_hands_of_sb3() -> None:
    vec_env = make_vec_env("mujoco/Walker2d-2x3", n_envs=2, seed=0)
    assert vec_env.render_mode == "rgb_array"
    check_joint_env(vec_env)
