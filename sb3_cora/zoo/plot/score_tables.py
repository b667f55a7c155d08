"""The tables of scores, in Markdown and in LaTeX."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from sb3_cora.zoo.plot.report import interval_text, n_digits
from sb3_cora.zoo.plot.runs import Environment
from sb3_cora.zoo.plot.summary import OPTIMAL, Aggregate, Summary

CAPTION = "Interquartile means over the runs with 95 % bootstrap intervals, and the share of the runs that found the optimum."
# What LaTeX would take for commands
SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "≥": r"$\geq$",
    "–": "--",
}

_cell = partial(interval_text, form="{} [{}, {}]", none="–")


class Table(NamedTuple):
    """
    A table of texts.

    :param title: What it is of.
    :param columns: Names of the columns.
    :param rows: Texts of the rows, as many each as there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def score_table(environment: Environment, summaries: Sequence[Summary]) -> Table:
    """
    :param environment: An environment.
    :param summaries: What the algorithms have come to on it.
    :return: The table of them.
    """
    digits = n_digits(environment.is_normalized)
    columns = ("Algorithm", "Runs", "Final", "Area under the curve", f"≥ {OPTIMAL:.0%}", "Minutes")
    rows: list[tuple[str, ...]] = [
        (
            summary.algo,
            str(summary.n_runs),
            _cell(summary.final, digits),
            _cell(summary.area, digits),
            "–" if summary.at_optimum is None else f"{summary.at_optimum:.0%}",
            "–" if summary.minutes is None else f"{summary.minutes.value:.1f}",
        )
        for summary in summaries
    ]
    return Table(f"{environment.name}, {environment.unit}", columns, rows)


def aggregate_table(aggregates: Sequence[Aggregate]) -> Table:
    """
    :param aggregates: What the algorithms have come to on all environments.
    :return: The table of them.
    """
    columns = ("Algorithm", "Runs", "Interquartile mean", "Median", "Mean", "Optimality gap")
    rows = [
        (line.algo, str(line.n_runs), *(_cell(value, 3) for value in (line.iqm, line.median, line.mean, line.optimality_gap)))
        for line in aggregates
    ]
    return Table("All environments, final score", columns, rows)


def markdown(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """
    :param tables: The tables.
    :param notes: What a reader of them should know, such as runs that have failed.
    :return: Text of a Markdown file of them.
    """
    parts = [f"{CAPTION}\n"]
    for table in tables:
        lines = [table.columns, ("---", *("---:" for _ in table.columns[1:])), *table.rows]
        # A bar would end the cell
        rows = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
        parts.append(f"## {table.title}\n\n" + "".join(f"| {row} |\n" for row in rows))
    if notes:
        parts.append("## Notes\n\n" + "".join(f"- {note}\n" for note in notes))
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """
    :param text: Any text.
    :return: The same in LaTeX.
    """
    return "".join(SPECIAL.get(character, character) for character in text)


def latex(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """
    :param tables: The tables.
    :param notes: What a reader of them should know, for comments.
    :return: Text of a LaTeX file of them, to be read by ``\\input``.
    """
    parts = [f"% Needs \\usepackage{{booktabs}}. {_escaped(CAPTION)}\n"]
    for table in tables:
        header, *rows = (" & ".join(map(_escaped, line)) + " \\\\" for line in (table.columns, *table.rows))
        lines = [
            f"% {table.title}",
            f"\\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            *("\\toprule", f"\\multicolumn{{{len(table.columns)}}}{{c}}{{{_escaped(table.title)}}} \\\\"),
            *("\\midrule", header, "\\midrule", *rows, "\\bottomrule"),
            "\\end{tabular}\n",
        ]
        parts.append("\n".join(lines))
    return "\n".join([*parts, *(f"% {note}" for note in notes)]) + ("\n" if notes else "")
