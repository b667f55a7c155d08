"""Stacked observations beside the masks of the present."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from sb3_cora import CORAPPO, IPPO, check_joint_env
from sb3_cora.common.env_util import as_joint_vec_env
from sb3_cora.common.joint_env import joint_observation_space, pad_observations
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.vec_frame_stack import JointVecFrameStack
from sb3_cora.common.vec_normalize import JointVecNormalize
from tests.algorithms import make_tiny
from tests.joint_games import BoxMasks, MaskedTeam, NoisyTeam


class FixedObservations(NoisyTeam):
    """
    Agents that see different numbers of things, from 1 to 9.

    :param seen: What each sees, of any length
    """

    def __init__(self, seen: list[list[float]]) -> None:
        super().__init__(n_agents=len(seen))
        self.observation_space = joint_observation_space([gym.spaces.Box(1.0, 9.0, (len(own),)) for own in seen])
        self.seen = pad_observations([np.asarray(own) for own in seen])

    def _observation(self) -> np.ndarray:
        return self.seen


def allowed_actions(observation: dict[str, np.ndarray]) -> np.ndarray:
    return observation["action_mask"].argmax(axis=-1)


@pytest.mark.parametrize("env_class", [MaskedTeam, BoxMasks])
def test_the_last_observations_side_by_side_and_the_present_masks(env_class: type[gym.Env]) -> None:
    env, bare = JointVecFrameStack(DummyVecEnv([env_class]), 3), DummyVecEnv([env_class])
    for other in (env, bare):
        other.seed(1)
    stacked, now = env.reset(), bare.reset()
    history = [{key: np.zeros_like(part) for key, part in now.items()}] * 2 + [now]

    def assert_stack(observation: dict[str, np.ndarray], last: list[dict[str, np.ndarray]]) -> None:
        for key, part in observation.items():
            expected = last[-1][key] if key.endswith("mask") else np.concatenate([old[key] for old in last], axis=-1)
            np.testing.assert_array_equal(part, expected)

    n_episodes = 0
    for _ in range(40):
        assert_stack(stacked, history)
        assert env.observation_space.contains({key: part[0] for key, part in stacked.items()})
        actions = allowed_actions(now)
        stacked, _, dones, infos = env.step(actions)
        now, _, _, bare_infos = bare.step(actions)
        if dones[0]:
            n_episodes += 1
            before = [{key: part[0] for key, part in old.items()} for old in history[1:]]
            assert_stack(infos[0]["terminal_observation"], [*before, bare_infos[0]["terminal_observation"]])
            history = [{key: np.zeros_like(part) for key, part in now.items()}] * 2 + [now]
        else:
            history = [*history[1:], now]
    assert n_episodes > 3


def test_padding_stays_padding() -> None:
    env = JointVecFrameStack(DummyVecEnv([lambda: FixedObservations([[1.0, 2.0], [3.0]])]), 2)
    np.testing.assert_array_equal(env.reset()[0], [[0, 0, 1, 2], [0, 0, 3, 0]])
    np.testing.assert_array_equal(env.observation_space.high, [[9, 9, 9, 9], [9, 0, 9, 0]])
    # Although a single observation may not be zero, there are zeros before the first
    np.testing.assert_array_equal(env.observation_space.low, np.zeros((2, 4)))
    check_joint_env(env)


def test_without_masks_it_is_stable_baselines3s() -> None:
    ours, theirs = (wrapper(make_vec_env(NoisyTeam, 2, seed=0), 4) for wrapper in (JointVecFrameStack, VecFrameStack))
    assert ours.observation_space == theirs.observation_space
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    for _ in range(10):
        for part, expected in zip(ours.step(np.zeros((2, 3, 2)))[:3], theirs.step(np.zeros((2, 3, 2)))[:3], strict=True):
            np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("algorithm", [CORAPPO, IPPO])
def test_training_on_stacks(algorithm: type[CooperativeOnPolicyAlgorithm]) -> None:
    # The environment raises on actions that its masks of the moment do not allow
    env = JointVecFrameStack(JointVecNormalize(make_vec_env(MaskedTeam, 2, seed=0)), 3)
    model = make_tiny(algorithm, env).learn(64)
    assert model.observation_space["observation"].shape == (3, 3 * MaskedTeam.obs_dim)


@pytest.mark.parametrize("wrap", [lambda env: env, JointVecNormalize], ids=["alone", "normalized"])
def test_stacked_masks_are_refused_with_the_remedy(wrap: Any) -> None:
    env = wrap(make_vec_env(BoxMasks, 2))
    with pytest.raises(ValueError, match=r"stacks \['action_mask', 'agent_mask'\].*Use .*vec_frame_stack.JointVecFrameStack"):
        make_tiny(CORAPPO, VecFrameStack(env, 3))
    as_joint_vec_env(JointVecFrameStack(env, 3))
    # Without masks there is nothing to refuse
    as_joint_vec_env(VecFrameStack(make_vec_env(NoisyTeam), 3))
