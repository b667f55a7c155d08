"""The differential game: one step of continuous actions, rewarded by the height of a surface with several hills."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from sb3_cora.common.counts import check_count
from sb3_cora.envs.batched_game import BAR_HEIGHT, PICTURE_SIZE, BatchedGame, check_range, color, game_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Centers are drawn from [-0.8, 0.8] in each dimension, so that hilltops are not cut off by the border.
CENTER_RANGE = 0.8
# Number of draws for each center. The one farthest from the centers before it is kept.
CENTER_DRAWS = 16
# Points along each axis of a plotted surface.
PLOT_POINTS = 201


def gaussian_fields(actions: np.ndarray, centres: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """
    The reward, equation 7 of the CORA paper: the sum over fields ``k`` of ``h_k exp(-|a - c_k|^2 / (2 w_k^2))``.

    :param actions: Joint actions ``a``, ``(batch, n_agents)``.
    :param centres: Centers ``c``, ``(n_fields, n_agents)``.
    :param heights: Heights ``h``, ``(n_fields,)``.
    :param widths: Widths ``w``, ``(n_fields,)``, standard deviations in units of the actions.
    :return: Of shape ``(batch,)``.
    """
    squared = np.square(actions[:, None] - centres).sum(axis=-1)
    # A sum of products, since the rounding of a matrix product depends on the size of the batch.
    return (heights * np.exp(squared / (-2.0 * np.square(widths)))).sum(axis=-1)


def climb_fields(
    starts: np.ndarray, centres: np.ndarray, heights: np.ndarray, widths: np.ndarray, max_iterations: int = 20_000
) -> np.ndarray:
    """
    Local maxima of ``gaussian_fields``, by mean shift: in every iteration each point moves to the weighted mean of the
    centers, where a center's weight is its field's value at the point over the squared width. The sum of the fields never
    falls, and points stay within the convex hull of the centers, which contains all maxima.

    :param starts: Points to start from, ``(n_starts, n_agents)``.
    :param centres: Of shape ``(n_fields, n_agents)``.
    :param heights: Of shape ``(n_fields,)``, positive.
    :param widths: Of shape ``(n_fields,)``.
    :param max_iterations: The largest number of iterations. Far fewer are needed unless two hills nearly merge.
    :return: The maximum that each start leads to, ``(n_starts, n_agents)``.
    """
    points = starts
    for _ in range(max_iterations):
        squared = np.square(points[:, None] - centres).sum(axis=-1)
        # Computed from logarithms, because every field rounds to 0 far away from all centers.
        log_weights = np.log(heights / np.square(widths)) - squared / (2.0 * np.square(widths))
        weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
        moved = weights @ centres / weights.sum(axis=1, keepdims=True)
        if np.abs(moved - points).max() < 1e-13:
            return moved
        points = moved
    return points


class DifferentialGame(BatchedGame):
    """
    The differential game of the CORA paper (section 5.2), after Wei and Luke (2016): each agent chooses a number in
    [-1, 1], and the team's reward is the height of a surface at that point. The surface is a sum of Gaussian hills, most of
    which are local optima. An episode is one step.

    Heights and widths are drawn uniformly from the given ranges, except for the height of the best hill. For each center, 16
    points are drawn uniformly from [-0.8, 0.8], and the one farthest from the centers before it is kept, so that hills seldom
    merge. Distances between random points grow with the square root of the number of dimensions. So that the hills of many
    agents are still found, their widths grow in the same way: the drawn ones are multiplied by ``sqrt(n_agents / 2)``.

    ``local_optima`` and ``optimal_return`` are found by climbing from every center and from the midpoint of every two centers
    until convergence, which leaves an error below 1e-9 in the return.

    :param n_agents: Number of agents, which is the number of dimensions of the surface.
    :param n_fields: Number of hills, including the best one. If they are many, some may be too close to a higher one to be
        local optima.
    :param best_height: Height of the best hill. If others overlap with it, the optimum is a little higher.
    :param height_range: Lowest and highest height of the other hills, above 0 and below ``best_height``.
    :param width_range: Smallest and largest standard deviation of a hill of two dimensions, above 0.
    :param game_seed: Seed of the hills.
    :raises ValueError: If a number is out of range.
    """

    def __init__(
        self,
        n_agents: int = 2,
        n_fields: int = 5,
        best_height: float = 10.0,
        height_range: Sequence[float] = (3.0, 8.0),
        width_range: Sequence[float] = (0.15, 0.3),
        game_seed: int = 0,
    ) -> None:
        check_count("n_agents", n_agents)
        check_count("n_fields", n_fields)
        low, high = check_range("height_range", height_range)
        narrow, wide = check_range("width_range", width_range)
        if low <= 0 or narrow <= 0:
            raise ValueError(f"height_range={height_range!r} and width_range={width_range!r}, expected numbers above 0.")
        if not high < best_height < np.inf:
            raise ValueError(f"best_height={best_height}, expected a finite number above height_range={height_range!r}.")
        super().__init__(1, spaces.Box(-1.0, 1.0, (n_agents, 1), dtype=np.float32))
        generator = game_generator(game_seed)
        self.centres = _spread_centers(generator, n_fields, n_agents)
        self.heights = np.array([best_height, *generator.uniform(low, high, n_fields - 1)])
        self.widths = generator.uniform(narrow, wide, n_fields) * np.sqrt(n_agents / 2)
        #: Joint actions at the hilltops, the highest first, ``(n_optima, n_agents)``.
        self.local_optima = self._search()
        self.optimal_actions = self.local_optima[:1, :, None]

    def rewards(self, step: int, actions: np.ndarray) -> np.ndarray:
        return self._surface(actions[:, :, 0].astype(np.float64))

    def draw(self, step: int, action: np.ndarray | None = None) -> np.ndarray:
        """
        Render the surface, from dark (0) to bright (the optimum), over the first agent's action (from left to right) and the
        second's (upwards). The other agents' actions are those of ``action``, or optimal without it. The optimum is marked by
        a cross and the joint action played by a dot; the bar below is full, because there is only one step.

        :param step: Always 0.
        :param action: The joint action to mark, if any.
        :return: The picture, ``(252, 240, 3)`` of uint8.
        """
        best = self.local_optima[0]
        shown = best if action is None else np.asarray(action, dtype=np.float64)[:, 0]
        picture = np.full((PICTURE_SIZE + BAR_HEIGHT, PICTURE_SIZE, 3), 220, dtype=np.uint8)
        heights = self._section(PICTURE_SIZE, shown)[::-1]
        picture[:PICTURE_SIZE] = color(heights, 0.0, self.optimal_return)
        picture[PICTURE_SIZE : PICTURE_SIZE + 2] = 40
        rows, columns = np.indices((PICTURE_SIZE, PICTURE_SIZE))
        for point, is_cross in ((best, True), (shown, False)):
            if not is_cross and action is None:
                continue
            right = np.abs(columns - (point[0] + 1) / 2 * (PICTURE_SIZE - 1))
            # A single agent's surface is a curve, whose picture does not depend on the row.
            up = np.abs(rows - (1 - point[1]) / 2 * (PICTURE_SIZE - 1)) if self.n_agents > 1 else np.zeros_like(right)
            for value, size in ((0, 6), (255, 4)):
                mark = (right <= size) & (up <= size)
                mark &= np.minimum(right, up) <= size - 3 if is_cross else np.hypot(right, up) <= size
                picture[:PICTURE_SIZE][mark] = value
        return picture

    def plot_surface(self, ax: "Axes | None" = None) -> "Axes":
        """
        Plot the surface of two agents.

        :param ax: Axes to plot on: a surface if they have three dimensions, otherwise a map. New axes of three dimensions if
            ``None``.
        :return: The axes.
        :raises ValueError: If the game does not have two agents.
        :raises ImportError: If matplotlib is not installed.
        """
        self._check_plottable()
        axes = _new_axes(projection="3d") if ax is None else ax
        values = np.linspace(-1.0, 1.0, PLOT_POINTS)
        heights = self._section(PLOT_POINTS, self.local_optima[0])
        # Axes of three dimensions have methods that the type Axes lacks.
        axes_3d: Any = axes
        if _has_three_dimensions(axes):
            # All points, since by default matplotlib keeps only 50 along an axis, which cuts off hilltops.
            axes_3d.plot_surface(*np.meshgrid(values, values), heights, cmap="viridis", rcount=PLOT_POINTS, ccount=PLOT_POINTS)
            axes_3d.set_zlabel("reward")
        else:
            mesh = axes.pcolormesh(values, values, heights, cmap="viridis", shading="nearest")
            axes.figure.colorbar(mesh, ax=axes, label="reward")
            axes.set_aspect("equal")
        axes.set(xlabel="action of agent 0", ylabel="action of agent 1")
        return axes

    def plot_trajectory(self, means: np.ndarray, ax: "Axes | None" = None) -> "Axes":
        """
        Plot the trajectory of a policy's mean during training over the surface of two agents (figure 2 of the CORA paper).

        Means outside of [-1, 1] are plotted on the border, since actions are clipped.

        :param means: The mean joint actions in the order of training, ``(n_points, 2)`` or ``(n_points, 2, 1)``.
        :param ax: Axes to plot on, as in ``plot_surface``; a new map if ``None``.
        :return: The axes.
        :raises ValueError: If the game does not have two agents, or ``means`` has another shape or holds NaN.
        :raises ImportError: If matplotlib is not installed.
        """
        self._check_plottable()
        means = np.asarray(means, dtype=np.float64)
        if means.shape[1:] not in ((2,), (2, 1)) or len(means) == 0 or np.isnan(means).any():
            raise ValueError(
                f"The means are of shape {means.shape} and hold {np.isnan(means).sum()} NaN, expected (n_points, 2) or "
                "(n_points, 2, 1) without NaN: one mean joint action for each point in time."
            )
        axes = self.plot_surface(_new_axes() if ax is None else ax)
        trajectory = means.reshape(-1, 2).clip(-1.0, 1.0)
        points = np.concatenate((trajectory, self.local_optima[:1]))
        if _has_three_dimensions(axes):
            # Lifted a little above the surface, and plotted last, so that the surface does not hide them.
            points = np.column_stack((points, self._surface(points) + 0.02 * self.optimal_return))
        spot: dict[str, Any] = dict(markeredgecolor="black", linestyle="")
        for plotted, style in (
            (points[:-1], dict(color="red", marker=".", markersize=4, linewidth=1.5, label="mean of the policy")),
            (points[:1], dict(color="white", **spot, marker="o", label="start")),
            (points[-2:-1], dict(color="red", **spot, marker="s", label="end")),
            (points[-1:], dict(color="white", **spot, marker="*", markersize=12, label="optimum")),
        ):
            axes.plot(*plotted.T, zorder=10, **style)
        axes.legend(loc="upper right", fontsize="small")
        return axes

    def _surface(self, points: np.ndarray) -> np.ndarray:
        return gaussian_fields(points, self.centres, self.heights, self.widths)

    def _section(self, n_points: int, others: np.ndarray) -> np.ndarray:
        """Heights over the first two agents' actions, ``(second, first)``, with the other agents' actions fixed."""
        values = np.linspace(-1.0, 1.0, n_points)
        points = np.tile(others, (n_points * n_points, 1))
        points[:, 0] = np.tile(values, n_points)
        if self.n_agents > 1:
            points[:, 1] = np.repeat(values, n_points)
        return self._surface(points).reshape(n_points, n_points)

    def _search(self) -> np.ndarray:
        """The distinct local optima, the highest first."""
        first, second = np.triu_indices(len(self.centres))
        # The midpoint of a center and itself is the center.
        starts = (self.centres[first] + self.centres[second]) / 2
        ends = climb_fields(starts, self.centres, self.heights, self.widths)
        found: list[np.ndarray] = []
        for end in ends[np.argsort(-self._surface(ends), kind="stable")]:
            if all(np.abs(end - other).max() > 1e-6 for other in found):
                found.append(end)
        return np.array(found)

    def _check_plottable(self) -> None:
        if self.n_agents != 2:
            raise ValueError(f"Only games of 2 agents can be plotted, got n_agents={self.n_agents}. Use render() instead.")


def _spread_centers(generator: np.random.Generator, n_fields: int, n_agents: int) -> np.ndarray:
    centers = generator.uniform(-CENTER_RANGE, CENTER_RANGE, (1, n_agents))
    while len(centers) < n_fields:
        draws = generator.uniform(-CENTER_RANGE, CENTER_RANGE, (CENTER_DRAWS, n_agents))
        distances = np.square(draws[:, None] - centers).sum(axis=-1).min(axis=1)
        centers = np.concatenate((centers, draws[distances.argmax()][None]))
    return centers


def _new_axes(projection: str | None = None) -> "Axes":
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError('matplotlib is not installed: pip install "sb3-cora[plots]"') from error
    return pyplot.figure(layout="constrained").add_subplot(projection=projection)


def _has_three_dimensions(axes: "Axes") -> bool:
    return axes.name == "3d"
