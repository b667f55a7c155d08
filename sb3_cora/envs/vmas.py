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

    All VMAS environments of a process draw from one shared random state, so stepping one changes what the others draw. Inside
    ``with stream.active():`` the shared state is replaced by this stream's own, and restored at the end.

    :param device: Device of the worlds. On a GPU, VMAS draws from the device's global generator, which is replaced likewise.
    """

    def __init__(self, device: th.device) -> None:
        self.device = device
        self._state = list(Environment.vmas_random_state)
        self._cuda_state = th.cuda.get_rng_state(device) if device.type == "cuda" else None

    def seed(self, seed: int) -> None:
        """
        Restart the stream from the same state as ``vmas.make_env(seed=seed)``.

        :param seed: The seed, at least 0 and below 2**32.
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

    VMAS runs in PyTorch's inference mode, which makes its many small operations cheaper.

    :param scenario: Name of a VMAS scenario, a ``BaseScenario``, or an ``Environment`` already made, which is used as it is
        and must not be stepped by other code.
    :param num_envs: Number of worlds, 1 if ``None``.
    :param max_steps: Number of steps after which an episode is truncated. ``None``: never.
    :param seed: Seed of the random stream. ``None``: seeded from entropy, or, for an ``Environment`` already made, by a number
        drawn from VMAS's shared random state, which ``vmas.make_env(seed=)`` has seeded.
    :param device: Device on which VMAS computes. An ``Environment`` already made keeps its own.
    :param team_reward: Whether the team's reward is the ``"mean"`` or the ``"sum"`` of the agents' rewards.
    :param continuous_actions: Whether actions are continuous, or VMAS's discrete ones. An ``Environment`` already made keeps
        its own.
    :param scenario_kwargs: Arguments of the scenario.
    :raises ValueError: If the scenario or ``team_reward`` is unknown, ``max_steps`` is no number of steps, or an
        ``Environment`` already made is given another number of worlds, or ``max_steps`` or arguments of the scenario.
    :raises TypeError: If the scenario does not know an argument.
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
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps={max_steps!r}, expected at least 1, or None for no limit.")
        self.team_reward = team_reward
        if isinstance(scenario, Environment):
            given = {"max_steps": max_steps, **scenario_kwargs}
            if num_envs not in (None, scenario.num_envs) or any(value is not None for value in given.values()):
                raise ValueError(
                    f"The VMAS environment is already made, with num_envs={scenario.num_envs} and "
                    f"max_steps={scenario.max_steps}: give num_envs={num_envs}, {given} to vmas.make_env instead."
                )
            self.environment = scenario
            self.stream = RandomStream(scenario.device)
            if seed is None:
                # Drawn, because two environments that are made one after the other leave the state as it is.
                with local_seed(Environment.vmas_random_state):
                    seed = random.getrandbits(32)
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
        """Warn if the agents play against each other, which makes the team's reward meaningless."""
        # VMAS flags adversaries, except for the red team of football.
        opposed = [agent.adversary or agent.name.startswith("agent_red_") for agent in self.environment.agents]
        warn_of_opposed_teams([agent.name for agent in self.environment.agents], opposed, self.team_reward)

    def seed(self, seed: int) -> None:
        """
        Restart the random stream, with effect from the next reset.

        :param seed: The seed, at least 0 and below 2**32.
        """
        self.stream.seed(seed)

    @th.inference_mode()
    def reset(self, indices: np.ndarray | None = None) -> np.ndarray:
        """
        Start new episodes.

        :param indices: The worlds to reset, all if ``None``.
        :return: The first observations of these worlds, ``(len(indices), n_agents, obs_dim)``.
        """
        with self.stream.active():
            # One swap of the random state for all worlds. Environment.reset_at swaps it for each, in a quarter of its time.
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
        Reset every world, each with random numbers of its own, if VMAS's batched reset would have all worlds alike. (In
        ``passage`` and ``ball_passage`` it draws the agents' places anew for each world, and one place of the gap for all.)

        The batched reset is a single call, but some scenarios, such as give_way, draw one number for all worlds in it, so that
        all worlds would have the same episode. If all worlds are equal after it, the first one is reset again by itself. If
        that changes it, the scenario is random, and the other worlds are reset by themselves as well.
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

        :param actions: Of shape ``(num_envs, n_agents, act_dim)``, or ``(num_envs, n_agents)`` if they are discrete.
        :return: The outcome of the step, before any reset.
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
        :param actions: Of shape ``(num_envs, n_agents, act_dim)``, or ``(num_envs, n_agents)`` if they are discrete.
        :return: Each agent's actions as VMAS takes them, ``(num_envs, d_i)``, on the device of the worlds.
        """
        if isinstance(self.action_space, spaces.Box):
            columns = th.as_tensor(actions, dtype=th.float32, device=self.environment.device)
        else:
            columns = th.as_tensor(actions, device=self.environment.device).unsqueeze(-1)
        return [columns[:, agent, :dim] for agent, dim in enumerate(self._action_dims)]

    def _separate_ends(self) -> tuple[th.Tensor, th.Tensor]:
        """Terminations and truncations of an environment made without ``terminated_truncated``, whose ``step`` merges them."""
        environment = self.environment
        terminated = environment.scenario.done().clone()
        if environment.max_steps is None:
            return terminated, th.zeros_like(terminated)
        return terminated, environment.steps >= environment.max_steps

    def joint_observations(self, observations: "list | dict") -> np.ndarray:
        """
        :param observations: VMAS's observations, ``(num_envs, d_i)`` for each agent.
        :return: The joint observations, ``(num_envs, n_agents, obs_dim)``.
        """
        joint = th.zeros((self.num_envs, *self.observation_space.shape), device=self.environment.device)
        for agent, observation in enumerate(_in_order(observations, self.environment)):
            flat = _flatten(observation)
            joint[:, agent, : flat.shape[1]] = flat
        return joint.cpu().numpy()

    def render(self, mode: str, index: int) -> np.ndarray | None:
        """
        Render one world.

        :param mode: Render mode, ``"rgb_array"`` for a picture or ``"human"`` for a window.
        :param index: The index of the world.
        :return: With ``"rgb_array"`` the picture, ``(height, width, 3)`` of uint8.
        :raises RuntimeError: If there is no display to render on.
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
        """Close the window if one is open."""
        if self.environment.viewer is not None:
            self.environment.viewer.close()
            self.environment.viewer = None

    @th.inference_mode()
    def call(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        """
        Call a method of the VMAS ``Environment``. It draws its random numbers from the stream of these worlds.

        :param method_name: Name of the method.
        :param args: Its arguments.
        :param kwargs: Its keyword arguments.
        :return: What it returns.
        """
        with self.stream.active():
            return super().call(method_name, *args, **kwargs)


class VmasVecEnv(WorldsVecEnv):
    """
    A Stable-Baselines3 ``VecEnv`` over the worlds of one VMAS environment, stepped as one batch.

    Each world is reset automatically when its episode ends. ``infos[i]`` has ``"agent_rewards"``, ``"TimeLimit.truncated"``
    and, if the episode has ended, ``"terminal_observation"``. The observation space is ``Box(n_agents, obs_dim)``, the action
    space ``Box(n_agents, act_dim)`` in VMAS's own units, or ``MultiDiscrete``. Agents with shorter vectors are padded.

    The worlds share one VMAS ``Environment``, which ``get_attr``, ``set_attr`` and ``env_method`` access, and one random
    stream, which does not depend on other VMAS environments of the process: ``seed(s)`` restarts it for all worlds.

    :param scenario: Name of a VMAS scenario, a ``BaseScenario``, or a ``vmas`` ``Environment`` already made, which must not
        be stepped by other code.
    :param num_envs: Number of worlds, 1 if ``None``.
    :param max_steps: Number of steps after which an episode is truncated. ``None``: never.
    :param seed: Seed of the random stream.
    :param device: Device on which VMAS computes.
    :param team_reward: Whether the team's reward is the ``"mean"`` or the ``"sum"`` of the agents' rewards.
    :param continuous_actions: Whether actions are continuous, or VMAS's discrete ones.
    :param render_mode: Render mode, ``"rgb_array"`` or ``"human"``.
    :param scenario_kwargs: Arguments of the scenario.
    :raises ValueError: If the scenario or ``team_reward`` is unknown.
    :raises TypeError: If the scenario does not know an argument.
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
    One world of a VMAS task as a joint ``gymnasium.Env``, for code that needs such an environment.

    It has the spaces, rewards and episode ends of ``VmasVecEnv``. Training is many times faster with ``VmasVecEnv``, because
    VMAS takes little longer to step hundreds of worlds than to step one.

    :param scenario: Name of a VMAS scenario, a ``BaseScenario``, or a ``vmas`` ``Environment`` of one world.
    :param max_steps: Number of steps after which an episode is truncated. ``None``: never.
    :param seed: Seed of the random stream, with the effect of a first ``reset(seed=)``.
    :param device: Device on which VMAS computes.
    :param team_reward: Whether the team's reward is the ``"mean"`` or the ``"sum"`` of the agents' rewards.
    :param continuous_actions: Whether actions are continuous, or VMAS's discrete ones.
    :param render_mode: Render mode, ``"rgb_array"`` or ``"human"``.
    :param scenario_kwargs: Arguments of the scenario.
    :raises ValueError: If the scenario or ``team_reward`` is unknown, or an ``Environment`` has several worlds.
    :raises TypeError: If the scenario does not know an argument.
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
        if seed is not None:
            # Again, because the making of the worlds has drawn from the stream.
            worlds.seed(seed)
        self.metadata = {**self.metadata, "render_fps": round(1 / worlds.environment.world.dt)}


class VmasPolicy(SuitePolicy):
    """
    A trained model in VMAS's own loop: from its list of observations to its list of actions, all worlds at once.

    .. code-block:: python

        policy = VmasPolicy(model, environment)
        observations = environment.reset(seed=0)
        for _ in range(100):
            observations, rewards, dones, infos = environment.step(policy.predict(observations, deterministic=True))

    :param model: The trained model.
    :param environment: The ``vmas`` ``Environment`` that is played, of any number of worlds. Only its spaces are read; it is
        never stepped.
    :param vec_normalize: The ``VecNormalize`` that the model was trained with, by default that of the model's environment, if
        it has one. For a model loaded without environment, load it with
        ``VecNormalize.load(path, make_joint_vec_env("give_way"))``.
    :raises TypeError: If the model is of no algorithm of this package, or the environment is not one of VMAS.
    :raises ValueError: If the model cannot act in the environment.
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
        # With a seed, which is not used, so that none is drawn.
        self.worlds = VmasWorlds(environment, seed=0)
        super().__init__(model, self.worlds.observation_space, self.worlds.action_space, vec_normalize)

    @th.no_grad()
    def predict(
        self, observations: "list[th.Tensor] | dict[str, th.Tensor]", deterministic: bool = False
    ) -> "list[th.Tensor] | dict[str, th.Tensor]":
        """
        :param observations: VMAS's observations, ``(num_envs, d_i)`` for each agent, in a list or (with ``dict_spaces``) a
            dict.
        :param deterministic: Whether to take the most likely actions instead of sampling.
        :return: Each agent's actions ``(num_envs, act_i)``, on the device of the environment, in a list, or in a dict if
            the observations are in one.
        :raises ValueError: If there is not one observation for each agent.
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
    A context in which arguments that a scenario does not use are an error. VMAS only warns of them, so that after a
    misspelled argument a policy would be trained on the wrong task. All of VMAS's scenarios warn, and custom ones do if their
    ``make_world`` ends with ``ScenarioUtils.check_kwargs_consumed(kwargs)``.

    :param scenario: The scenario being made.
    :raises TypeError: If the scenario does not know an argument.
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

    :raises ValueError: If its agents make several discrete choices each.
    """
    if environment.multidiscrete_actions:
        raise ValueError(
            "The VMAS environment was made with multidiscrete_actions=True, several choices per agent. "
            "Make it without: VMAS then gives each agent one choice out of their product."
        )
    agent_observation_spaces = _in_order(environment.observation_space.spaces, environment)
    agent_action_spaces = _in_order(environment.action_space.spaces, environment)
    # VMAS has the spaces of the legacy gym, which are not Gymnasium spaces.
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
    # A Dict has no shape.
    if space.shape is None:
        return sum(_length(part) for part in space.spaces.values())
    return int(np.prod(space.shape))


def _in_order(per_agent: Any, environment: "Environment") -> list:
    """The agents' values in the order of the agents, from VMAS's list or (with ``dict_spaces``) dict."""
    # By name, because the legacy gym sorts the keys of its Dict spaces, unlike VMAS those of observations and rewards.
    return [per_agent[agent.name] for agent in environment.agents] if isinstance(per_agent, dict) else list(per_agent)


def _flatten(observation: "th.Tensor | dict") -> th.Tensor:
    """``(num_envs, d)`` from a tensor of any shape, or from a dict of them."""
    if isinstance(observation, dict):
        return th.cat([_flatten(part) for part in observation.values()], dim=1)
    return observation.flatten(start_dim=1)


def _worlds_alike(environment: "Environment") -> bool:
    """Whether all entities are in the same place in every world."""
    states = [th.cat([entity.state.pos, entity.state.rot], dim=1) for entity in environment.world.entities]
    joint = th.cat(states, dim=1)
    return bool((joint == joint[:1]).all())
