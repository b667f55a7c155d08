"""What a sweep trains, and the CSV of what came of it."""

import argparse
import hashlib
import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml

from sb3_cora.zoo import tables

ROOT = Path(__file__).resolve().parents[2]


class Run(NamedTuple):
    """
    What tells runs apart.

    - ``algo``: the algorithm, with the hyperparameters it carries (``"cora_ppo:credit=shared,eta=0.0"``)
    - ``env``, ``env_arguments``: the environment and what it carries (``"n_agents=3"``)
    - ``game_seed``: seed of what the environment draws once and for all, if it was given one
    - ``seed``: of the training
    - ``arguments``: what ``zoo/train.py`` was given besides
    - ``settings``: digest of the algorithm's entry in ``hyperparams/``
    """

    algo: str
    env: str
    env_arguments: str
    game_seed: int | None
    seed: int
    arguments: str
    settings: str

    def __str__(self) -> str:
        game = "" if self.game_seed is None else f", game seed {self.game_seed}"
        return f"{self.algo} on {joined(self.env, self.env_arguments)}{game}, seed {self.seed}"

    @property
    def seeds(self) -> str:
        """Game seed, where there is one, and seed."""
        return f"{self.seed}" if self.game_seed is None else f"{self.game_seed}/{self.seed}"

    def training_flags(self) -> list[str]:
        """
        :return: The command line of ``zoo/train.py``, all but its folder
        """
        # Of a flag given twice the zoo takes the last, so what this run carries has to join what is given for all
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("-params", "--hyperparams", nargs="+", action="extend", default=[])
        parser.add_argument("--env-kwargs", nargs="+", action="extend", default=[])
        given, rest = parser.parse_known_args(shlex.split(self.arguments))
        algo, _, overrides = self.algo.partition(":")
        hyperparams = [*given.hyperparams, *zoo_settings(overrides)]
        env_kwargs = [*given.env_kwargs, *zoo_settings(self.env_arguments)]
        if self.game_seed is not None:
            env_kwargs.append(f"game_seed:{self.game_seed}")
        flags = ["--final-eval-episodes", "-1", "--save-freq", "-1", *rest]
        if hyperparams:
            flags += ["-params", *hyperparams]
        if env_kwargs:
            flags += ["--env-kwargs", *env_kwargs]
        # Ours come last because the last one wins
        return [*flags, "--algo", algo, "--env", self.env, "--seed", str(self.seed)]


class Row(NamedTuple):
    """
    A line of the CSV, where the fields of the run come first: the episodes of one evaluation.

    - ``run``: what was evaluated
    - ``kind``: ``"curve"`` for an evaluation during the training, ``"best"`` and ``"final"`` for the closing ones
    - ``timesteps``: steps of all environments together that the evaluated model had seen
    - ``return_mean``, ``return_min``, ``return_max``, ``return_std``: over the episodes (team reward, not discounted)
    - ``optimal_return``: the best return possible, where the environment knows it
    - ``q_explained_variance``: where the algorithm has Q-critics and ``kind`` is ``"curve"``, the training's
      ``train/q_explained_variance`` of the latest update before the evaluation
    - ``wall_seconds``: duration of the whole training, the same in all rows of a run
    """

    run: Run
    kind: str
    timesteps: int
    return_mean: float
    return_min: float
    return_max: float
    return_std: float
    optimal_return: float | None
    q_explained_variance: float | None
    wall_seconds: float


COLUMNS = (*Run._fields, *Row._fields[1:])


def joined(name: str, settings: str) -> str:
    """
    :param name: Of an algorithm or an environment
    :param settings: What it carries, may be empty
    :return: Both as on the command line
    """
    return f"{name}:{settings}" if settings else name


def single_settings(settings: str) -> list[str]:
    """
    :param settings: ``setting=value,...``
    :return: Each ``setting=value``
    """
    # Not at the commas within a value, such as (-10,10)
    return re.split(r",(?=\w+=)", settings)


def variant(text: str) -> tuple[str, str]:
    """
    :param text: ``name`` or ``name:setting=value,...`` of the command line
    :return: The name, and its settings in the order of their names, as ``setting=value,...``
    :raises argparse.ArgumentTypeError: If it is neither
    """
    name, colon, carried = text.partition(":")
    settings = sorted(single_settings(carried)) if colon else []
    names = [setting.partition("=")[0] for setting in settings]
    if not name or not all(re.fullmatch(r"[^\W\d]\w*=.+", setting) for setting in settings):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a name nor name:setting=value,..., e.g. cora_ppo:eta=0.0")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} has a setting twice")
    return name, ",".join(settings)


def zoo_settings(settings: str) -> list[str]:
    """
    :param settings: Of :func:`variant`
    :return: The same as arguments of the zoo's ``-params`` and ``--env-kwargs``
    """
    return [setting.replace("=", ":", 1) for setting in single_settings(settings)] if settings else []


def settings_digest(algo: str, env: str) -> str:
    """
    :param algo: Name of the algorithm
    :param env: Id of the environment
    :return: Eight digits that change with the settings of ``hyperparams/<algo>.yml``, empty where there is no such file
    """
    path = ROOT / "hyperparams" / f"{algo}.yml"
    if not path.is_file():
        return ""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    entry = entries.get(env, entries["default"])
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:8]


def read(path: Path) -> list[Row]:
    """
    :param path: The CSV, which need not exist
    :return: Its rows
    :raises ValueError: If it has other columns
    """
    kinds = Run.__annotations__ | Row.__annotations__
    lines = tables.read_lines({name: kinds[name] for name in COLUMNS}, path)
    n_of_run = len(Run._fields)
    return [Row(Run(*values[:n_of_run]), *values[n_of_run:]) for values in lines]


def append(rows: Iterable[Row], path: Path) -> None:
    """
    :param rows: The rows of a finished run
    :param path: The CSV, begun where it does not exist
    """
    tables.append(COLUMNS, ((*row.run, *row[1:]) for row in rows), path)
