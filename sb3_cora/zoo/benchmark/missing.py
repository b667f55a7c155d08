"""What a table lacks, and how long it will take."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from sb3_cora.zoo import results, tables
from sb3_cora.zoo.benchmark.suites import Task
from sb3_cora.zoo.results import Row, Run
from sb3_cora.zoo.whole_files import write_whole


def finished(rows: Iterable[Row]) -> set[Run]:
    """
    :param rows: Of a table.
    :return: The runs that have finished: the last row of a run is its ``"final"`` one.
    """
    return {row.run for row in rows if row.kind == "final"}


def lacking(tasks: Sequence[Task], rows: Iterable[Row]) -> list[Task]:
    """
    :param tasks: The runs of the suite.
    :param rows: Of the table.
    :return: The runs that have not finished.
    """
    done = finished(rows)
    return [task for task in tasks if task.run not in done]


def tidy(path: Path, tasks: Sequence[Task]) -> list[Row]:
    """
    Put a table in order: its rows in the order of the suite, before those of runs that the suite no longer has, without what a
    killed benchmark left of a run, and without failures of runs that have finished since.

    :param path: The table, or none.
    :param tasks: The runs of the suite.
    :return: Its rows.
    """
    rows = results.read(path)
    done, order = finished(rows), {task.run: number for number, task in enumerate(tasks)}
    failures = {row.run: row for row in rows if row.kind == "failed" and row.run in order and row.run not in done}
    kept = [row for row in rows if row.run in done and row.kind != "failed"] + list(failures.values())
    kept.sort(key=lambda row: order.get(row.run, len(order)))
    if kept != rows:
        write_whole({path: partial(tables.append, kept)})
    return kept


def expected_seconds(tasks: Sequence[Task], rows: Iterable[Row]) -> list[float | None]:
    """
    :param tasks: Runs.
    :param rows: Of a table.
    :return: How long each will take: the median of what runs of its configuration took, or else of those in its environment,
        for as many timesteps; None if there are none.
    """
    paces: dict[str, list[float]] = {}
    for row in rows:
        if row.kind == "final":
            for alike in (row.config, row.env):
                paces.setdefault(alike, []).append(row.wall_seconds / row.timesteps)
    medians = {alike: median(seconds) for alike, seconds in paces.items()}
    known = (medians.get(task.run.config, medians.get(task.run.env)) for task in tasks)
    return [None if pace is None else pace * task.n_timesteps for task, pace in zip(tasks, known, strict=True)]
