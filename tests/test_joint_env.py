"""The joint form is read off the spaces, and padding loses nothing."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from sb3_cora.common.joint_env import (
    JointSpaces,
    check_team_reward,
    joint_action_space,
    joint_observation_space,
    pad_observations,
    reduce_rewards,
)

OBSERVATIONS = spaces.Box(-1.0, 1.0, (3, 4))
BOX_ACTIONS = spaces.Box(-1.0, 1.0, (3, 2))
CHOICES = spaces.MultiDiscrete([2, 4, 3])


def test_box_observations_and_actions() -> None:
    joint = JointSpaces.from_spaces(OBSERVATIONS, BOX_ACTIONS)
    assert (joint.n_agents, joint.obs_dim, joint.state_dim, joint.action_dim) == (3, 4, 12, 2)
    assert not (joint.discrete or joint.has_state or joint.has_action_mask or joint.has_agent_mask)
    assert joint.action_mask.all() and joint.action_mask.shape == (3, 2)


def test_dict_observations_with_everything() -> None:
    observation_space = spaces.Dict(
        observation=OBSERVATIONS,
        state=spaces.Box(-1.0, 1.0, (7,)),
        action_mask=spaces.MultiBinary([3, 4]),
        agent_mask=spaces.Box(0.0, 1.0, (3,)),
    )
    joint = JointSpaces.from_spaces(observation_space, CHOICES)
    assert (joint.n_agents, joint.obs_dim, joint.state_dim, joint.action_dim) == (3, 4, 7, 4)
    assert joint.discrete and joint.has_state and joint.has_action_mask and joint.has_agent_mask
    # Counts 2, 4 and 3 of at most 4.
    np.testing.assert_array_equal(joint.action_mask, [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]])


def test_one_agent_is_a_team() -> None:
    assert JointSpaces.from_spaces(spaces.Box(-1, 1, (1, 3)), spaces.MultiDiscrete([2])).n_agents == 1


def test_padded_and_unbounded_action_dimensions() -> None:
    actions = joint_action_space([spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(-1.0, 1.0, (2,))])
    joint = JointSpaces.from_spaces(spaces.Box(-1, 1, (2, 3)), actions)
    np.testing.assert_array_equal(joint.action_mask, [[True, False], [True, True]])


def test_equal_spaces_give_equal_joint_spaces() -> None:
    assert JointSpaces.from_spaces(OBSERVATIONS, CHOICES) == JointSpaces.from_spaces(OBSERVATIONS, CHOICES)
    assert JointSpaces.from_spaces(OBSERVATIONS, CHOICES) != JointSpaces.from_spaces(OBSERVATIONS, BOX_ACTIONS)


def with_part(**parts: spaces.Space) -> spaces.Dict:
    return spaces.Dict({"observation": OBSERVATIONS, **parts})


@pytest.mark.parametrize(
    ("observation_space", "action_space", "error", "said"),
    [
        (spaces.Box(-1, 1, (4,)), spaces.Discrete(2), ValueError, r"\(1, 4\)"),
        (spaces.Box(0, 255, (3, 8, 8), np.uint8), CHOICES, ValueError, r"\(3, 8, 8\).*Flatten"),
        (spaces.Discrete(5), CHOICES, TypeError, r"Discrete\(5\)"),
        (spaces.Tuple([OBSERVATIONS]), CHOICES, TypeError, "Tuple"),
        (spaces.Dict(state=OBSERVATIONS), CHOICES, ValueError, "'state'.*no 'observation'"),
        (with_part(map=spaces.Box(0, 1, (2,))), CHOICES, ValueError, "'map'"),
        (with_part(state=spaces.Box(0, 1, (2, 2))), CHOICES, ValueError, r"\(state_dim,\)"),
        (with_part(action_mask=spaces.MultiBinary([3, 2])), CHOICES, ValueError, r"\(3, 4\)"),
        (with_part(action_mask=spaces.MultiBinary([3, 2])), BOX_ACTIONS, ValueError, "MultiDiscrete"),
        (with_part(agent_mask=spaces.MultiBinary(2)), CHOICES, ValueError, r"\(3,\)"),
        (with_part(agent_mask=spaces.Discrete(3)), CHOICES, ValueError, "agent_mask"),
        (OBSERVATIONS, spaces.Dict(a=BOX_ACTIONS), TypeError, "Dict.*joint_action_space"),
        (OBSERVATIONS, spaces.Discrete(5), TypeError, r"MultiDiscrete\(\[5\]\)"),
        (OBSERVATIONS, spaces.Box(-1, 1, (2,)), ValueError, r"\(3, act_dim\)"),
        (OBSERVATIONS, spaces.Box(-1, 1, (2, 2)), ValueError, "3 agents.*has 2"),
        (OBSERVATIONS, spaces.MultiDiscrete([2, 2]), ValueError, "3 agents.*has 2"),
        (OBSERVATIONS, spaces.MultiDiscrete([[2, 2]] * 3), ValueError, "one count"),
        (OBSERVATIONS, spaces.MultiDiscrete([2, 2, 2], start=[1, 0, 0]), ValueError, r"\[1 0 0\]"),
    ],
)
def test_what_is_no_joint_environment_is_refused(
    observation_space: spaces.Space, action_space: spaces.Space, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        JointSpaces.from_spaces(observation_space, action_space)


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5), min_size=1, max_size=4))
def test_padding_keeps_the_rows_and_adds_zeros(rows: list[list[float]]) -> None:
    padded = pad_observations([np.array(row, dtype=np.float32) for row in rows])
    assert padded.dtype == np.float32 and padded.shape == (len(rows), max(map(len, rows)))
    for got, row in zip(padded, rows, strict=True):
        np.testing.assert_array_equal(got[: len(row)], np.array(row, dtype=np.float32))
        assert not got[len(row) :].any()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_joint_spaces_say_which_dimensions_are_real(dims: list[int]) -> None:
    agent_spaces = [spaces.Box(-2.0, 1.0, (dim,)) for dim in dims]
    real = np.arange(max(dims)) < np.array(dims)[:, None]
    for space in (joint_observation_space(agent_spaces), joint_action_space(agent_spaces)):
        assert isinstance(space, spaces.Box) and space.dtype == np.float32
        np.testing.assert_array_equal(space.low, np.where(real, -2.0, 0.0))
        np.testing.assert_array_equal(space.high, np.where(real, 1.0, 0.0))


def test_observations_of_other_kinds_are_flattened() -> None:
    space = joint_observation_space([spaces.Discrete(4), spaces.Box(-1, 1, (2, 3))])
    assert space.shape == (2, 6)
    # One-hot: bounds 0 and 1, and two entries of padding.
    np.testing.assert_array_equal(space.high[0], [1, 1, 1, 1, 0, 0])


def test_choices_need_no_padding() -> None:
    assert joint_action_space([spaces.Discrete(2), spaces.Discrete(5, start=1)]) == spaces.MultiDiscrete([2, 5])


@pytest.mark.parametrize("agent_spaces", [[spaces.Discrete(2), BOX_ACTIONS], [BOX_ACTIONS], [spaces.MultiDiscrete([2, 2])]])
def test_actions_of_mixed_or_other_kinds_are_refused(agent_spaces: list[spaces.Space]) -> None:
    with pytest.raises(TypeError, match="all Discrete or all Box"):
        joint_action_space(agent_spaces)


def test_observations_without_a_fixed_length_are_refused() -> None:
    with pytest.raises(TypeError, match="Agent 1"):
        joint_observation_space([spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2))])


def test_team_reward() -> None:
    agent_rewards = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    np.testing.assert_array_equal(reduce_rewards(agent_rewards, "mean"), [3.0, 1.0])
    np.testing.assert_array_equal(reduce_rewards(agent_rewards, "sum"), [9.0, 3.0])
    with pytest.raises(ValueError, match="'max'"):
        check_team_reward("max")
