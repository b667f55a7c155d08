"""The figures: each function draws one, or says by None that nothing of it is known."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from sb3_cora.zoo.plot.curves import explained_variance_curves, learning_curves, share_curves
from sb3_cora.zoo.plot.runs import Environment, TrainedRun
from sb3_cora.zoo.plot.style import Look, Sheet, styled, wrapped
from sb3_cora.zoo.plot.summary import Aggregate, Summary, final_scores
from sb3_cora.zoo.statistics import (
    Band,
    Estimate,
    band,
    difference,
    performance_profile,
    probability_of_improvement,
    weighted_interquartile_means,
)

Looks = Mapping[str, Look]

# Thresholds of a performance profile
N_THRESHOLDS = 101
# Marks on a line
N_MARKS = 6
# Heights of a label beside a bar or a point, besides its lines, and of a line of it, in inches
LABEL_GAP, LABEL_LINE = 0.09, 0.11


def _plot_band(axes: Axes, grid: np.ndarray, values: Band, label: str, look: Look) -> None:
    """
    :param axes: Where to draw.
    :param grid: Horizontal positions, ``(n_columns,)``.
    :param values: Line and band.
    :param label: Label of the line.
    :param look: Its look.
    """
    distance = max(1, len(grid) // N_MARKS)
    axes.plot(
        grid,
        values.value,
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markevery=(int(look.shift * distance), distance),
        label=label,
    )
    axes.fill_between(grid, values.low, values.high, color=look.color, alpha=0.12, linewidth=0)


def _plot_interval(axes: Axes, position: float, estimate: Estimate, look: Look) -> None:
    """
    :param axes: Where to draw.
    :param position: Vertical position.
    :param estimate: Point and interval.
    :param look: Their look.
    """
    axes.plot([estimate.low, estimate.high], [position] * 2, color=look.color, linewidth=4, alpha=0.35, solid_capstyle="butt")
    axes.plot(estimate.value, position, color=look.color, marker=look.marker, linestyle="")


def _list_algos(axes: Axes, algos: Sequence[str]) -> np.ndarray:
    """
    List algorithms from top to bottom.

    :param axes: Where to.
    :param algos: Their labels.
    :return: Their vertical positions, in inches below the top.
    """
    labels = [wrapped(algo) for algo in algos]
    heights = np.array([LABEL_GAP + LABEL_LINE * (label.count("\n") + 1) for label in labels])
    positions = np.cumsum(heights) - heights / 2
    axes.set_yticks(positions, labels)
    axes.set_ylim(heights.sum(), 0)
    axes.grid(visible=False, axis="y")
    return positions


def _list_height(algos: Sequence[str]) -> float:
    """
    :param algos: Labels of algorithms that are listed from top to bottom.
    :return: Height of the panel with its title and its horizontal axis, in inches.
    """
    return 0.6 + sum(LABEL_GAP + LABEL_LINE * (wrapped(algo).count("\n") + 1) for algo in algos)


def _curves(
    environments: Sequence[Environment],
    looks: Looks,
    curves: Callable[[Sequence[TrainedRun]], tuple[np.ndarray, np.ndarray]],
    label: Callable[[Environment], str],
) -> Sheet | None:
    """
    :param environments: A panel each.
    :param looks: Of the algorithms.
    :param curves: Timesteps and values of the runs of an algorithm.
    :param label: Label of the vertical axis.
    :return: The figure.
    """
    shown = {}
    for environment in environments:
        found = {algo: curves(runs) for algo, runs in environment.runs.items()}
        if found := {algo: curve for algo, curve in found.items() if len(curve[0])}:
            shown[environment.name] = (environment, found)
    if not shown:
        return None
    sheet = Sheet(len(shown), [algo for algo in looks if any(algo in found for _, found in shown.values())])
    for (environment, found), axes in zip(shown.values(), sheet.panels, strict=True):
        for algo, (grid, values) in found.items():
            _plot_band(axes, grid, band(weighted_interquartile_means, [values]), algo, looks[algo])
        axes.set(title=wrapped(environment.name), xlabel="timesteps", ylabel=label(environment))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return sheet


@styled()
def plot_learning_curves(environments: Sequence[Environment], looks: Looks) -> Sheet | None:
    """
    :param environments: A panel each.
    :param looks: Of the algorithms.
    :return: The interquartile mean over the runs of the score of each evaluation, and its interval.
    """
    return _curves(environments, looks, learning_curves, lambda environment: f"{environment.unit}, IQM")


@styled()
def plot_explained_variances(environments: Sequence[Environment], looks: Looks) -> Sheet | None:
    """
    :param environments: A panel each.
    :param looks: Of the algorithms.
    :return: The same of the explained variance of the Q-critics, from 0 to 1, and cut off below a little less than 0.
    """
    sheet = _curves(environments, looks, explained_variance_curves, lambda environment: "Q explained variance")
    for axes in [] if sheet is None else sheet.panels:
        # One critic that has diverged would make all others a line at the top
        axes.set_ylim(max(-0.3, axes.get_ylim()[0]), 1.05)
    return sheet


@styled()
def plot_sample_efficiency(environments: Sequence[Environment], algos: Sequence[str], looks: Looks, unit: str) -> Sheet | None:
    """
    :param environments: What is compared.
    :param algos: Labels of algorithms that have runs on all of them.
    :param looks: Of the algorithms.
    :param unit: What the scores are.
    :return: The interquartile mean of the scores on all environments, against the share of the training.
    """
    curves = {algo: share_curves(environments, algo) for algo in algos}
    if not (curves := {algo: curve for algo, curve in curves.items() if len(curve[0])}):
        return None
    sheet = Sheet(1, list(curves), height=2.3)
    (axes,) = sheet.panels
    for algo, (grid, strata) in curves.items():
        _plot_band(axes, 100 * grid, band(weighted_interquartile_means, strata), algo, looks[algo])
    axes.set(xlabel="part of the longest training (%)", ylabel=f"{unit}, IQM")
    return sheet


@styled()
def plot_aggregates(aggregates: Sequence[Aggregate], looks: Looks, unit: str) -> Sheet:
    """
    :param aggregates: What the algorithms have come to on all environments.
    :param looks: Of the algorithms.
    :param unit: What the scores are.
    :return: Interquartile mean, median, mean and, if scores are normalized, optimality gap, a panel each.
    """
    titles = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}
    if aggregates[0].optimality_gap is None:
        del titles["optimality_gap"]
    algos = [aggregate.algo for aggregate in aggregates]
    sheet = Sheet(len(titles), height=_list_height(algos), n_columns=4, share_y=True)
    for (field, title), axes in zip(titles.items(), sheet.panels, strict=True):
        for position, aggregate in zip(_list_algos(axes, algos), aggregates, strict=True):
            _plot_interval(axes, position, getattr(aggregate, field), looks[aggregate.algo])
        axes.set(title=title)
        axes.xaxis.set_major_locator(MaxNLocator(3))
    sheet.figure.supxlabel(f"{unit} of the trained models", fontsize=8)
    return sheet


@styled()
def plot_probabilities(environments: Sequence[Environment], algos: Sequence[str], looks: Looks) -> Sheet | None:
    """
    :param environments: What is compared.
    :param algos: Labels of algorithms that have runs on all of them.
    :param looks: Of the algorithms.
    :return: The probability that a run of the first one is better than a run of each other.
    """
    if len(algos) < 2:
        return None
    first, *others = algos
    sheet = Sheet(1, height=_list_height(others))
    (axes,) = sheet.panels
    scores = final_scores(environments, first)
    for position, other in zip(_list_algos(axes, others), others, strict=True):
        _plot_interval(axes, position, probability_of_improvement(scores, final_scores(environments, other)), looks[other])
    axes.axvline(0.5, color="0.4", linewidth=0.8, linestyle=":")
    axes.set(xlabel=f"P({wrapped(first)} better)", xlim=(-0.02, 1.02))
    return sheet


@styled()
def plot_profiles(environments: Sequence[Environment], algos: Sequence[str], looks: Looks, unit: str) -> Sheet:
    """
    :param environments: What is compared.
    :param algos: Labels of algorithms that have runs on all of them.
    :param looks: Of the algorithms.
    :param unit: What the scores are.
    :return: The share of the runs whose trained model is above each score.
    """
    strata = {algo: final_scores(environments, algo) for algo in algos}
    everything = np.concatenate([scores for group in strata.values() for scores in group])
    low, high = everything.min(), everything.max()
    if all(environment.is_normalized for environment in environments):
        # From the worst to the best score, but a run far below 0 must not leave the rest without room
        low, high = min(0.0, max(-1.0, low)), max(1.0, high)
    thresholds = np.linspace(low, high, N_THRESHOLDS)
    sheet = Sheet(1, algos, height=2.3)
    (axes,) = sheet.panels
    for algo, scores in strata.items():
        _plot_band(axes, thresholds, performance_profile(scores, thresholds), algo, looks[algo])
    axes.set(xlabel=f"{unit} $\\tau$", ylabel="share of runs above $\\tau$", ylim=(-0.02, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return sheet


@styled()
def plot_wall_clock(environments: Sequence[Environment], summaries: Sequence[Sequence[Summary]], looks: Looks) -> Sheet | None:
    """
    :param environments: A panel each.
    :param summaries: What the algorithms have come to on each.
    :param looks: Of the algorithms.
    :return: Score of the trained models against the duration of the training, a point with intervals for each algorithm.
    """
    shown = [
        (environment, known)
        for environment, lines in zip(environments, summaries, strict=True)
        if (known := [(line, line.minutes) for line in lines if line.minutes is not None])
    ]
    if not shown:
        return None
    sheet = Sheet(len(shown), [algo for algo in looks if any(line.algo == algo for _, known in shown for line, _ in known)])
    for (environment, known), axes in zip(shown, sheet.panels, strict=True):
        for line, minutes in known:
            look = looks[line.algo]
            axes.errorbar(
                minutes.value,
                line.final.value,
                xerr=_errors(minutes),
                yerr=_errors(line.final),
                color=look.color,
                marker=look.marker,
                linestyle="",
                elinewidth=0.8,
                label=line.algo,
            )
        axes.set(
            title=wrapped(environment.name), xlabel="duration of a training (minutes)", ylabel=f"final {environment.unit}"
        )
        axes.set_xlim(left=0)
    return sheet


def _errors(estimate: Estimate) -> np.ndarray:
    """
    :param estimate: An estimate.
    :return: Lengths of the error bar below and above its value, ``(2, 1)``, 0 without an interval.
    """
    # An interval of percentiles may, in rare cases, lie beside the value
    lengths = (estimate.value - estimate.low, estimate.high - estimate.value)
    return np.fmax(0.0, lengths)[:, None]


def _bounds(estimates: Iterable[Estimate]) -> tuple[float, float]:
    """
    :param estimates: Values with intervals, of bars that begin at 0.
    :return: Lowest and highest number of the axis.
    """
    numbers = [0.0, *(bound for estimate in estimates for bound in estimate)]
    # NaN without an interval
    low, high = 1.02 * np.nanmin(numbers), 1.02 * np.nanmax(numbers)
    # An axis needs some length, even if all returns are 0
    return low, high if low < high else 1.0


def _difference(environment: Environment, algo: str, base: str) -> Estimate:
    """
    :param environment: An environment.
    :param algo: Label of an algorithm with runs on it.
    :param base: Label of another.
    :return: How much greater the mean score of the first is, run by run if both have runs of the same games and seeds.
    """
    scores = [{(run.game_seed, run.seed): run.final_score for run in environment.runs[label]} for label in (algo, base)]
    paired = scores[0].keys() == scores[1].keys()
    first, other = ([np.array([part[key] for key in (scores[0] if paired else part)])] for part in scores)
    return difference(first, other, paired)


@styled()
def plot_ablation(
    environments: Sequence[Environment], summaries: Sequence[Sequence[Summary]], looks: Looks, base: str
) -> Sheet:
    """
    :param environments: A panel each, if the base has runs on them.
    :param summaries: What the algorithms have come to on each.
    :param looks: Of the algorithms.
    :param base: Label of the algorithm that the others are variants of.
    :return: Bars of the scores of the trained models with their intervals, and the differences from the base.
    """
    shown = [pair for pair in zip(environments, summaries, strict=True) if base in pair[0].runs]
    algos = [algo for algo in looks if any(algo in environment.runs for environment, _ in shown)]
    algos = [base, *(algo for algo in algos if algo != base)]
    sheet = Sheet(len(shown), height=_list_height(algos), n_columns=2, share_y=True)
    for (environment, lines), axes in zip(shown, sheet.panels, strict=True):
        by_algo = {line.algo: line for line in lines}
        for position, algo in zip(_list_algos(axes, algos), algos, strict=True):
            if algo not in by_algo:
                continue
            final = by_algo[algo].final
            axes.barh(
                position,
                final.value,
                xerr=_errors(final),
                color=looks[algo].color,
                alpha=0.6,
                height=0.13,
                error_kw={"elinewidth": 0.8},
            )
            text = "difference"
            if algo != base:
                change = _difference(environment, algo, base)
                # Without the sign of what is rounded to 0
                value, low, high = (f"{round(number, 2) + 0.0:+.2f}" for number in change)
                text = value if math.isnan(change.low) else f"{value} [{low}, {high}]"
            axes.annotate(text, (1.02, position), xycoords=("axes fraction", "data"), fontsize=7, va="center")
        axes.axvline(by_algo[base].final.value, color="0.4", linewidth=0.8, linestyle=":")
        axes.set(title=wrapped(environment.name), xlabel=f"final {environment.unit}, IQM")
        axes.set_xlim(*_bounds([line.final for line in lines]))
    return sheet
