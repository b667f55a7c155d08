"""Pictures of an explanation: a sheet of the whole episode, and a video of its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from moviepy import VideoClip

from sb3_cora.cora_ppo.explanation import Explanation

# The palette of Okabe and Ito, which the color-blind can tell apart, without its black; yellow last, faint on white.
AGENT_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
CONCEPT_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CONCEPT_STYLES = ("-", "--", ":", "-.")
CONCEPT_MARKERS = ("o", "D", "^", "s", "v", "P", "X", "*", "<", ">")
NEUTRAL = "0.6"

# With more lines or labels than this, nobody tells them apart.
MAX_LINES = len(AGENT_COLORS)
MAX_COALITION_LINES = 3
MAX_LABELS = 30
# Up to this number of steps each is marked.
MAX_MARKED_STEPS = 50
N_SCENES = 6
RETURN_UNITS = "units of return"
# Numbers below this part of the rewards are errors of rounding, which nothing should be scaled up to.
LEAST_RANGE = 1e-3


def coalition_label(members: Sequence[int], n_agents: int) -> str:
    """
    :param members: The members of a coalition.
    :param n_agents: Number of agents.
    :return: A short name.
    """
    return "all" if len(members) == n_agents else f"{{{','.join(map(str, members))}}}"


def plot_sheet(explanation: Explanation, picture: Path, title: str) -> None:
    """
    Plot an episode as series of its steps, below some pictures of the scene.

    :param explanation: The numbers.
    :param picture: The PNG file to write.
    :param title: Title of the sheet.
    """
    n_concepts = len(explanation.concepts)
    value_height = max(1.6, min(0.8 + 0.22 * len(explanation.coalitions), 6.0))
    heights = [1.2, 1.5, *[1.5] * n_concepts, 1.4, value_height]
    shown = np.unique(np.linspace(0, explanation.n_steps - 1, N_SCENES).round().astype(int))
    part_heights = [sum(heights) + 0.4]
    if explanation.pictures:
        height, width, _ = explanation.pictures[0].shape
        part_heights.insert(0, min(11.5 / len(shown) * height / width, 3.0) + 0.8)
    figure = Figure(figsize=(12, sum(part_heights)), layout="constrained")
    parts = figure.subfigures(len(part_heights), squeeze=False, height_ratios=part_heights)[:, 0]
    parts[0].suptitle(title)
    if explanation.pictures:
        for scene, step in zip(parts[0].subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            scene.imshow(explanation.pictures[step])
            scene.set(xticks=[], yticks=[])
            scene.set_title(f"step {step}", fontsize=10)
    axes = parts[-1].subplots(len(heights), sharex=True, height_ratios=heights)

    for row, numbers in zip(axes, (explanation.rewards, explanation.advantages), strict=False):
        row.plot(numbers, color="black", **_line(explanation))
        row.grid(alpha=0.3)
        _limit(row, explanation, [numbers])
    axes[0].set(title="reward of the team", ylabel="units of reward")
    axes[1].set(title="advantage of the team, which the credits divide", ylabel=RETURN_UNITS)
    for concept, below in zip(explanation.concepts, axes[2:], strict=False):
        _plot_agents(below, explanation, concept)
    _plot_epsilons(axes[-2], explanation)
    axes[-2].set(title="epsilon: the most by which a coalition is worth more than its members' credits", ylabel=RETURN_UNITS)
    _legend(axes[-2])
    _plot_values(axes[-1], explanation)
    axes[-1].set_xlabel("step of the episode")
    axes[-1].set_xlim(-0.5, explanation.n_steps - 0.5)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for row in axes:
        row.title.set_fontsize(11)
        row.yaxis.label.set_fontsize(9)
    figure.savefig(picture, dpi=130)


def _line(explanation: Explanation, number: int = 0, n_lines: int = 1) -> dict[str, Any]:
    """
    :param explanation: The numbers.
    :param number: Number of the line, counted from 0 in the order in which lines are plotted.
    :param n_lines: Number of lines.
    :return: How the line looks. The first ones are the widest, so that they remain visible behind others.
    """
    width = 1.2 + 1.8 * (n_lines - 1 - number) / max(n_lines - 1, 1)
    return {"linewidth": width, "marker": "." if explanation.n_steps <= MAX_MARKED_STEPS else ""}


def _plot_epsilons(axes: Axes, explanation: Explanation, prefix: str = "") -> None:
    """
    :param axes: Where to plot the epsilon of each concept.
    :param explanation: The numbers.
    :param prefix: What stands before the name of a concept in the legend.
    """
    for number, (concept, epsilon) in enumerate(explanation.epsilons.items()):
        axes.plot(
            epsilon,
            CONCEPT_STYLES[number % len(CONCEPT_STYLES)],
            color=CONCEPT_COLORS[number % len(CONCEPT_COLORS)],
            label=f"{prefix}{concept}",
            **_line(explanation, number, len(explanation.epsilons)),
        )
    axes.grid(alpha=0.3)
    _limit(axes, explanation, list(explanation.epsilons.values()))


def _legend(axes: Axes) -> None:
    """
    :param axes: Axes with labeled lines, beside which their legend is put.
    """
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _plot_agents(axes: Axes, explanation: Explanation, concept: str) -> None:
    """
    :param axes: Where to plot each agent's credits.
    :param explanation: The numbers.
    :param concept: The solution concept.
    """
    credits = np.where(explanation.active, explanation.credits[concept], np.nan)
    if explanation.n_agents <= MAX_LINES:
        for agent, color in zip(range(explanation.n_agents), AGENT_COLORS, strict=False):
            line = _line(explanation, agent, explanation.n_agents)
            axes.plot(credits[:, agent], color=color, label=f"agent {agent}", **line)
        axes.axhline(0.0, color="black", linewidth=0.5)
        axes.set_ylabel(RETURN_UNITS)
        axes.grid(alpha=0.3)
        # The same for all concepts, so that they can be compared.
        _limit(axes, explanation, list(explanation.credits.values()))
        _legend(axes)
    else:
        _plot_map(axes, explanation, credits.T, [str(agent) for agent in range(explanation.n_agents)])
        axes.set_ylabel("agent")
    axes.set_title(f"credit of each agent: {concept}")


def _plot_values(axes: Axes, explanation: Explanation) -> None:
    """
    :param axes: Where to plot what coalitions are worth.
    :param explanation: The numbers.
    """
    labels = [coalition_label(members, explanation.n_agents) for members in explanation.coalitions]
    if len(labels) <= MAX_COALITION_LINES:
        for number, label in enumerate(labels):
            color = "black" if label == "all" else AGENT_COLORS[number]
            line = _line(explanation, number, len(labels))
            axes.plot(explanation.values[:, number], color=color, label=f"value of {label}", **line)
        axes.axhline(0.0, color="black", linewidth=0.5)
        axes.grid(alpha=0.3)
        axes.set_ylabel(RETURN_UNITS)
        _limit(axes, explanation, [explanation.values])
        _legend(axes)
    else:
        _plot_map(axes, explanation, explanation.values.T, labels)
        axes.set_ylabel("coalition")
    axes.set_title("coalition values: what the Q-critics expect if only the members act as they did")


def _plot_map(axes: Axes, explanation: Explanation, values: np.ndarray, labels: list[str]) -> None:
    """
    :param axes: Where to plot numbers as colors.
    :param explanation: All numbers.
    :param values: Of shape ``(n_rows, n_steps)``.
    :param labels: Names of the rows. Of too many rows only some are labeled.
    """
    limit = max(float(np.nanmax(np.abs(values))), _least_range(explanation))
    # Purple and orange, which the color-blind can tell apart, and white for 0
    image = axes.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    rows = np.unique(np.linspace(0, len(labels) - 1, MAX_LABELS).round().astype(int))
    axes.set_yticks(rows, [labels[row] for row in rows], fontsize=7)
    # Where other rows have their legends, so that the steps stand one above the other.
    axes.figure.colorbar(image, cax=axes.inset_axes((1.01, 0.0, 0.012, 1.0)), label=RETURN_UNITS)


class StepFigure:
    """
    The figure of one step: the scene, coalition values beside what the members are credited with, credits, and the place of
    the step in the episode. What is the same in all steps is rendered once.

    :param explanation: The numbers.
    :param title: Title of all steps.
    """

    def __init__(self, explanation: Explanation, title: str) -> None:
        self.explanation = explanation
        self.title = title
        has_scene = len(explanation.pictures) > 0
        figure = Figure(figsize=(12.8, 7.2), dpi=100)
        self.canvas = FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            3, 2, width_ratios=(4, 6) if has_scene else (1e-3, 1), height_ratios=(3, 2.2, 1.6),
            left=0.01 if has_scene else 0.06, right=0.985, top=0.88, bottom=0.08, hspace=0.55, wspace=0.17,
        )  # fmt: skip
        self.heading = figure.text(0.5, 0.97, "", ha="center", va="center", fontsize=14)
        self.changing: list = []
        if has_scene:
            scene = figure.add_subplot(grid[:2, 0])
            scene.axis("off")
            self.image = scene.imshow(explanation.pictures[0])
            self.changing.append(self.image)
        self._add_values(figure.add_subplot(grid[0, 1]))
        self._add_credits(figure.add_subplot(grid[1, 1]))
        timeline = figure.add_subplot(grid[2, :])
        # The scene has no labels, but the timeline has, left of it.
        place = timeline.get_position()
        timeline.set_position((0.06, place.y0, 0.925, place.height))
        self._add_timeline(timeline)
        self.changing.append(self.heading)
        for artist in self.changing:
            artist.set_animated(True)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(figure.bbox)

    def _add_values(self, axes: Axes) -> None:
        """
        :param axes: Where to plot coalition values, and the sums of their members' credits.
        """
        explanation = self.explanation
        labels = [coalition_label(members, explanation.n_agents) for members in explanation.coalitions]
        self.shares = {concept: explanation.shares(concept) for concept in explanation.concepts}
        places = np.arange(len(labels))
        self.value_bars = axes.bar(
            places, explanation.values[0], color="0.75", edgecolor="0.4", label="value of the coalition"
        )
        self.changing += self.value_bars
        self.share_points = {}
        spread = np.linspace(-0.25, 0.25, len(explanation.concepts)) if len(explanation.concepts) > 1 else [0.0]
        for number, (concept, offset) in enumerate(zip(explanation.concepts, spread, strict=True)):
            (points,) = axes.plot(
                places + offset,
                np.zeros(len(places)),
                CONCEPT_MARKERS[number % len(CONCEPT_MARKERS)],
                color=CONCEPT_COLORS[number % len(CONCEPT_COLORS)],
                markeredgecolor="black",
                markersize=7,
                label=f"members' credits: {concept}",
            )
            self.share_points[concept] = points
            self.changing.append(points)
        _limit(axes, explanation, [explanation.values, *self.shares.values()])
        axes.axhline(0.0, color="black", linewidth=0.8)
        if len(labels) <= MAX_LABELS:
            axes.set_xticks(places, labels, rotation=0 if len(labels) <= 8 else 60, fontsize=9 if len(labels) <= 14 else 7)
        else:
            axes.set_xlabel(f"{len(labels)} coalitions, from small to large", fontsize=9)
            axes.set_xticks([])
        axes.set_ylabel(RETURN_UNITS)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False)

    def _add_credits(self, axes: Axes) -> None:
        """
        :param axes: Where to plot the credits of each agent, concept by concept.
        """
        explanation = self.explanation
        n_agents = explanation.n_agents
        width = 0.8 / n_agents
        within = width * (np.arange(n_agents) - (n_agents - 1) / 2)
        colors = AGENT_COLORS[:n_agents] if n_agents <= MAX_LINES else NEUTRAL
        self.credit_bars, self.epsilon_texts = {}, {}
        for number, concept in enumerate(explanation.concepts):
            self.credit_bars[concept] = axes.bar(number + within, np.zeros(n_agents), width * 0.95, color=colors)
            text = axes.text(number, 1.03, "", transform=axes.get_xaxis_transform(), ha="center", fontsize=10)
            self.epsilon_texts[concept] = text
            self.changing += [*self.credit_bars[concept], text]
        _limit(axes, explanation, list(explanation.credits.values()))
        axes.axhline(0.0, color="black", linewidth=0.8)
        axes.set(ylabel=RETURN_UNITS, xlim=(-0.6, len(explanation.concepts) - 0.4), xticks=[])
        if n_agents * len(explanation.concepts) <= MAX_LABELS:
            places = np.add.outer(np.arange(len(explanation.concepts)), within).ravel()
            axes.set_xticks(places, [str(agent) for agent in range(n_agents)] * len(explanation.concepts), fontsize=9)
        axes.set_xlabel("credit of each agent")

    def _add_timeline(self, axes: Axes) -> None:
        """
        :param axes: Where to plot advantage and epsilon over the episode.
        """
        explanation = self.explanation
        axes.plot(explanation.advantages, color="black", label="advantage", **_line(explanation))
        _plot_epsilons(axes, explanation, prefix="epsilon: ")
        _limit(axes, explanation, [explanation.advantages, *explanation.epsilons.values()])
        axes.axhline(0.0, color="black", linewidth=0.5)
        axes.set(xlim=(-0.5, explanation.n_steps - 0.5), xlabel="step of the episode", ylabel=RETURN_UNITS)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, fontsize=8, frameon=False)
        self.cursor = axes.axvline(0.0, color="black", linewidth=3.0, alpha=0.5)
        self.changing.append(self.cursor)

    def picture(self, step: int) -> np.ndarray:
        """
        :param step: A step of the episode.
        :return: Its picture, ``(720, 1280, 3)`` of uint8.
        """
        explanation = self.explanation
        self.heading.set_text(
            f"{self.title}     step {step}     reward {explanation.rewards[step]:.3g}"
            f"     advantage {explanation.advantages[step]:.3g}"
        )
        if explanation.pictures:
            self.image.set_data(explanation.pictures[step])
        for bar, value in zip(self.value_bars, explanation.values[step], strict=True):
            bar.set_height(value)
        for concept in explanation.concepts:
            self.share_points[concept].set_ydata(self.shares[concept][step])
            for bar, credit in zip(self.credit_bars[concept], explanation.credits[concept][step], strict=True):
                bar.set_height(credit)
            self.epsilon_texts[concept].set_text(f"{concept}, epsilon {explanation.epsilons[concept][step]:.3g}")
        self.cursor.set_xdata([step, step])
        self.canvas.restore_region(self.background)
        for artist in self.changing:
            self.canvas.figure.draw_artist(artist)
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()


def _least_range(explanation: Explanation) -> float:
    """
    :param explanation: The numbers.
    :return: The smallest range of an axis, so that errors of rounding are not scaled up to something.
    """
    return LEAST_RANGE * float(np.abs(explanation.rewards).max()) or LEAST_RANGE


def _limit(axes: Axes, explanation: Explanation, data: list[np.ndarray]) -> None:
    """
    Set the vertical limits: from the smallest to the largest number, with 0 in between.

    :param axes: The axes.
    :param explanation: All numbers.
    :param data: Those that the axes show.
    """
    low = min(0.0, *(float(part.min()) for part in data))
    high = max(0.0, *(float(part.max()) for part in data))
    margin = 0.08 * (high - low) if high - low > _least_range(explanation) else _least_range(explanation)
    axes.set_ylim(low - margin, high + margin)


def trimmed(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """
    :param pictures: Of the same scene, ``(height, width, 3)``.
    :return: The pictures without margins of a single color that all of them have, except for a narrow one.
    """
    if not pictures:
        return []
    drawn = np.zeros(pictures[0].shape[:2], dtype=bool)
    for picture in pictures:
        drawn |= (picture != pictures[0][0, 0]).any(axis=-1)
    if not drawn.any():
        return list(pictures)
    ranges = []
    for axis in (1, 0):
        places = np.flatnonzero(drawn.any(axis=axis))
        margin = drawn.shape[1 - axis] // 40
        ranges.append(slice(max(places[0] - margin, 0), places[-1] + 1 + margin))
    return [picture[tuple(ranges)] for picture in pictures]


def write_video(explanation: Explanation, path: Path, title: str, fps: float) -> None:
    """
    Write a video with a picture for each step.

    :param explanation: The numbers.
    :param path: The file, ``.mp4`` or ``.gif``.
    :param title: Title of all steps.
    :param fps: Steps per second.
    """
    figure = StepFigure(explanation, title)
    last = explanation.n_steps - 1

    def picture_at(seconds: float) -> np.ndarray:
        return figure.picture(min(round(seconds * fps), last))

    clip = VideoClip(picture_at, duration=explanation.n_steps / fps)
    if path.suffix == ".gif":
        clip.write_gif(str(path), fps=fps, logger=None)
    else:
        clip.write_videofile(str(path), fps=fps, audio=False, logger=None)
