"""Which environments have an id."""

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_cora.common.adapters import Adapter, register_adapter

VMAS_TASKS = {
    # An agent with a free way needs about 185 steps to its goal.
    "give_way": {"max_steps": 300},
    "multi_give_way": {"max_steps": 200},
    "navigation": {"max_steps": 100},
}

# Games of this project, by their ids
GAMES = {
    "matrix_team": "sb3_cora.envs.matrix_game:MatrixTeamGame",
    "multi_peak": "sb3_cora.envs.matrix_game:MultiPeakGame",
    "climbing": "sb3_cora.envs.matrix_game:ClimbingGame",
    "penalty": "sb3_cora.envs.matrix_game:PenaltyGame",
    "differential": "sb3_cora.envs.differential_game:DifferentialGame",
}

# The horizon of the scenarios that have no task of their own above.
VMAS_MAX_STEPS = 100

# Those particle environments whose agents are one team, with the module each is in.
MPE2_TASKS = {
    "collect_treasure": "collect_treasure_v1",
    "simple_formation": "simple_formation_v1",
    "simple_line": "simple_line_v1",
    "simple_reference": "simple_reference_v3",
    "simple_speaker_listener": "simple_speaker_listener_v4",
    "simple_spread": "simple_spread_v3",
}

# How the installed gymnasium-robotics splits its robots among agents. None is listed for those it only has as one agent.
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

# The classes of the suites' own environments, and how they become joint ones
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

# Robots that the suite cannot run from a version of MuJoCo on: this one reads a matrix that has become a sparse one.
MAMUJOCO_BROKEN_FROM = {"CoupledHalfCheetah": (3, 6)}

# Of these any split into agents and segments is legal; the ids are but examples.
MAMUJOCO_SEGMENTED = ("ManySegmentAnt", "ManySegmentSwimmer")


def register_envs() -> None:
    """
    Register the environments of sb3_cora with Gymnasium: games and tasks by their name, every scenario that the installed
    VMAS ships as ``"vmas/<scenario>"``, with 100 steps unless ``max_steps`` says otherwise, the cooperative tasks of mpe2 as
    ``"mpe2/<task>"``, and any PettingZoo environment as ``"pettingzoo"``, whose argument ``env`` says what to make;
    where gymnasium-robotics is installed, every split of its robots as ``"mujoco/<scenario>-<split>"``, its ``|`` as ``-``,
    but for what the installed MuJoCo cannot run. And hand the adapters of the suites' own environments to ``common``.
    """
    for foreign_class, adapter in ADAPTERS.items():
        register_adapter(foreign_class, adapter)
    for name in GAMES:
        _register(name, "batched_game:GameEnv", "batched_game:GameVecEnv", game=name)
    for name, settings in VMAS_TASKS.items():
        _register(name, "vmas:VmasEnv", "vmas:VmasVecEnv", scenario=name, **settings)
    for name in _vmas_scenarios():
        settings = VMAS_TASKS.get(name, {"max_steps": VMAS_MAX_STEPS})
        _register(f"vmas/{name}", "vmas:VmasEnv", "vmas:VmasVecEnv", scenario=name, **settings)
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
    Register a batched simulator with Gymnasium, for ``make_joint_vec_env`` as one batch and for ``gym.make`` as one world.

    :param env_id: The id
    :param entry_point: Its class of ``Worlds``, ``"package.module:Class"``
    :param settings: Arguments of the class besides ``num_envs``
    """
    _register(env_id, "worlds:WorldsEnv", "worlds:WorldsVecEnv", worlds=entry_point, **settings)


def _register(env_id: str, env: str, vec_env: str | None = None, /, **settings: Any) -> None:
    """An environment and, where there is one of its own, its ``VecEnv``: ``"module:name"`` in this package."""
    gym.register(
        id=env_id,
        entry_point=f"sb3_cora.envs.{env}",
        vector_entry_point=None if vec_env is None else f"sb3_cora.envs.{vec_env}",
        # Of what is not a batch agents may be unequal, and Gymnasium's checker warns of their padding, where a space's low
        # is its high on purpose
        disable_env_checker=vec_env is None,
        kwargs=settings,
    )


def _vmas_scenarios() -> list[str]:
    """Names of the scenarios of the installed VMAS, read off its folder: importing VMAS takes seconds."""
    spec = importlib.util.find_spec("vmas")
    if spec is None or spec.submodule_search_locations is None:
        return []
    folder = Path(spec.submodule_search_locations[0]) / "scenarios"
    return sorted(path.stem for path in folder.rglob("*.py") if path.stem != "__init__")
