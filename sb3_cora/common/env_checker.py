"""A conformance check for joint environments."""

import warnings
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora.common.adapters import registered_adapters
from sb3_cora.common.joint_env import JointObservations, JointSpaces, observation_parts, select_observations, space_parts


def check_joint_env(env: gym.Env | VecEnv, warn: bool = True, max_steps: int = 1000) -> None:
    """
    Check that an environment has the form and the behavior of a joint environment.

    Random allowed actions are played until the first episode ends, and all observations, masks, rewards and flags are
    checked. ``reset(seed=)`` must be repeatable. For a ``gymnasium.Env`` without action masks SB3's own ``check_env`` is
    called too; for a ``VecEnv`` the infos at the end of an episode are checked. Reset the environment before using it
    further.

    :param env: The environment, or a ``VecEnv`` of such environments.
    :param warn: Whether to warn of what is allowed but probably a mistake.
    :param max_steps: Number of steps after which the check stops if no episode has ended.
    :raises TypeError: If ``env`` is not an environment, or a space or a value is of a wrong kind.
    :raises ValueError: If a shape, a value or a behavior is wrong.
    """
    if not isinstance(env, gym.Env | VecEnv):
        raise TypeError(
            f"check_joint_env got a {type(env).__module__}.{type(env).__qualname__}. Give a gymnasium.Env or a VecEnv; "
            "sb3_cora.common.env_util.as_joint_vec_env makes one from "
            f"{' or '.join(adapter.name for adapter in registered_adapters())}."
        )
    joint = JointSpaces.from_spaces(env.observation_space, env.action_space)
    if (
        warn
        and isinstance(env.action_space, spaces.Box)
        and not np.isfinite([env.action_space.low, env.action_space.high]).all()
    ):
        warnings.warn(
            f"The actions {env.action_space} are unbounded. SB3's algorithms and ours want finite bounds; "
            "gymnasium.wrappers.RescaleAction gives an environment finite ones.",
            stacklevel=2,
        )
    ended = (
        _check_vec_env(env, joint, max_steps) if isinstance(env, VecEnv) else _check_single_env(env, joint, warn, max_steps)
    )
    if warn and not ended:
        warnings.warn(
            f"No episode ended within {max_steps} steps, so its end was not checked. "
            "Give check_joint_env a larger max_steps, or the environment a time limit.",
            stacklevel=2,
        )


def _check_single_env(env: gym.Env, joint: JointSpaces, warn: bool, max_steps: int) -> bool:
    ended = _play_episode(env, joint, warn, max_steps)
    # check_env plays any action of the space, and environments may refuse actions that their masks do not allow.
    if not joint.has_action_mask:
        try:
            check_env(env, warn=False)
        except AssertionError as error:
            raise ValueError(f"SB3's check_env refuses the environment: {error}") from error
    return ended


def _play_episode(env: gym.Env, joint: JointSpaces, warn: bool, max_steps: int) -> bool:
    try:
        first = env.reset(seed=0)
    except TypeError as error:
        if "seed" not in str(error):
            raise
        raise TypeError(
            f"The environment's reset takes no seed ({error}). Write reset(self, *, seed=None, options=None), and call "
            "super().reset(seed=seed) in it."
        ) from error
    observation, _ = _unpacked(first, "reset", ("observation", "info"))
    _check_observation(observation, env.observation_space, joint)
    again, _ = env.reset(seed=0)
    _check_observation(again, env.observation_space, joint)
    _check_equal(
        observation,
        again,
        "reset(seed=0) gave two different observations ({}). Draw all randomness from self.np_random, after "
        "super().reset(seed=seed).",
    )
    action_space = _seeded_copy(env.action_space)
    for _ in range(max_steps):
        _check_observation(observation, env.observation_space, joint)
        observation, reward, terminated, truncated, info = _unpacked(
            env.step(_sample(action_space, observation, joint)),
            "step",
            ("observation", "reward", "terminated", "truncated", "info"),
        )
        if not isinstance(reward, float | int):
            raise TypeError(f"The reward is {reward!r} of type {type(reward)}. Return the team's reward as one float.")
        _require(bool(np.isfinite(reward)), f"The reward is {reward}. Return finite rewards.")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool):
                raise TypeError(
                    f"{name} is {flag!r} of type {type(flag)}. Return a bool: the whole team's episode ends at once."
                )
        _check_agent_rewards(info, reward, joint, warn)
        if terminated or truncated:
            _check_observation(observation, env.observation_space, joint, terminal=True)
            return True
    return False


def _check_equal(first: JointObservations, again: JointObservations, message: str) -> None:
    """
    :param message: The error message, with ``{}`` for the part of the observation that differs.
    """
    for key, part in observation_parts(first).items():
        _require(np.array_equal(part, observation_parts(again)[key], equal_nan=True), message.format(key))


def _unpacked(returned: Any, method: str, parts: tuple[str, ...]) -> tuple[Any, ...]:
    """
    :param returned: By a method of an environment.
    :param method: Its name.
    :param parts: Names of what it should return; the last one is a dict.
    :return: The same.
    :raises TypeError: If it is something else.
    """
    if not (isinstance(returned, tuple) and len(returned) == len(parts) and isinstance(returned[-1], dict)):
        given = f"{len(returned)} values" if isinstance(returned, tuple) else f"a {type(returned).__name__}"
        raise TypeError(f"{method} returned {given}. Return the tuple ({', '.join(parts)}), of which the info is a dict.")
    return returned


def _check_vec_env(env: VecEnv, joint: JointSpaces, max_steps: int) -> bool:
    env.seed(0)
    first: Any = env.reset()
    env.seed(0)
    observations: Any = env.reset()
    _check_equal(
        first,
        observations,
        "seed(0) and reset() gave two different observations ({}). Draw all randomness from what the seed determines.",
    )
    action_space = _seeded_copy(env.action_space)
    for _ in range(max_steps):
        single = [select_observations(observations, index) for index in range(env.num_envs)]
        for observation in single:
            _check_observation(observation, env.observation_space, joint)
        observations, rewards, dones, infos = env.step(
            np.stack([_sample(action_space, observation, joint) for observation in single])
        )
        for name, values, kind in (("rewards", rewards, np.floating), ("dones", dones, np.bool_)):
            _require(
                np.shape(values) == (env.num_envs,) and np.issubdtype(np.asarray(values).dtype, kind),
                f"The {name} are {values!r}. Return an array of shape ({env.num_envs},) and type {kind.__name__}.",
            )
        _require(bool(np.isfinite(rewards).all()), f"The rewards are {rewards}. Return finite rewards.")
        _require(
            len(infos) == env.num_envs,
            f"There are {len(infos)} infos. Return one for each of the {env.num_envs} environments.",
        )
        for index, info in enumerate(infos):
            _check_agent_rewards(info, float(rewards[index]), joint, warn=False)
            if dones[index]:
                _check_end(info, env.observation_space, joint)
        if dones.any():
            return True
    return False


def _check_end(info: dict[str, Any], observation_space: spaces.Space, joint: JointSpaces) -> None:
    for key in ("TimeLimit.truncated", "terminal_observation"):
        _require(
            key in info,
            f"The info at the end of an episode has the keys {sorted(info)} and no {key!r}. "
            "A VecEnv must set it: without it the value at a time limit is not bootstrapped, and learning is wrong.",
        )
    flag = info["TimeLimit.truncated"]
    if not isinstance(flag, bool | np.bool_):
        raise TypeError(f"info['TimeLimit.truncated'] is {flag!r}. Set it to a bool: truncated and not terminated.")
    _check_observation(info["terminal_observation"], observation_space, joint, terminal=True)


def _check_observation(observation: Any, observation_space: spaces.Space, joint: JointSpaces, terminal: bool = False) -> None:
    if isinstance(observation_space, spaces.Dict):
        if not isinstance(observation, dict):
            raise TypeError(f"The observation is a {type(observation)}, but the space is a Dict. Return a dict of arrays.")
        _require(
            observation.keys() == observation_space.spaces.keys(),
            f"The observation has the keys {sorted(observation)}, its space {sorted(observation_space.spaces)}. Return the "
            "keys of the space.",
        )
        for key, part in observation.items():
            _check_array(part, key)
        # Masks first, because this gives a clearer message than the check against their space below.
        _check_masks(observation, joint, terminal)
    for key, space in space_parts(observation_space).items():
        part = observation_parts(observation)[key]
        _check_array(part, key)
        _require(bool(np.isfinite(part).all()), f"The {key} is not finite: {part}. Return finite numbers.")
        _require(
            bool(space.contains(part)),
            f"The {key} {part!r} of shape {np.shape(part)} and type {part.dtype} is not in its space {space}. Return an array "
            "of the space's shape, type and bounds; where low == high == 0 the space marks padding, which must be zeros.",
        )


def _check_array(part: Any, key: str) -> None:
    if not (isinstance(part, np.ndarray) and (np.issubdtype(part.dtype, np.number) or part.dtype == bool)):
        raise TypeError(f"The {key} is {part!r} of type {type(part).__name__}. Return an array of numbers.")


def _check_masks(observation: dict[str, np.ndarray], joint: JointSpaces, terminal: bool) -> None:
    for key in ("agent_mask", "action_mask"):
        if key in observation:
            values = np.unique(observation[key])
            _require(bool(np.isin(values, (0, 1)).all()), f"The {key} holds {values}. Return 1 for yes and 0 for no.")
    # After the end no agent acts, so any action mask is valid.
    if not joint.has_action_mask or terminal:
        return
    allowed = observation["action_mask"].astype(bool)
    outside = np.argwhere(allowed & ~joint.action_mask)
    _require(
        len(outside) == 0,
        f"The action_mask allows (agent, action) {outside.tolist()}, which the action space does not have. Set them to 0.",
    )
    active = observation["agent_mask"].astype(bool) if joint.has_agent_mask else np.ones(joint.n_agents, dtype=bool)
    stuck = np.flatnonzero(active & ~allowed.any(axis=1))
    _require(
        len(stuck) == 0,
        f"The action_mask allows the active agents {stuck.tolist()} no action. Allow one, such as doing nothing.",
    )


def _check_agent_rewards(info: dict[str, Any], reward: float, joint: JointSpaces, warn: bool) -> None:
    if "agent_rewards" not in info:
        return
    agent_rewards = np.asarray(info["agent_rewards"])
    _require(
        agent_rewards.shape == (joint.n_agents,) and bool(np.isfinite(agent_rewards).all()),
        f"info['agent_rewards'] is {agent_rewards} of shape {agent_rewards.shape}. "
        f"Give one finite reward per agent, shape ({joint.n_agents},).",
    )
    if warn and not np.isclose(reward, [agent_rewards.mean(), agent_rewards.sum()], rtol=1e-4, atol=1e-6).any():
        warnings.warn(
            f"The reward {reward} is neither the mean nor the sum of info['agent_rewards'] {agent_rewards}. "
            "That is allowed; the team is trained on the reward, and independent learners on the agents' own.",
            stacklevel=4,
        )


def _sample(action_space: spaces.Space, observation: JointObservations, joint: JointSpaces) -> np.ndarray:
    if not joint.has_action_mask or not isinstance(action_space, spaces.MultiDiscrete) or not isinstance(observation, dict):
        return action_space.sample()
    rows = zip(observation["action_mask"].astype(np.int8), action_space.nvec, strict=True)
    return action_space.sample(mask=tuple(row[:count] for row, count in rows))


def _seeded_copy(action_space: spaces.Space) -> spaces.Space:
    """A seeded copy, so that the check is repeatable and does not change the environment's own random numbers."""
    action_space = deepcopy(action_space)
    action_space.seed(0)
    return action_space


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
