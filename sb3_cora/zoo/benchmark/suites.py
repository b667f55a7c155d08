"""
Suites: what a benchmark trains, as a YAML file.

.. code-block:: yaml

    description: Does dividing the advantage help in climbing?
    seeds: 5                        # seeds of the trainings: a number, 5 for 0 to 4, or a list
    n_timesteps: 40_000             # of each training; default: that of the hyperparameters
    hyperparams: {n_envs: 8}        # for all trainings, in place of those of hyperparams/<algo>.yml
    environments:                   # by the names that they have in tables and figures
      climbing: {env: climbing}     # id
      three agents: {env: multi_peak, env_kwargs: {n_agents: 3}, game_seeds: 10, n_timesteps: 200_000}
    algorithms:                     # likewise
      CORA: {algo: cora_ppo}
      shared: {algo: cora_ppo, hyperparams: {credit: shared}}
      MAPPO: {algo: mappo}
    trials:                         # of a search: hyperparameters, with each of which every algorithm is run
      slow: {learning_rate: 1.0e-4}
      fast: {learning_rate: 1.0e-3}
    quick: {seeds: 1, game_seeds: 1, n_timesteps: 2_000, algorithms: ["CORA, slow"]}

``game_seeds`` go to the environment's argument ``game_seed``, as a number or a list like ``seeds``. Environments may have
``seeds`` of their own, algorithms a list of the ``environments`` that they are for, and both may have ``n_timesteps`` and
``hyperparams``: those of an algorithm go before those of an environment, these before those of the suite; entries of
``policy_kwargs`` and other mappings are replaced one by one. With ``trials``, optional, each algorithm is one for every trial,
such as ``CORA, slow``, whose hyperparameters go before all others. ``eval_freq``, ``eval_episodes`` and
``final_eval_episodes`` of the suite are flags of ``zoo/train.py`` and ``zoo/enjoy.py``: steps between evaluations, their
episodes, and episodes of the evaluation of the trained model. What stands under ``quick`` replaces the same of the suite with
``--quick``; its ``seeds`` and ``game_seeds`` hold for all environments, its ``environments`` and ``algorithms`` are names of
those that remain.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import yaml
from gymnasium.envs.registration import load_env_creator
from rl_zoo3.utils import ALGOS

from sb3_cora.envs.registration import GAMES
from sb3_cora.zoo.exp_manager import check_hyperparams, hyperparams_folder
from sb3_cora.zoo.mistakes import read_yaml
from sb3_cora.zoo.results import Run

SUITE_KEYS = {
    *("description", "seeds", "n_timesteps", "hyperparams", "eval_freq", "eval_episodes", "final_eval_episodes"),
    *("environments", "algorithms", "trials", "quick"),
}
ENVIRONMENT_KEYS = {"env", "env_kwargs", "seeds", "game_seeds", "n_timesteps", "hyperparams"}
ALGORITHM_KEYS = {"algo", "environments", "n_timesteps", "hyperparams"}
QUICK_KEYS = SUITE_KEYS - {"description", "trials", "quick"} | {"game_seeds"}


class Evaluations(NamedTuple):
    """
    How the models of a suite are evaluated.

    :param eval_freq: Steps between two evaluations during the training, 0 for thirty evaluations.
    :param eval_episodes: Episodes of each, 0 for a number that suits the environment.
    :param final_eval_episodes: Episodes of the evaluation of the trained model, likewise.
    """

    eval_freq: int = 0
    eval_episodes: int = 0
    final_eval_episodes: int = 0


class Task(NamedTuple):
    """
    A run with all that it takes to do it.

    :param run: What its rows in the table are known by.
    :param algo: Name of the algorithm, as of ``--algo``.
    :param env: Id of the environment.
    :param hyperparams: As in ``hyperparams/<algo>.yml``, complete: with ``n_timesteps``, and with the environment's arguments,
        the game's seed among them, as ``env_kwargs``.
    :param evaluations: How the models are evaluated.
    """

    run: Run
    algo: str
    env: str
    hyperparams: dict[str, Any]
    evaluations: Evaluations

    @property
    def n_timesteps(self) -> int:
        """Steps of the training, of all environments together."""
        return int(self.hyperparams["n_timesteps"])

    @property
    def config(self) -> dict[str, Any]:
        """All that the run depends on, but for its seeds and the version of the code."""
        env_kwargs = dict(self.hyperparams["env_kwargs"])
        if self.run.game_seed is not None:
            del env_kwargs["game_seed"]
        hyperparams = {**self.hyperparams, "env_kwargs": env_kwargs}
        return {"algo": self.algo, "env": self.env, "hyperparams": hyperparams, "evaluations": self.evaluations._asdict()}


def digest(config: Mapping[str, Any]) -> str:
    """
    :param config: See :attr:`Task.config`.
    :return: Eight digits that change with it.
    """
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:8]


def suites_folder() -> Path:
    """
    :return: The folder of the suites of this project: in the installed package, or in a clone.
    """
    packaged = Path(__file__).resolve().parents[1] / "suites"
    return packaged if packaged.is_dir() else packaged.parents[2] / "benchmarks" / "suites"


def find_suite(name: str) -> Path:
    """
    :param name: Name of a suite of this project, or path of a YAML file.
    :return: The file.
    :raises ValueError: If there is no such file.
    """
    own = sorted(path.stem for path in suites_folder().glob("*.yml"))
    path = suites_folder() / f"{name}.yml" if name in own else Path(name)
    if not path.is_file():
        raise ValueError(f"{name} is neither a YAML file nor a suite of this project: {', '.join(own)}.")
    return path


def read_suite(path: Path, quick: bool = False) -> list[Task]:
    """
    :param path: The YAML file.
    :param quick: Whether what stands under ``quick`` replaces the same of the suite.
    :return: The runs: for each seed every game, environment and algorithm, so that an interrupted benchmark has seen all
        of them. They belong to a suite that is named like the file, with ``_quick`` behind it for its quick form.
    :raises ValueError: If the file is no suite, with the entry and what it should be.
    """
    suite = _mapping(read_yaml(path, "SUITE"), SUITE_KEYS, f"{path}")
    for key in ("environments", "algorithms", *(["trials"] if "trials" in suite else [])):
        if not isinstance(suite.get(key), dict) or not suite[key]:
            raise ValueError(f"{path}, {key}: expected a mapping from names to entries, got {suite.get(key)!r}.")
    for key, known, needed in (("environments", ENVIRONMENT_KEYS, "env"), ("algorithms", ALGORITHM_KEYS, "algo")):
        for name, entry in suite[key].items():
            _mapping(entry, known, f"{path}, {key}, {name}", needed)
    if "trials" in suite:
        suite = {**suite, "algorithms": _tried(suite["algorithms"], suite["trials"], path)}
    for name, entry in suite["environments"].items():
        _check_environment(entry, f"{path}, environments, {name}")
    for name, entry in suite["algorithms"].items():
        _check_algorithm(entry, suite["environments"], f"{path}, algorithms, {name}")
    if quick:
        if "quick" not in suite:
            raise ValueError(f"{path} has no entry `quick`: write one, or leave --quick out.")
        suite = _quick_form(suite, path)
    environments, algorithms = suite["environments"], suite["algorithms"]
    evaluations = Evaluations(**{key: suite[key] for key in Evaluations._fields if key in suite})
    suite_name = path.stem + ("_quick" if quick else "")
    seeds = {
        name: _numbers(entry.get("seeds", suite.get("seeds", 1)), f"{path}, seeds of {name}")
        for name, entry in environments.items()
    }
    game_seeds = {
        name: _numbers(entry.get("game_seeds"), f"{path}, game_seeds of {name}") for name, entry in environments.items()
    }
    return [
        _task(suite_name, (algo_name, algo), (env_name, env), game_seed, seed, suite, evaluations, path)
        for seed in sorted(set().union(*seeds.values()))
        for env_name, env in environments.items()
        if seed in seeds[env_name]
        for game_seed in game_seeds[env_name]
        for algo_name, algo in algorithms.items()
        if env_name in algo.get("environments", environments)
    ]


def merged(settings: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
    """
    :param settings: Mappings, of which later ones go before earlier ones; None for none.
    :return: Their union, in which the entries of mappings within them are united likewise.
    """
    union: dict[str, Any] = {}
    for mapping in settings:
        for key, value in (mapping or {}).items():
            both = isinstance(value, dict) and isinstance(union.get(key), dict)
            union[key] = merged((union[key], value)) if both else value
    return union


def _mapping(content: Any, keys: set[str], where: str, needed: str | None = None) -> dict[str, Any]:
    """
    :param content: What should be a mapping.
    :param keys: Those that it may have.
    :param where: What it is, for messages.
    :param needed: The key that it must have.
    :return: The mapping.
    :raises ValueError: If it is something else.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a mapping with {', '.join(sorted(keys))}, got {content!r}.")
    if unknown := [key for key in content if key not in keys]:
        raise ValueError(f"{where}: {unknown[0]!r} is none of {', '.join(sorted(keys))}.")
    if needed is not None and not isinstance(content.get(needed), str):
        raise ValueError(f"{where}, {needed}: expected a name, got {content.get(needed)!r}.")
    for key in ("env_kwargs", "hyperparams"):
        if not isinstance(content.get(key, {}), dict):
            raise ValueError(f"{where}, {key}: expected a mapping, got {content[key]!r}.")
    for key in ("n_timesteps", *Evaluations._fields):
        if key in content and not (isinstance(content[key], int) and content[key] >= (key == "n_timesteps")):
            raise ValueError(f"{where}, {key}: expected a number of steps or episodes, got {content[key]!r}.")
    return content


def _numbers(value: Any, where: str) -> list[Any]:
    """
    :param value: A number ``n`` for the seeds 0 to ``n - 1``, a list of seeds, or None.
    :param where: What they are, for messages.
    :return: The seeds, of which None is the only one if there are none.
    :raises ValueError: If it is something else.
    """
    if value is None:
        return [None]
    numbers = list(range(value)) if isinstance(value, int) else value
    if not isinstance(numbers, list) or not numbers or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(f"{where}: expected how many, or a list of numbers, got {value!r}.")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{where}: {value!r} has a number twice.")
    return numbers


def _tried(algorithms: Mapping[str, Any], trials: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """
    :param algorithms: Names and entries of the algorithms.
    :param trials: Names and hyperparameters of the trials.
    :param path: The suite's file, for messages.
    :return: Names and entries of each algorithm with the hyperparameters of each trial.
    :raises ValueError: If a trial is no mapping.
    """
    tried = {}
    for name, entry in algorithms.items():
        for trial, hyperparams in trials.items():
            if not isinstance(hyperparams, dict):
                raise ValueError(f"{path}, trials, {trial}: expected a mapping of hyperparameters, got {hyperparams!r}.")
            tried[f"{name}, {trial}"] = {**entry, "hyperparams": merged((entry.get("hyperparams"), hyperparams))}
    return tried


def _quick_form(suite: dict[str, Any], path: Path) -> dict[str, Any]:
    """
    :param suite: The suite.
    :param path: Its file, for messages.
    :return: The suite with what stands under ``quick`` in place of the same.
    """
    quick = _mapping(suite["quick"], QUICK_KEYS, f"{path}, quick")
    changed = {**suite, **{key: value for key, value in quick.items() if key not in ("environments", "algorithms")}}
    game_seeds = changed.pop("game_seeds", None)
    for key in ("environments", "algorithms"):
        names = quick.get(key, list(suite[key]))
        if not isinstance(names, list) or not names or any(name not in suite[key] for name in names):
            raise ValueError(f"{path}, quick, {key}: expected a list of names among {list(suite[key])}, got {names!r}.")
        changed[key] = {name: dict(suite[key][name]) for name in names}
    for entry in changed["environments"].values():
        if game_seeds is not None and "game_seeds" in entry:
            entry["game_seeds"] = game_seeds
        if "seeds" in quick:
            entry.pop("seeds", None)
    if "n_timesteps" in quick:
        for entry in (*changed["environments"].values(), *changed["algorithms"].values()):
            entry.pop("n_timesteps", None)
    return changed


def samples_a_game(env: str) -> bool:
    """
    :param env: Id of an environment.
    :return: Whether it takes a ``game_seed``.
    """
    entry_point: Any = GAMES.get(env, gym.registry[env].entry_point)
    made = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return "game_seed" in inspect.signature(made).parameters


def _check_environment(entry: Mapping[str, Any], where: str) -> None:
    """
    :param entry: Of an environment.
    :param where: What it is, for messages.
    :raises ValueError: If there is no such environment, or if it samples no game and has seeds for it.
    """
    env = entry["env"]
    if env not in gym.registry:
        raise ValueError(f"{where}: there is no environment {env!r}. Packages that register one are named by --gym-packages.")
    if "game_seeds" in entry:
        if not samples_a_game(env):
            raise ValueError(f"{where}: {env} takes no game_seed, because it samples no game: leave game_seeds out.")
        if "game_seed" in entry.get("env_kwargs", {}):
            raise ValueError(f"{where} has a game_seed already: leave it or game_seeds out.")


def _check_algorithm(entry: Mapping[str, Any], environments: Iterable[str], where: str) -> None:
    """
    :param entry: Of an algorithm.
    :param environments: Names of the suite's environments.
    :param where: What it is, for messages.
    :raises ValueError: If there is no such algorithm, or if it is for environments that the suite does not have.
    """
    if entry["algo"] not in ALGOS:
        raise ValueError(f"{where}: there is no algorithm {entry['algo']!r}, but {', '.join(ALGOS)}.")
    chosen = entry.get("environments", [])
    if not isinstance(chosen, list) or any(name not in environments for name in chosen):
        raise ValueError(f"{where}, environments: expected names among {', '.join(environments)}, got {chosen!r}.")


@cache
def _default_hyperparams(algo: str, env: str) -> dict[str, Any]:
    """
    :param algo: Name of the algorithm.
    :param env: Id of the environment.
    :return: The entry of ``hyperparams/<algo>.yml`` for the environment, empty if there is no such file.
    """
    path = hyperparams_folder() / f"{algo}.yml"
    if not path.is_file():
        return {}
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return entries.get(env, entries["default"])


def _own_hyperparams(entry: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param entry: Of the suite, an environment or an algorithm.
    :return: The hyperparameters that it has, ``n_timesteps`` among them.
    """
    length = {"n_timesteps": entry["n_timesteps"]} if "n_timesteps" in entry else {}
    return {**entry.get("hyperparams", {}), **length}


def _task(
    suite_name: str,
    named_algo: tuple[str, Mapping[str, Any]],
    named_env: tuple[str, Mapping[str, Any]],
    game_seed: int | None,
    seed: int,
    suite: Mapping[str, Any],
    evaluations: Evaluations,
    path: Path,
) -> Task:
    """
    :param suite_name: Name of the suite.
    :param named_algo: Name and entry of the algorithm.
    :param named_env: Name and entry of the environment.
    :param game_seed: Seed of the game.
    :param seed: Seed of the training.
    :param suite: The suite.
    :param evaluations: Of the suite.
    :param path: Its file, for messages.
    :return: The run.
    :raises ValueError: If there is no such algorithm, or no such hyperparameter.
    """
    (algo_name, algo_entry), (env_name, env_entry) = named_algo, named_env
    algo, env = algo_entry["algo"], env_entry["env"]
    where = f"{path}, algorithms, {algo_name}"
    game = {} if game_seed is None else {"game_seed": game_seed}
    hyperparams = merged(
        (
            {"policy": "MlpPolicy"},
            _default_hyperparams(algo, env),
            *map(_own_hyperparams, (suite, env_entry, algo_entry)),
            {"env_kwargs": env_entry.get("env_kwargs", {}) | game},
        )
    )
    try:
        check_hyperparams(hyperparams, algo)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    task = Task(Run(suite_name, algo_name, env_name, game_seed, seed, ""), algo, env, hyperparams, evaluations)
    return task._replace(run=task.run._replace(config=digest(task.config)))
