"""
The raw data of runs in the format of marl-eval (Gorsane et al. 2022), which BenchMARL writes too.

BenchMARL's ``load_and_merge_json_dicts`` merges the file with those of its own experiments. The names of the VMAS tasks are
BenchMARL's, and so are the returns: means over the agents. Algorithms have a prefix, because there is a MAPPO there too, and
two runs of the same name would be mixed.
"""

from collections.abc import Iterable
from typing import Any

from sb3_cora.envs.registration import VMAS_TASKS
from sb3_cora.zoo.plot.runs import TrainedRun

PREFIX = "sb3_cora_"
# What BenchMARL calls the suites of our ids
SUITES = {"mpe2": "pettingzoo"}


def environment_and_task(env: str) -> tuple[str, str]:
    """
    :param env: Label of an environment.
    :return: What marl-eval calls environment and task, in the small letters in which it looks them up.
    """
    suite, slash, task = env.lower().partition("/")
    if slash:
        return SUITES.get(suite, suite), task
    return ("vmas" if env.partition(":")[0] in VMAS_TASKS else "sb3_cora"), env.lower()


def raw_data(runs: Iterable[TrainedRun]) -> dict[str, Any]:
    """
    :param runs: The runs.
    :return: Their evaluations by environment, task, algorithm, run and step. There is no ``elapsed_time``, because only the
        duration of a whole training is known.
    """
    data: dict[str, Any] = {}
    for run in runs:
        environment, task = environment_and_task(run.env)
        steps: dict[str, Any] = {
            f"step_{number}": {"step_count": int(timesteps), "return": [float(value)]}
            for number, (timesteps, value) in enumerate(zip(run.timesteps, run.returns, strict=True))
        }
        # Of the best model, where there is one. marl-eval looks for them at the end
        absolute = run.final_return if run.best_return is None else run.best_return
        steps["absolute_metrics"] = {"return": [absolute]}
        name = f"seed_{run.seed}" if run.game_seed is None else f"seed_{run.seed}_game_{run.game_seed}"
        data.setdefault(environment, {}).setdefault(task, {}).setdefault(PREFIX + run.algo, {})[name] = steps
    return data


def unequal_note(data: dict[str, Any]) -> str | None:
    """
    :param data: See ``raw_data``.
    :return: What marl-eval will not accept in it, None if it is as it should be.
    """
    runs = [(environment, runs) for environment, tasks in data.items() for algos in tasks.values() for runs in algos.values()]
    for environment in data:
        names = {frozenset(group) for name, group in runs if name == environment}
        lengths = {len(steps) for name, group in runs if name == environment for steps in group.values()}
        if len(names) > 1 or len(lengths) > 1:
            return (
                f"marl-eval wants the same seeds and numbers of evaluations for all algorithms and tasks of {environment!r}, "
                "which these runs do not have: choose among them with --envs and --algos."
            )
    return None
