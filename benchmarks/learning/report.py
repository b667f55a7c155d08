"""Tables and learning curves of what a sweep has trained."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.learning.runs import Row, Run, joined
from sb3_cora.zoo.statistics import interquartile_means, mean_and_interval

# Parts of the training at whose end the report looks at the Q-critics
FRACTIONS = (0.1, 0.25, 0.5, 1.0)
# Share of the best return possible from which on a run counts as having found the optimum
OPTIMAL = 0.99


class Result(NamedTuple):
    """
    What the report says of a run.

    - ``final``: return of the trained model
    - ``area``: mean of the learning curve over the timesteps, NaN without evaluations during the training
    - ``explained``: explained variance of the Q-critics at the end of each of ``FRACTIONS`` of the training, NaN where unknown
    - ``minutes``: duration of the training
    """

    final: float
    area: float
    explained: list[float]
    minutes: float

    @classmethod
    def of_run(cls, rows: Sequence[Row], is_normalized: bool) -> "Result":
        """
        :param rows: Of the run
        :param is_normalized: Whether to divide returns by the best return possible
        :return: Its figures
        """
        final = next(row for row in rows if row.kind == "final")
        timesteps, returns = learning_curve(rows, is_normalized)
        area = np.nan
        if len(timesteps) == 1:
            area = returns[0]
        elif len(timesteps) > 1:
            area = np.trapezoid(returns, timesteps) / (timesteps[-1] - timesteps[0])
        curve = [row for row in rows if row.kind == "curve"]
        explained = [
            [None, *(row.q_explained_variance for row in curve if row.timesteps <= fraction * final.timesteps)][-1]
            for fraction in FRACTIONS
        ]
        return cls(
            scaled_return(final, is_normalized),
            float(area),
            [np.nan if value is None else value for value in explained],
            final.wall_seconds / 60,
        )


def scaled_return(row: Row, is_normalized: bool) -> float:
    """
    :param row: An evaluation
    :param is_normalized: Whether to divide its return by the best return possible
    :return: Its mean return
    """
    if not is_normalized:
        return row.return_mean
    assert row.optimal_return is not None
    return row.return_mean / row.optimal_return


def learning_curve(rows: Iterable[Row], is_normalized: bool) -> tuple[np.ndarray, np.ndarray]:
    """
    :param rows: Of a run
    :param is_normalized: Whether to divide returns by the best return possible
    :return: Timesteps and mean returns of the evaluations during the training, ``(n_evaluations,)`` each
    """
    curve = [(row.timesteps, scaled_return(row, is_normalized)) for row in rows if row.kind == "curve"]
    timesteps, returns = np.array(curve).reshape(-1, 2).T
    return timesteps, returns


def interval_text(scores: np.ndarray, n_digits: int) -> str:
    """
    :param scores: Of the runs, ``(n_runs,)``
    :param n_digits: Number of decimal places
    :return: Their interquartile mean and its interval, "-" if a run has none
    """
    if np.isnan(scores).any():
        return "-"
    mean, low, high = mean_and_interval(scores)
    return f"{mean:.{n_digits}f} ({low:.{n_digits}f} to {high:.{n_digits}f})"


def table_line(results: Sequence[Result], is_normalized: bool) -> str:
    """
    :param results: Of the runs of one variant
    :param is_normalized: Whether their returns are shares of the best return possible
    :return: The variant's line of the table, but for its label
    """
    n_digits = 3 if is_normalized else 2
    finals = np.array([result.final for result in results])
    areas = np.array([result.area for result in results])
    found = f"{(finals >= OPTIMAL).mean():.0%}" if is_normalized else "-"
    explained = ""
    for values in zip(*(result.explained for result in results), strict=True):
        known = [value for value in values if not np.isnan(value)]
        explained += f"{f'{np.median(known):.2f}' if known else '-':>7}"
    minutes = np.median([result.minutes for result in results])
    return (
        f"{len(results):>4}{interval_text(finals, n_digits):>26}{interval_text(areas, n_digits):>26}"
        f"{found:>8}{explained}{minutes:>9.1f}"
    )


def plot(runs: Sequence[Sequence[Row]], label: str, is_normalized: bool, axes: Axes) -> None:
    """
    Plot the interquartile mean of the runs' learning curves and, shaded, the middle half of the runs.

    :param runs: The rows of each run of one variant
    :param label: What the legend calls them
    :param is_normalized: Whether to divide returns by the best return possible
    :param axes: Where to plot
    """
    curves = [dict(zip(*learning_curve(rows, is_normalized), strict=True)) for rows in runs]
    timesteps = sorted(set.intersection(*map(set, curves)))
    if not timesteps:
        return
    means = np.array([[curve[step] for step in timesteps] for curve in curves])
    (line,) = axes.plot(timesteps, interquartile_means(means), label=textwrap.fill(f"{label}, runs: {len(runs)}", 60))
    axes.fill_between(timesteps, *np.percentile(means, (25, 75), axis=0), color=line.get_color(), alpha=0.15, linewidth=0)


def report(rows: Iterable[Row], picture: Path) -> None:
    """
    Print a table for each environment, with a line for each group of runs that differ in nothing but the seeds, and plot
    their learning curves.

    :param rows: Of the CSV
    :param picture: The PNG file to write
    """
    runs: dict[Run, list[Row]] = {}
    for row in rows:
        runs.setdefault(row.run, []).append(row)
    panels: dict[str, dict[str, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: (*run[:3], *run[5:], -1 if run.game_seed is None else run.game_seed, run.seed)):
        label = " ".join(filter(None, (run.algo, run.arguments, f"[{run.settings}]")))
        panels.setdefault(joined(run.env, run.env_arguments), {}).setdefault(label, []).append(run)
    # Not through pyplot, which keeps figures alive and looks for a display
    figure = Figure(figsize=(9, 6 * len(panels)), layout="constrained")
    for (env, variants), axes in zip(panels.items(), figure.subplots(len(panels), squeeze=False)[:, 0], strict=True):
        optima = [row.optimal_return for group in variants.values() for run in group for row in runs[run]]
        # A share of what is not positive would rank nothing
        is_normalized = all(optimum is not None and optimum > 0 for optimum in optima)
        unit = "share of the best return possible" if is_normalized else "return"
        print(f"\n{env}: {unit}, interquartile mean (95 % interval); median Q explained variance at parts of the training")
        explained = "".join(f"{f'Q {fraction:.0%}':>7}" for fraction in FRACTIONS)
        print(f"{'runs':>4}{'final':>26}{'area under curve':>26}{f'>={OPTIMAL:.0%}':>8}{explained}{'minutes':>9}  algorithm")
        results = {label: [Result.of_run(runs[run], is_normalized) for run in group] for label, group in variants.items()}
        for label in variants:
            print(f"{table_line(results[label], is_normalized)}  {label}")
        print("Final returns, (game seed/)seed: return")
        for label, group in variants.items():
            finals = (next(row.return_mean for row in runs[run] if row.kind == "final") for run in group)
            print(f"  {label}  " + "  ".join(f"{run.seeds}: {value:.2f}" for run, value in zip(group, finals, strict=True)))
            plot([runs[run] for run in group], label, is_normalized, axes)
        axes.set(title=env, xlabel="timesteps, all environments together", ylabel=f"{unit}, mean of an evaluation's episodes")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="x-small")
    figure.savefig(picture, dpi=150)
    print(f"\nLearning curves: {picture}")
