"""The picture of trajectories of joint actions over the surface of rewards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_cora.envs.differential_game import DifferentialGame
from sb3_cora.zoo.plot.style import COLORS, Sheet, styled

# Points along each axis of a surface
N_POINTS = 161
# From here on a trajectory has found the best hill: the next best is below 0.85 of it in all games of the suite
FOUND = 0.95


@styled()
def draw(game: DifferentialGame, points: Sequence[Any], path: Path) -> None:
    """
    A panel for each algorithm: the surface as a map, and on it one trajectory for each seed.

    :param game: The game of two agents.
    :param points: Points of the trajectories, in the order of training.
    :param path: The PNG file; a PDF file of that name goes beside it.
    """
    algos = list(dict.fromkeys(point.algo for point in points))
    sheet = Sheet(len(algos), ["start", "end", "optimum"], height=2.3)
    values = np.linspace(-1.0, 1.0, N_POINTS)
    joint = np.stack(np.meshgrid(values, values), axis=-1).reshape(-1, 2, 1)
    shares = game.rewards(0, joint).reshape(N_POINTS, N_POINTS) / game.optimal_return
    for panel, (algo, axes) in enumerate(zip(algos, sheet.panels, strict=True)):
        # Gray, so that the trajectories have the colors for themselves, in print as well
        axes.contourf(values, values, shares, levels=20, cmap="Greys", vmin=0.0, vmax=1.3)
        mine = [point for point in points if point.algo == algo]
        seeds = list(dict.fromkeys(point.seed for point in mine))
        ends = []
        for number, seed in enumerate(seeds):
            trajectory = [point for point in mine if point.seed == seed]
            path_of = np.array([(point.first, point.second) for point in trajectory])
            color = COLORS[number % len(COLORS)]
            spot: dict[str, Any] = dict(linestyle="", markeredgecolor="black", markeredgewidth=0.6)
            axes.plot(*path_of.T, color=color, linewidth=1.0)
            axes.plot(*path_of[0], color="white", marker="o", label="start", **spot)
            axes.plot(*path_of[-1], color=color, marker="s", markersize=5, label="end", **spot)
            ends.append(trajectory[-1].share)
        axes.plot(*game.local_optima[0], color="white", marker="*", markersize=9, label="optimum", **spot)
        found = sum(end >= FOUND for end in ends)
        axes.set(title=f"{algo}: {found} of {len(ends)}", xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
        axes.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        axes.grid(visible=False)
        place = axes.get_subplotspec()
        assert place is not None, "a panel of a grid"
        # Where no other panel is below it, or to its left
        is_lowest, is_first = panel + place.get_gridspec().ncols >= len(algos), place.is_first_col()
        axes.tick_params(labelbottom=is_lowest, labelleft=is_first)
        axes.set_xlabel("action of agent 0" if is_lowest else "")
        axes.set_ylabel("action of agent 1" if is_first else "")
    sheet.save(path.parent, path.stem)
