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
from typing import NamedTuple

from sb3_cora.zoo.mistakes import OneLineParser, at_work, refusals
from sb3_cora.zoo.plot import figures
from sb3_cora.zoo.plot.marl_eval import raw_data, unequal_note
from sb3_cora.zoo.plot.normalization import normalized, read_ranges
from sb3_cora.zoo.plot.report import aggregate_lines, environment_lines
from sb3_cora.zoo.plot.runs import Environment, Source, TrainedRun, selected, unequal_notes
from sb3_cora.zoo.plot.score_tables import Table, aggregate_table, latex, markdown, score_table
from sb3_cora.zoo.plot.sources import read_folders, read_tables
from sb3_cora.zoo.plot.style import Sheet, looks
from sb3_cora.zoo.plot.summary import aggregates, comparable, summaries


class Output(NamedTuple):
    """
    What is said of runs.

    :param report: Lines to print.
    :param tables: Tables to write.
    :param sheets: Figures to write, by the names of their files; None where nothing of it is known.
    """

    report: list[str]
    tables: list[Table]
    sheets: dict[str, Sheet | None]


def parser() -> argparse.ArgumentParser:
    """
    :return: The parser of the command line.
    """
    parser = OneLineParser(
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
        reasons = ("There are no runs to plot: give CSV tables, or rl_zoo3's folders with --folders.", *notes)
        raise ValueError("\n".join(reasons))
    # Suites may share trainings. Counted twice, they would make intervals too narrow
    runs: dict[tuple[str, str, int | None, int], TrainedRun] = {}
    for run in found:
        runs.setdefault((run.algo, run.env, run.game_seed, run.seed), run)
    if len(runs) < len(found):
        notes.append(f"{len(found) - len(runs)} runs have the labels and seeds of others, and are left out.")
    return Source(list(runs.values()), notes)


def chosen(runs: Sequence[TrainedRun], args: argparse.Namespace) -> tuple[list[Environment], list[str]]:
    """
    :param runs: All runs.
    :param args: The command line's flags.
    :return: What is to be compared, and the labels of the algorithms, both in the order of the plots.
    :raises ValueError: If a flag names what there is not.
    """
    ranges = {} if args.scores is None else read_ranges(args.scores)
    by_algo = selected(selected(runs, "env", args.envs), "algo", args.algos)
    algos = list(dict.fromkeys(run.algo for run in by_algo))
    if args.ablation is not None and args.ablation not in algos:
        raise ValueError(f"No run has the algo {args.ablation!r}: give --ablation one of {', '.join(map(repr, algos))}.")
    return normalized(selected(by_algo, "env", args.envs), ranges), algos


@at_work()
def output_within(environments: Sequence[Environment], by_look: figures.Looks, ablation: str | None) -> Output:
    """
    :param environments: What is compared.
    :param by_look: Looks of the algorithms.
    :param ablation: Label of the algorithm that the others are compared with in bars, None for no such figure.
    :return: What is said of each environment.
    """
    found = [summaries(environment) for environment in environments]
    pairs = list(zip(environments, found, strict=True))
    sheets: dict[str, Sheet | None] = {
        "learning_curves": figures.plot_learning_curves(environments, by_look),
        "q_explained_variance": figures.plot_explained_variances(environments, by_look),
        "wall_clock": figures.plot_wall_clock(environments, found, by_look),
    }
    if ablation is not None:
        sheets["ablation"] = figures.plot_ablation(environments, found, by_look, ablation)
    lines = [line for pair in pairs for line in (*environment_lines(*pair), "")]
    return Output(lines, [score_table(*pair) for pair in pairs], sheets)


def output_across(environments: Sequence[Environment], by_look: figures.Looks, algos: Sequence[str]) -> Output:
    """
    :param environments: What is compared.
    :param by_look: Looks of the algorithms.
    :param algos: Labels of the algorithms that have runs on all environments.
    :return: What is said of all environments together.
    """
    units = {environment.unit for environment in environments}
    unit = units.pop() if len(units) == 1 else "normalized score"
    found = aggregates(environments, algos)
    sheets = {
        "aggregate_scores": figures.plot_aggregates(found, by_look, unit),
        "probability_of_improvement": figures.plot_probabilities(environments, algos, by_look),
        "performance_profiles": figures.plot_profiles(environments, algos, by_look, unit),
        "sample_efficiency": figures.plot_sample_efficiency(environments, algos, by_look, unit),
    }
    return Output([*aggregate_lines(found), ""], [aggregate_table(found)], sheets)


def write(outputs: Sequence[Output], notes: Sequence[str], folder: Path) -> list[Path]:
    """
    :param outputs: What is said.
    :param notes: What a reader of it should know.
    :param folder: Where to.
    :return: The files of its figures and tables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheets = {name: sheet for output in outputs for name, sheet in output.sheets.items() if sheet is not None}
    paths = [path for name, sheet in sheets.items() for path in sheet.save(folder, name)]
    score_tables = [table for output in outputs for table in output.tables]
    for name, text in (("scores.md", markdown(score_tables, notes)), ("scores.tex", latex(score_tables, notes))):
        paths.append(folder / name)
        paths[-1].write_text(text, encoding="utf-8")
    return paths


@refusals()
def main(flags: Sequence[str] | None = None) -> None:
    """
    Read runs, write figures and tables of them, and print their report.

    :param flags: Of the command line, those of this process by default.
    """
    args = parser().parse_args(flags)
    source = read(args.tables, args.folders)
    environments, algos = chosen(source.runs, args)
    for path in (args.output, args.marl_eval and args.marl_eval.parent):
        if path and path.exists() and not path.is_dir():
            raise ValueError(
                f"{path} is no folder, so nothing can be written to it: name another with --output or --marl-eval."
            )
    notes = [*source.notes, *unequal_notes(environments)]
    # Of what the command line could do, and so not for the tables
    hints = []
    by_look = looks(algos)
    outputs = [output_within(environments, by_look, args.ablation)]
    try:
        everywhere = comparable(environments, algos)
    except ValueError as error:
        # What is said of each environment is true all the same
        hints.append(str(error))
    else:
        if missing := [algo for algo in algos if algo not in everywhere]:
            notes.append(f"Not on all environments, so left out of the statistics across them: {', '.join(missing)}.")
        outputs.append(output_across(environments, by_look, everywhere))
    paths = write(outputs, notes, args.output)
    if args.marl_eval is not None:
        data = raw_data(run for environment in environments for runs in environment.runs.values() for run in runs)
        if (note := unequal_note(data)) is not None:
            hints.append(note)
        args.marl_eval.parent.mkdir(parents=True, exist_ok=True)
        args.marl_eval.write_text(json.dumps(data, indent=2), encoding="utf-8")
        paths.append(args.marl_eval)
    print("\n".join(line for output in outputs for line in output.report))
    print("Written:", *paths, sep="\n  ")
    for note in (*notes, *hints):
        print(f"Note: {note}", file=sys.stderr)
