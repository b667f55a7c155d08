"""PettingZoo parallel environments as joint environments."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_cora.common.joint_env import (
    check_team_reward,
    joint_action_space,
    joint_observation_space,
    pad_observations,
    reduce_rewards,
)

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise ImportError('PettingZoo is not installed: pip install "sb3-cora[pettingzoo]"') from error


class TeamMember:
    """
    One agent of a PettingZoo environment: what of PettingZoo's dicts is its own, and in which form.

    :param name: the agent in PettingZoo's dicts
    :param observation_space: what it observes; a ``Dict`` of ``"observation"`` and ``"action_mask"`` is taken apart
    :param action_space: how it acts
    """

    def __init__(self, name: Any, observation_space: spaces.Space, action_space: Any) -> None:
        self.name = name
        self.action_space = action_space
        self.bare_observation_space = observation_space
        self.observes_mask = False
        if isinstance(observation_space, spaces.Dict) and set(observation_space.spaces) == {"observation", "action_mask"}:
            self.bare_observation_space = observation_space["observation"]
            self.observes_mask = True

    def observation(self, observations: dict) -> np.ndarray:
        """
        :param observations: by agent
        :return: its flat observation, ``(d_i,)``, zeros if it has none
        """
        if self.name not in observations:
            return np.zeros(spaces.flatdim(self.bare_observation_space))
        own = observations[self.name]
        return np.asarray(spaces.flatten(self.bare_observation_space, own["observation"] if self.observes_mask else own))

    def action_mask(self, observations: dict, infos: dict) -> np.ndarray | None:
        """
        :param observations: by agent
        :param infos: by agent
        :return: its mask, ``(k_i,)``, 1 = allowed, or ``None`` if it is given none
        """
        source = observations if self.observes_mask else infos
        return source.get(self.name, {}).get("action_mask")

    def own_action(self, row: np.ndarray) -> Any:
        """
        :param row: its part of the joint action: a padded vector, or an index counted from 0
        :return: its action in its own space
        """
        if isinstance(self.action_space, spaces.Discrete):
            return self.action_space.start + int(row)
        return row[: self.action_space.shape[0]].astype(self.action_space.dtype)


class PettingZooEnv(gym.Env):
    """
    A PettingZoo ``ParallelEnv`` as a joint ``gymnasium.Env`` whose agents are ``possible_agents``, in that order.

    The observation is a ``Dict`` with

    - ``"observation"``: ``(n_agents, obs_dim)``, flattened and padded with zeros; zeros for an agent that is gone;
    - ``"agent_mask"``: ``(n_agents,)``, 1 for an agent still in the episode. In the last observation of an episode, 1 for an
      agent that was not terminated: whose future was cut off by a time limit and has a value;
    - ``"state"``, where the environment implements ``state()``;
    - ``"action_mask"``: ``(n_agents, n_actions)``, where the environment gives one, in its observations
      (``{"observation": .., "action_mask": ..}``) or its infos. All its actions are allowed to an agent that is gone.

    The episode ends when no agent is left: terminated if every agent was, and truncated otherwise.

    The environment is reset once here, because only then does it show whether it has a state and masks.

    :param parallel_env: the environment to adapt; agents act all in ``Box`` or all in ``Discrete`` spaces
    :param team_reward: the team's reward is the ``"mean"`` or the ``"sum"`` of its agents'; an agent that is gone gets 0
    :raises TypeError: if the agents' spaces do not make a joint space
    :raises ValueError: if ``team_reward`` is unknown
    """

    def __init__(self, parallel_env: "ParallelEnv", team_reward: str = "mean") -> None:
        check_team_reward(team_reward)
        self.team_reward = team_reward
        self.parallel_env = parallel_env
        # Some environments (MaMuJoCo) have no render_mode attribute at all.
        self.render_mode = getattr(parallel_env, "render_mode", None)
        self.metadata = {"render_modes": [], **getattr(parallel_env, "metadata", {})}
        self.members = [
            TeamMember(agent, parallel_env.observation_space(agent), parallel_env.action_space(agent))
            for agent in parallel_env.possible_agents
        ]
        _, infos = parallel_env.reset()
        state = _state(parallel_env)
        self.action_space = joint_action_space([member.action_space for member in self.members])
        parts: dict[str, spaces.Space] = {
            "observation": joint_observation_space([member.bare_observation_space for member in self.members]),
            "agent_mask": spaces.MultiBinary(len(self.members)),
        }
        if state is not None:
            parts["state"] = spaces.Box(-np.inf, np.inf, state.shape, dtype=np.float32)
        self._mask_shape: tuple[int, int] | None = None
        gives_mask = any(member.observes_mask or "action_mask" in infos[member.name] for member in self.members)
        if gives_mask and isinstance(self.action_space, spaces.MultiDiscrete):
            self._mask_shape = (len(self.members), int(self.action_space.nvec.max()))
            parts["action_mask"] = spaces.MultiBinary(self._mask_shape)
        self.observation_space = spaces.Dict(parts)
        self._terminated: set[Any] = set()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """
        :param seed: seed of the environment
        :param options: handed on
        :return: the joint observation and an empty info
        """
        super().reset(seed=seed)
        observations, infos = self.parallel_env.reset(seed=seed, options=options)
        self._terminated = set()
        return self._joint_observation(observations, infos, set(self.parallel_env.agents)), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """
        :param action: ``(n_agents, act_dim)``, or ``(n_agents,)`` of discrete actions; those of agents gone are ignored
        :return: the joint observation, the team's reward, terminated, truncated, and the info with ``"agent_rewards"``,
            ``(n_agents,)``
        """
        acting = set(self.parallel_env.agents)
        observations, rewards, terminations, truncations, infos = self.parallel_env.step(
            {
                member.name: member.own_action(row)
                for member, row in zip(self.members, action, strict=True)
                if member.name in acting
            }
        )
        self._terminated |= {agent for agent in acting if terminations[agent]}
        alive = {agent for agent in self.parallel_env.agents if not (terminations[agent] or truncations[agent])}
        everyone = {member.name for member in self.members}
        ended = not alive
        terminated = ended and self._terminated == everyone
        valued = everyone - self._terminated if ended else alive
        agent_rewards = np.array([rewards.get(member.name, 0.0) for member in self.members], dtype=np.float32)
        return (
            self._joint_observation(observations, infos, valued),
            float(reduce_rewards(agent_rewards, self.team_reward)),
            terminated,
            ended and not terminated,
            {"agent_rewards": agent_rewards},
        )

    def _joint_observation(self, observations: dict, infos: dict, valued: set) -> dict[str, np.ndarray]:
        """
        The observation of the team.

        :param observations: PettingZoo's, by agent; agents may be missing
        :param infos: likewise
        :param valued: the agents whose ``agent_mask`` is 1
        """
        joint = {
            "observation": pad_observations([member.observation(observations) for member in self.members]),
            "agent_mask": np.array([member.name in valued for member in self.members], dtype=np.int8),
        }
        state = _state(self.parallel_env)
        if state is not None:
            joint["state"] = state
        if self._mask_shape is not None:
            joint["action_mask"] = np.zeros(self._mask_shape, dtype=np.int8)
            for row, member in zip(joint["action_mask"], self.members, strict=True):
                own = member.action_mask(observations, infos)
                # An agent that is gone acts no more; all its actions stay allowed, because a policy cannot choose from none.
                row[: member.action_space.n] = 1 if own is None or member.name not in valued else own
        return joint

    def render(self) -> Any:
        """
        :return: whatever the PettingZoo environment renders
        """
        return self.parallel_env.render()

    def close(self) -> None:
        """Close the PettingZoo environment."""
        self.parallel_env.close()


def _state(parallel_env: "ParallelEnv") -> np.ndarray | None:
    """``state()`` as one vector, ``(state_dim,)``; ``None`` where the environment does not implement it."""
    try:
        return np.asarray(parallel_env.state(), dtype=np.float32).ravel()
    except NotImplementedError:
        return None
