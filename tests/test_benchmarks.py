"""The scripts in benchmarks/, run as a user runs them."""

import csv
import re
import sys
from itertools import product
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from tests.processes import ROOT, run_python

FIELDS = (
    *("algo", "env", "seed", "arguments", "settings", "kind", "timesteps"),
    *("return_mean", "return_min", "return_max", "return_std", "wall_seconds"),
)

# Eight short rollouts, an evaluation after every fourth, and episodes of 20 steps
TINY = (
    *("-n", "2048", "--env-kwargs", "max_steps:20", "--eval-freq", "1024", "--eval-episodes", "8", "--n-eval-envs", "8"),
    *("-params", "n_envs:8", "n_steps:32", "batch_size:128", "n_epochs:2"),
)


def learning(folder: Path, *flags: str, extra: tuple[str, ...] = ()) -> CompletedProcess[str]:
    outputs = ("--output", folder / "results.csv", "--log-folder", folder / "logs")
    return run_python(
        *(ROOT / "benchmarks" / "learning.py", "--env", "navigation", *flags, *outputs, "--", *extra), check=False
    )


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_learning_records_a_run_once(tmp_path: Path) -> None:
    flags = ("--algo", "mappo", "--seeds", "3")
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
    (evaluations,) = (tmp_path / "logs").glob("mappo_seed3_*/mappo/navigation_1/evaluations.npz")
    with np.load(evaluations) as data:
        means = data["results"].mean(axis=1)
    np.testing.assert_allclose([float(row["return_mean"]) for row in rows[:2]], means, atol=1e-4)
    assert f"{float(rows[3]['return_mean']):.2f}" in first.stdout
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


def test_learning_records_no_failed_run(tmp_path: Path) -> None:
    run = learning(tmp_path, "--algo", "mappo", "--seeds", "0", extra=("--no-such-flag",))
    assert run.returncode == 1
    assert "unrecognized arguments: --no-such-flag" in run.stderr
    assert "1 runs failed." in run.stderr
    assert not (tmp_path / "results.csv").exists()


@pytest.fixture
def known_results(tmp_path: Path) -> Path:
    """Five runs of one algorithm, the returns of whose final models are 1, 2, 3, 4 and 100, and one of another."""
    runs = [*enumerate((1.0, 2.0, 3.0, 4.0, 100.0)), (0, 7.5)]
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for number, (seed, value) in enumerate(runs):
            row: dict[str, Any] = dict.fromkeys(FIELDS, 1.0) | {"env": "navigation", "arguments": "-n 64", "settings": "0123"}
            row |= {"algo": "cora_ppo" if number < 5 else "mappo", "seed": seed, "return_mean": value}
            writer.writerows(row | {"kind": kind, "timesteps": 64} for kind in ("curve", "final"))
    return tmp_path


def test_learning_report_has_interquartile_mean_and_interval(known_results: Path) -> None:
    run = learning(known_results, "--report")
    assert run.returncode == 0, run.stderr
    lines = re.findall(r"final\s+IQM\s+(\S+)\s+95 % interval (\S+) to (\S+)", run.stdout)
    # Of five runs the best and the worst are left out; all resamples there are give the interval that sampling approximates
    resamples = np.array(list(product((1.0, 2.0, 3.0, 4.0, 100.0), repeat=5)))
    interval = np.percentile(np.sort(resamples)[:, 1:4].mean(axis=1), (2.5, 97.5))
    np.testing.assert_allclose(np.array(lines[0], dtype=float), [3.0, *interval], atol=0.01)
    assert lines[1:] == [("7.50", "7.50", "7.50")]
    assert len(re.findall(r"^ final +\d", run.stdout, re.MULTILINE)) == 6
    assert (known_results / "results.png").is_file()


def test_learning_report_without_results_fails(tmp_path: Path) -> None:
    run = learning(tmp_path, "--report")
    assert run.returncode == 1
    assert "has no runs to report" in run.stderr


def credit(folder: Path, *flags: str) -> str:
    return run_python(ROOT / "benchmarks" / "credit.py", "--quick", "--output", folder, *flags).stdout


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
    run_python(ROOT / "benchmarks" / "environments.py", "--quick", "--output", output)
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
    run = run_python(ROOT / "benchmarks" / "harl.py", *flags)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["algo"], row["seed"], row["timesteps"]) for row in rows] == [("happo", seed, "4000") for seed in "01"]
    # A policy that has seen one rollout stands still, more or less
    assert all(abs(float(row["mean_return"])) < 200 for row in rows)
    assert re.search(r"^happo +4000 +2 +-?\d+  -?\d+ to -?\d+$", run.stdout, re.MULTILINE)
