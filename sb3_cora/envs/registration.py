"""Registers environments with Gymnasium, and adapters of the suites' own environments."""

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_cora.common.adapters import Adapter, register_adapter

VMAS_TASKS = {
    # Even with a free way an agent needs about 185 steps to its goal.
    "give_way": {"max_steps": 300},
    "multi_give_way": {"max_steps": 200},
    "navigation": {"max_steps": 100},
}

# The games of this package, by id
GAMES = {
    "matrix_team": "sb3_cora.envs.matrix_game:MatrixTeamGame",
    "multi_peak": "sb3_cora.envs.matrix_game:MultiPeakGame",
    "climbing": "sb3_cora.envs.matrix_game:ClimbingGame",
    "penalty": "sb3_cora.envs.matrix_game:PenaltyGame",
    "differential": "sb3_cora.envs.differential_game:DifferentialGame",
    "gaussian_squeeze": "sb3_cora.envs.anonymous_game:GaussianSqueezeGame",
    "bar_problem": "sb3_cora.envs.anonymous_game:BarProblemGame",
}

# The time limit of scenarios that are not in VMAS_TASKS.
VMAS_MAX_STEPS = 100

# The environments of mpe2 whose agents are one team, with their modules.
MPE2_TASKS = {
    "collect_treasure": "collect_treasure_v1",
    "simple_formation": "simple_formation_v1",
    "simple_line": "simple_line_v1",
    "simple_reference": "simple_reference_v3",
    "simple_speaker_listener": "simple_speaker_listener_v4",
    "simple_spread": "simple_spread_v3",
}

# The splits of robots among agents that gymnasium-robotics knows; an empty tuple where it knows none.
MAMUJOCO_SPLITS = {
    "Ant": ("2x4", "2x4d", "4x2"),
    "CoupledHalfCheetah": ("1p1",),
    "HalfCheetah": ("2x3", "6x1"),
    "Hopper": ("3x1",),
    "Humanoid": ("9|8",),
    "HumanoidStandup": ("9|8",),
    "InvertedDoublePendulum": (),
    "InvertedPendulum": (),
    "ManySegmentAnt": ("2x3",),
    "ManySegmentSwimmer": ("10x2",),
    "Pusher": ("3p",),
    "Reacher": ("2x1",),
    "Swimmer": ("2x1",),
    "Walker2d": ("2x3",),
}

# The classes of the suites' own environments, and what adapts them.
PETTINGZOO = Adapter(
    name="a PettingZoo ParallelEnv or AECEnv",
    entry_point="sb3_cora.envs.pettingzoo:PettingZooEnv",
    policy="sb3_cora.envs.pettingzoo.PettingZooPolicy",
)
ADAPTERS = {
    "pettingzoo.utils.env:ParallelEnv": PETTINGZOO,
    "pettingzoo.utils.env:AECEnv": PETTINGZOO,
    "vmas.simulator.environment.environment:Environment": Adapter(
        name="a VMAS Environment",
        entry_point="sb3_cora.envs.vmas:VmasVecEnv",
        policy="sb3_cora.envs.vmas.VmasPolicy",
    ),
}

# Robots that the suite cannot run from this version of MuJoCo on. CoupledHalfCheetah reads a matrix that became sparse.
MAMUJOCO_BROKEN_FROM = {"CoupledHalfCheetah": (3, 6)}

# Robots that can be split into any numbers of agents and segments; MAMUJOCO_SPLITS only holds examples.
MAMUJOCO_SEGMENTED = ("ManySegmentAnt", "ManySegmentSwimmer")


def register_envs() -> None:
    """
    Register the environments of sb3_cora with Gymnasium, and the adapters of the suites' own environments with ``common``.

    - the games and the main VMAS tasks by their names, such as ``"climbing"`` and ``"give_way"``;
    - every scenario of the installed VMAS as ``"vmas/<scenario>"``, by default with a time limit of 100 steps;
    - the cooperative tasks of mpe2 as ``"mpe2/<task>"``;
    - any PettingZoo environment as ``"pettingzoo"``, whose argument ``env`` names it;
    - if gymnasium-robotics is installed, every split of its robots as ``"mujoco/<scenario>-<split>"``, with ``-`` in place of
      ``|``, except those that the installed MuJoCo cannot run.
    """
    for foreign_class, adapter in ADAPTERS.items():
        register_adapter(foreign_class, adapter)
    for name in GAMES:
        _register(name, "batched_game:GameEnv", "batched_game:GameVecEnv", game=name)
    for name, kwargs in VMAS_TASKS.items():
        _register(name, "vmas:VmasEnv", "vmas:VmasVecEnv", scenario=name, **kwargs)
    for name in _vmas_scenarios():
        kwargs = VMAS_TASKS.get(name, {"max_steps": VMAS_MAX_STEPS})
        _register(f"vmas/{name}", "vmas:VmasEnv", "vmas:VmasVecEnv", scenario=name, **kwargs)
    for name, module in MPE2_TASKS.items():
        _register(f"mpe2/{name}", "pettingzoo:make_pettingzoo_env", env=f"mpe2.{module}:parallel_env")
    _register("pettingzoo", "pettingzoo:make_pettingzoo_env")
    if importlib.util.find_spec("gymnasium_robotics") is not None:
        mujoco_version = tuple(map(int, version("mujoco").split(".")[:2]))
        for scenario, splits in MAMUJOCO_SPLITS.items():
            if mujoco_version < MAMUJOCO_BROKEN_FROM.get(scenario, (99,)):
                for split in splits:
                    # Gymnasium's ids have no "|"
                    env_id = f"mujoco/{scenario}-{split.replace('|', '-')}"
                    _register(env_id, "mamujoco:MaMuJoCoEnv", scenario=scenario, agent_conf=split)


def register_worlds(env_id: str, entry_point: str, /, **settings: Any) -> None:
    """
    Register a batched simulator with Gymnasium. ``make_joint_vec_env`` makes a batch of worlds of it, ``gym.make`` one world.

    :param env_id: The id.
    :param entry_point: The simulator's subclass of ``Worlds``, ``"package.module:Class"``.
    :param settings: Arguments of this class besides ``num_envs``.
    """
    _register(env_id, "worlds:WorldsEnv", "worlds:WorldsVecEnv", worlds=entry_point, **settings)


def _register(env_id: str, env: str, vec_env: str | None = None, /, **kwargs: Any) -> None:
    """
    Register an environment, and the ``VecEnv`` that steps a batch of it, if there is one.

    :param env_id: The id.
    :param env: The environment, ``"module:name"`` in this package.
    :param vec_env: Its ``VecEnv``, likewise.
    :param kwargs: Arguments of both.
    """
    gym.register(
        id=env_id,
        entry_point=f"sb3_cora.envs.{env}",
        vector_entry_point=None if vec_env is None else f"sb3_cora.envs.{vec_env}",
        # Gymnasium's checker warns of action dimensions whose low is equal to their high. With unequal agents, which only
        # environments that are not batched may have, these are padding on purpose.
        disable_env_checker=vec_env is None,
        kwargs=kwargs,
    )


def _vmas_scenarios() -> list[str]:
    """Names of the scenarios of the installed VMAS, taken from its folder, since importing VMAS takes seconds."""
    spec = importlib.util.find_spec("vmas")
    if spec is None or spec.submodule_search_locations is None:
        return []
    folder = Path(spec.submodule_search_locations[0]) / "scenarios"
    return sorted(path.stem for path in folder.rglob("*.py") if path.stem != "__init__")
