"""
The figures of docs/credits.md: the core of a game of three agents, and what the weight of the variance does to credits.

    python docs/figures/game_theory.py
"""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from matplotlib.axes import Axes

from sb3_cora.credit import all_coalitions, allocate
from sb3_cora.zoo.plot.style import COLORS, LINES, SETTINGS

FOLDER = Path(__file__).parent
GRAND_VALUE = 3.0
# Of {0}, {1}, {0, 1}, {2}, {0, 2}, {1, 2}
WITH_CORE = (2.0, 0.0, 8.0, -6.0, -1.0, -2.0)
WITHOUT_CORE = (2.0, 0.0, 8.0, -3.0, -1.0, -2.0)
COALITIONS = all_coalitions(3)
# Credits of three agents with one sum are a plane. Its coordinates: agent 0 to the left below, 1 to the right below, 2 above.
PLANE = np.array([[-np.sqrt(3) / 2, -0.5], [np.sqrt(3) / 2, -0.5], [0.0, 1.0]])


def credits_of(values: tuple[float, ...], concept: str, weight: float = 0.1) -> tuple[np.ndarray, float]:
    """
    :param values: Of the coalitions.
    :param concept: A solution concept.
    :param weight: Its ``variance_weight``.
    :return: The credits ``(3,)``, and epsilon.
    """
    game = th.tensor([values], dtype=th.float64), COALITIONS, th.tensor([GRAND_VALUE], dtype=th.float64)
    allocated = allocate(*game, concept, variance_weight=weight)
    return allocated.credits[0].numpy(), allocated.epsilon.item()


def epsilon_core(values: tuple[float, ...], epsilon: float) -> np.ndarray:
    """
    :param values: Of the coalitions.
    :param epsilon: How much a coalition may be worth more than its members' credits.
    :return: The corners of the epsilon-core in the plane, in order around it, ``(n_corners, 2)``.
    """
    coalitions = COALITIONS.numpy().astype(float)
    # normals @ point >= bounds. The columns of PLANE are orthogonal, and of the same length.
    normals = coalitions @ PLANE / 1.5
    bounds = np.array(values) - epsilon - coalitions.sum(axis=1) * GRAND_VALUE / 3
    corners = []
    for pair in combinations(range(len(bounds)), 2):
        # Complements have parallel lines
        if abs(np.linalg.det(normals[list(pair)])) > 1e-9:
            corner = np.linalg.solve(normals[list(pair)], bounds[list(pair)])
            if (normals @ corner >= bounds - 1e-9).all():
                corners.append(corner)
    around = np.array(corners) - np.mean(corners, axis=0)
    return np.array(corners)[np.argsort(np.arctan2(around[:, 1], around[:, 0]))]


def plot_core(axes: Axes, values: tuple[float, ...], cores: tuple[tuple[float, str], ...], title: str) -> None:
    """
    :param axes: Where.
    :param values: Of the coalitions.
    :param cores: Epsilon and name of the epsilon-cores that are shown, the largest first.
    :param title: The title.
    """
    for number, (epsilon, name) in enumerate(cores):
        corners = epsilon_core(values, epsilon)
        axes.fill(*corners.T, facecolor=COLORS[0], alpha=0.16 + 0.2 * number)
        axes.fill(*corners.T, fill=False, edgecolor=COLORS[0], linewidth=1.0)
        right = corners[np.lexsort((corners[:, 1], corners[:, 0]))[-1]]
        axes.annotate(name, right, (4, 0), textcoords="offset points", va="center", color=COLORS[0])
    marks: tuple[tuple[str, str, str, int], ...] = (
        ("least_core", "least core", "o", 1),
        ("nucleolus", "nucleolus", "s", 3),
        ("shapley", "Shapley value", "^", 2),
        ("equal", "equal shares", "X", 6),
    )
    for concept, name, marker, color in marks:
        credits, _ = credits_of(values, concept)
        numbers = ", ".join(f"{credit:.3g}" for credit in credits)
        axes.plot(*(credits @ PLANE), marker, color=COLORS[color], markersize=6, label=f"{name} ({numbers})", zorder=3)
    for agent, direction in enumerate(PLANE):
        start = np.array([-5.2, -3.6])
        (tip_x, tip_y), (name_x, name_y) = start + 1.9 * direction, start + 2.5 * direction
        arrow = {"arrowstyle": "->", "color": "0.4", "linewidth": 0.8}
        axes.annotate("", (tip_x, tip_y), (start[0], start[1]), arrowprops=arrow)
        axes.text(name_x, name_y, f"$x_{agent}$", ha="center", va="center", color="0.3")
    axes.set_title(title)
    axes.set_ylim(-13.0, 1.2)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=1)


def plot_cores() -> None:
    """The core of one game, and the epsilon-cores of another, whose core is empty."""
    _, axes = plt.subplots(1, 2, figsize=(6.75, 4.4), sharex=True, sharey=True, layout="constrained")
    plot_core(axes[0], WITH_CORE, ((1.0, "ε = 1"), (0.0, "core")), "Alone, agent 2's action is worth -6")
    plot_core(axes[1], WITHOUT_CORE, ((2.0, "ε = 2"), (1.0, "ε = 1")), "Alone, it is worth -3: no core")


def plot_weights() -> None:
    """Credits and epsilon by the weight of the variance."""
    weights = np.geomspace(0.03, 30, 121)
    solved = [credits_of(WITH_CORE, "core", weight) for weight in weights]
    _, axes = plt.subplots(figsize=(5.0, 2.6), layout="constrained")
    for agent in range(3):
        credits = [credits[agent] for credits, _ in solved]
        # Agents 0 and 1 are credited alike
        axes.plot(weights, credits, LINES[agent], color=COLORS[agent], label=f"credit of agent {agent}")
    axes.plot(weights, [epsilon for _, epsilon in solved], LINES[3], color="black", label="ε")
    axes.set_xscale("log")
    axes.set_xlabel("variance_weight")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def main() -> None:
    """Make all figures."""
    figures: dict[str, Callable[[], None]] = {"core": plot_cores, "weight": plot_weights}
    # The same file from the same code: no date, and names that are not random
    with plt.rc_context({**SETTINGS, "svg.hashsalt": "sb3_cora", "figure.facecolor": "white"}):
        for name, plot in figures.items():
            plot()
            plt.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
            plt.close()


if __name__ == "__main__":
    main()
