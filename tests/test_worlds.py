"""A batched simulator is one class and one line, and has a VecEnv and an environment of one world."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from sb3_cora import MAPPO, check_joint_env, make_joint_vec_env
from sb3_cora.common.env_util import as_joint_vec_env, is_batched
from sb3_cora.envs.worlds import WorldsEnv, WorldsVecEnv
from tests.algorithms import assert_trained, make_tiny, weights

CLASS = '''
import numpy as np
from gymnasium import spaces

from sb3_cora.envs.worlds import Worlds, WorldsStep


class Corridor(Worlds):
    """Two agents in a corridor of five cells, who end the episode, and are paid 1, by meeting."""

    def __init__(self, num_envs, max_steps):
        parts = {"observation": spaces.Box(0.0, 1.0, (2, 5)), "action_mask": spaces.MultiBinary((2, 3))}
        super().__init__(num_envs, spaces.Dict(parts), spaces.MultiDiscrete([3, 3]))
        self.max_steps = max_steps
        self.generator = np.random.default_rng()
        self.cells = np.zeros((num_envs, 2), dtype=int)
        self.steps = np.zeros(num_envs, dtype=int)

    def seed(self, seed):
        self.generator = np.random.default_rng(seed)

    def reset(self, indices=None):
        indices = np.arange(self.num_envs) if indices is None else indices
        self.cells[indices] = self.generator.integers(5, size=(len(indices), 2))
        self.steps[indices] = 0
        return self.observe(self.cells[indices])

    def step(self, actions):
        self.cells += actions - 1
        self.steps += 1
        met = self.cells[:, 0] == self.cells[:, 1]
        agent_rewards = np.repeat(met[:, None], 2, axis=1).astype(np.float32)
        return WorldsStep(self.observe(self.cells), met.astype(float), agent_rewards, met, self.steps == self.max_steps)

    def observe(self, cells):
        allowed = np.stack((cells > 0, cells >= 0, cells < 4), axis=-1)
        return {"observation": np.eye(5, dtype=np.float32)[cells], "action_mask": allowed.astype(np.int8)}
'''
REGISTRATION = """
from sb3_cora.envs import register_worlds

register_worlds("corridor", "corridors.worlds:Corridor", max_steps=6)
"""
LEFT, STAY, RIGHT = range(3)


@pytest.fixture
def corridor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An id with the package that registers it."""
    package = tmp_path / "corridors"
    package.mkdir()
    (package / "worlds.py").write_text(CLASS)
    (package / "__init__.py").write_text(REGISTRATION)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "corridors:corridor"
    gym.registry.pop("corridor", None)
    for module in ("corridors", "corridors.worlds"):
        sys.modules.pop(module, None)


def test_a_new_simulator(corridor: str) -> None:
    """
    The steps of CONTRIBUTING.md, "A new batched simulator", in 29 lines of code, 27 of them the class and what it imports.
    """
    written = [line for line in (CLASS + REGISTRATION).splitlines() if line and not line.strip().startswith('"""')]
    assert len(written) == 29

    vec_env = make_joint_vec_env(corridor, n_envs=3, seed=0)
    assert isinstance(vec_env, VecMonitor) and type(vec_env.venv) is WorldsVecEnv and vec_env.num_envs == 3
    check_joint_env(vec_env)
    env = gym.make(corridor)
    assert type(env.unwrapped) is WorldsEnv
    # Without a seed as well
    assert env.observation_space.contains(env.reset()[0])
    check_joint_env(env)
    assert is_batched(corridor) and as_joint_vec_env(corridor).num_envs == 16

    model = make_tiny(MAPPO, corridor)
    before = weights(model)
    model.learn(256)
    assert_trained(before, model)


def test_what_it_has_of_the_environments(corridor: str) -> None:
    """Worlds that end one by one, each with its own last observation, and time limits that are no terminations."""
    vec_env = make_joint_vec_env(corridor, n_envs=3, seed=1)
    vec_env.reset()
    worlds = vec_env.unwrapped.worlds
    worlds.cells[:] = [[0, 2], [0, 4], [0, 1]]
    approach = np.array([[STAY, LEFT], [STAY, STAY], [STAY, STAY]])
    for step in range(1, 7):
        observations, rewards, dones, infos = vec_env.step(approach)
        assert rewards.tolist() == [step == 2, 0, 0] and rewards.dtype == np.float32
        assert dones.tolist() == [step == 2, step == 6, step == 6]
        if step == 2:
            assert infos[0]["TimeLimit.truncated"] is False and infos[0]["episode"]["l"] == 2
            terminal = infos[0]["terminal_observation"]
            assert terminal["observation"].argmax(axis=1).tolist() == [0, 0]
            assert terminal["action_mask"].tolist() == [[0, 1, 1]] * 2
            assert infos[0]["agent_rewards"].tolist() == [1, 1] and infos[1]["agent_rewards"].tolist() == [0, 0]
            assert worlds.steps.tolist() == [0, 2, 2]
            # The first world stands apart and still from here on
            worlds.cells[0] = [0, 2]
            approach[0] = STAY
    assert infos[1]["TimeLimit.truncated"] is True
    assert infos[1]["terminal_observation"]["observation"].argmax(axis=1).tolist() == [0, 4]
    assert observations["observation"][1:].argmax(axis=2).tolist() == worlds.cells[1:].tolist()


def test_one_world_is_the_batch_of_one(corridor: str) -> None:
    def play(env: Any) -> list[Any]:
        env.seed(5)
        env.action_space.seed(0)
        told = [env.reset()]
        for _ in range(40):
            # Nobody moves over the ends of the corridor
            allowed = told[-1]["action_mask"] if len(told) == 1 else told[-1][0]["action_mask"]
            told.append(env.step(np.array([[np.flatnonzero(own)[-1] for own in allowed[0]]]))[:3])
        return told

    batch = make_joint_vec_env(corridor, n_envs=1)
    single = make_joint_vec_env(corridor, n_envs=1, vec_env_cls=DummyVecEnv)
    assert type(single.unwrapped) is DummyVecEnv
    np.testing.assert_equal(play(batch), play(single))


def test_the_simulator_is_reached(corridor: str) -> None:
    vec_env = make_joint_vec_env(corridor, n_envs=2, seed=0, max_steps=4)
    vec_env.reset()
    assert vec_env.get_attr("max_steps") == [4, 4] and vec_env.get_attr("num_envs", indices=1) == [2]
    vec_env.set_attr("max_steps", 5)
    assert vec_env.unwrapped.worlds.max_steps == 5
    assert vec_env.env_method("observe", np.array([[1, 2]]), indices=0)[0]["observation"].shape == (1, 2, 5)
    # make_joint_vec_env asks for pictures of whatever may have some
    assert vec_env.render_mode == "rgb_array"
    with pytest.raises(NotImplementedError, match="Corridor cannot render"):
        vec_env.render()


def test_what_does_not_fit_is_named(corridor: str) -> None:
    vec_env = make_joint_vec_env(corridor, n_envs=2, seed=0)
    worlds = vec_env.unwrapped.worlds
    assert WorldsVecEnv(worlds).worlds is worlds
    with pytest.raises(ValueError, match=r"Corridor is already made, with num_envs=2: give num_envs=None, \{'max_steps': 3\}"):
        WorldsVecEnv(worlds, max_steps=3)
    with pytest.raises(ValueError, match="num_envs=2: give num_envs=1"):
        WorldsEnv(worlds)
    with pytest.raises(ValueError, match="'human' is unknown: use 'rgb_array' or None"):
        WorldsVecEnv(worlds, render_mode="human")
    vec_env.reset()
    for actions in ([[0, 3], [0, 0]], [[-1, 0], [0, 0]], [[0.0, 1.0], [0.0, 0.0]], [[0, 1]]):
        with pytest.raises(ValueError, match=r"^Actions (are )?of"):
            vec_env.step(np.array(actions))
