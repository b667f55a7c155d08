"""Where runs are read from: tables of benchmarks, and folders of rl_zoo3's trainings."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from sb3_cora.zoo import results, training_log
from sb3_cora.zoo.plot.runs import Source, TrainedRun


def read_tables(paths: Sequence[Path]) -> Source:
    """
    :param paths: Tables of benchmark runs (``sb3_cora/zoo/results.py``).
    :return: Their runs, except for those that have failed. If an algorithm of the same label has several configurations on an
        environment, its suite stands behind its label, or, if this does not tell them apart, the digest of its configuration.
    :raises ValueError: If there is no such table, or a run in it is not complete.
    """
    rows: dict[results.Run, list[results.Row]] = {}
    for path in paths:
        for row in _read_table(path):
            rows.setdefault(row.run, []).append(row)
    failed = [run for run, lines in rows.items() if all(line.kind == "failed" for line in lines)]
    notes = [f"Left out, because it has failed: {run}, {rows[run][-1].message}" for run in failed]
    complete = {run: lines for run, lines in rows.items() if run not in failed}
    labels = _labels(complete)
    return Source([_of_rows(run, labels[run], lines) for run, lines in complete.items()], notes)


def _read_table(path: Path) -> list[results.Row]:
    """
    :param path: A table.
    :return: Its rows.
    :raises ValueError: If there is none, or it has other columns.
    """
    if not path.is_file():
        raise ValueError(f"There is no table {path}: give CSV files of benchmark runs, or rl_zoo3's folders with --folders.")
    try:
        return results.read(path)
    except ValueError as error:
        raise ValueError(
            f"{error} Tables of benchmark runs are those that zoo/benchmark.py writes; --folders takes rl_zoo3's folders."
        ) from error


def _labels(runs: Iterable[results.Run]) -> dict[results.Run, str]:
    """
    :param runs: All runs.
    :return: Label of the algorithm of each run, with which only runs of one configuration are grouped.
    """
    runs = list(runs)
    configs: dict[tuple[str, str], set[str]] = {}
    configs_of_suites: dict[tuple[str, str, str], set[str]] = {}
    for run in runs:
        configs.setdefault((run.algo, run.env), set()).add(run.config)
        configs_of_suites.setdefault((run.algo, run.env, run.suite), set()).add(run.config)
    several = {key for key, found in configs.items() if len(found) > 1}
    # A suite stands behind the label on all environments, so that its runs are comparable across them
    told_by_suite = {algo for algo, _ in several} - {algo for (algo, *_), found in configs_of_suites.items() if len(found) > 1}

    def label(run: results.Run) -> str:
        if run.algo in told_by_suite:
            return f"{run.algo} [{run.suite}]"
        return f"{run.algo} [{run.config}]" if (run.algo, run.env) in several else run.algo

    return {run: label(run) for run in runs}


def _of_rows(run: results.Run, label: str, rows: Sequence[results.Row]) -> TrainedRun:
    """
    :param run: A run that has not failed.
    :param label: Label of its algorithm.
    :param rows: Its rows.
    :return: The run.
    :raises ValueError: If it has not exactly one final row, or an evaluation without a return.
    """
    curve = [row for row in rows if row.kind == "curve"]
    finals = [row for row in rows if row.kind == "final"]
    best = [row.mean_return for row in rows if row.kind == "best"]
    if len(finals) != 1:
        raise ValueError(
            f"{run} has {len(finals)} rows of the kind 'final', expected 1: give each table once, and remove what is "
            "double or not complete."
        )
    (final,) = finals
    # Not left out silently: the runs that diverge are not a random part of them
    strange = [row.mean_return for row in (*curve, final) if row.mean_return is None or not np.isfinite(row.mean_return)]
    if strange or final.mean_return is None:
        raise ValueError(f"{run} has the mean_return {strange[0]}, expected a finite number: remove the run, and repeat it.")
    return TrainedRun(
        algo=label,
        env=run.env,
        game_seed=run.game_seed,
        seed=run.seed,
        timesteps=np.array([row.timesteps for row in curve], dtype=float),
        returns=np.array([row.mean_return for row in curve], dtype=float),
        explained_variances=np.array([row.q_explained_variance for row in curve], dtype=float),
        rollout_returns=np.array([row.rollout_return for row in curve], dtype=float),
        final_timesteps=final.timesteps,
        final_return=final.mean_return,
        best_return=best[0] if best else None,
        optimum=final.optimum,
        wall_seconds=final.wall_seconds,
    )


class _Saved(NamedTuple):
    """
    The folder of a training.

    :param folder: The folder.
    :param algo: Name of the algorithm.
    :param env: Id of the environment.
    :param seed: Seed of the training.
    :param hyperparams: All that were set.
    :param env_kwargs: Arguments of the environment.
    """

    folder: Path
    algo: str
    env: str
    seed: int
    hyperparams: dict[str, Any]
    env_kwargs: dict[str, Any]


class _PlainLoader(yaml.SafeLoader):
    """Reads the files that rl_zoo3 dumps with tags of Python objects, without making any such object."""


def _plain(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    """
    :param loader: The loader.
    :param suffix: Name of the Python object.
    :param node: What it is made of.
    :return: A mapping for an ``OrderedDict``, else the list, mapping or text that the node is.
    """
    if isinstance(node, yaml.SequenceNode):
        values = loader.construct_sequence(node, deep=True)
        return dict(values[0]) if suffix.endswith("OrderedDict") else values
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def read_folders(folders: Sequence[Path]) -> Source:
    """
    The return of the trained model is that of the last evaluation during the training, because ``zoo/train.py`` only prints
    that of its closing evaluation.

    :param folders: Folders of trainings, or any folders above them, such as ``logs``.
    :return: Their runs. The labels of algorithms and environments name the settings in which the trainings differ.
    :raises ValueError: If there is no training in a folder.
    """
    found: dict[Path, _Saved] = {}
    notes = []
    for folder in folders:
        evaluations = sorted(folder.rglob("evaluations.npz"))
        if not evaluations:
            raise ValueError(
                f"There is no evaluations.npz in {folder}, nor below it: give folders that zoo/train.py has written, e.g. "
                "logs/cora_ppo/give_way_1, or one above them."
            )
        for path in evaluations:
            saved = _saved(path.parent)
            # A model is saved at the end, also after Ctrl-C
            if any((path.parent / f"{settings.parent.name}.zip").is_file() for settings in path.parent.glob("*/args.yml")):
                found[path.parent.resolve()] = saved
            else:
                notes.append(f"Left out, because it has not come to its end: {path.parent}")
    all_saved = list(found.values())
    algo_labels = _differing_settings([(saved.algo, saved.hyperparams) for saved in all_saved])
    env_labels = _differing_settings(
        [(saved.env, {name: value for name, value in saved.env_kwargs.items() if name != "game_seed"}) for saved in all_saved]
    )
    runs = [_of_folder(saved, *labels) for saved, *labels in zip(all_saved, algo_labels, env_labels, strict=True)]
    if not runs:
        names = ", ".join(map(str, folders))
        raise ValueError(f"No training in {names} has come to its end: continue one with zoo/train.py -i.")
    return Source(runs, notes)


def _saved(folder: Path) -> _Saved:
    """
    :param folder: Folder of a training.
    :return: What it was trained with.
    :raises ValueError: If there is no file that says it.
    """
    files = list(folder.glob("*/args.yml"))
    if len(files) != 1 or not files[0].with_name("config.yml").is_file():
        raise ValueError(
            f"{folder} has {len(files)} files */args.yml, expected one with a config.yml beside it, as zoo/train.py writes "
            "them: give other folders."
        )
    args = yaml.load(files[0].read_text(encoding="utf-8"), _PlainLoader)
    hyperparams = yaml.load(files[0].with_name("config.yml").read_text(encoding="utf-8"), _PlainLoader)
    env_kwargs = {**(hyperparams.pop("env_kwargs", None) or {}), **(args.get("env_kwargs") or {})}
    if args["n_timesteps"] > 0:
        # config.yml has the number before the command line's
        hyperparams["n_timesteps"] = args["n_timesteps"]
    return _Saved(folder, args["algo"], str(args["env"]), int(args["seed"]), hyperparams, env_kwargs)


def _differing_settings(settings: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """
    :param settings: Name and settings of each algorithm, or of each environment.
    :return: Label of each: ``name:setting=value,...`` with the settings in which those of the same name differ.
    """
    texts = [{(key, str(value)) for key, value in values.items()} for _, values in settings]
    labels = []
    for (name, _), own in zip(settings, texts, strict=True):
        common = set.intersection(
            *(other for (other_name, _), other in zip(settings, texts, strict=True) if other_name == name)
        )
        differing = ",".join(f"{key}={value}" for key, value in sorted(own - common))
        labels.append(f"{name}:{differing}" if differing else name)
    return labels


def _of_folder(saved: _Saved, algo: str, env: str) -> TrainedRun:
    """
    :param saved: A training.
    :param algo: Label of its algorithm.
    :param env: Label of its environment.
    :return: The run.
    """
    with np.load(saved.folder / "evaluations.npz") as data:
        timesteps, returns = data["timesteps"].astype(float), data["results"].mean(axis=1)
    path = saved.folder / "progress.csv"
    log = training_log.read(path) if path.is_file() else training_log.TrainingLog()
    return TrainedRun(
        algo=algo,
        env=env,
        game_seed=saved.env_kwargs.get("game_seed"),
        seed=saved.seed,
        timesteps=timesteps,
        returns=returns,
        explained_variances=np.array(training_log.last_values(log.explained_variances, timesteps), dtype=float),
        rollout_returns=np.array(training_log.last_values(log.rollout_returns, timesteps), dtype=float),
        final_timesteps=int(max([timesteps[-1], *(at for at, _ in log.seconds)])),
        final_return=float(returns[-1]),
        best_return=float(returns.max()),
        optimum=None,
        wall_seconds=log.seconds[-1][1] if log.seconds else None,
    )
