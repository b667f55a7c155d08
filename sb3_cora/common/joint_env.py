"""The form of a joint environment: spaces with an agent axis, padding of unequal agents, the team's reward."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_cora.common.adapters import registered_adapters

MASKS = ("action_mask", "agent_mask")
OPTIONAL_KEYS = ("state", *MASKS)

JointObservations = np.ndarray | dict[str, np.ndarray]
"""Observations of some environments, ``(n_envs, n_agents, obs_dim)``, or, if the observation space is a ``Dict``, its parts by
name; or those of a single environment, without the first axis."""

JOINT_FORM = (
    "a joint environment observes Box(n_agents, obs_dim), or a Dict with that Box under 'observation', "
    "and acts in Box(n_agents, act_dim) or MultiDiscrete([k_1, .., k_n])"
)


@dataclass(frozen=True)
class JointSpaces:
    """
    What an algorithm needs to know about a joint environment, derived from its two spaces.

    :param n_agents: Number of agents.
    :param obs_dim: Length of each agent's (padded) observation.
    :param state_dim: Length of the Dict observation's ``"state"``; without one, of the concatenated observations.
    :param has_state: Whether observations carry a ``"state"``.
    :param has_action_mask: Whether observations carry an ``"action_mask"``, ``(n_agents, action_dim)``, 1 = allowed.
    :param has_agent_mask: Whether observations carry an ``"agent_mask"``, ``(n_agents,)``, 1 = active.
    :param discrete: Whether actions are indices (``MultiDiscrete``) instead of vectors (``Box``).
    :param action_dim: Length of each agent's (padded) action vector, or the largest number of discrete actions of an agent.
    :param action_mask: Of shape ``(n_agents, action_dim)`` of bool, true for the action dimensions (``Box``) or action
        indices (``MultiDiscrete``) that an agent has, false for padding.
    """

    n_agents: int
    obs_dim: int
    state_dim: int
    has_state: bool
    has_action_mask: bool
    has_agent_mask: bool
    discrete: bool
    action_dim: int
    # Not compared, because an array has no single truth value; the other fields nearly determine it.
    action_mask: np.ndarray = field(compare=False)

    @classmethod
    def from_spaces(cls, observation_space: spaces.Space, action_space: spaces.Space) -> "JointSpaces":
        """
        Derive the joint form from two spaces.

        :param observation_space: Joint observation space, ``Box(n_agents, obs_dim)`` or a ``Dict`` with that ``Box`` under
            ``"observation"``.
        :param action_space: Joint action space, ``Box(n_agents, act_dim)``, whose bounds may be infinite, or ``MultiDiscrete``
            with one entry per agent.
        :return: The numbers and flags of the joint environment.
        :raises TypeError: If a space is of the wrong kind.
        :raises ValueError: If a space is of the right kind, but not of the right shape.
        """
        parts = space_parts(observation_space)
        n_agents, obs_dim = _observation_shape(observation_space, parts)
        discrete, action_mask = _read_action_space(action_space, n_agents)
        n_agents_acting, action_dim = action_mask.shape
        if n_agents_acting != n_agents:
            raise ValueError(
                f"The observation space has {n_agents} agents (first axis of {parts['observation']}) and the action space "
                f"has {n_agents_acting} ({action_space}). Give both the same agent axis."
            )
        _check_optional_parts(parts, n_agents, action_dim, discrete)
        has_state = "state" in parts
        return cls(
            n_agents=n_agents,
            obs_dim=obs_dim,
            state_dim=_box_shape(parts["state"])[0] if has_state else n_agents * obs_dim,
            has_state=has_state,
            has_action_mask="action_mask" in parts,
            has_agent_mask="agent_mask" in parts,
            discrete=discrete,
            action_dim=action_dim,
            action_mask=action_mask,
        )


def _box_shape(space: spaces.Space) -> tuple[int, ...]:
    return tuple(space.shape) if isinstance(space, spaces.Box) else ()


def _observation_shape(observation_space: spaces.Space, parts: dict[str, spaces.Space]) -> tuple[int, int]:
    if "observation" not in parts:
        raise ValueError(
            f"The Dict observation space has the keys {sorted(parts)} and no 'observation'. "
            "Put the agents' observations, Box(n_agents, obs_dim), under 'observation'."
        )
    space = parts["observation"]
    if not isinstance(space, spaces.Box):
        raise TypeError(
            f"The observation space is {observation_space}, but {JOINT_FORM}. Flatten each agent's part into a row."
        )
    if len(space.shape) == 1:
        raise ValueError(
            f"The observation space is {observation_space}, one vector without an agent axis, but {JOINT_FORM}. "
            f"For a single-agent environment add the axis: "
            f"gymnasium.wrappers.ReshapeObservation(env, (1, {space.shape[0]})), and likewise for its actions."
        )
    if len(space.shape) != 2 or 0 in space.shape:
        raise ValueError(
            f"The observations of shape {space.shape} are not of shape (n_agents, obs_dim), but {JOINT_FORM}. "
            "Flatten what each agent sees (an image, a stack of frames) into one row."
        )
    return space.shape[0], space.shape[1]


def _read_action_space(action_space: spaces.Space, n_agents: int) -> tuple[bool, np.ndarray]:
    """Whether actions are discrete, and the ``(n_agents, action_dim)`` mask of the real action dimensions."""
    if isinstance(action_space, spaces.Box):
        if len(action_space.shape) != 2 or 0 in action_space.shape:
            raise ValueError(
                f"The action space is {action_space} of shape {action_space.shape}, but {JOINT_FORM}. "
                f"Give it the agent axis of the observations: shape ({n_agents}, act_dim)."
            )
        action_mask = action_space.high > action_space.low
    elif isinstance(action_space, spaces.MultiDiscrete):
        if action_space.nvec.ndim != 1:
            raise ValueError(
                f"The action space is {action_space} with counts of shape {action_space.nvec.shape}, but {JOINT_FORM}. "
                "Give each agent one count: the product of its own choices."
            )
        if np.any(action_space.start != 0):
            raise ValueError(
                f"The action space {action_space} starts at {action_space.start}. Number every agent's actions from 0."
            )
        action_mask = np.arange(action_space.nvec.max()) < action_space.nvec[:, None]
    elif isinstance(action_space, spaces.Discrete):
        raise TypeError(
            f"The action space is {action_space}, one agent's choice, but {JOINT_FORM}. "
            f"With one agent, use MultiDiscrete([{action_space.n}])."
        )
    else:
        raise TypeError(
            f"The action space is {action_space}, but {JOINT_FORM}. Put the agents' actions in one such space; "
            "sb3_cora.common.joint_env.joint_action_space makes it from a list of the agents' own spaces."
        )
    return isinstance(action_space, spaces.MultiDiscrete), action_mask


def _check_optional_parts(parts: dict[str, spaces.Space], n_agents: int, action_dim: int, discrete: bool) -> None:
    unknown = sorted(set(parts) - {"observation", *OPTIONAL_KEYS})
    if unknown:
        raise ValueError(
            f"The Dict observation space has the keys {unknown}, which a joint environment does not know. "
            f"Besides 'observation' it may have {', '.join(map(repr, OPTIONAL_KEYS))}: drop the others, or make them 'state'."
        )
    if "state" in parts and len(_box_shape(parts["state"])) != 1:
        raise ValueError(f"The 'state' is {parts['state']}, and must be a Box of shape (state_dim,). Flatten it.")
    if "action_mask" in parts and not discrete:
        raise ValueError(
            "The observations carry an 'action_mask', which needs MultiDiscrete actions. Drop it for Box actions."
        )
    for key, shape in (("action_mask", (n_agents, action_dim)), ("agent_mask", (n_agents,))):
        if key in parts and not (isinstance(parts[key], spaces.Box | spaces.MultiBinary) and parts[key].shape == shape):
            raise ValueError(f"The '{key}' is {parts[key]}, and must be a MultiBinary or a Box(0, 1) of shape {shape}.")


def check_joint_observation(observation: Any, observation_space: spaces.Space) -> None:
    """
    Refuse the observations of a suite's own API, which are lists or dicts by agent instead of arrays with an agent axis.

    :param observation: The joint observation to check, or a batch of them.
    :param observation_space: Joint observation space.
    :raises ValueError: If it is a list of tensors, or a dict of other parts than the space has.
    """
    keys = set(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else set()
    if isinstance(observation, dict):
        foreign = [key for key in observation if key not in keys]
        given = f"a dict of {foreign}"
    else:
        foreign = [part for part in observation if isinstance(part, th.Tensor)] if isinstance(observation, list) else []
        given = f"a list of {len(foreign)} tensors"
    missing = [key for key in keys if key not in observation] if isinstance(observation, dict) else []
    if not foreign and missing:
        raise ValueError(
            f"The observation is a dict without {missing}, which is a part of the model's observations, {observation_space}."
        )
    if foreign:
        policies = " or ".join(f"{adapter.policy}(model, env)" for adapter in registered_adapters() if adapter.policy)
        raise ValueError(
            f"The observation is {given}, but the model takes joint observations, {observation_space}. To act in the suite's "
            f"own API use {policies}: their predict() takes and returns what the suite does. To evaluate the model, give "
            "evaluate_policy or EvalCallback sb3_cora.make_joint_vec_env(env)."
        )


def joint_observation_space(observation_spaces: Sequence[spaces.Space]) -> spaces.Box:
    """
    One space with an agent axis for agents that may observe unequal amounts.

    Each agent's space is flattened (``gymnasium.spaces.flatten_space``) and padded to the longest; the padding has
    ``low == high == 0``, so that the space itself says which entries are real.

    :param observation_spaces: One space per agent, in the order of the agents.
    :return: The joint space, ``Box(n_agents, obs_dim)`` of float32.
    :raises TypeError: If an agent's space has no flat form of fixed length.
    """
    boxes = []
    for agent, space in enumerate(observation_spaces):
        box = spaces.flatten_space(space)
        if not isinstance(box, spaces.Box):
            raise TypeError(f"Agent {agent} observes {space}, which has no flat vector of fixed length. Give it a fixed size.")
        boxes.append(box)
    low = pad_observations([box.low for box in boxes])
    high = pad_observations([box.high for box in boxes])
    return spaces.Box(low, high, dtype=np.float32)


def space_parts(observation_space: spaces.Space) -> dict[str, spaces.Space]:
    """
    :param observation_space: A joint observation space.
    :return: Its parts by name; a space that is no ``Dict`` is its only part, ``"observation"``.
    """
    return observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"observation": observation_space}


def observation_parts(observation: JointObservations) -> dict[str, np.ndarray]:
    """
    :param observation: One joint observation, or those of several environments.
    :return: Its parts by name, as ``space_parts`` has them.
    """
    return observation if isinstance(observation, dict) else {"observation": observation}


def select_observations(observations: JointObservations, indices: np.ndarray | int) -> JointObservations:
    """
    :param observations: Joint observations of several environments.
    :param indices: Of some environments, or the index of one.
    :return: Their observations: copies for an array of indices, views for a single index.
    """
    if isinstance(observations, dict):
        return {key: part[indices] for key, part in observations.items()}
    return observations[indices]


def joint_action_space(action_spaces: Sequence[spaces.Space]) -> spaces.Box | spaces.MultiDiscrete:
    """
    One action space with an agent axis for agents that may act in unequal spaces.

    :param action_spaces: One space per agent, in the order of the agents: all one-dimensional ``Box`` or all ``Discrete``.
    :return: The joint space, ``Box(n_agents, act_dim)`` of float32 whose padded dimensions have ``low == high == 0``,
        or ``MultiDiscrete([k_1, .., k_n])``, whose indices count from 0 whatever an agent's ``Discrete.start`` is.
    :raises TypeError: If the agents' spaces are of different kinds, or neither ``Box`` nor ``Discrete``.
    """
    choices = [space for space in action_spaces if isinstance(space, spaces.Discrete)]
    if len(choices) == len(action_spaces):
        return spaces.MultiDiscrete([space.n for space in choices])
    boxes = [space for space in action_spaces if isinstance(space, spaces.Box) and len(space.shape) == 1]
    if len(boxes) == len(action_spaces):
        low = pad_observations([space.low for space in boxes])
        high = pad_observations([space.high for space in boxes])
        return spaces.Box(low, high, dtype=np.float32)
    raise TypeError(
        f"The agents act in {list(action_spaces)}. The actions of a team must be all Discrete or all Box with one "
        "dimension: flatten or discretize those that differ."
    )


def pad_observations(observations: Sequence[np.ndarray]) -> np.ndarray:
    """
    Stack one vector per agent into rows, padding the shorter ones with zeros.

    :param observations: One array per agent, of shape ``(d_i,)``, whose lengths may differ.
    :return: Of shape ``(n_agents, max d_i)`` of float32.
    """
    padded = np.zeros((len(observations), max(len(observation) for observation in observations)), dtype=np.float32)
    for row, observation in zip(padded, observations, strict=True):
        row[: len(observation)] = observation
    return padded


def check_team_reward(team_reward: str) -> None:
    """
    :param team_reward: How the agents' rewards become the team's.
    :raises ValueError: If it is neither ``"mean"`` nor ``"sum"``.
    """
    if team_reward not in ("mean", "sum"):
        raise ValueError(f"team_reward={team_reward!r} is unknown: use 'mean' or 'sum' of the agents' rewards.")


def reduce_rewards(agent_rewards: np.ndarray, team_reward: str) -> np.ndarray:
    """
    The team's reward from the agents'.

    :param agent_rewards: Of shape ``(..., n_agents)``.
    :param team_reward: Whether to take the ``"mean"`` or the ``"sum"`` over the agents.
    :return: Of shape ``(...)``.
    """
    return agent_rewards.mean(axis=-1) if team_reward == "mean" else agent_rewards.sum(axis=-1)
