"""The report that is printed: a table for each environment, one over all, and every run's return."""

import math
from collections.abc import Iterator, Sequence

from sb3_cora.zoo.plot.runs import Environment
from sb3_cora.zoo.plot.summary import FRACTIONS, LEARNED, OPTIMAL, Aggregate, Summary
from sb3_cora.zoo.statistics import Estimate


def interval_text(estimate: Estimate | None, n_digits: int, form: str = "{} ({} to {})", none: str = "-") -> str:
    """
    :param estimate: An estimate, or none.
    :param n_digits: Number of decimal places.
    :param form: How its value and the bounds of its interval are written.
    :param none: What is written for none.
    :return: Its value and its interval, if it has one.
    """
    if estimate is None:
        return none
    value, *bounds = (f"{number:.{n_digits}f}" for number in estimate)
    return value if math.isnan(estimate.low) else form.format(value, *bounds)


def n_digits(is_normalized: bool) -> int:
    """
    :param is_normalized: Whether scores are not returns.
    :return: Number of their decimal places.
    """
    return 3 if is_normalized else 2


def environment_lines(environment: Environment, summaries: Sequence[Summary]) -> Iterator[str]:
    """
    :param environment: An environment.
    :param summaries: What the algorithms have come to on it.
    :return: Lines of its part of the report.
    """
    yield (
        f"{environment.name}: {environment.unit}, interquartile mean (95 % interval); medians of the steps until sampled "
        f"actions earn {LEARNED:.0%}, and of the Q explained variance at parts of the training"
    )
    found, learned = f">={OPTIMAL:.0%}", f"{LEARNED:.0%} after"
    explained = "".join(f"{f'Q {fraction:.0%}':>7}" for fraction in FRACTIONS)
    yield f"{'runs':>4}{'final':>32}{'area under curve':>32}{found:>8}{learned:>11}{explained}{'minutes':>9}  algorithm"
    digits = n_digits(environment.is_normalized)
    for summary in summaries:
        found = "-" if summary.at_optimum is None else f"{summary.at_optimum:.0%}"
        learned = "-" if summary.learned_after is None else f"{summary.learned_after:.0f}".replace("inf", "never")
        explained = "".join(f"{'-' if value is None else f'{value:.2f}':>7}" for value in summary.explained_variances)
        minutes = "-" if summary.minutes is None else f"{summary.minutes.value:.1f}"
        yield (
            f"{summary.n_runs:>4}{interval_text(summary.final, digits):>32}{interval_text(summary.area, digits):>32}"
            f"{found:>8}{learned:>11}{explained}{minutes:>9}  {summary.algo}"
        )
    yield "Final returns, (game seed/)seed: return"
    for algo, runs in environment.runs.items():
        ordered = sorted(runs, key=lambda run: (-1 if run.game_seed is None else run.game_seed, run.seed))
        yield f"  {algo}  " + "  ".join(f"{run.seeds}: {run.final_return:.2f}" for run in ordered)


def aggregate_lines(aggregates: Sequence[Aggregate]) -> Iterator[str]:
    """
    :param aggregates: What the algorithms have come to on all environments.
    :return: Lines of this part of the report.
    """
    yield "All environments: final score (95 % interval)"
    yield f"{'runs':>4}{'interquartile mean':>26}{'median':>26}{'mean':>26}{'optimality gap':>26}  algorithm"
    for aggregate in aggregates:
        estimates = (aggregate.iqm, aggregate.median, aggregate.mean, aggregate.optimality_gap)
        yield f"{aggregate.n_runs:>4}{''.join(f'{interval_text(value, 3):>26}' for value in estimates)}  {aggregate.algo}"
