"""Which environments have an id."""

import importlib.util
from pathlib import Path

import gymnasium as gym

VMAS_TASKS = {
    # An agent with a free way needs about 185 steps to its goal.
    "give_way": {"max_steps": 300},
    "multi_give_way": {"max_steps": 200},
    "navigation": {"max_steps": 100},
}

# The horizon of the scenarios that have no task of their own above.
VMAS_MAX_STEPS = 100


def register_envs() -> None:
    """
    Register the environments of sb3_cora with Gymnasium: the tasks by their name, and every scenario that the installed
    VMAS ships as ``"vmas/<scenario>"``, with 100 steps unless ``max_steps`` says otherwise.
    """
    for name, settings in VMAS_TASKS.items():
        _register_vmas(name, name, settings)
    for name in _vmas_scenarios():
        _register_vmas(f"vmas/{name}", name, VMAS_TASKS.get(name, {"max_steps": VMAS_MAX_STEPS}))


def _register_vmas(env_id: str, scenario: str, settings: dict[str, int]) -> None:
    gym.register(
        id=env_id,
        entry_point="sb3_cora.envs.vmas:VmasEnv",
        vector_entry_point="sb3_cora.envs.vmas:VmasVecEnv",
        kwargs={"scenario": scenario, **settings},
    )


def _vmas_scenarios() -> list[str]:
    """Names of the scenarios of the installed VMAS, read off its folder: importing VMAS takes seconds."""
    spec = importlib.util.find_spec("vmas")
    if spec is None or spec.submodule_search_locations is None:
        return []
    folder = Path(spec.submodule_search_locations[0]) / "scenarios"
    return sorted(path.stem for path in folder.rglob("*.py") if path.stem != "__init__")
