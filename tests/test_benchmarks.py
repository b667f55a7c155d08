"""The commands in benchmarks/, run as a user runs them."""

import csv
import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.trajectories.__main__ import Point
from sb3_cora.envs.differential_game import DifferentialGame
from sb3_cora.zoo import tables
from sb3_cora.zoo.benchmark.suites import find_suite
from tests.processes import run_python

# What measures something takes ten seconds and more, and the package does not depend on it
pytestmark = pytest.mark.slow


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


def test_overhead_is_the_ratio_of_the_same_work(tmp_path: Path) -> None:
    output = tmp_path / "overhead.csv"
    run_python("-m", "benchmarks.throughput.overhead", "--n-agents", "3", "--rounds", "1", "--output", output)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["env"], row["n_agents"], row["n_coalitions"]) for row in rows] == [
        ("navigation", "3", "6"),
        ("differential", "3", "6"),
    ]
    for row in rows:
        mappo, cora_ppo, ratio, critics, credits = (
            float(row[name]) for name in ("mappo", "cora_ppo", "ratio", "critics", "credits")
        )
        assert ratio == pytest.approx(cora_ppo / mappo, rel=2e-3)
        assert 0 < critics + credits < cora_ppo


def test_trajectories_lead_through_the_game(tmp_path: Path) -> None:
    run_python("-m", "benchmarks.trajectories", "--n-seeds", "1", "-n", "512", "--output", tmp_path)
    points = tables.read(Point, tmp_path / "trajectories.csv")
    game = DifferentialGame(n_agents=2, game_seed=0)
    actions = np.array([(point.first, point.second) for point in points])[:, :, None]
    shares = game.rewards(0, actions) / game.optimal_return
    np.testing.assert_allclose([point.share for point in points], shares, rtol=2e-3)
    algos = yaml.safe_load(find_suite("differential").read_text())["algorithms"]
    assert {(point.algo, point.timesteps) for point in points} == set(product(algos, (0, 256, 512)))
    # A new policy's means are close to 0, and training leads away from there
    distances = np.array([max(abs(point.first), abs(point.second)) for point in points]).reshape(-1, 3)
    assert (distances[:, 0] < 0.01).all() and (distances[:, 1] > 2 * distances[:, 0]).all()
    assert (tmp_path / "trajectories.png").stat().st_size > 10_000
