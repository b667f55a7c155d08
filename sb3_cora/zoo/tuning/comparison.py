"""The report of several algorithms that were given equal searches."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from sb3_cora.zoo import tables
from sb3_cora.zoo.tuning.report import best_trial
from sb3_cora.zoo.tuning.trials import TrialCounts, is_abandoned
from sb3_cora.zoo.whole_files import write_whole


class TunedAlgorithm(NamedTuple):
    """
    The search of one algorithm.

    :param algorithm: Its name.
    :param finished: Number of trials that count: complete, pruned and failed ones.
    :param complete: Number of complete trials.
    :param pruned: Number of trials that the pruner ended.
    :param failed: Number of trials that ended with an error of their own.
    :param abandoned: Number of trials of killed workers, which were run again and do not count.
    :param best_value: Value of the best complete trial, None if there is none.
    :param best_trial: Its number, None if there is none.
    :param hours: Time that the trials that count took, one after another, in hours.
    """

    algorithm: str
    finished: int
    complete: int
    pruned: int
    failed: int
    abandoned: int
    best_value: float | None
    best_trial: int | None
    hours: float

    @classmethod
    def of(cls, algorithm: str, study: optuna.Study) -> "TunedAlgorithm":
        """
        :param algorithm: Name of the algorithm.
        :param study: Its study.
        :return: What there is to report.
        """
        trials = study.get_trials(deepcopy=False)
        counts = TrialCounts.of(trials)
        best = best_trial(study)
        durations = [trial.duration for trial in trials if trial.duration is not None and not is_abandoned(trial)]
        return cls(
            algorithm=algorithm,
            finished=counts.finished,
            complete=counts.complete,
            pruned=counts.pruned,
            failed=counts.failed,
            abandoned=counts.abandoned,
            best_value=None if best is None else best.value,
            best_trial=None if best is None else best.number,
            hours=sum(duration.total_seconds() for duration in durations) / 3600,
        )


def write_comparison(rows: Sequence[TunedAlgorithm], plan: dict[str, Any], folder: Path) -> None:
    """
    Print the report, and write it as ``report.csv`` and ``report.md``.

    :param rows: The algorithms.
    :param plan: What the searches had in common, by name.
    :param folder: An existing folder.
    """
    tables.show(rows)
    table, page = folder / "report.csv", folder / "report.md"
    writers: dict[Path, Callable[[Path], object]] = {
        table: partial(tables.write, rows, default=".6g"),
        page: partial(Path.write_text, data=_markdown(rows, plan), encoding="utf-8"),
    }
    write_whole(writers, shared=True)
    print(f"{'Report:':<16}{table}\n{'':<16}{page}")


def _markdown(rows: Sequence[TunedAlgorithm], plan: dict[str, Any]) -> str:
    def cells(values: Sequence[object]) -> str:
        return f"| {' | '.join(map(str, values))} |"

    lines = [
        f"# Searches on {plan['env']}",
        "",
        *(f"- {name}: {value}" for name, value in plan.items()),
        "",
        "Trials are finished if they are complete, pruned, or failed with an error of their own. The value of a trial is the",
        "mean return of its last evaluation; over several game seeds, the mean of these returns in parts of the optima.",
        "",
        cells([field.replace("_", " ") for field in TunedAlgorithm._fields]),
        cells(["---"] * len(TunedAlgorithm._fields)),
    ]
    for row in rows:
        texts = [format(value, ".6g") if isinstance(value, float) else value for value in row]
        lines.append(cells(["" if value is None else value for value in texts]))
    return "\n".join(lines) + "\n"
