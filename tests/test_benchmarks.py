"""The commands in benchmarks/, run as a user runs them."""

import csv
import re
import sys
from itertools import product
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import yaml

from tests.processes import run_python

FIELDS = (
    *("algo", "env", "env_arguments", "game_seed", "seed", "arguments", "settings", "kind", "timesteps"),
    *("return_mean", "return_min", "return_max", "return_std", "optimal_return", "q_explained_variance", "wall_seconds"),
)

# Eight short rollouts, an evaluation after every fourth, and episodes of 20 steps
TINY = (
    *("-n", "2048", "--env-kwargs", "max_steps:20", "--eval-freq", "1024", "--eval-episodes", "8", "--n-eval-envs", "8"),
    *("-params", "n_envs:8", "n_steps:32", "batch_size:128", "n_epochs:2"),
)


def learning(folder: Path, *flags: str, extra: tuple[str, ...] = ()) -> CompletedProcess[str]:
    outputs = ("--output", folder / "results.csv", "--log-folder", folder / "logs")
    return run_python(*("-m", "benchmarks.learning", *flags, *outputs, "--", *extra), check=False)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_learning_records_a_run_once(tmp_path: Path) -> None:
    flags = ("--algo", "mappo", "--env", "navigation", "--seeds", "3")
    first = learning(tmp_path, *flags, extra=TINY)
    assert first.returncode == 0, first.stdout + first.stderr
    rows = rows_of(tmp_path)
    assert tuple(rows[0]) == FIELDS
    assert [row["kind"] for row in rows] == ["curve", "curve", "best", "final"]
    assert {(row["algo"], row["env"], row["seed"], row["arguments"]) for row in rows} == {
        ("mappo", "navigation", "3", " ".join(TINY))
    }
    assert [row["timesteps"] for row in rows if row["kind"] != "best"] == ["1024", "2048", "2048"]
    assert rows[2]["timesteps"] in ("1024", "2048")
    for row in rows:
        low, mean, high, std = (float(row[f"return_{name}"]) for name in ("min", "mean", "max", "std"))
        assert low < mean < high
        assert 0 < std <= (high - low) / 2
    (evaluations,) = (tmp_path / "logs").glob("mappo_navigation_seed3_*/mappo/navigation_1/evaluations.npz")
    with np.load(evaluations) as data:
        means = data["results"].mean(axis=1)
    np.testing.assert_allclose([float(row["return_mean"]) for row in rows[:2]], means, atol=1e-4)
    assert f"{float(rows[3]['return_mean']):.2f}" in first.stdout
    # Neither games nor Q-critics
    assert {(row["env_arguments"], row["game_seed"], row["optimal_return"], row["q_explained_variance"]) for row in rows} == {
        ("", "", "", "")
    }
    assert (tmp_path / "results.png").stat().st_size > 10_000

    # A training whose evaluation did not get done is evaluated, not repeated
    (folder,) = (tmp_path / "logs").iterdir()
    assert not (folder / "wall_seconds.txt").exists()
    (folder / "wall_seconds.txt").write_text(rows[0]["wall_seconds"])
    (tmp_path / "results.csv").unlink()
    resumed = learning(tmp_path, *flags, extra=TINY)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert rows_of(tmp_path) == rows

    second = learning(tmp_path, *flags, extra=TINY)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "1 runs, 1 of them in" in second.stdout
    assert rows_of(tmp_path) == rows
    assert [path.name for path in (folder / "mappo").iterdir()] == ["navigation_1"]


def test_learning_compares_variants_over_games_and_records_no_failed_run(tmp_path: Path) -> None:
    variants = ("cora_ppo", "cora_ppo:eta=0.0,credit=shared", "mappo:no_such_setting=1")
    flags = ("--algo", *variants, "--env", "multi_peak:n_actions=3,n_steps=2", "--game-seeds", "0", "1", "--seeds", "5")
    extra = (*("-n", "96", "--eval-freq", "32", "-params", "n_envs:2", "n_steps:8", "batch_size:16"), "n_epochs:1")
    run = learning(tmp_path, *flags, "--jobs", "2", extra=(*extra, "--env-kwargs", "n_agents:2"))
    assert run.returncode == 1
    assert "2 runs failed." in run.stderr
    assert "unexpected keyword argument 'no_such_setting'" in run.stderr
    rows = rows_of(tmp_path)
    labels = ("cora_ppo", "cora_ppo:credit=shared,eta=0.0")
    assert {(row["algo"], row["env_arguments"], row["game_seed"], row["seed"]) for row in rows} == set(
        product(labels, ("n_actions=3,n_steps=2",), "01", "5")
    )
    assert len(rows) == 4 * 5
    for row in rows:
        # Two steps, whose best peaks are 10 in every game; nothing is random, so one episode is as good as a hundred
        assert float(row["optimal_return"]) == pytest.approx(20.0)
        assert row["return_min"] == row["return_max"]
    for folder in (tmp_path / "logs").glob("cora_ppo_*"):
        (model,) = (folder / "cora_ppo").iterdir()
        args = yaml.unsafe_load((model / "multi_peak" / "args.yml").read_text())
        game_seed = args["env_kwargs"]["game_seed"]
        assert args["env_kwargs"] == {"n_agents": 2, "n_actions": 3, "n_steps": 2, "game_seed": game_seed}
        is_shared = args["hyperparams"].get("credit") == "shared"
        assert args["hyperparams"].get("eta") == (0.0 if is_shared else None)
        assert args["hyperparams"]["n_steps"] == 8
        curve = [
            row["q_explained_variance"]
            for row in rows
            if (row["algo"], row["game_seed"], row["kind"]) == (labels[is_shared], str(game_seed), "curve")
        ]
        with (model / "progress.csv").open(newline="") as file:
            # Of the update at 16 k timesteps, which the next rollout or evaluation logs: the one at 16 (k + 1)
            logged = {
                int(line["time/total_timesteps"]): float(line["train/q_explained_variance"])
                for line in csv.DictReader(file)
                if line["train/q_explained_variance"]
            }
        np.testing.assert_allclose([float(value) for value in curve], [logged[step] for step in (32, 64, 96)], atol=1e-4)
    for label in labels:
        assert re.search(rf"^ +2 .*  {re.escape(label)} -n 96 ", run.stdout, re.MULTILINE)
        assert re.search(rf"^  {re.escape(label)} -n 96 .*  0/5: \S+  1/5: \S+$", run.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--env", "multi_peak", "climbing", "--game-seeds", "0"), "climbing takes no game_seed.*use --seeds"),
        (("--algo", "cora_ppo:credit"), "'cora_ppo:credit' is neither a name nor name:setting=value"),
    ],
)
def test_learning_refuses_before_it_trains(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    run = learning(tmp_path, *flags)
    assert run.returncode == 2
    assert re.search(message, run.stderr)
    assert not (tmp_path / "logs").exists()


@pytest.fixture
def known_results(tmp_path: Path) -> Path:
    """
    Five runs of one algorithm, whose final models reach 1, 2, 3, 4 and 100 of 100, and one of another; their learning curves
    go from 0 to that in three quarters of the training, and stay there.
    """
    runs = [*enumerate((1.0, 2.0, 3.0, 4.0, 100.0)), (0, 7.5)]
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for number, (seed, value) in enumerate(runs):
            row: dict[str, Any] = dict.fromkeys(FIELDS, 1.0) | {"env": "penalty", "env_arguments": "k=-5.0", "game_seed": ""}
            row |= {"algo": "cora_ppo" if number < 5 else "mappo", "seed": seed, "arguments": "-n 64", "settings": "0123"}
            row["optimal_return"] = 100.0
            for timesteps, share in ((16, 0.0), (48, 1.0), (64, 1.0)):
                explained = "" if timesteps == 16 else seed / 10
                curve = {"timesteps": timesteps, "return_mean": share * value, "q_explained_variance": explained}
                writer.writerow(row | {"kind": "curve"} | curve)
            final = {"timesteps": 64, "return_mean": value, "q_explained_variance": ""}
            writer.writerow(row | {"kind": "final"} | final)
    return tmp_path


def test_learning_report_has_interquartile_mean_and_interval(known_results: Path) -> None:
    run = learning(known_results, "--report")
    assert run.returncode == 0, run.stderr
    number = r"(-?[\d.]+)"
    interval = rf" +{number} \({number} to {number}\)"
    lines = re.findall(
        rf"^ +(\d){interval}{interval} +(\d+)% +(\S+) +(\S+) +(\S+) +(\S+) +\S+  (\w+)", run.stdout, re.MULTILINE
    )
    assert [line[-1] for line in lines] == ["cora_ppo", "mappo"]
    # Of five runs the best and the worst are left out; all resamples there are give the interval that sampling approximates
    resamples = np.array(list(product((0.01, 0.02, 0.03, 0.04, 1.0), repeat=5)))
    bounds = np.percentile(np.sort(resamples)[:, 1:4].mean(axis=1), (2.5, 97.5))
    figures = np.array(lines[0][1:7], dtype=float)
    np.testing.assert_allclose(figures[:3], [0.03, *bounds], atol=0.002)
    # Half of the return over the 32 steps of the slope, all of it over the last 16
    np.testing.assert_allclose(figures[3:], np.array([0.03, *bounds]) * 2 / 3, atol=0.002)
    # One of five has found the optimum. Up to a half there was no evaluation after an update; at the end the median seed is 2
    assert lines[0][7:12] == ("20", "-", "-", "-", "0.20")
    assert lines[1][:8] == ("1", "0.075", "0.075", "0.075", "0.050", "0.050", "0.050", "0")
    assert re.search(r"^  cora_ppo .*  0: 1.00  1: 2.00  2: 3.00  3: 4.00  4: 100.00$", run.stdout, re.MULTILINE)
    assert (known_results / "results.png").is_file()


def test_learning_report_without_results_fails(tmp_path: Path) -> None:
    run = learning(tmp_path, "--report")
    assert run.returncode == 1
    assert "has no runs to report" in run.stderr


def credit(folder: Path, *flags: str) -> str:
    return run_python("-m", "benchmarks.credit", "--quick", "--output", folder, *flags).stdout


def credit_rows(folder: Path, part: str) -> list[dict[str, str]]:
    with (folder / f"credit_{part}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_speed(rows: list[dict[str, str]]) -> None:
    core = [row for row in rows if row["device"] == "cpu" and row["concept"] == "core"]
    assert {(row["n_agents"], row["n_coalitions"]) for row in core} == {("2", "2"), ("4", "14")}
    assert {"least_core", "core_l1", "nucleolus", "shapley", "banzhaf"} < {row["concept"] for row in rows}
    ours = {(row["n_agents"], row["batch"]): float(row["microseconds"]) for row in core if row["solver"] == "batched"}
    assert len(ours) == 4
    for row in core:
        ratio = float(row["microseconds"]) / ours[row["n_agents"], row["batch"]]
        assert float(row["ratio"]) == pytest.approx(ratio, rel=2e-3)
        # Every solver has solved the same games
        assert row["solver"] == "batched" or float(row["disagreement"]) < 1e-6


def check_samples(rows: list[dict[str, str]]) -> None:
    assert {row["game"] for row in rows} == {"normal", "nearly_additive", "supermodular", "critic"}
    assert {(row["sampling"], row["extremes"]) for row in rows} == set(
        product(("uniform", "shapley_kernel"), ("True", "False"))
    )
    for row in rows:
        gap, violated, violation, distance, bound = (
            float(row[field]) for field in ("gap", "violated", "violation", "distance", "bound")
        )
        n_coalitions = int(row["n_coalitions"])
        assert bound == pytest.approx(10 / (n_coalitions + 1), rel=1e-3)
        assert float(row["equal_gap"]) > 0
        if n_coalitions == 1022:
            # Nothing is left out, whatever the way of drawing
            assert violated == 0
            np.testing.assert_allclose([gap, violation, distance], 0, atol=1e-9)
        else:
            assert gap > 1e-9 and violation > 1e-9
            assert 0 < violated <= 1 - n_coalitions / 1022
            assert row["sampling"] != "uniform" or violated < bound
        assert float(row["gap_low"]) - 1e-9 <= gap <= float(row["gap_high"]) + 1e-9


def check_scaling(rows: list[dict[str, str]]) -> None:
    assert [(row["step"], row["n_coalitions"]) for row in rows] == [("values", "30"), ("core", "30"), ("shapley", "252")]
    values, core, shapley = rows
    assert float(values["result_mib"]) == pytest.approx(4000 * 30 * 4 / 2**20, rel=1e-3)
    # Credits, epsilon and gap in single precision and a flag
    for row in (core, shapley):
        assert float(row["result_mib"]) == pytest.approx(4000 * (7 * 4 + 1) / 2**20, rel=1e-3)
        assert row["unconverged"] == "0"
    if sys.platform == "linux":
        # A handful of temporaries beside the values
        assert float(values["extra_mib"]) < 8 * float(values["temporary_mib"])


@pytest.mark.slow
def test_credit_parts_have_their_known_properties(tmp_path: Path) -> None:
    credit(tmp_path, "--parts", "speed", "samples", "scaling", "--device", "cpu")
    check_speed(credit_rows(tmp_path, "speed"))
    check_samples(credit_rows(tmp_path, "samples"))
    check_scaling(credit_rows(tmp_path, "scaling"))
    size = (tmp_path / "credit.png").stat().st_size
    assert size > 10_000

    # A later run draws the parts of the earlier one too; of few games there is no file
    output = credit(tmp_path, "--parts", "accuracy")
    assert (tmp_path / "credit.png").stat().st_size > size
    assert not (tmp_path / "credit_accuracy.csv").exists()
    kinds = re.findall(r"^ *(\w+)  +\d+  +(\S+)  +(\S+)  +(\S+)  +(\d+)  +\d+  +(\S+)$", output, re.MULTILINE)
    assert len(kinds) == 10
    for *_, unconverged, above_reference in kinds:
        assert unconverged == "0" and float(above_reference) < 1e-9


def test_environments_are_compared(tmp_path: Path) -> None:
    output = tmp_path / "environments.csv"
    run_python("-m", "benchmarks.environments", "--quick", "--output", output)
    with output.open(newline="") as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert {"vmas/give_way", "mujoco/Ant-4x2", "mpe2/simple_spread", "climbing", "differential"} < set(rows)
    for row in rows.values():
        assert float(row["adapted"]) > 0
        if row["bare"]:
            # Written with three digits, from 10 on without decimals: on a busy machine the ratio may be anything
            lost = 1 - float(row["adapted"]) / float(row["bare"])
            assert float(row["lost"]) == pytest.approx(lost, abs=2e-3, rel=5e-2)


@pytest.mark.slow
def test_comparison_with_harl(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    output = tmp_path / "harl.csv"
    size = ("--n-timesteps", "4000", "--eval-freq", "4000", "--n-eval-episodes", "20")
    flags = ("--algos", "happo", "--seeds", "0", "1", *size, "--output", output)
    run = run_python("-m", "benchmarks.learning.harl", *flags)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["algo"], row["seed"], row["timesteps"]) for row in rows] == [("happo", seed, "4000") for seed in "01"]
    # A policy that has seen one rollout stands still, more or less
    assert all(abs(float(row["mean_return"])) < 200 for row in rows)
    assert re.search(r"^happo +4000 +2 +-?\d+  -?\d+ to -?\d+$", run.stdout, re.MULTILINE)
