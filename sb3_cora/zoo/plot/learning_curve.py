"""The learning curve of one training."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def plot_learning_curve(
    evaluations: Path, picture: Path, title: str, final_timesteps: int, final_returns: np.ndarray | None
) -> None:
    """
    Plot the evaluation returns of one training against its timesteps: the mean over the episodes of each evaluation and,
    shaded, one standard deviation on either side. The last point is the trained model, which has been updated once more since
    the last evaluation during the training.

    :param evaluations: The file ``evaluations.npz`` as Stable-Baselines3's ``EvalCallback`` writes it, with ``timesteps`` of
        shape ``(n_evaluations,)`` and ``results`` of shape ``(n_evaluations, n_episodes)``.
    :param picture: The PNG file to write.
    :param title: Title of the plot.
    :param final_timesteps: Timesteps at the end of the training.
    :param final_returns: Returns of the trained model's episodes, ``(n_final_episodes,)``, None if it was not evaluated.
    """
    with np.load(evaluations) as data:
        timesteps, returns = data["timesteps"], data["results"]
    mean, deviation = returns.mean(axis=1), returns.std(axis=1)
    # Without pyplot, which keeps figures in memory and needs a display.
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(timesteps, mean, marker="o", markersize=3, label=f"mean of {returns.shape[1]} episodes")
    axes.fill_between(timesteps, mean - deviation, mean + deviation, alpha=0.2, label="one standard deviation")
    if final_returns is not None:
        axes.errorbar(
            final_timesteps,
            final_returns.mean(),
            yerr=final_returns.std(),
            fmt="*",
            markersize=10,
            capsize=3,
            label=f"trained model, {len(final_returns)} episodes",
        )
    axes.set(title=title, xlabel="timesteps of all environments together", ylabel="return of an evaluation episode")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=150)
