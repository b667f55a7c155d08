"""VMAS tasks (https://github.com/proroklab/VectorizedMultiAgentSimulator) as joint environments."""

import os
import random
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_cora.common.joint_env import (
    check_team_reward,
    joint_action_space,
    joint_observation_space,
    reduce_rewards,
)
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.suite_policy import SuitePolicy
from sb3_cora.envs.opposed_teams import warn_of_opposed_teams
from sb3_cora.envs.worlds import Worlds, WorldsEnv, WorldsStep, WorldsVecEnv

try:
    import vmas
    from vmas.simulator.environment import Environment
    from vmas.simulator.environment.environment import local_seed
    from vmas.simulator.scenario import BaseScenario
except ImportError as error:
    raise ImportError('VMAS is not installed: pip install "sb3-cora[vmas]"') from error


class RandomStream:
    """
    The random numbers of one VMAS environment.

    All VMAS environments of a process draw from one shared state, so that stepping one changes what the next draws.
    Inside ``with stream.active():`` that state is this stream's own; on leaving, it is as it was found.

    :param device: Device of the worlds; on a GPU, VMAS draws from the device's global generator, which is kept apart as well
    """

    def __init__(self, device: th.device) -> None:
        self.device = device
        self._state = list(Environment.vmas_random_state)
        self._cuda_state = th.cuda.get_rng_state(device) if device.type == "cuda" else None

    def seed(self, seed: int) -> None:
        """
        Restart the stream, at the state that ``vmas.make_env(seed=seed)`` starts from.

        :param seed: At least 0 and below 2**32
        """
        self._state = [
            th.Generator().manual_seed(seed).get_state(),
            np.random.RandomState(seed).get_state(),
            random.Random(seed).getstate(),
        ]
        if self._cuda_state is not None:
            self._cuda_state = th.Generator(self.device).manual_seed(seed).get_state()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let VMAS draw from this stream."""
        shared = Environment.vmas_random_state
        found = list(shared)
        shared[:] = self._state
        if self._cuda_state is not None:
            cuda_found = th.cuda.get_rng_state(self.device)
            th.cuda.set_rng_state(self._cuda_state, self.device)
        try:
            yield
        finally:
            self._state = list(shared)
            shared[:] = found
            if self._cuda_state is not None:
                self._cuda_state = th.cuda.get_rng_state(self.device)
                th.cuda.set_rng_state(cuda_found, self.device)


class VmasWorlds(Worlds):
    """
    The worlds of one VMAS task, with a random stream of their own.

    The worlds live in PyTorch's inference mode, which spares VMAS's many small operations their book-keeping.

    :param scenario: Name of a VMAS scenario, a ``BaseScenario``, or an ``Environment`` already made, which is used as it is
        and must no longer be stepped by others
    :param num_envs: Number of worlds; 1 when not given
    :param max_steps: Steps after which an episode is truncated, ``None`` for never
    :param seed: Seed of the random stream; without one it starts from entropy, or, for an ``Environment`` already made,
        where VMAS's own stream stands
    :param device: Where VMAS computes
    :param team_reward: The team's reward is the ``"mean"`` or the ``"sum"`` of its agents'
    :param continuous_actions: ``False`` for VMAS's discrete actions
    :param scenario_kwargs: Arguments of the scenario
    :raises ValueError: For an unknown scenario or ``team_reward``, or for settings that an ``Environment`` already made has
        settled otherwise
    :raises TypeError: For an argument that the scenario does not know
    """

    observation_space: spaces.Box
    render_modes = ("human", "rgb_array")

    def __init__(
        self,
        scenario: "str | BaseScenario | Environment",
        num_envs: int | None = None,
        max_steps: int | None = None,
        seed: int | None = None,
        device: str | th.device = "cpu",
        team_reward: str = "mean",
        continuous_actions: bool = True,
        **scenario_kwargs: Any,
    ) -> None:
        check_team_reward(team_reward)
        self.team_reward = team_reward
        if isinstance(scenario, Environment):
            settled = {"max_steps": max_steps, **scenario_kwargs}
            if num_envs not in (None, scenario.num_envs) or any(value is not None for value in settled.values()):
                raise ValueError(
                    f"The VMAS environment is already made, with num_envs={scenario.num_envs} and "
                    f"max_steps={scenario.max_steps}: give num_envs={num_envs}, {settled} to vmas.make_env instead."
                )
            self.environment = scenario
            self.stream = RandomStream(scenario.device)
            if seed is not None:
                self.stream.seed(seed)
        else:
            self.stream = RandomStream(th.device(device))
            self.stream.seed(int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed)
            with th.inference_mode(), self.stream.active(), _unknown_arguments_refused(scenario):
                self.environment = vmas.make_env(
                    _checked_scenario(scenario),
                    num_envs=1 if num_envs is None else num_envs,
                    max_steps=max_steps,
                    device=device,
                    continuous_actions=continuous_actions,
                    terminated_truncated=True,
                    **scenario_kwargs,
                )
        observation_space, action_space, self._action_dims = _joint_spaces(self.environment)
        super().__init__(self.environment.num_envs, observation_space, action_space)

    @property
    def simulator(self) -> "Environment":
        """The VMAS ``Environment``."""
        return self.environment

    def warn_of_opposed_teams(self) -> None:
        """Tell what the team's reward means where the agents are not one team."""
        # VMAS flags adversaries, except for the red team of football
        opposed = [agent.adversary or agent.name.startswith("agent_red_") for agent in self.environment.agents]
        warn_of_opposed_teams([agent.name for agent in self.environment.agents], opposed, self.team_reward)

    def seed(self, seed: int) -> None:
        """
        Restart the random stream; the worlds follow at their next reset.

        :param seed: At least 0 and below 2**32
        """
        self.stream.seed(seed)

    @th.inference_mode()
    def reset(self, indices: np.ndarray | None = None) -> np.ndarray:
        """
        Start new episodes.

        :param indices: The worlds to reset, all when not given
        :return: The first observations of these worlds, ``(len(indices), n_agents, obs_dim)``
        """
        with self.stream.active():
            # One swap of the random state for all worlds: Environment.reset_at pays it, a quarter of its time, for each.
            with local_seed(Environment.vmas_random_state):
                if indices is None or len(indices) == self.num_envs:
                    self._reset_all()
                else:
                    for index in indices:
                        self.environment.scenario.env_reset_world_at(int(index))
                        self.environment.steps[index] = 0
            (observations,) = self.environment.get_from_scenario(
                get_observations=True, get_rewards=False, get_infos=False, get_dones=False
            )
        joint = self.joint_observations(observations)
        return joint if indices is None else joint[indices]

    def _reset_all(self) -> None:
        """
        Reset every world, each with a draw of its own.

        The batched reset is one call, but in it some scenarios (give_way, for one) draw one number for all worlds, so that
        all would live the same episode. Where the worlds come out alike, the first is spawned again by itself; if that moves
        it, the scenario does draw, and so are the others.
        """
        environment = self.environment
        environment.scenario.env_reset_world_at(None)
        environment.steps = th.zeros(self.num_envs, device=environment.device)
        if self.num_envs > 1 and _worlds_alike(environment):
            environment.scenario.reset_world_at(0)
            if not _worlds_alike(environment):
                for index in range(1, self.num_envs):
                    environment.scenario.reset_world_at(index)

    @th.inference_mode()
    def step(self, actions: np.ndarray) -> WorldsStep:
        """
        Advance every world by one step.

        :param actions: ``(num_envs, n_agents, act_dim)``, or ``(num_envs, n_agents)`` of discrete actions
        :return: What the step gives, before any reset
        """
        with self.stream.active():
            observations, rewards, *ends, _ = self.environment.step(self.own_actions(actions))
            terminated, truncated = ends if self.environment.terminated_truncated else self._separate_ends()
        # Some scenarios (wheel) give rewards of shape (num_envs, 1).
        columns = [own.reshape(-1) for own in _in_order(rewards, self.environment)]
        agent_rewards = th.stack(columns, dim=1).float().cpu().numpy()
        return WorldsStep(
            self.joint_observations(observations),
            reduce_rewards(agent_rewards, self.team_reward),
            agent_rewards,
            terminated.cpu().numpy(),
            truncated.cpu().numpy(),
        )

    def own_actions(self, actions: np.ndarray) -> list[th.Tensor]:
        """
        :param actions: ``(num_envs, n_agents, act_dim)``, or ``(num_envs, n_agents)`` of discrete actions
        :return: Each agent's actions as VMAS takes them, ``(num_envs, d_i)``, on the device of the worlds
        """
        if isinstance(self.action_space, spaces.Box):
            columns = th.as_tensor(actions, dtype=th.float32, device=self.environment.device)
        else:
            columns = th.as_tensor(actions, device=self.environment.device).unsqueeze(-1)
        return [columns[:, agent, :dim] for agent, dim in enumerate(self._action_dims)]

    def _separate_ends(self) -> tuple[th.Tensor, th.Tensor]:
        """Both ends of an environment made without ``terminated_truncated``, whose step() has merged them."""
        environment = self.environment
        terminated = environment.scenario.done().clone()
        if environment.max_steps is None:
            return terminated, th.zeros_like(terminated)
        return terminated, environment.steps >= environment.max_steps

    def joint_observations(self, observations: "list | dict") -> np.ndarray:
        """
        :param observations: VMAS's, each agent's ``(num_envs, d_i)``
        :return: ``(num_envs, n_agents, obs_dim)``
        """
        joint = th.zeros((self.num_envs, *self.observation_space.shape), device=self.environment.device)
        for agent, observation in enumerate(_in_order(observations, self.environment)):
            flat = _flatten(observation)
            joint[:, agent, : flat.shape[1]] = flat
        return joint.cpu().numpy()

    def render(self, mode: str, index: int) -> np.ndarray | None:
        """
        Draw one world.

        :param mode: ``"rgb_array"`` for a picture, ``"human"`` for a window
        :param index: Which world
        :return: ``(height, width, 3)`` of uint8 with ``"rgb_array"``
        :raises RuntimeError: If there is no display to draw on
        """
        try:
            with self.stream.active():
                return self.environment.render(mode=mode, env_index=index)
        except Exception as error:
            if os.environ.get("DISPLAY"):
                raise
            raise RuntimeError(
                "VMAS renders through OpenGL and found no display. On a machine without a screen, run under a virtual one: "
                "xvfb-run -a python ..."
            ) from error

    def close(self) -> None:
        """Close the window, where one is open."""
        if self.environment.viewer is not None:
            self.environment.viewer.close()
            self.environment.viewer = None

    @th.inference_mode()
    def call(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        """
        Call a method of the VMAS ``Environment``, which draws from the stream of these worlds.

        :param method_name: Name of the method
        :param args: Its arguments
        :param kwargs: Its keyword arguments
        :return: Its answer
        """
        with self.stream.active():
            return super().call(method_name, *args, **kwargs)


class VmasVecEnv(WorldsVecEnv):
    """
    A Stable-Baselines3 ``VecEnv`` over the worlds of one VMAS environment, stepped as one batch.

    Each world is reset by itself when its episode ends. ``infos[i]`` has ``"agent_rewards"``, ``"TimeLimit.truncated"``
    and, when the episode has ended, ``"terminal_observation"``. Observations are ``Box(n_agents, obs_dim)``, actions
    ``Box(n_agents, act_dim)`` in VMAS's own units, or ``MultiDiscrete``; agents with less are padded.

    The worlds share one VMAS ``Environment``, which is what ``get_attr``, ``set_attr`` and ``env_method`` reach, and one
    random stream, which other VMAS environments of the process do not touch: ``seed(s)`` restarts it for all worlds.

    :param scenario: Name of a VMAS scenario, a ``BaseScenario``, or a ``vmas`` ``Environment`` already made, which from
        then on belongs to this object
    :param num_envs: Number of worlds
    :param max_steps: Steps after which an episode is truncated, ``None`` for never
    :param seed: Seed of the random stream
    :param device: Where VMAS computes
    :param team_reward: The team's reward is the ``"mean"`` or the ``"sum"`` of its agents'
    :param continuous_actions: ``False`` for VMAS's discrete actions
    :param render_mode: ``"rgb_array"`` or ``"human"``
    :param scenario_kwargs: Arguments of the scenario
    :raises ValueError: For an unknown scenario or ``team_reward``
    :raises TypeError: For an argument that the scenario does not know
    """

    worlds: VmasWorlds

    def __init__(
        self,
        scenario: "str | BaseScenario | Environment",
        num_envs: int | None = None,
        max_steps: int | None = None,
        seed: int | None = None,
        device: str | th.device = "cpu",
        team_reward: str = "mean",
        continuous_actions: bool = True,
        render_mode: str | None = None,
        **scenario_kwargs: Any,
    ) -> None:
        worlds = VmasWorlds(scenario, num_envs, max_steps, seed, device, team_reward, continuous_actions, **scenario_kwargs)
        worlds.warn_of_opposed_teams()
        super().__init__(worlds, seed=seed, render_mode=render_mode)


class VmasEnv(WorldsEnv):
    """
    One world of a VMAS task as a joint ``gymnasium.Env``, for whatever wants such an environment.

    It has the spaces, rewards and episode ends of ``VmasVecEnv``. Training is many times faster on that one: VMAS takes
    little longer to step hundreds of worlds than to step one.

    :param scenario: Name of a VMAS scenario, a ``BaseScenario``, or a ``vmas`` ``Environment`` of one world
    :param max_steps: Steps after which an episode is truncated, ``None`` for never
    :param seed: Seed of the random stream, as a first ``reset(seed=)`` would give it
    :param device: Where VMAS computes
    :param team_reward: The team's reward is the ``"mean"`` or the ``"sum"`` of its agents'
    :param continuous_actions: ``False`` for VMAS's discrete actions
    :param render_mode: ``"rgb_array"`` or ``"human"``
    :param scenario_kwargs: Arguments of the scenario
    :raises ValueError: For an unknown scenario or ``team_reward``, or an ``Environment`` of several worlds
    :raises TypeError: For an argument that the scenario does not know
    """

    worlds: VmasWorlds
    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"]}  # noqa: RUF012 - Gymnasium's interface

    def __init__(
        self,
        scenario: "str | BaseScenario | Environment",
        max_steps: int | None = None,
        seed: int | None = None,
        device: str | th.device = "cpu",
        team_reward: str = "mean",
        continuous_actions: bool = True,
        render_mode: str | None = None,
        **scenario_kwargs: Any,
    ) -> None:
        worlds = VmasWorlds(scenario, 1, max_steps, seed, device, team_reward, continuous_actions, **scenario_kwargs)
        worlds.warn_of_opposed_teams()
        super().__init__(worlds, render_mode)
        self.metadata = {**self.metadata, "render_fps": round(1 / worlds.environment.world.dt)}


class VmasPolicy(SuitePolicy):
    """
    A trained model in VMAS's own loop: from its list of observations to its list of actions, all worlds at once.

    .. code-block:: python

        policy = VmasPolicy(model, environment)
        observations = environment.reset(seed=0)
        for _ in range(100):
            observations, rewards, dones, infos = environment.step(policy.predict(observations, deterministic=True))

    :param model: The trained model
    :param environment: The ``vmas`` ``Environment`` that is played, of any number of worlds. It is asked for its spaces and
        never stepped
    :param vec_normalize: The ``VecNormalize`` that the model was trained with. If ``None``, that of the model's environment,
        where it has one; a model loaded without environment knows of none:
        ``VecNormalize.load(path, make_joint_vec_env("give_way"))``
    :raises TypeError: If the model is of no algorithm of this package, or the environment is none of VMAS's
    :raises ValueError: If the environment is none that the model can act in
    """

    def __init__(
        self,
        model: CooperativeOnPolicyAlgorithm,
        environment: "Environment",
        vec_normalize: VecNormalize | None = None,
    ) -> None:
        if not isinstance(environment, Environment):
            raise TypeError(
                f"VmasPolicy plays an Environment of VMAS, which vmas.make_env makes, not {environment!r}. In PettingZoo use "
                "sb3_cora.envs.pettingzoo.PettingZooPolicy, and in joint environments model.predict()."
            )
        self.worlds = VmasWorlds(environment)
        super().__init__(model, self.worlds.observation_space, self.worlds.action_space, vec_normalize)

    @th.no_grad()
    def predict(
        self, observations: "list[th.Tensor] | dict[str, th.Tensor]", deterministic: bool = False
    ) -> "list[th.Tensor] | dict[str, th.Tensor]":
        """
        :param observations: VMAS's, each agent's ``(num_envs, d_i)``, in a list or (with ``dict_spaces``) a dict
        :param deterministic: Whether to take the most likely actions, or to sample
        :return: Each agent's actions ``(num_envs, act_i)``, on the device of the environment, in a list, or in a dict if
            the observations are in one
        :raises ValueError: If there is not one observation for each agent
        """
        n_agents = self.joint_spaces.n_agents
        if not isinstance(observations, list | tuple | dict) or len(observations) != n_agents:
            raise ValueError(
                f"Give the observations of all {n_agents} agents, as the environment's reset() and step() return them: a list "
                "with one tensor for each agent, or a dict."
            )
        parts = {"observation": self.worlds.joint_observations(observations)}
        actions = self.worlds.own_actions(self._predict(parts, deterministic))
        if isinstance(observations, dict):
            return {agent.name: own for agent, own in zip(self.worlds.environment.agents, actions, strict=True)}
        return actions


def _checked_scenario(scenario: "str | BaseScenario") -> "str | BaseScenario":
    known = [*vmas.scenarios, *vmas.debug_scenarios, *vmas.mpe_scenarios]
    if isinstance(scenario, str) and scenario not in known:
        close = get_close_matches(scenario, known)
        raise ValueError(
            f"VMAS has no scenario {scenario!r}. "
            + (f"Did you mean {', '.join(close)}? " if close else "")
            + f"It has {known}."
        )
    return scenario


@contextmanager
def _unknown_arguments_refused(scenario: "str | BaseScenario") -> Iterator[None]:
    """
    Within, arguments that a scenario leaves over are an error. VMAS only warns of them, so that a misspelt one trains on
    another task than was meant. Each of its own scenarios does; one of the user's does where it ends with
    ``ScenarioUtils.check_kwargs_consumed(kwargs)``.

    :param scenario: The scenario being made
    :raises TypeError: For an argument that the scenario does not know
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Scenario kwargs")
        try:
            yield
        except UserWarning as warning:
            left_over = re.match(r"Scenario kwargs: (\{.*\}) passed but not used", str(warning), re.DOTALL)
            if left_over is None:
                raise
            name = scenario if isinstance(scenario, str) else type(scenario).__qualname__
            raise TypeError(
                f"The VMAS scenario {name!r} does not know the arguments {left_over[1]}. It takes those that its make_world "
                "reads, besides max_steps, seed, device, team_reward, continuous_actions and render_mode."
            ) from warning


def _joint_spaces(environment: "Environment") -> tuple[spaces.Box, spaces.Box | spaces.MultiDiscrete, list[int]]:
    """
    Joint spaces of a VMAS environment, and the length of each agent's action vector (1 for a discrete action).

    :raises ValueError: If its agents act in several discrete choices each
    """
    if environment.multidiscrete_actions:
        raise ValueError(
            "The VMAS environment was made with multidiscrete_actions=True, several choices an agent. "
            "Make it without: VMAS then gives each agent one choice out of their product."
        )
    agent_observation_spaces = _in_order(environment.observation_space.spaces, environment)
    agent_action_spaces = _in_order(environment.action_space.spaces, environment)
    # VMAS speaks the legacy gym, whose spaces are no Gymnasium spaces.
    observation_space = joint_observation_space(
        [spaces.Box(-np.inf, np.inf, (_length(space),)) for space in agent_observation_spaces]
    )
    if environment.continuous_actions:
        boxes = [spaces.Box(space.low, space.high) for space in agent_action_spaces]
        return observation_space, joint_action_space(boxes), [box.shape[0] for box in boxes]
    choices = [spaces.Discrete(int(space.n)) for space in agent_action_spaces]
    return observation_space, joint_action_space(choices), [1] * len(choices)


def _length(space: Any) -> int:
    """Number of entries of a legacy gym ``Box``, or of a ``Dict`` of them."""
    # A Dict has no shape of its own
    if space.shape is None:
        return sum(_length(part) for part in space.spaces.values())
    return int(np.prod(space.shape))


def _in_order(per_agent: Any, environment: "Environment") -> list:
    """The agents' values in the order of the agents, out of VMAS's list or (with ``dict_spaces``) dict."""
    # By name: the legacy gym sorts the keys of its Dict spaces, and VMAS those of its observations and rewards not.
    return [per_agent[agent.name] for agent in environment.agents] if isinstance(per_agent, dict) else list(per_agent)


def _flatten(observation: "th.Tensor | dict") -> th.Tensor:
    """``(num_envs, d)`` from a tensor of any shape, or from a dict of them."""
    if isinstance(observation, dict):
        return th.cat([_flatten(part) for part in observation.values()], dim=1)
    return observation.flatten(start_dim=1)


def _worlds_alike(environment: "Environment") -> bool:
    """Whether every world has all its entities where the first world has them."""
    states = [th.cat([entity.state.pos, entity.state.rot], dim=1) for entity in environment.world.entities]
    joint = th.cat(states, dim=1)
    return bool((joint == joint[:1]).all())
