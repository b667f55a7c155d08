"""What scores are: returns, shares of the highest return possible, or what a file says is low and high."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sb3_cora.zoo.mistakes import read_yaml
from sb3_cora.zoo.plot.runs import Environment, TrainedRun

# A line of the file of ranges
EXAMPLE = "give_way: {low: 0.0, high: 8.0}"


class Range(NamedTuple):
    """
    The returns of an environment between which scores are measured.

    :param low: Return whose score is 0, such as that of random actions.
    :param high: Return whose score is 1, such as the best one known.
    """

    low: float
    high: float


def read_ranges(path: Path) -> dict[str, Range]:
    """
    :param path: YAML file of ``environment: {low: ..., high: ...}``.
    :return: The range of each environment, by its label.
    :raises ValueError: If there is no such file, or something else in it.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}: give --scores a YAML file with lines such as '{EXAMPLE}'.")
    entries = read_yaml(path, "--scores")
    ranges = {}
    for env, entry in entries.items():
        if not (
            isinstance(entry, dict)
            and entry.keys() == {"low", "high"}
            and all(isinstance(value, int | float) for value in entry.values())
            and entry["low"] < entry["high"]
        ):
            raise ValueError(f"{path} has {entry!r} for {env}: write two numbers, the lower one first, as in '{EXAMPLE}'.")
        ranges[str(env)] = Range(**entry)
    return ranges


def normalized(runs: Sequence[TrainedRun], ranges: Mapping[str, Range]) -> list[Environment]:
    """
    :param runs: What is compared, in the order of the plots.
    :param ranges: Ranges of environments, by their labels. Of any other, the scores are shares of the highest return possible
        if all its runs know a positive one, else the returns.
    :return: The environments, with the scores of their runs.
    """
    by_env: dict[str, list[TrainedRun]] = {}
    for run in runs:
        by_env.setdefault(run.env, []).append(run)
    environments = []
    for name, group in by_env.items():
        unit, is_normalized = "return", False
        if name in ranges:
            unit, is_normalized = "normalized score", True
            group = [run._replace(low=ranges[name].low, high=ranges[name].high) for run in group]
        # A share of what is not positive would rank nothing
        elif all(run.optimum is not None and run.optimum > 0 for run in group):
            unit, is_normalized = "share of optimum", True
            # Each by its own, because games that are sampled differ in theirs
            group = [run._replace(high=run.optimum or run.high) for run in group]
        by_algo: dict[str, list[TrainedRun]] = {}
        for run in group:
            by_algo.setdefault(run.algo, []).append(run)
        environments.append(Environment(name, unit, is_normalized, by_algo))
    return environments


def check_comparable(environments: Sequence[Environment]) -> None:
    """
    :param environments: What is compared.
    :raises ValueError: If their scores have different units, so that no statistic of all of them means anything.
    """
    raw = [environment.name for environment in environments if not environment.is_normalized]
    if raw and len(environments) > 1:
        example = f"{raw[0]}: {{low: <return of random actions>, high: <best return known>}}"
        raise ValueError(
            f"There are no statistics across environments, because the returns of {', '.join(raw)} are not normalized: no "
            f"positive optimum is known. Give --scores a YAML file with lines such as '{example}', or choose others by --envs."
        )
