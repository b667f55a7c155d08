"""The command that plots and tabulates trainings: its statistics, what it reads, refuses and writes."""

import json
import re
import sys
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rliable import metrics

from sb3_cora.zoo import results, tables
from sb3_cora.zoo.plot import main
from sb3_cora.zoo.plot.curves import aligned, learning_curves, share_curves
from sb3_cora.zoo.plot.marl_eval import environment_and_task, raw_data, unequal_note
from sb3_cora.zoo.plot.normalization import Range, check_comparable, normalized, read_ranges
from sb3_cora.zoo.plot.runs import TrainedRun, selected, unequal_notes
from sb3_cora.zoo.plot.score_tables import Table, latex, markdown
from sb3_cora.zoo.plot.sources import read_folders, read_tables
from sb3_cora.zoo.plot.style import looks, wrapped
from sb3_cora.zoo.plot.summary import aggregates, comparable, summaries
from sb3_cora.zoo.statistics import (
    Statistic,
    difference,
    estimate,
    mean_and_interval,
    optimality_gaps,
    performance_profile,
    probability_of_improvement,
    weighted_interquartile_means,
    weighted_means,
    weighted_medians,
)
from tests.processes import run_python, run_zoo

FIVE = (0.01, 0.02, 0.03, 0.04, 1.0)


def trained_run(**fields: Any) -> TrainedRun:
    """A run that goes from 0 to its final return in three quarters of the training, and stays there."""
    final = fields.get("final_return", 1.0)
    known: dict[str, Any] = {"algo": "mappo", "env": "penalty", "game_seed": None, "seed": 0, "final_return": final}
    known |= {"timesteps": np.array([16.0, 48.0, 64.0]), "returns": np.array([0.0, final, final]), "final_timesteps": 64}
    known |= {
        "explained_variances": np.full(3, np.nan),
        "rollout_returns": np.full(3, np.nan),
        "best_return": None,
        "optimum": None,
        "wall_seconds": 60.0,
    }
    return TrainedRun(**known | fields)


def rows_of_run(**fields: Any) -> list[results.Row]:
    """The rows of such a run in a table: three evaluations, and the trained model."""
    known: dict[str, Any] = {"suite": "games", "algo": "mappo", "env": "penalty", "game_seed": None, "seed": 0, "config": "0"}
    known |= {"commit": "0", "kind": "final", "timesteps": 64, "wall_seconds": 60.0, "mean_return": 1.0, "std_return": 0.0}
    known |= {
        "min_return": 1.0,
        "max_return": 1.0,
        "optimum": None,
        "q_explained_variance": None,
        "rollout_return": None,
        "message": "",
    }
    known |= fields
    logged = {name: known[name] for name in ("q_explained_variance", "rollout_return")}
    final = results.Row(**known | dict.fromkeys(logged))
    curve = [
        final._replace(
            kind="curve",
            timesteps=timesteps,
            mean_return=share * known["mean_return"],
            **dict.fromkeys(logged) if timesteps == 16 else logged,
        )
        for timesteps, share in ((16, 0.0), (48, 1.0), (64, 1.0))
    ]
    return [*curve, final]


@pytest.mark.parametrize(
    ("statistic", "reference"),
    [
        (weighted_interquartile_means, metrics.aggregate_iqm),
        (weighted_medians, metrics.aggregate_median),
        (weighted_means, metrics.aggregate_mean),
        (optimality_gaps, metrics.aggregate_optimality_gap),
    ],
)
@pytest.mark.parametrize("n_runs", [1, 5, 8])
def test_statistics_are_those_of_rliable(statistic: Statistic, reference: Callable[[np.ndarray], float], n_runs: int) -> None:
    scores = np.random.default_rng(n_runs).normal(0.8, 0.3, (n_runs, 3))
    value, low, high = estimate(statistic, list(scores.T))
    assert value == pytest.approx(reference(scores))
    assert low < value < high if n_runs > 1 else np.isnan([low, high]).all()


def test_interval_is_that_of_all_resamples() -> None:
    # Of five runs the best and the worst are left out
    resamples = np.sort(list(product(FIVE, repeat=5)))[:, 1:4].mean(axis=1)
    np.testing.assert_allclose(mean_and_interval(np.array(FIVE)), [0.03, *np.percentile(resamples, (2.5, 97.5))], atol=0.002)


def test_environments_with_fewer_runs_have_the_same_weight() -> None:
    strata = [np.zeros(2), np.ones(6)]
    # Without a spread on either environment there is none over both: resamples have as many runs of each
    for statistic in (weighted_interquartile_means, weighted_medians, weighted_means, optimality_gaps):
        assert estimate(statistic, strata) == pytest.approx((0.5, 0.5, 0.5))


def test_differences_and_probabilities_of_separated_and_equal_scores() -> None:
    low, high = [np.array([1.0, 1.0]), np.array([3.0])], [np.array([2.0]), np.array([4.0, 4.0, 4.0])]
    assert difference(high, low) == pytest.approx((1.0, 1.0, 1.0))
    assert probability_of_improvement(high, low) == pytest.approx((1.0, 1.0, 1.0))
    assert probability_of_improvement(low, high) == pytest.approx((0.0, 0.0, 0.0))
    assert probability_of_improvement(low, low) == pytest.approx((0.5, 0.5, 0.5))
    # Two pairs of six are won, and one is equal
    one, two = np.array([1.0, 3.0]), np.array([2.0, 3.0, 0.0])
    assert probability_of_improvement([one], [two]).value == pytest.approx(3.5 / 6)
    reference = metrics.probability_of_improvement(one[:, None], two[:, None])
    assert probability_of_improvement([one], [two]).value == pytest.approx(reference)


def test_single_runs_have_no_intervals() -> None:
    """However many environments: resamples of one run are equal."""
    first, other = [np.array([0.1]), np.array([0.7])], [np.array([0.0]), np.array([0.9])]
    for found in (difference(first, other), probability_of_improvement(first, other)):
        assert np.isfinite(found.value) and np.isnan([found.low, found.high]).all()
    assert np.isfinite(difference(first, [*other[:1], np.array([0.9, 0.8])]).low)


def test_performance_profile_counts_the_runs_above() -> None:
    profile = performance_profile([np.array([0.2, 0.6]), np.array([0.6])], np.array([0.1, 0.4, 0.6]))
    # Half of the runs on one environment and all on the other
    np.testing.assert_allclose(profile.value, [1.0, 0.75, 0.0])
    assert (profile.low <= profile.value).all() and (profile.value <= profile.high).all()


def test_area_is_the_mean_over_the_timesteps() -> None:
    # Half of the return over the 32 steps of the slope, all of it over the last 16
    assert trained_run(final_return=3.0).area == pytest.approx(2.0)
    assert trained_run(final_return=3.0, low=1.0, high=5.0).area == pytest.approx(0.25)
    one = {"timesteps": np.array([64.0]), "returns": np.array([2.0])}
    assert trained_run(**one).area == 2.0
    assert np.isnan(trained_run(timesteps=np.empty(0), returns=np.empty(0)).area)


def test_curves_are_compared_where_all_runs_were_evaluated() -> None:
    fine = (np.array([10.0, 20.0, 30.0]), np.array([1.0, 2.0, 3.0]))
    grid, values = aligned([fine, (np.array([15.0, 25.0]), np.array([0.0, 8.0]))])
    assert grid.tolist() == [15, 20, 25]
    np.testing.assert_allclose(values, [[1.5, 2.0, 2.5], [0.0, 4.0, 8.0]])
    assert learning_curves([trained_run(timesteps=np.empty(0), returns=np.empty(0))])[0].size == 0
    # The shorter training ends where it ends, and not at 100 %
    short = trained_run(algo="happo", final_timesteps=32, timesteps=np.array([16.0, 32.0]), returns=np.array([0.0, 1.0]))
    shares, (scores,) = share_curves(normalized([trained_run(), short], {}), "happo")
    np.testing.assert_allclose(shares[[0, -1]], [0.25, 0.5])
    np.testing.assert_allclose(scores[0], np.linspace(0, 1, len(shares)), atol=1e-12)


def test_scores_are_shares_of_each_games_optimum_or_between_low_and_high() -> None:
    games = [trained_run(seed=seed, optimum=optimum, final_return=3.0) for seed, optimum in enumerate((3.0, 6.0))]
    tasks = [trained_run(env="give_way", final_return=3.0), trained_run(env="navigation", final_return=3.0)]
    penalty, give_way, navigation = normalized([*games, *tasks], {"give_way": Range(1.0, 9.0)})
    assert [run.final_score for run in penalty.runs["mappo"]] == [1.0, 0.5]
    assert [run.final_score for run in (*give_way.runs["mappo"], *navigation.runs["mappo"])] == [0.25, 3.0]
    assert [env.unit for env in (penalty, give_way, navigation)] == ["share of optimum", "normalized score", "return"]
    assert summaries(penalty)[0].at_optimum == 0.5
    assert summaries(navigation)[0].at_optimum is None
    # A range that is given goes before the optimum; an optimum that is not positive, or not known to all, is none
    (given,) = normalized(games, {"penalty": Range(0.0, 2.0)})
    assert given.runs["mappo"][0].final_score == 1.5
    for optimum in (None, 0.0, -1.0):
        (raw,) = normalized([*games, trained_run(seed=2, optimum=optimum)], {})
        assert not raw.is_normalized
    check_comparable([navigation])
    check_comparable([penalty, give_way])
    with pytest.raises(
        ValueError, match=r"the returns of navigation are not normalized.*--scores a YAML file.*navigation: \{low"
    ):
        check_comparable([penalty, navigation])


def test_aggregates_are_of_algorithms_with_runs_everywhere() -> None:
    runs = [trained_run(env=env, optimum=2.0, final_return=value) for env, value in (("climbing", 1.0), ("penalty", 2.0))]
    environments = normalized([*runs, trained_run(algo="happo", optimum=2.0)], {})
    assert comparable(environments, ["happo", "mappo"]) == ["mappo"]
    (line,) = aggregates(environments, ["mappo"])
    assert (line.n_runs, line.iqm.value, line.median.value, line.mean.value) == (2, 0.75, 0.75, 0.75)
    assert line.optimality_gap is not None and line.optimality_gap.value == 0.25
    with pytest.raises(ValueError, match=r"no algorithm has runs on all of climbing, penalty.*--envs"):
        comparable(normalized([runs[0], trained_run(algo="happo", optimum=2.0)], {}), ["happo", "mappo"])


def test_what_is_unequal_is_told() -> None:
    runs = [trained_run(seed=seed) for seed in (0, 1)]
    others = [run._replace(algo="happo") for run in runs]
    assert unequal_notes(normalized([*runs, *others], {})) == []
    (seeds,) = unequal_notes(normalized([*runs, others[0], others[1]._replace(seed=5)], {}))
    assert seeds == "The algorithms on penalty were not all trained with the same seeds."
    number, length, _ = unequal_notes(normalized([*runs, others[0]._replace(final_timesteps=96)], {}))
    assert "from 1 to 2 for an algorithm" in number
    assert length == "Trainings on penalty have different lengths, from 64 to 96 timesteps."


def test_explained_variance_is_that_of_the_last_evaluation_in_a_part() -> None:
    runs = [
        trained_run(seed=seed, explained_variances=np.array([np.nan, value, 2 * value]))
        for seed, value in enumerate((0.1, 0.3))
    ]
    (summary,) = summaries(normalized(runs, {})[0])
    # The last evaluation up to a half of the training has no value yet
    assert summary.explained_variances == (None, None, None, pytest.approx(0.4))
    assert summary.minutes == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("others", "learned_after"),
    [
        # Runs that do not know it do not count, those that never get there do
        ([], None),
        ([[np.nan, 9.4, 9.5]], 64.0),
        ([[np.nan, 9.4, 9.5], [np.nan, 9.6, 9.0], [0.0, 9.4, 9.4]], 64.0),
        ([[np.nan, 9.4, 9.5], [0.0, 9.4, 9.4]], np.inf),
    ],
)
def test_learning_takes_until_sampled_actions_earn_most_of_the_optimum(
    others: list[list[float]], learned_after: float | None
) -> None:
    curves = [[np.nan] * 3, *others]
    runs = [trained_run(seed=seed, optimum=10.0, rollout_returns=np.array(returns)) for seed, returns in enumerate(curves)]
    (summary,) = summaries(normalized(runs, {})[0])
    assert summary.learned_after == learned_after
    (returns,) = summaries(normalized([run._replace(optimum=None) for run in runs], {})[0])
    assert returns.learned_after is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "There is no .*give --scores"),
        ("- 1", "expected a mapping"),
        ("give_way: 3", "has 3 for give_way: write two numbers"),
        ("give_way: {low: 1}", "write two numbers"),
        ("give_way: {low: 1, high: one}", "write two numbers"),
        ("give_way: {low: 1, high: 1}", "the lower one first"),
    ],
)
def test_ranges_are_two_numbers(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_ranges(path)


def test_tables_tell_configurations_apart_and_leave_out_failures(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    rows = [
        *rows_of_run(algo="mappo", seed=0, game_seed=3, optimum=2.0, q_explained_variance=0.5, rollout_return=1.8),
        # Two suites, each with its settings, are told apart by their names, also where only one has runs
        *rows_of_run(algo="happo", suite="one", config="a"),
        *rows_of_run(algo="happo", suite="two", config="b"),
        *rows_of_run(algo="happo", suite="two", config="c", env="climbing"),
        # Two settings of one suite by their digests, where there are two
        *rows_of_run(algo="ippo", config="a"),
        *rows_of_run(algo="ippo", config="b"),
        *rows_of_run(algo="ippo", config="c", env="climbing"),
    ]
    tables.append(rows, path)
    lost = rows_of_run(seed=9)[-1]._replace(kind="failed", mean_return=None, message="no MuJoCo")
    tables.append([lost], tmp_path / "more.csv")
    source = read_tables([path, tmp_path / "more.csv"])
    assert source.notes == ["Left out, because it has failed: mappo on penalty, seed 9, no MuJoCo"]
    labels = [(run.algo, run.env) for run in source.runs]
    assert labels == [
        ("mappo", "penalty"),
        *(("happo [one]", "penalty"), ("happo [two]", "penalty"), ("happo [two]", "climbing")),
        *(("ippo [a]", "penalty"), ("ippo [b]", "penalty"), ("ippo", "climbing")),
    ]
    first = source.runs[0]
    assert (first.game_seed, first.seed, first.optimum, first.final_timesteps, first.seeds) == (3, 0, 2.0, 64, "3/0")
    np.testing.assert_array_equal(first.timesteps, [16, 48, 64])
    np.testing.assert_array_equal(first.returns, [0.0, 1.0, 1.0])
    np.testing.assert_array_equal(first.explained_variances, [np.nan, 0.5, 0.5])
    np.testing.assert_array_equal(first.rollout_returns, [np.nan, 1.8, 1.8])


def with_rows(rows: list[results.Row]) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        tables.append(rows, folder / "results.csv")
        return [str(folder / "results.csv")]

    return write


def with_other_columns(folder: Path) -> list[str]:
    (folder / "other.csv").write_text("algo,return\nmappo,1\n")
    return [str(folder / "other.csv")]


def with_folder_without_settings(folder: Path) -> list[str]:
    np.savez(folder / "evaluations.npz", timesteps=[1], results=[[1.0]])
    return ["--folders", str(folder)]


@pytest.mark.parametrize(
    ("make", "flags", "message"),
    [
        (lambda folder: [], (), "no runs to plot: give CSV tables, or rl_zoo3's folders"),
        (lambda folder: [str(folder / "none.csv")], (), "There is no table .*none.csv"),
        (with_other_columns, (), r"other.csv has the columns .*, expected \['suite', 'algo'"),
        (with_rows(rows_of_run()[:-1]), (), "has 0 rows of the kind 'final', expected 1"),
        (with_rows(rows_of_run() * 2), (), "mappo on penalty, seed 0 has 2 rows of the kind 'final'.*give each table once"),
        (with_rows(rows_of_run(mean_return=np.nan)), (), "has the mean_return nan, expected a finite number"),
        (with_rows(rows_of_run()), ("--algos", "coma"), "No run has the algo 'coma': give --algos labels among 'mappo'"),
        (with_rows(rows_of_run()), ("--envs", "climbing"), "No run has the env 'climbing'"),
        (with_rows(rows_of_run()), ("--ablation", "coma"), "give --ablation one of 'mappo'"),
        (lambda folder: ["--folders", str(folder)], (), "There is no evaluations.npz in"),
        (with_folder_without_settings, (), r"has 0 files \*/args.yml, expected one"),
    ],
)
def test_command_refuses(
    make: Callable[[Path], list[str]],
    flags: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["plot", *make(tmp_path), *flags, "--output", str(tmp_path / "figures")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "figures").exists()


def test_labels_keep_the_order_that_is_asked_for() -> None:
    runs = [trained_run(algo=algo) for algo in ("happo", "mappo", "ippo")]
    assert [run.algo for run in selected(runs, "algo", None)] == ["happo", "mappo", "ippo"]
    assert [run.algo for run in selected(runs, "algo", ["mappo", "happo", "mappo"])] == ["mappo", "happo"]


@pytest.mark.parametrize(
    "label, lines",
    [
        ("multi_peak (3, 5)", "multi_peak (3, 5)"),
        ("CORA, least core", "CORA, least core"),
        ("cora_ppo:credit=shared,eta=0", "cora_ppo: credit=shared,\neta=0"),
    ],
)
def test_labels_are_broken_between_settings(label: str, lines: str) -> None:
    assert wrapped(label) == lines


def test_looks_differ() -> None:
    algos = [str(number) for number in range(40)]
    found = looks(algos)
    assert len(set(found.values())) == 40
    for algo, following in pairwise(algos):
        assert all(one != other for one, other in zip(found[algo], found[following], strict=True))


def test_tables_escape_what_the_format_would_take_for_commands() -> None:
    table = Table("a_b", ("Algorithm", "≥ 99%"), [("x_y|z", "–")])
    assert "| x_y\\|z | – |" in markdown([table])
    text = latex([table])
    assert r"\multicolumn{2}{c}{a\_b} \\" in text
    assert r"x\_y|z & -- \\" in text
    assert r"Algorithm & $\geq$ 99\% \\" in text


def test_marl_eval_has_its_levels() -> None:
    runs = [trained_run(env="give_way", seed=seed, best_return=5.0) for seed in (0, 1)]
    game = trained_run(env="penalty:k=-5.0", game_seed=2, final_return=3.0)
    data = json.loads(json.dumps(raw_data([*runs, game])))
    assert data["vmas"]["give_way"]["sb3_cora_mappo"].keys() == {"seed_0", "seed_1"}
    run = data["vmas"]["give_way"]["sb3_cora_mappo"]["seed_1"]
    # marl-eval takes the last one for the absolute metrics
    assert list(run) == ["step_0", "step_1", "step_2", "absolute_metrics"]
    assert run["step_1"] == {"step_count": 48, "return": [1.0]}
    assert run["absolute_metrics"] == {"return": [5.0]}
    assert data["sb3_cora"]["penalty:k=-5.0"]["sb3_cora_mappo"]["seed_0_game_2"]["absolute_metrics"] == {"return": [3.0]}
    assert environment_and_task("vmas/Balance") == ("vmas", "balance")
    assert environment_and_task("mpe2/simple_spread") == ("pettingzoo", "simple_spread")
    assert unequal_note(data) is None
    note = unequal_note(raw_data([*runs, runs[0]._replace(algo="happo")]))
    assert note is not None and "all algorithms and tasks of 'vmas'" in note


def png_size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


FIGURES = (
    *("learning_curves", "q_explained_variance", "wall_clock", "ablation", "aggregate_scores"),
    *("probability_of_improvement", "performance_profiles", "sample_efficiency"),
)


def test_command_reports_known_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five runs whose trained models reach 1, 2, 3, 4 and 100 of 100, and one of another algorithm."""
    rows = [
        row
        for seed, share in enumerate(FIVE)
        for row in rows_of_run(
            algo="cora_ppo", seed=seed, mean_return=100 * share, optimum=100.0, q_explained_variance=seed / 10
        )
    ]
    tables.append([*rows, *rows_of_run(mean_return=7.5, optimum=100.0)], tmp_path / "results.csv")
    flags = ("--ablation", "cora_ppo", "--algos", "mappo", "cora_ppo", "--output", str(tmp_path / "figures"))
    raw = ("--marl-eval", str(tmp_path / "raw" / "data.json"))
    monkeypatch.setattr(sys, "argv", ["plot", str(tmp_path / "results.csv"), *flags, *raw])
    main()
    printed = capsys.readouterr()
    lines = [" ".join(line.split()) for line in printed.out.splitlines()]
    # A single run has no interval
    assert lines[2] == "1 0.075 0.050 0% - - - - - 1.0 mappo"
    resamples = np.sort(list(product(FIVE, repeat=5)))[:, 1:4].mean(axis=1)
    expected = np.array([0.03, *np.percentile(resamples, (2.5, 97.5))])
    figures = [float(word.strip("()")) for word in lines[3].replace("to", "").split()[1:7]]
    np.testing.assert_allclose(figures[:3], expected, atol=0.002)
    np.testing.assert_allclose(figures[3:], expected * 2 / 3, atol=0.002)
    # One of five has found the optimum; at the end the median seed is 2
    assert lines[3].endswith("20% - - - - 0.20 1.0 cora_ppo")
    assert "cora_ppo 0: 1.00 1: 2.00 2: 3.00 3: 4.00 4: 100.00" in lines
    assert "The numbers of runs differ, from 1 to 5" in printed.err
    assert "marl-eval wants the same seeds" in printed.err
    for name in FIGURES:
        assert (tmp_path / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        width, height = png_size(tmp_path / "figures" / f"{name}.png")
        # A column of 3.3 inches; the panels of the aggregates take a page
        assert width == (1350 if name == "aggregate_scores" else 660)
        assert height > 150
    text = (tmp_path / "figures" / "scores.md").read_text()
    assert "| mappo | 1 | 0.075 | 0.050 | 0% | 1.0 |" in text
    assert "\n## Notes\n\n- The numbers of runs differ, from 1 to 5" in text
    assert r"cora\_ppo & 5 & 0.030 [" in (tmp_path / "figures" / "scores.tex").read_text()
    assert (tmp_path / "raw" / "data.json").is_file()


def test_runs_that_failed_stand_below_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = rows_of_run(seed=1)[-1]._replace(kind="failed", mean_return=None, message="no MuJoCo")
    tables.append([*rows_of_run(seed=0), failed], tmp_path / "results.csv")
    monkeypatch.setattr(sys, "argv", ["plot", str(tmp_path / "results.csv"), "--output", str(tmp_path)])
    main()
    for name in ("scores.md", "scores.tex"):
        assert "because it has failed: mappo on penalty, seed 1, no MuJoCo" in (tmp_path / name).read_text()


def test_differences_are_run_by_run_where_the_games_are_the_same() -> None:
    scores = np.array([0.2, 0.4, 0.9, 0.9, 1.0])
    np.testing.assert_allclose(difference([scores + 0.1], [scores], paired=True), 0.1)
    value, low, high = difference([scores + 0.1], [scores])
    assert value == pytest.approx(0.1) and low < -0.2 and high > 0.3


def test_command_has_no_statistics_across_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nothing during the training, no duration, and all returns 0
    rows = [rows_of_run(env=env, mean_return=0.0)[-1] for env in ("give_way", "navigation")]
    tables.append(rows, tmp_path / "results.csv")
    flags = ("--ablation", "mappo", "--output", str(tmp_path / "figures"))
    monkeypatch.setattr(sys, "argv", ["plot", str(tmp_path / "results.csv"), *flags])
    main()
    printed = capsys.readouterr()
    assert "the returns of give_way, navigation are not normalized" in printed.err
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        *("ablation.png", "ablation.pdf", "wall_clock.png", "wall_clock.pdf", "scores.md", "scores.tex")
    }


def test_folders_of_trainings_are_read(tmp_path: Path) -> None:
    flags = ("-n", "96", "--eval-freq", "32", "--eval-episodes", "2", "--n-eval-envs", "2", "--final-eval-episodes", "-1")
    game = ("--env-kwargs", "n_agents:2", "n_actions:3", "game_seed:4")
    small = ("-params", "n_envs:2", "n_steps:8", "batch_size:16", "n_epochs:1")
    run_zoo("train.py", "--algo", "cora_ppo", "--env", "multi_peak", "--seed", "3", *flags, *game, *small, folder=tmp_path)
    logs = tmp_path / "logs" / "cora_ppo"
    (run,) = read_folders([tmp_path / "logs"]).runs
    assert (run.algo, run.env, run.game_seed, run.seed, run.final_timesteps) == ("cora_ppo", "multi_peak", 4, 3, 96)
    with np.load(logs / "multi_peak_1" / "evaluations.npz") as data:
        np.testing.assert_array_equal(run.timesteps, data["timesteps"])
        np.testing.assert_allclose(run.returns, data["results"].mean(axis=1))
    assert run.final_return == run.returns[-1]
    assert run.best_return == run.returns.max()
    assert run.wall_seconds is not None
    # The first update has explained something before the second evaluation
    assert np.isfinite(run.explained_variances[1:]).all()
    assert np.isfinite(run.rollout_returns).all()

    # Another setting, another seed of the same, and one that has not come to its end
    def copy(name: str, change: Callable[[str], str], has_model: bool = True) -> None:
        folder = logs / name
        (folder / "multi_peak").mkdir(parents=True)
        for file in ("evaluations.npz", "progress.csv", "multi_peak/config.yml", "multi_peak.zip"):
            if has_model or not file.endswith(".zip"):
                (folder / file).write_bytes((logs / "multi_peak_1" / file).read_bytes())
        for file in ("args.yml", "config.yml"):
            text = (logs / "multi_peak_1" / "multi_peak" / file).read_text()
            (folder / "multi_peak" / file).write_text(change(text))

    copy("multi_peak_2", lambda text: text.replace("seed\n    - 3", "seed\n    - 5"))
    copy("multi_peak_3", lambda text: text.replace("- - n_epochs\n    - 1", "- - n_epochs\n    - 2"))
    copy("multi_peak_4", lambda text: text.replace("n_agents: 2", "n_agents: 3"))
    copy("multi_peak_5", str, has_model=False)
    source = read_folders([logs, logs / "multi_peak_2"])
    assert [(run.algo, run.env, run.seed) for run in source.runs] == [
        ("cora_ppo:n_epochs=1", "multi_peak:n_agents=2", 3),
        ("cora_ppo:n_epochs=1", "multi_peak:n_agents=2", 5),
        ("cora_ppo:n_epochs=2", "multi_peak:n_agents=2", 3),
        ("cora_ppo:n_epochs=1", "multi_peak:n_agents=3", 3),
    ]
    (note,) = source.notes
    assert note.startswith("Left out, because it has not come to its end:") and "multi_peak_5" in note


def test_settings_of_folders_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "penalty_1" / "penalty"
    folder.mkdir(parents=True)
    args = "{algo: mappo, env: penalty, seed: 0, n_timesteps: -1, env_kwargs: {k: -5.0}, tags: !!python/tuple [a], "
    (folder / "args.yml").write_text(args + "uuid: !!python/object/apply:os.mkdir [ran]}")
    (folder / "config.yml").write_text("{n_envs: 4}")
    (folder.parent / "penalty.zip").touch()
    np.savez(folder.parent / "evaluations.npz", timesteps=[8], results=[[1.0, 2.0]])
    (run,) = read_folders([tmp_path]).runs
    assert (run.algo, run.env, run.final_return, run.final_timesteps, run.wall_seconds) == ("mappo", "penalty", 1.5, 8, None)
    assert np.isnan(run.explained_variances).all()
    assert not Path("ran").exists()


def test_command_imports_no_trainer() -> None:
    """Neither what only trainings need, nor rliable, which takes longer to import than to do without."""
    loaded = run_python("-c", "import sys, sb3_cora.zoo.plot; print(*sys.modules)").stdout.split()
    assert "matplotlib" in loaded and not {"rl_zoo3", "rliable", "pandas", "scipy", "optuna"} & set(loaded)
