"""Plots of a study."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

# Optuna's own plots go through pyplot, which keeps figures in memory and needs a display.


def plot_history(trials: Sequence[FrozenTrial], picture: Path, title: str) -> None:
    """
    Plot the values of the trials, and the best value so far.

    :param trials: All trials of a study, at least one of which is complete.
    :param picture: The PNG file to write.
    :param title: Title of the plot.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    numbers, values = [trial.number for trial in complete], np.array([trial.value for trial in complete], dtype=float)
    axes.plot(numbers, values, "o", label="complete")
    axes.step(numbers, np.maximum.accumulate(values), where="post", color="C3", label="best so far")
    pruned = {trial.number: trial.value for trial in trials if trial.state is TrialState.PRUNED and trial.value is not None}
    if pruned:
        axes.plot(list(pruned), list(pruned.values()), "x", color="gray", label="pruned")
    axes.set(title=title, xlabel="trial", ylabel="value")
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    figure.savefig(picture, dpi=150, format="png")


def param_importances(study: optuna.Study) -> dict[str, float]:
    """
    How much each hyperparameter matters among the better trials (PED-ANOVA, https://arxiv.org/abs/2304.10255).

    :param study: The study.
    :return: Importances by hyperparameter, the most important one first, in sum 1; none if there are too few complete
        trials, which is printed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # Of too few trials to tell the hyperparameters apart.
            warnings.simplefilter("error", UserWarning)
            return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (RuntimeError, ValueError, UserWarning) as error:
        print(f"No plot of the importances: {error}")
        return {}


def plot_importances(importances: dict[str, float], picture: Path, title: str) -> None:
    """
    Plot how much each hyperparameter matters.

    :param importances: At least one, the most important one first.
    :param picture: The PNG file to write.
    :param title: Title of the plot.
    """
    figure = Figure(figsize=(8, 1 + 0.3 * len(importances)), layout="constrained")
    axes = figure.subplots()
    # The most important one on top.
    names = list(importances)[::-1]
    axes.barh(names, [importances[name] for name in names])
    axes.margins(y=0.01)
    axes.set(title=title, xlabel="importance (PED-ANOVA), in sum 1")
    figure.savefig(picture, dpi=150, format="png")
