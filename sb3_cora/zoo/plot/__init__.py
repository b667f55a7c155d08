"""Plots and tables of trainings: ``python -m sb3_cora.zoo.plot``, and the learning curve of a single one."""

from sb3_cora.zoo.plot.command import main
from sb3_cora.zoo.plot.learning_curve import plot_learning_curve

__all__ = ["main", "plot_learning_curve"]
