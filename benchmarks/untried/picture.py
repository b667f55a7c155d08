"""The picture of critics and credits on joint actions that were tried and on those that were not."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.untried.probe import CONCEPTS, VISITS, CreditRow, CriticRow
from sb3_cora.zoo.plot.style import looks


def over_time(rows: Iterable[Any], value: Callable[[Any], float]) -> tuple[np.ndarray, np.ndarray]:
    """
    :param rows: Of several games.
    :param value: What to take from a row.
    :return: Timesteps, and the mean over the games at each.
    """
    by_time: dict[int, list[float]] = {}
    for row in rows:
        by_time.setdefault(row.timesteps, []).append(value(row))
    timesteps = sorted(by_time)
    return np.array(timesteps), np.array([np.mean(by_time[step]) for step in timesteps])


def visits_name(least: int) -> str:
    """
    :param least: One of ``VISITS``.
    :return: The range that begins there.
    """
    bounds = [*VISITS[1:], None]
    bound = bounds[VISITS.index(least)]
    return "never" if least == 0 else f"{least} or more" if bound is None else f"{least} to {bound - 1}"


def draw(critics: Sequence[CriticRow], credits: Sequence[CreditRow], path: Path) -> None:
    """
    A row of panels for each environment: errors of the critics, how often they are asked, and errors of credits.

    :param critics: Of the critics.
    :param credits: Of the credits.
    :param path: The PNG file.
    """
    envs = list(dict.fromkeys(row.env for row in critics))
    if not envs:
        return
    figure = Figure(figsize=(13, 3.4 * len(envs)), layout="constrained")
    panels = figure.subplots(len(envs), 3, squeeze=False)
    names = [visits_name(least) for least in VISITS]
    visits_looks, concept_looks = looks(names), looks(CONCEPTS)
    for env, (errors, asked, divided) in zip(envs, panels, strict=True):
        for least, name in zip(VISITS, names, strict=True):
            mine = [row for row in critics if (row.env, row.visits) == (env, least)]
            for axes, value in ((errors, lambda row: row.error), (asked, lambda row: row.asked)):
                axes.plot(*over_time(mine, value), label=name, **_line(visits_looks[name]))
        plot_credits(divided, [row for row in credits if row.env == env], concept_looks)
        errors.set(title=f"{env}: error of Q", ylabel="in standard deviations of the rewards", ylim=(0, None))
        asked.set(title="share of what credits ask for", ylim=(0, 1))
        for axes in (errors, asked):
            axes.set_xlabel("timesteps")
    panels[0, 1].legend(title="joint action was taken", fontsize="small", loc="center right")
    panels[0, 2].legend(fontsize="small")
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def plot_credits(axes: Axes, rows: Sequence[CreditRow], concept_looks: dict[str, Any]) -> None:
    """
    :param axes: Where to.
    :param rows: Of one environment.
    :param concept_looks: How each concept is drawn.
    """
    for number, concept in enumerate(CONCEPTS):
        means = [
            np.average([row.error for row in mine], weights=[row.share for row in mine]) if mine else np.nan
            for mine in ([row for row in rows if (row.concept, row.visits) == (concept, least)] for least in VISITS)
        ]
        look = concept_looks[concept]
        positions = np.arange(len(VISITS)) + (number - 1) * 0.1
        axes.plot(positions, means, color=look.color, marker=look.marker, linestyle="", label=concept)
    axes.set_xticks(range(len(VISITS)), [visits_name(least) for least in VISITS], fontsize="x-small")
    axes.set(
        title="error of credits, over their norm",
        xlabel="times that the least tried joint action was taken",
        ylim=(0, None),
    )


def _line(look: Any) -> dict[str, Any]:
    """
    :param look: How something is drawn.
    :return: The same as arguments of ``Axes.plot``.
    """
    return {"color": look.color, "linestyle": look.linestyle}
