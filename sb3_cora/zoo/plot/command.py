"""
Plot and tabulate trainings: tables of benchmark runs, or the folders that ``zoo/train.py`` has written.

    python -m sb3_cora.zoo.plot results.csv --output figures
    python -m sb3_cora.zoo.plot results.csv --algos cora_ppo mappo --envs give_way navigation --scores scores.yml
    python -m sb3_cora.zoo.plot results.csv --ablation cora_ppo --marl-eval runs.json
    python -m sb3_cora.zoo.plot --folders logs
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sb3_cora.zoo.plot import figures
from sb3_cora.zoo.plot.marl_eval import raw_data, unequal_note
from sb3_cora.zoo.plot.normalization import normalized, read_ranges
from sb3_cora.zoo.plot.report import aggregate_lines, lines
from sb3_cora.zoo.plot.runs import Environment, Source, TrainedRun, algorithms, selected, unequal_notes
from sb3_cora.zoo.plot.score_tables import aggregate_table, latex, markdown, score_table
from sb3_cora.zoo.plot.sources import read_folders, read_tables
from sb3_cora.zoo.plot.style import Sheet, looks
from sb3_cora.zoo.plot.summary import aggregates, comparable, summaries


def parser() -> argparse.ArgumentParser:
    """
    :return: The parser of the command line.
    """
    parser = argparse.ArgumentParser(
        "python -m sb3_cora.zoo.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", type=Path, help="CSV tables of benchmark runs")
    parser.add_argument("--folders", nargs="+", default=[], type=Path, help="folders of trainings, or above them (logs)")
    parser.add_argument("--envs", nargs="+", help="labels of environments, in the order of the plots (default: all)")
    parser.add_argument("--algos", nargs="+", help="labels of algorithms, in the order of the plots (default: all)")
    parser.add_argument(
        "--output", default=Path("figures"), type=Path, help="folder for figures and tables (default: figures)"
    )
    parser.add_argument(
        "--scores", type=Path, help="YAML file of 'environment: {low: ..., high: ...}', returns of scores 0 and 1"
    )
    parser.add_argument("--ablation", metavar="BASE", help="label of the algorithm that the others are compared with, in bars")
    parser.add_argument("--marl-eval", metavar="FILE.json", type=Path, help="file for marl-eval's and BenchMARL's raw data")
    return parser


def read(tables: Sequence[Path], folders: Sequence[Path]) -> Source:
    """
    :param tables: Tables of benchmark runs.
    :param folders: Folders of trainings.
    :return: The runs of both.
    :raises ValueError: If there are none.
    """
    sources = [read_tables(tables), *([read_folders(folders)] if folders else [])]
    notes = [note for source in sources for note in source.notes]
    found = [run for source in sources for run in source.runs]
    if not found:
        raise ValueError(
            "\n".join(("There are no runs to plot: give CSV tables, or rl_zoo3's folders with --folders.", *notes))
        )
    # Suites may share trainings. Counted twice, they would make intervals too narrow
    runs = {(run.algo, run.env, run.game_seed, run.seed): run for run in reversed(found)}
    if len(runs) < len(found):
        notes.append(f"{len(found) - len(runs)} runs have the labels and seeds of others, and are left out.")
    return Source(list(runs.values()), notes)


def chosen(runs: Sequence[TrainedRun], args: argparse.Namespace) -> list[Environment]:
    """
    :param runs: All runs.
    :param args: The command line's flags.
    :return: What is to be compared.
    :raises ValueError: If a flag names what there is not.
    """
    ranges = {} if args.scores is None else read_ranges(args.scores)
    # By algorithm first, because the last order is that of the environments
    environments = normalized(selected(selected(runs, "algo", args.algos), "env", args.envs), ranges)
    if args.ablation is not None and args.ablation not in (algos := algorithms(environments)):
        raise ValueError(f"No run has the algo {args.ablation!r}: give --ablation one of {', '.join(map(repr, algos))}.")
    return environments


def main() -> None:
    """Read runs, print their report, and write figures and tables."""
    arguments = parser()
    args = arguments.parse_args()
    try:
        source = read(args.tables, args.folders)
        environments = chosen(source.runs, args)
    except ValueError as error:
        arguments.error(str(error))
    notes = [*source.notes, *unequal_notes(environments)]
    by_look = looks([*algorithms(environments)])
    found = [summaries(environment) for environment in environments]
    score_tables = [score_table(*pair) for pair in zip(environments, found, strict=True)]
    sheets: dict[str, Sheet | None] = {
        "learning_curves": figures.plot_learning_curves(environments, by_look),
        "q_explained_variance": figures.plot_explained_variances(environments, by_look),
        "wall_clock": figures.plot_wall_clock(environments, found, by_look),
    }
    if args.ablation is not None:
        sheets["ablation"] = figures.plot_ablation(environments, found, by_look, args.ablation)
    for environment, summary in zip(environments, found, strict=True):
        print("\n" + "\n".join(lines(environment, summary)))
    try:
        algos = comparable(environments)
    except ValueError as error:
        notes.append(str(error))
    else:
        missing = [algo for algo in by_look if algo not in algos]
        if missing:
            notes.append(f"Not on all environments, so left out of the statistics across them: {', '.join(missing)}.")
        units = {environment.unit for environment in environments}
        unit = units.pop() if len(units) == 1 else "normalized score"
        over_all = aggregates(environments, algos)
        score_tables.append(aggregate_table(over_all))
        sheets["aggregate_scores"] = figures.plot_aggregates(over_all, by_look, unit)
        sheets["probability_of_improvement"] = figures.plot_probabilities(environments, algos, by_look)
        sheets["performance_profiles"] = figures.plot_profiles(environments, algos, by_look, unit)
        sheets["sample_efficiency"] = figures.plot_sample_efficiency(environments, algos, by_look, unit)
        print("\n" + "\n".join(aggregate_lines(over_all)))

    args.output.mkdir(parents=True, exist_ok=True)
    written = [path for name, sheet in sheets.items() if sheet is not None for path in sheet.save(args.output, name)]
    for name, text in (("scores.md", markdown(score_tables)), ("scores.tex", latex(score_tables))):
        written.append(args.output / name)
        written[-1].write_text(text, encoding="utf-8")
    if args.marl_eval is not None:
        data = raw_data(run for environment in environments for runs in environment.runs.values() for run in runs)
        if (note := unequal_note(data)) is not None:
            notes.append(note)
        args.marl_eval.parent.mkdir(parents=True, exist_ok=True)
        args.marl_eval.write_text(json.dumps(data, indent=2), encoding="utf-8")
        written.append(args.marl_eval)
    print("\nWritten:", *written, sep="\n  ")
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)
