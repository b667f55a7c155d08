"""MaMuJoCo of gymnasium-robotics (https://robotics.farama.org/envs/MaMuJoCo) as joint environments."""

import math
import pickle
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import TimeLimit

from sb3_cora.common.joint_env import joint_action_space, joint_observation_space, pad_observations
from sb3_cora.common.training_state.object_graph import register_state
from sb3_cora.envs.registration import MAMUJOCO_SEGMENTED, MAMUJOCO_SPLITS

try:
    import mujoco
    from gymnasium_robotics import mamujoco_v1
    from gymnasium_robotics.envs.multiagent_mujoco import many_segment_ant, many_segment_swimmer
    from gymnasium_robotics.envs.multiagent_mujoco.coupled_half_cheetah import CoupledHalfCheetahEnv
except ImportError as error:
    raise ImportError('gymnasium-robotics is not installed: pip install "sb3-cora[mujoco]"') from error


def _set_simulation(data: "mujoco.MjData", state: bytes) -> None:
    mujoco.mj_copyData(data, data.model, pickle.loads(state))


# All that MuJoCo computes, because rewards depend on positions that it last computed before the end of a step, not only on the
# state from which it integrates. The robot itself is the same.
register_state(mujoco.MjData, pickle.dumps, _set_simulation)
register_state(mujoco.MjModel, lambda _: None, lambda *_: None)

OBSERVATIONS = ("local", "full_state_id")

# Scenarios in which agents observe a selection of the state's entries, which is faster to index than to collect joint by
# joint. It is not so in Reacher and Pusher (other quantities), Walker2d (velocities are clipped in the state, not in the
# observations) and ManySegmentAnt (contact forces of other bodies).
SELECTED_FROM_STATE = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "ManySegmentSwimmer", "Swimmer")

# Arguments of the suite itself. All others are those of the single robot.
FACTORIZATION_ARGUMENTS = {"agent_factorization", "local_categories", "global_categories"}


class MaMuJoCoEnv(gym.Env):
    """
    A MuJoCo robot whose joints are controlled by a team: a ``mamujoco_v1.parallel_env`` as a joint environment.

    The observation is a ``Dict`` with

    - ``"observation"``: ``(n_agents, obs_dim)`` float32, padded with zeros if agents observe unequal amounts;
    - ``"state"``: ``(state_dim,)`` float32, the observation of the single robot's Gymnasium environment.

    The action is ``Box(n_agents, act_dim)``, padded likewise. All agents get the same reward, which is also the team's. The
    episode terminates if that of the robot does (Hopper, Walker2d, Ant and Humanoid may fall), and is truncated by the time
    limit, for all agents at once, so there is no ``"agent_mask"``. Infos hold the robot's own entries and ``"agent_rewards"``.

    The robots are Gymnasium's ``-v5`` ones. HARL (HAPPO, MAPPO) has another benchmark of the same name, with ``-v2`` robots,
    in which every agent observes everything. ``observation="full_state_id"`` gives agents the observations of HARL: the state
    and a one-hot agent id, standardized over the entries of this vector, ``(x - mean(x)) / std(x)``. ``"state"`` is then
    standardized likewise, by its own mean and standard deviation.

    By default all environments are stepped in one process, because sending a step to another process costs more than the
    step. On two cores, one of them partly used by other programs, a ``DummyVecEnv`` made 17100 steps per second of HalfCheetah
    2x3 with 4 environments and 17700 with 16, a ``SubprocVecEnv`` 4400 and 4100; of Ant 4x2, 3600 and 3700 against 2000 and
    1500. To step each environment in its own process, use ``make_joint_vec_env(..., vec_env_cls=SubprocVecEnv)``.

    :param scenario: The robot, such as ``"HalfCheetah"``.
    :param agent_conf: How its joints are split among agents, such as ``"2x3"``: 2 agents of 3 joints each. For
        ``ManySegmentAnt`` and ``ManySegmentSwimmer`` any ``"<agents>x<segments each>"``. ``None``: one agent controls all
        joints.
    :param agent_obsk: An agent observes its own joints and the positions of those up to this many joints away.
    :param observation: What agents observe, ``"local"``, or ``"full_state_id"`` as described above, with which ``agent_obsk``
        has no effect.
    :param max_steps: Number of steps after which an episode is truncated. ``None``: the robot's own limit, which is 1000 (50
        for Reacher, 100 for Pusher).
    :param render_mode: Render mode, ``"rgb_array"``, ``"depth_array"`` or ``"human"``; without a display, see :meth:`render`.
    :param kwargs: Further arguments of ``mamujoco_v1.parallel_env`` (``agent_factorization``, which overrides
        ``agent_conf``, ``local_categories``, ``global_categories``) and of the Gymnasium environment (such as
        ``ctrl_cost_weight``).
    :raises ValueError: If an argument is unknown or out of its range.
    """

    # On the class, because gym.make reads it there before it makes the environment.
    metadata = {"render_modes": ["human", "rgb_array", "depth_array"]}  # noqa: RUF012 - Gymnasium's interface

    def __init__(
        self,
        scenario: str,
        agent_conf: str | None,
        agent_obsk: int = 1,
        observation: str = "local",
        max_steps: int | None = None,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        custom = "agent_factorization" in kwargs
        _check_split(scenario, agent_conf, custom)
        if custom and agent_conf is None:
            # The suite would make one agent all the same.
            agent_conf = "custom"
        _check_observation(agent_obsk, observation, max_steps)
        self.observation = observation
        self.render_mode = render_mode
        robot = _make_robot(scenario, agent_conf, max_steps, render_mode, kwargs)
        self.parallel_env = mamujoco_v1.parallel_env(
            scenario, agent_conf, agent_obsk=agent_obsk, render_mode=render_mode, gym_env=robot, **kwargs
        )
        if agent_conf is not None:
            _order_observed_joints(self.parallel_env.k_dicts)
        self.robot: gym.Env = self.parallel_env.single_agent_env
        self.metadata = self.robot.metadata
        agents = self.parallel_env.possible_agents
        self._n_agents = len(agents)
        self._state_dim = int(np.prod(self.robot.observation_space.shape or ()))
        own_spaces = [self.parallel_env.observation_space(agent) for agent in agents]
        if observation == "full_state_id":
            own_spaces = [spaces.Box(-np.inf, np.inf, (self._state_dim + self._n_agents,))] * self._n_agents
        self.observation_space = spaces.Dict(
            {
                "observation": joint_observation_space(own_spaces),
                "state": spaces.Box(-np.inf, np.inf, (self._state_dim,), dtype=np.float32),
            }
        )
        self.action_space = joint_action_space([self.parallel_env.action_space(agent) for agent in agents])
        self._actuators = _actuators(self.parallel_env.agent_action_partitions)
        # With other arguments of the robot or other categories, agents may observe something else than the selection.
        self._selection: np.ndarray | None = None
        if agent_conf is None or (scenario in SELECTED_FROM_STATE and not kwargs):
            self._selection = _selection([self.parallel_env.observation_factorization[agent] for agent in agents])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """
        :param seed: Seed of the robot's initial pose.
        :param options: Options of the robot's ``reset``.
        :return: The joint observation and the robot's info.
        """
        super().reset(seed=seed)
        state, info = self.robot.reset(seed=seed, options=options)
        return self._joint_observation(state), info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """
        :param action: Of shape ``(n_agents, act_dim)``.
        :return: The joint observation, the team's reward, terminated, truncated, and the robot's info with
            ``"agent_rewards"``, ``(n_agents,)``.
        :raises ValueError: If the action is of another shape, or not finite.
        """
        action = np.asarray(action)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(
                f"The action {action}, expected finite numbers of shape {self.action_space.shape}, a row an agent."
            )
        # In float64 as in the suite, because control costs are computed from the action.
        state, reward, terminated, truncated, info = self.robot.step(action[self._actuators].astype(np.float64))
        agent_rewards = np.full(self._n_agents, reward, dtype=np.float32)
        return (
            self._joint_observation(state),
            float(reward),
            bool(terminated),
            bool(truncated),
            {**info, "agent_rewards": agent_rewards},
        )

    def _joint_observation(self, state: np.ndarray) -> dict[str, np.ndarray]:
        """
        :param state: Observation of the robot's environment, ``(state_dim,)`` float64.
        :return: The joint observation.
        """
        if self.observation == "full_state_id":
            return {"observation": _with_id(state, self._n_agents), "state": _standardized(state)}
        if self._selection is None:
            # Private, but without the dicts that parallel_env.step() makes besides, and without computing the state twice.
            own = self.parallel_env._get_obs()
            joint = pad_observations([own[agent] for agent in self.parallel_env.possible_agents])
            return {"observation": joint, "state": state.astype(np.float32)}
        # The last entry is the zero that the index -1 of padding selects.
        extended = np.zeros(self._state_dim + 1, dtype=np.float32)
        extended[:-1] = state
        return {"observation": extended[self._selection], "state": extended[:-1]}

    def render(self) -> Any:
        """
        :return: A picture ``(height, width, 3)`` of uint8 with ``"rgb_array"``, depths ``(height, width)`` with
            ``"depth_array"``.
        :raises RuntimeError: If MuJoCo finds no way to render.
        """
        try:
            return self.robot.render()
        except ResetNeeded:
            raise
        # Each backend fails with errors of its own: FatalError, AttributeError, ImportError, RuntimeError.
        except Exception as error:
            raise RuntimeError(
                "MuJoCo cannot render. Without a display, set the environment variable MUJOCO_GL before Python starts: 'egl' "
                "(Debian packages libegl1 and libgl1-mesa-dri, or a GPU's driver) or 'osmesa' (Debian package libosmesa6, and "
                "pip install pyopengl)."
            ) from error

    def close(self) -> None:
        """Close the robot's environment and its renderer."""
        self.robot.close()


def _check_split(scenario: str, agent_conf: str | None, custom: bool) -> None:
    """
    :param custom: Whether the user gives ``agent_factorization``, which replaces the suite's splits.
    :raises ValueError: If the suite has no such scenario, or no such split of it.
    """
    if scenario not in MAMUJOCO_SPLITS:
        raise ValueError(f"MaMuJoCo has no scenario {scenario!r}. It has {', '.join(sorted(MAMUJOCO_SPLITS))}.")
    if scenario in MAMUJOCO_SEGMENTED:
        legal = agent_conf is not None and re.fullmatch(r"[1-9]\d*x[1-9]\d*", agent_conf) is not None
        known = "'<agents>x<segments each>', such as '2x3'"
    else:
        legal = custom or agent_conf is None or agent_conf in MAMUJOCO_SPLITS[scenario]
        known = " or ".join([*map(repr, MAMUJOCO_SPLITS[scenario]), "None for one agent"])
    if not legal:
        raise ValueError(f"agent_conf={agent_conf!r} is no split of MaMuJoCo's {scenario}. Use {known}.")


def _check_observation(agent_obsk: int, observation: str, max_steps: int | None) -> None:
    """
    :raises ValueError: If an argument is out of its range.
    """
    if observation not in OBSERVATIONS:
        raise ValueError(f"observation={observation!r} is unknown: use {' or '.join(map(repr, OBSERVATIONS))}.")
    # With None, the suite would make one agent that observes and controls everything, whatever the split.
    if not isinstance(agent_obsk, int) or agent_obsk < 0:
        raise ValueError(
            f"agent_obsk={agent_obsk!r} is no number of joints: use 0, 1, 2, ... For agents that observe everything use "
            "observation='full_state_id'; for one agent in place of the team use agent_conf=None."
        )
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps={max_steps!r}, expected at least 1, or None for the robot's own limit.")


def _make_robot(
    scenario: str, agent_conf: str | None, max_steps: int | None, render_mode: str | None, kwargs: dict[str, Any]
) -> gym.Env:
    """
    The environment of the single robot, with its time limit.

    :raises ValueError: If the scenario does not take the arguments, or does not run on the installed MuJoCo.
    """
    own = {name: value for name, value in kwargs.items() if name not in FACTORIZATION_ARGUMENTS}
    if scenario == "CoupledHalfCheetah":
        return _make_coupled_half_cheetah(1000 if max_steps is None else max_steps, render_mode, own)
    own["render_mode"] = render_mode
    if max_steps is not None:
        own["max_episode_steps"] = max_steps
    if scenario not in MAMUJOCO_SEGMENTED or agent_conf is None:
        return gym.make(f"{scenario}-v5", **own)
    n_agents, n_own_segments = map(int, agent_conf.split("x"))
    generator = many_segment_ant if scenario == "ManySegmentAnt" else many_segment_swimmer
    # The suite writes the model into its own folder and removes it, which fails if environments start in several processes at
    # once, or if the folder is read-only.
    with TemporaryDirectory() as folder:
        model = str(Path(folder) / "robot.xml")
        generator.gen_asset(n_segs=n_agents * n_own_segments, asset_path=model)
        return gym.make(f"{scenario.removeprefix('ManySegment')}-v5", xml_file=model, **own)


def _make_coupled_half_cheetah(max_steps: int, render_mode: str | None, own: dict[str, Any]) -> gym.Env:
    if own:
        raise ValueError(f"CoupledHalfCheetah takes no arguments of its own, got {', '.join(sorted(own))}: drop them.")
    robot = CoupledHalfCheetahEnv(render_mode)
    try:
        robot._get_obs()
    except IndexError as error:
        raise ValueError(
            "CoupledHalfCheetah reads MuJoCo's tendon Jacobian as a matrix, which MuJoCo 3.6 made sparse: "
            'pip install "mujoco<3.6" to use this scenario.'
        ) from error
    return TimeLimit(robot, max_episode_steps=max_steps)


def _order_observed_joints(observed: list[dict[int, list]]) -> None:
    """
    Sort what agents observe by the joints' names and actuators.

    The suite sorts by names alone. Two joints of Pusher have the same name, so their order would be random in each
    environment.

    :param observed: For each agent, by distance, the joints it observes. Sorted in place.
    """
    for joints_by_distance in observed:
        for joints in joints_by_distance.values():
            joints.sort(key=lambda joint: (joint.label, joint.act_ids))


def _actuators(partitions: list) -> tuple[np.ndarray, np.ndarray]:
    """
    The positions of the robot's actuators in the joint action.

    :param partitions: Each agent's nodes, in the order of its actions.
    :return: Indices of agents and of their actions, ``(n_actuators,)`` each.
    """
    where = {node.act_ids: (agent, index) for agent, nodes in enumerate(partitions) for index, node in enumerate(nodes)}
    agents, indices = zip(*(where[actuator] for actuator in range(len(where))), strict=True)
    return np.array(agents), np.array(indices)


def _selection(entries: list[np.ndarray]) -> np.ndarray:
    """
    The agents' selections of the state as one array.

    :param entries: For each agent the indices of the state's entries that it observes, ``(d_i,)``.
    :return: Of shape ``(n_agents, max d_i)``, padded with -1.
    """
    selection = np.full((len(entries), max(map(len, entries))), -1)
    for row, own in zip(selection, entries, strict=True):
        row[: len(own)] = own
    return selection


def _standardized(state: np.ndarray) -> np.ndarray:
    """
    :param state: Of shape ``(state_dim,)``.
    :return: The state with mean 0 and standard deviation 1 over its entries, float32; zeros if they are all equal.
    """
    centered = state - state.sum() / len(state)
    deviation = math.sqrt(centered @ centered / len(state))
    return (centered / (deviation or 1.0)).astype(np.float32)


def _with_id(state: np.ndarray, n_agents: int) -> np.ndarray:
    """
    The observation of each agent in HARL: the state and the agent's one-hot id in one vector, standardized over its entries.

    :param state: Of shape ``(state_dim,)``.
    :param n_agents: Number of agents.
    :return: Of shape ``(n_agents, state_dim + n_agents)`` float32.
    """
    # The agents' vectors are permutations of one another, so they have the same mean and standard deviation. Both are computed
    # from plain sums, because NumPy's mean and std of each row take longer than the robot's step.
    length = len(state) + n_agents
    mean = (float(state.sum()) + 1.0) / length
    centered = state - mean
    squares = float(centered @ centered) + (n_agents - 1) * mean**2 + (1.0 - mean) ** 2
    scale = 1.0 / math.sqrt(squares / length)
    vectors = np.full((n_agents, length), -mean * scale, dtype=np.float32)
    vectors[:, : len(state)] = centered * scale
    # The ones of the one-hot ids: the diagonal behind the states.
    vectors.reshape(-1)[len(state) :: length + 1] = (1.0 - mean) * scale
    return vectors
