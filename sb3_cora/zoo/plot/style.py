"""What all figures have in common: sizes, fonts, and how algorithms are told apart."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# In inches: a column and a page of the usual two-column papers
COLUMN = 3.3
PAGE = 6.75
# Okabe and Ito's colors with their gray, which the color-blind tell apart; yellow, faint on white, comes last
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#F0E442")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SETTINGS: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "font.size": 8,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    # Text as text: many journals refuse the default, Type 3
    "pdf.fonttype": 42,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
# Letters of a line of a legend or beside a bar: few, so that one long label does not take the place of two
N_LETTERS = 28
# Height of a line of a legend, and width of a letter and of the line before it, in inches
LEGEND_LINE, LEGEND_LETTER, LEGEND_HANDLE = 0.125, 0.055, 0.5


@contextmanager
def styled() -> Iterator[None]:
    """Make figures with ``SETTINGS``: matplotlib looks at its settings at almost every call."""
    with rc_context(SETTINGS):
        yield


class Look(NamedTuple):
    """
    How an algorithm is drawn, in all figures.

    :param color: Color of its lines and marks.
    :param linestyle: Style of its lines.
    :param marker: Its mark.
    :param shift: Where the first mark on its lines is, as a share of the distance between marks: equal lines show both.
    """

    color: str
    linestyle: str
    marker: str
    shift: float


def looks(algos: Sequence[str]) -> dict[str, Look]:
    """
    :param algos: Labels of all algorithms.
    :return: How each is drawn. Neighbors differ in all of it, and the first 252 in some of it.
    """

    def look(number: int) -> Look:
        mark = number % len(MARKERS)
        return Look(COLORS[number % len(COLORS)], LINES[number % len(LINES)], MARKERS[mark], mark / len(MARKERS))

    return {algo: look(number) for number, algo in enumerate(algos)}


def wrapped(label: str) -> str:
    """
    :param label: Of an algorithm or an environment, ``name:setting=value,...``.
    :return: The label in lines, broken between settings.
    """
    spaced = re.sub(r",(?=\S)", ", ", re.sub(r":(?=\S)", ": ", label, count=1))
    return textwrap.fill(spaced, N_LETTERS, break_long_words=False)


class Sheet:
    """
    A figure of panels side by side, with one legend below them.

    It is made without pyplot, which keeps figures alive and looks for a display.

    :param n_panels: Number of panels.
    :param labels: Labels of the legend, empty for none.
    :param height: Height of a panel, in inches.
    :param n_columns: Number of panels side by side, at most.
    :param share_y: Whether the panels have one vertical axis.
    """

    def __init__(
        self,
        n_panels: int,
        labels: Sequence[str] = (),
        height: float = 2.0,
        n_columns: int = 3,
        share_y: bool = False,
    ) -> None:
        n_columns = min(n_columns, n_panels)
        n_rows = -(-n_panels // n_columns)
        width = COLUMN if n_panels == 1 else PAGE
        self.labels = {label: wrapped(label) for label in labels}
        longest = max((len(line) for text in self.labels.values() for line in text.splitlines()), default=0)
        self.n_legend_columns = max(1, int(width / (LEGEND_HANDLE + LEGEND_LETTER * longest)))
        columns = np.array_split([text.count("\n") + 1 for text in self.labels.values()], self.n_legend_columns)
        legend_height = LEGEND_LINE * max(column.sum() for column in columns)
        self.figure = Figure(figsize=(width, n_rows * height + legend_height), layout="constrained")
        grid = self.figure.subplots(n_rows, n_columns, squeeze=False, sharey=share_y)
        self.panels: list[Axes] = list(grid.flat)[:n_panels]
        for empty in list(grid.flat)[n_panels:]:
            empty.remove()

    def legend(self) -> None:
        """Add the legend, of what has been plotted in any panel, in the order of the labels."""
        handles: dict[Any, Any] = {}
        for axes in self.panels:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        shown = [label for label in self.labels if label in handles]
        if shown:
            texts = [self.labels[label] for label in shown]
            self.figure.legend(
                [handles[label] for label in shown], texts, loc="outside lower center", ncols=self.n_legend_columns
            )

    @styled()
    def save(self, folder: Path, name: str) -> list[Path]:
        """
        :param folder: Where to.
        :param name: Name of the files without suffix.
        :return: The PNG and the PDF file.
        """
        self.legend()
        paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
        self.figure.savefig(paths[0], dpi=200)
        # The panels have their places now, and finding them takes as long as drawing
        self.figure.set_layout_engine("none")
        # Without the time, the same runs make the same file
        self.figure.savefig(paths[1], metadata={"CreationDate": None})
        return paths
