"""PettingZoo environments as joint environments."""

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.vec_env import VecNormalize

from sb3_cora.common.joint_env import (
    check_team_reward,
    joint_action_space,
    joint_observation_space,
    pad_observations,
    reduce_rewards,
)
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.suite_policy import SuitePolicy
from sb3_cora.envs.opposed_teams import warn_of_opposed_teams

try:
    import pettingzoo
    from pettingzoo import AECEnv, ParallelEnv
    from pettingzoo.env_registry.exceptions import PettingZooRegistryError
    from pettingzoo.utils.conversions import aec_to_parallel, turn_based_aec_to_parallel
except ImportError as error:
    raise ImportError('PettingZoo is not installed: pip install "sb3-cora[pettingzoo]"') from error

ENV_FORM = (
    'an id of PettingZoo\'s registry, such as env="butterfly/knights_archers_zombies-v11", or "package.module:function", such '
    'as env="mpe2.simple_spread_v3:parallel_env"'
)

# Keys that PettingZooEnv, Monitor and SB3's vector environments write to infos.
OWN_INFO_KEYS = ("agent_rewards", "agent_infos", "episode", "terminal_observation", "TimeLimit.truncated")


class TeamMember:
    """
    One agent of a PettingZoo environment. Converts its entries of PettingZoo's dicts to arrays, and its action back.

    :param name: The agent's key in PettingZoo's dicts.
    :param observation_space: Its observation space. A ``Dict`` of ``"observation"`` and ``"action_mask"`` is split up.
    :param action_space: Its action space.
    :raises ValueError: If it observes images.
    """

    def __init__(self, name: Any, observation_space: spaces.Space, action_space: Any) -> None:
        self.name = name
        self.action_space = action_space
        self.bare_observation_space = observation_space
        self.observes_mask = False
        if isinstance(observation_space, spaces.Dict) and set(observation_space.spaces) == {"observation", "action_mask"}:
            self.bare_observation_space = observation_space["observation"]
            self.observes_mask = True
        if _has_image(self.bare_observation_space):
            raise ValueError(
                f"Agent {name!r} observes images, {self.bare_observation_space}, but the networks here take vectors. Shrink "
                "and flatten them first, for example with supersuit's color_reduction_v0, resize_v1 and flatten_v0, or make "
                "the environment give vectors if it can."
            )

    def observation(self, observations: dict) -> np.ndarray:
        """
        :param observations: PettingZoo's observations, by agent.
        :return: The agent's flat observation, ``(d_i,)``, zeros if it has none.
        """
        if self.name not in observations:
            return np.zeros(spaces.flatdim(self.bare_observation_space))
        own = observations[self.name]
        return np.asarray(spaces.flatten(self.bare_observation_space, own["observation"] if self.observes_mask else own))

    def action_mask(self, observations: dict, infos: dict) -> np.ndarray | None:
        """
        :param observations: PettingZoo's observations, by agent.
        :param infos: PettingZoo's infos, by agent.
        :return: The agent's mask, ``(k_i,)``, 1 = allowed, or ``None`` if it has none.
        """
        source = observations if self.observes_mask else infos
        return source.get(self.name, {}).get("action_mask")

    def own_action(self, row: np.ndarray) -> Any:
        """
        :param row: The agent's part of the joint action: a padded vector, or an index counted from 0.
        :return: The action in the agent's own space.
        """
        if isinstance(self.action_space, spaces.Discrete):
            return self.action_space.start + int(row)
        # The joint space is of float32, whose rounding may lie outside bounds of float64; whole numbers are the nearest ones.
        own = row[: self.action_space.shape[0]].astype(np.float64)
        if np.issubdtype(self.action_space.dtype, np.integer):
            own = own.round()
        return own.clip(self.action_space.low, self.action_space.high).astype(self.action_space.dtype)


class PettingZooEnv(gym.Env):
    """
    A PettingZoo environment as a joint ``gymnasium.Env`` whose agents are ``possible_agents``, in that order.

    An ``AECEnv`` is converted by PettingZoo: with ``aec_to_parallel`` if its metadata say that it is parallelizable, otherwise
    with ``turn_based_aec_to_parallel``. In the latter one agent acts in each step and the actions of the others are ignored,
    which the agents should see from their action masks. Apply SuperSuit's wrappers to the ``ParallelEnv``, converted or not,
    before this one.

    The observation is a ``Dict`` with

    - ``"observation"``: ``(n_agents, obs_dim)``, flattened and padded with zeros; zeros for agents that have left the episode
      in an earlier step;
    - ``"agent_mask"``: ``(n_agents,)``, 1 for active agents. In the last observation of an episode, 1 for agents that the step
      has truncated, whose future therefore still has a value;
    - ``"state"``, if the environment implements ``state()``;
    - ``"action_mask"``: ``(n_agents, n_actions)``, if the environment gives one, in its observations
      (``{"observation": .., "action_mask": ..}``) or its infos. All actions of an inactive agent are allowed. Of an active
      agent that may do nothing, since it is not its turn, the first action is allowed: with a single choice, the policy takes
      it with probability 1, so that it adds nothing to the gradient, the entropy or the value of a coalition.

    The episode ends when all agents are inactive: truncated if its last step truncates an agent, and terminated otherwise. An
    agent that is truncated while others continue counts as terminated, since the team gets no more rewards from it.

    The info holds the agents' rewards as ``"agent_rewards"`` and the environment's infos as ``"agent_infos"``, a dict by
    agent. Facts about the whole team, such as whether a battle is won, are in the infos of all agents. Those named by
    ``team_info_keys`` are copied to the info itself, where ``Monitor(info_keywords=)`` and, if named ``"is_success"``, the
    logged success rate find them.

    The environment is reset once at construction, because only a reset shows whether it has a state and masks.

    :param parallel_env: The environment to adapt, a ``ParallelEnv`` or an ``AECEnv``. The action spaces of its agents must be
        all ``Box`` or all ``Discrete``.
    :param team_reward: Whether the team's reward is the ``"mean"`` or the ``"sum"`` over all possible agents. Inactive agents
        get 0.
    :param use_state: Whether observations include ``state()``. Without it critics see the observations of all agents.
    :param team_info_keys: Keys of the agents' infos that concern the whole team, one or several.
    :raises TypeError: If the agents' spaces do not make a joint space.
    :raises ValueError: If ``team_reward`` is unknown, ``team_info_keys`` names a key that the info already has, or an agent's
        observation or the state is an image.
    """

    def __init__(
        self,
        parallel_env: "ParallelEnv | AECEnv",
        team_reward: str = "mean",
        use_state: bool = True,
        team_info_keys: str | Sequence[str] = (),
    ) -> None:
        check_team_reward(team_reward)
        self.team_info_keys = (team_info_keys,) if isinstance(team_info_keys, str) else tuple(team_info_keys)
        taken = sorted(set(self.team_info_keys) & set(OWN_INFO_KEYS))
        if taken:
            raise ValueError(f"team_info_keys={team_info_keys!r} names {taken}, which the info already has. Leave them out.")
        self.team_reward = team_reward
        self.use_state = use_state
        parallel_env = as_parallel_env(parallel_env)
        self.parallel_env = parallel_env
        # Some environments (MaMuJoCo) have no render_mode attribute at all.
        self.render_mode = getattr(parallel_env, "render_mode", None)
        self.metadata = {"render_modes": [], **getattr(parallel_env, "metadata", {})}
        self.members = [
            TeamMember(agent, parallel_env.observation_space(agent), parallel_env.action_space(agent))
            for agent in parallel_env.possible_agents
        ]
        names = [str(member.name) for member in self.members]
        # PettingZoo does not tell teams. mpe2 names its adversaries so, except for Eve in simple_crypto.
        warn_of_opposed_teams(names, ["adversary" in name or name.startswith("eve_") for name in names], team_reward)
        _, infos = parallel_env.reset()
        state = self._state()
        self.action_space = joint_action_space([member.action_space for member in self.members])
        own = joint_observation_space([member.bare_observation_space for member in self.members])
        parts: dict[str, spaces.Space] = {
            # Agents that have left the episode observe zeros.
            "observation": spaces.Box(np.minimum(own.low, 0), np.maximum(own.high, 0), dtype=np.float32),
            "agent_mask": spaces.MultiBinary(len(self.members)),
        }
        if state is not None:
            parts["state"] = spaces.Box(-np.inf, np.inf, state.shape, dtype=np.float32)
        self._mask_shape: tuple[int, int] | None = None
        gives_mask = any(member.observes_mask or "action_mask" in infos.get(member.name, {}) for member in self.members)
        if gives_mask and isinstance(self.action_space, spaces.MultiDiscrete):
            self._mask_shape = (len(self.members), int(self.action_space.nvec.max()))
            parts["action_mask"] = spaces.MultiBinary(self._mask_shape)
        self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """
        :param seed: Seed of the environment.
        :param options: Options of the environment's ``reset``.
        :return: The joint observation, and the info without ``"agent_rewards"``.
        """
        super().reset(seed=seed)
        observations, infos = self.parallel_env.reset(seed=seed, options=options)
        return self._joint_observation(observations, infos, set(self.parallel_env.agents)), self._info(infos)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """
        :param action: Of shape ``(n_agents, act_dim)``, or ``(n_agents,)`` if actions are discrete. Actions of inactive agents
            are ignored.
        :return: The joint observation, the team's reward, terminated, truncated, and the info with ``"agent_rewards"``,
            ``(n_agents,)``, and ``"agent_infos"``.
        :raises ValueError: If the agents' infos differ in what ``team_info_keys`` names.
        """
        acting = set(self.parallel_env.agents)
        observations, rewards, terminations, truncations, infos = self.parallel_env.step(
            {
                member.name: member.own_action(row)
                for member, row in zip(self.members, action, strict=True)
                if member.name in acting
            }
        )
        _check_complete("step", self.parallel_env.agents, observations=observations)
        _check_complete("step", acting, rewards=rewards, terminations=terminations, truncations=truncations)
        alive = {agent for agent in self.parallel_env.agents if not (terminations[agent] or truncations[agent])}
        # Agents that left in earlier steps do not count: only those truncated in this one would have continued from here.
        cut_off = {agent for agent in acting if truncations[agent] and not terminations[agent]}
        agent_rewards = np.array([rewards.get(member.name, 0.0) for member in self.members], dtype=np.float32)
        return (
            self._joint_observation(observations, infos, alive or cut_off),
            float(reduce_rewards(agent_rewards, self.team_reward)),
            not alive and not cut_off,
            not alive and bool(cut_off),
            {**self._info(infos), "agent_rewards": agent_rewards},
        )

    def _info(self, infos: dict) -> dict[str, Any]:
        """
        The info of the team.

        :param infos: PettingZoo's infos, by agent.
        :raises ValueError: If they differ in what ``team_info_keys`` names.
        """
        # Copies, because some environments return one dict for all agents, or the same one in each step.
        info: dict[str, Any] = {"agent_infos": {agent: copy(own) for agent, own in infos.items()}}
        for key in self.team_info_keys:
            told = {agent: own[key] for agent, own in infos.items() if key in own}
            for value in told.values():
                first = info.setdefault(key, value)
                if value is not first and not np.array_equal(value, first):
                    raise ValueError(
                        f"team_info_keys names {key!r}, in which the infos of the agents differ: {told}. Leave it out, and "
                        'find it by agent in info["agent_infos"].'
                    )
        return info

    def _joint_observation(self, observations: dict, infos: dict, valued: set) -> dict[str, np.ndarray]:
        """
        The observation of the team.

        :param observations: PettingZoo's observations, by agent. Agents may be missing.
        :param infos: PettingZoo's infos, likewise.
        :param valued: The agents whose ``agent_mask`` is 1.
        """
        joint = join_observations(self.members, observations, infos, valued, self._mask_shape)
        state = self._state()
        if state is not None:
            joint["state"] = state
        return joint

    def _state(self) -> np.ndarray | None:
        """
        :return: The result of ``state()`` as one vector, ``(state_dim,)``; ``None`` if the environment does not implement it.
        :raises ValueError: If it is an image.
        """
        # Callable, because PettingZoo's rock-paper-scissors has a dict of this name.
        if not (self.use_state and callable(self.parallel_env.unwrapped.state)):
            return None
        try:
            state = np.asarray(self.parallel_env.state())
        except NotImplementedError:
            return None
        if state.dtype == np.uint8 and state.ndim > 1:
            raise ValueError(
                f"The state is an image, uint8 of shape {state.shape}, but the networks here take vectors. Leave it out with "
                "PettingZooEnv(env, use_state=False): critics then see the observations of all agents."
            )
        return state.astype(np.float32).ravel()

    def render(self) -> Any:
        """
        :return: Whatever the PettingZoo environment renders.
        """
        return self.parallel_env.render()

    def close(self) -> None:
        """Close the PettingZoo environment."""
        self.parallel_env.close()


def join_observations(
    members: Sequence[TeamMember], observations: dict, infos: dict, valued: set, mask_shape: tuple[int, ...] | None
) -> dict[str, np.ndarray]:
    """
    The joint observation of a team, without the state.

    :param members: The agents, in order.
    :param observations: PettingZoo's observations, by agent. Agents may be missing.
    :param infos: PettingZoo's infos, likewise.
    :param valued: The agents whose ``agent_mask`` is 1.
    :param mask_shape: Shape ``(n_agents, n_actions)`` if there are action masks, otherwise ``None``.
    :return: A dict of ``"observation"``, ``"agent_mask"`` and, if there are action masks, ``"action_mask"``; see
        ``PettingZooEnv``.
    """
    joint = {
        "observation": pad_observations([member.observation(observations) for member in members]),
        "agent_mask": np.array([member.name in valued for member in members], dtype=np.int8),
    }
    if mask_shape is not None:
        joint["action_mask"] = np.zeros(mask_shape, dtype=np.int8)
        for row, member in zip(joint["action_mask"], members, strict=True):
            own = member.action_mask(observations, infos)
            # A policy cannot choose from nothing, so all actions of an inactive agent are allowed.
            row[: member.action_space.n] = 1 if own is None or member.name not in valued else own
            if not row.any():
                row[0] = 1
    return joint


class PettingZooPolicy(SuitePolicy):
    """
    A trained model in PettingZoo's own loop: from a dict of observations to a dict of actions.

    .. code-block:: python

        policy = PettingZooPolicy(model, parallel_env)
        observations, infos = parallel_env.reset(seed=0)
        while parallel_env.agents:
            actions = policy.predict(observations, infos, deterministic=True)
            observations, rewards, terminations, truncations, infos = parallel_env.step(actions)

    Each agent acts on its own observation, so an ``AECEnv`` is played with what ``last()`` returns:
    ``policy.predict({agent: observation}, {agent: info})[agent]``, and ``None`` for an agent that is done.

    :param model: The trained model.
    :param env: The environment that is played, a ``ParallelEnv`` or an ``AECEnv``, with the arguments and SuperSuit's
        wrappers that the model was trained with. Only its spaces and its ``agents`` are read; it is never stepped.
    :param vec_normalize: The ``VecNormalize`` that the model was trained with, by default that of the model's environment, if
        it has one. For a model loaded without environment, load it with
        ``VecNormalize.load(path, make_joint_vec_env(env))``.
    :raises TypeError: If the model is of no algorithm of this package, or the environment is not one of PettingZoo.
    :raises ValueError: If the model cannot act in the environment.
    """

    def __init__(
        self,
        model: CooperativeOnPolicyAlgorithm,
        env: "ParallelEnv | AECEnv",
        vec_normalize: VecNormalize | None = None,
    ) -> None:
        if not isinstance(env, ParallelEnv | AECEnv):
            raise TypeError(
                f"PettingZooPolicy plays a ParallelEnv or an AECEnv of PettingZoo, not {env!r}. In VMAS use "
                "sb3_cora.envs.vmas.VmasPolicy, and in joint environments model.predict()."
            )
        self.env = env
        self.members = [
            TeamMember(agent, env.observation_space(agent), env.action_space(agent)) for agent in env.possible_agents
        ]
        super().__init__(
            model,
            joint_observation_space([member.bare_observation_space for member in self.members]),
            joint_action_space([member.action_space for member in self.members]),
            vec_normalize,
        )
        self._mask_shape = self.joint_spaces.action_mask.shape if self.joint_spaces.has_action_mask else None

    def predict(
        self, observations: dict[Any, Any], infos: dict[Any, dict] | None = None, deterministic: bool = False
    ) -> dict[Any, Any]:
        """
        :param observations: PettingZoo's observations, by agent. Agents may be missing.
        :param infos: PettingZoo's infos, likewise. Needed if they hold the action masks.
        :param deterministic: Whether to take the most likely actions instead of sampling.
        :return: The action of each active agent that has an observation, in its own space.
        :raises TypeError: If the observations are not a dict.
        :raises ValueError: If an agent is unknown, or action masks are missing.
        """
        if not isinstance(observations, dict):
            raise TypeError(
                f"The observations are a {type(observations).__name__}, expected a dict by agent. Give the first of the "
                "values that the environment's reset() and step() return."
            )
        names = [member.name for member in self.members]
        unknown = [name for name in observations if name not in names]
        if unknown:
            raise ValueError(
                f"There are observations of {unknown}, which are none of the agents {names}. Give the first of the values "
                "that the environment's reset() and step() return, a dict by agent."
            )
        if infos is None and self._mask_shape is not None and not all(member.observes_mask for member in self.members):
            raise ValueError(
                "The model was trained with action masks, which this environment gives in its infos, but got infos=None. Call "
                "predict(observations, infos)."
            )
        acting = set(observations).intersection(self.env.agents)
        if not acting:
            return {}
        joint = join_observations(self.members, observations, infos or {}, acting, self._mask_shape)
        rows = self._predict(joint, deterministic)
        return {
            member.name: member.own_action(row)
            for member, row in zip(self.members, rows, strict=True)
            if member.name in acting
        }


def make_pettingzoo_env(
    env: str | None = None,
    suite_wrappers: str | dict | Sequence[str | dict] = (),
    team_reward: str = "mean",
    use_state: bool = True,
    team_info_keys: str | Sequence[str] = (),
    **env_kwargs: Any,
) -> PettingZooEnv:
    """
    Make a joint environment from a PettingZoo environment that is given by name, as in a configuration file.

    :param env: An id of PettingZoo's registry, such as ``"butterfly/knights_archers_zombies-v11"``, or the function that makes
        the environment, ``"package.module:function"``, such as ``"mpe2.simple_spread_v3:parallel_env"``.
    :param suite_wrappers: Wrappers of a ``ParallelEnv``, in the form of rl_zoo3's ``env_wrapper``: a name such as
        ``"supersuit.black_death_v3"``, or ``{name: keyword arguments}``, such as
        ``{"supersuit.frame_stack_v1": {"stack_size": 2}}``, or a list of these, the innermost wrapper first.
    :param team_reward: See ``PettingZooEnv``.
    :param use_state: See ``PettingZooEnv``.
    :param team_info_keys: See ``PettingZooEnv``.
    :param env_kwargs: Arguments of the PettingZoo environment.
    :return: The joint environment.
    :raises ValueError: If there is no such environment or wrapper, or a wrapper does not return a ``ParallelEnv``.
    """
    if env is None:
        raise ValueError(f"env=None does not say which PettingZoo environment to make. Give {ENV_FORM}.")
    try:
        make = _find_maker(env)
    except (ImportError, AttributeError, PettingZooRegistryError) as error:
        raise ValueError(f"env={env!r} is no environment of PettingZoo's ({error}): give {ENV_FORM}.") from error
    parallel_env = _wrap(as_parallel_env(make(**env_kwargs)), suite_wrappers)
    return PettingZooEnv(parallel_env, team_reward, use_state, team_info_keys)


def _find_maker(env: str) -> Callable[..., Any]:
    """The function that makes an environment. If the registry has both kinds, it makes a ``ParallelEnv``."""
    if ":" in env:
        return load_env_creator(env)
    try:
        return partial(pettingzoo.make, "parallel", pettingzoo.spec("parallel", env))
    except PettingZooRegistryError:
        return partial(pettingzoo.make, "aec", pettingzoo.spec("aec", env))


def as_parallel_env(env: "ParallelEnv | AECEnv") -> "ParallelEnv":
    """
    :param env: Any environment of PettingZoo.
    :return: The environment itself, or a conversion of an ``AECEnv``: turn-based if it is not parallelizable.
    :raises ValueError: If an ``AECEnv`` is in a wrapper of SuperSuit that keeps past observations.
    """
    _check_memory(env)
    if not isinstance(env, AECEnv):
        return env
    return aec_to_parallel(env) if env.metadata.get("is_parallelizable", False) else turn_based_aec_to_parallel(env)


def _check_memory(env: Any) -> None:
    """
    Refuse SuperSuit's wrappers that keep past observations (such as frame_stack_v1) around an ``AECEnv``. They update an
    agent's observation only when it is about to act, so after a cycle they still show the observation before it.

    :raises ValueError: If there is such a wrapper.
    """
    module = sys.modules.get("supersuit.generic_wrappers.utils.shared_wrapper_util")
    while env is not None:
        if module is not None and isinstance(env, module.shared_wrapper_aec):
            raise ValueError(
                f"{env} is an AECEnv in SuperSuit's {env.modifier_class.__name__}, which shows an agent's observation of its "
                "last turn, not the present one. Convert first and wrap then, with "
                "pettingzoo.utils.conversions.aec_to_parallel or turn_based_aec_to_parallel."
            )
        # Of conversions and of wrappers
        env = getattr(env, "aec_env", None) or getattr(env, "env", None)


def _wrap(parallel_env: "ParallelEnv", suite_wrappers: str | dict | Sequence[str | dict]) -> "ParallelEnv":
    """
    Apply wrappers given by name, see ``make_pettingzoo_env``.

    :raises ValueError: If there is no such wrapper, or one does not return a ``ParallelEnv``.
    """
    for entry in [suite_wrappers] if isinstance(suite_wrappers, str | dict) else suite_wrappers:
        if isinstance(entry, dict) and len(entry) != 1:
            raise ValueError(
                f"The entry {entry} of suite_wrappers has {len(entry)} names. Give each wrapper an entry of its own, "
                '{name: keyword arguments}, such as {"supersuit.frame_stack_v1": {"stack_size": 2}}.'
            )
        name, kwargs = next(iter(entry.items())) if isinstance(entry, dict) else (entry, None)
        module, _, wrapper = name.rpartition(".")
        try:
            wrap = getattr(importlib.import_module(module), wrapper)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"The wrapper {name!r} of suite_wrappers cannot be imported: {error}. Give its full name, such as "
                '"supersuit.frame_stack_v1"; SuperSuit comes with pip install "sb3-cora[pettingzoo]".'
            ) from error
        # YAML reads "name:" without arguments as {name: None}.
        wrapped = wrap(parallel_env, **(kwargs or {}))
        if not isinstance(wrapped, ParallelEnv):
            raise ValueError(
                f"The wrapper {name!r} of suite_wrappers returns a {type(wrapped).__name__}, expected a ParallelEnv. Leave "
                "vector wrappers out: sb3_cora makes the VecEnv."
            )
        parallel_env = wrapped
    return parallel_env


def _check_complete(method: str, agents: Iterable[Any], **parts: dict) -> None:
    """
    :param method: Name of a method of a PettingZoo environment.
    :param agents: Who should be in all that it returns.
    :param parts: What it has returned, by name.
    :raises ValueError: If an agent is missing.
    """
    for name, part in parts.items():
        for agent in agents:
            if agent not in part:
                raise ValueError(
                    f"The PettingZoo environment's {method}() returned {name} of {list(part)}, without agent {agent!r}, which "
                    "takes part: return one for each of agents."
                )


def _has_image(space: spaces.Space) -> bool:
    """Whether a space contains images: integers from 0 to 255 in rows and columns."""
    if isinstance(space, spaces.Dict):
        return any(_has_image(part) for part in space.spaces.values())
    if isinstance(space, spaces.Tuple):
        return any(_has_image(part) for part in space.spaces)
    if not isinstance(space, spaces.Box):
        return False
    return space.dtype == np.uint8 and len(space.shape) > 1 and bool((space.high == 255).all())
