"""Stacked observations beside the masks of the present."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from sb3_cora import CORAPPO, IPPO
from sb3_cora.common.env_util import as_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.vec_frame_stack import JointVecFrameStack
from sb3_cora.common.vec_normalize import JointVecNormalize
from tests.algorithms import make_tiny
from tests.joint_games import BoxMasks, MaskedTeam, NoisyTeam


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
