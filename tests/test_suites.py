"""Benchmarks: suites that are read or refused, run into one table, killed, and run on a cluster."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from sb3_cora.zoo import results, tables
from sb3_cora.zoo.algos import register_algorithms
from sb3_cora.zoo.benchmark.missing import tidy
from sb3_cora.zoo.benchmark.suites import read_suite
from sb3_cora.zoo.results import Row
from tests.processes import ROOT, packages_of, run_python, run_zoo
from tests.suites import changed

SUITES = sorted(path.stem for path in (ROOT / "benchmarks" / "suites").glob("*.yml"))

# Runs of two short rollouts, with games and without
SMALL: dict[str, Any] = {
    "seeds": 1,
    "n_timesteps": 200,
    "hyperparams": {"n_envs": 4, "n_steps": 25, "batch_size": 50, "n_epochs": 1},
    "eval_freq": 100,
    "environments": {
        "table": {"env": "climbing", "seeds": [3]},
        "peaks": {"env": "multi_peak", "env_kwargs": {"n_actions": 3}, "game_seeds": [0, 5]},
    },
    "algorithms": {
        "CORA": {"algo": "cora_ppo"},
        "no optimism": {"algo": "cora_ppo", "hyperparams": {"eta": 1.0}, "environments": ["peaks"]},
        "centralized": {"algo": "ppo"},
    },
    "quick": {"seeds": 2, "game_seeds": 1, "n_timesteps": 100, "algorithms": ["CORA"]},
}

pytestmark = pytest.mark.xdist_group("suites")


def written(folder: Path, suite: dict[str, Any]) -> Path:
    path = folder / "small.yml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False))
    return path


def benchmark(folder: Path, suite: dict[str, Any], *flags: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    suite_path = written(folder, suite)
    outputs = ("--output", str(folder / "table.csv"), "--log-folder", str(folder / "logs"))
    arguments = ("benchmark.py", str(suite_path), *outputs, "--workers", "2", *flags)
    return run_zoo(*arguments, folder=folder, check=check)


def without_wall_times(folder: Path) -> list[Row]:
    return [row._replace(wall_seconds=0.0) for row in results.read(folder / "table.csv")]


def test_every_suite_of_the_project_can_be_run() -> None:
    """In both forms."""
    assert {"matrix", "differential", "vmas", "mujoco", "ablation"} <= set(SUITES)
    for suite in SUITES:
        plans = [run_zoo("benchmark.py", suite, "--dry-run", *flags, folder=ROOT).stdout for flags in ((), ("--quick",))]
        assert all(plan.endswith(".\n") and " runs to do, " in plan for plan in plans)


@pytest.fixture(scope="module")
def planned_and_done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """Folder of the small suite that has run, the lines of its plan, and what the benchmark printed."""
    folder = tmp_path_factory.mktemp("small")
    plan = benchmark(folder, SMALL, "--dry-run").stdout.splitlines()
    return folder, plan, benchmark(folder, SMALL).stdout


def test_runs_go_to_the_table_once(planned_and_done: tuple[Path, list[str], str], tmp_path: Path) -> None:
    done, plan, output = planned_and_done
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    assert len(plan) == 9 and plan[-1].startswith("8 of 8 runs to do, 2 at once")
    assert plan[0] == "CORA on peaks, game 0, seed 0: 200 timesteps, no run to judge from"
    rows = results.read(tmp_path / "table.csv")
    # In the order of the suite, whatever came first
    assert [str(row.run) for row in rows if row.kind == "final"] == [line.partition(":")[0] for line in plan[:-1]]
    for row in rows:
        assert row.suite == "small" and row.commit and row.message == ""
        # One episode, as all are the same; returns are rounded, and added up in two ways
        assert row.min_return == row.max_return == pytest.approx(row.mean_return, abs=2e-4) and row.max_return <= row.optimum
        # Sampled actions are no better than the best
        assert (row.rollout_return is None) == (row.kind != "curve")
        assert row.rollout_return is None or row.rollout_return <= row.optimum
    one = [row for row in rows if row.run == rows[0].run]
    assert [(row.kind, row.timesteps) for row in one if row.kind != "best"] == [("curve", 100), ("curve", 200), ("final", 200)]
    # The games are what their seeds make of them, and the algorithms differ
    finals = {(row.algo, row.env, row.game_seed): row for row in rows if row.kind == "final"}
    assert finals["CORA", "peaks", 0].mean_return != finals["CORA", "peaks", 5].mean_return
    configs = {(row.algo, row.env): row.config for row in rows}
    assert len(set(configs.values())) == len(configs) == 5
    described = yaml.safe_load((tmp_path / "table.configs.yml").read_text())
    config = described[configs["no optimism", "peaks"]]
    assert (config["algo"], config["env"], config["hyperparams"]["eta"]) == ("cora_ppo", "multi_peak", 1.0)
    assert config["hyperparams"]["env_kwargs"] == {"n_actions": 3} and config["hyperparams"]["n_timesteps"] == 200
    # Scores and figures beside the table
    assert (tmp_path / "table" / "learning_curves.png").stat().st_size > 10_000
    assert "CORA" in output

    # Nothing is repeated; what was cut off by a kill is done again, and ends the same
    text = (tmp_path / "table.csv").read_text()
    lines = text.splitlines(keepends=True)
    before = without_wall_times(tmp_path)
    (tmp_path / "table.csv").write_text("".join(lines[:-3]) + lines[-3][:20])
    again = benchmark(tmp_path, SMALL, "--no-plots")
    assert "1 of 8 runs to do, 2 at once, about" in again.stdout
    assert without_wall_times(tmp_path) == before
    assert "0 of 8 runs to do" in benchmark(tmp_path, SMALL, "--no-plots").stdout
    assert without_wall_times(tmp_path) == before

    # Another setting is another run
    other = benchmark(
        tmp_path, changed(SMALL, "algorithms", "no optimism", "hyperparams", "eta", value=0.5), "--dry-run"
    ).stdout
    assert "2 of 8 runs to do" in other


def test_what_the_suite_no_longer_has_comes_last(tmp_path: Path) -> None:
    """Figures list algorithms in the order of the table."""
    register_algorithms()
    tasks = read_suite(written(tmp_path, SMALL))
    runs = [tasks[0].run._replace(config="earlier"), tasks[1].run, tasks[0].run]
    table = tmp_path / "table.csv"
    tables.append([Row(*run, "", "final", 200, 1.0, 2.0, 0.0, 2.0, 2.0, None, None, None, "") for run in runs], table)
    assert [row.run for row in tidy(table, tasks)] == [row.run for row in results.read(table)] == runs[::-1]


def test_trials_are_algorithms_with_the_hyperparameters_of_each(tmp_path: Path) -> None:
    register_algorithms()
    suite = SMALL | {
        "algorithms": {
            "CORA": {"algo": "cora_ppo", "hyperparams": {"batch_size": 100, "policy_kwargs": {"log_std_init": -1.0}}},
            "MAPPO": {"algo": "mappo", "environments": ["peaks"]},
        },
        "trials": {"slow": {"learning_rate": 1e-4}, "wide": {"batch_size": 25, "policy_kwargs": {"net_arch": [128]}}},
        "quick": {"seeds": 2, "algorithms": ["CORA, wide", "MAPPO, slow"]},
    }
    wide = {"batch_size": 25, "policy_kwargs": {"net_arch": [128], "log_std_init": -1.0}}
    slow = {"batch_size": 100, "learning_rate": 1e-4, "policy_kwargs": {"log_std_init": -1.0}}
    algorithms = {
        "CORA, slow": {"algo": "cora_ppo", "hyperparams": slow},
        "CORA, wide": {"algo": "cora_ppo", "hyperparams": wide},
        "MAPPO, slow": {"algo": "mappo", "hyperparams": {"learning_rate": 1e-4}, "environments": ["peaks"]},
        "MAPPO, wide": {"algo": "mappo", "hyperparams": suite["trials"]["wide"], "environments": ["peaks"]},
    }
    spelled_out = changed(suite, "trials", value=None) | {"algorithms": algorithms}
    for quick in (False, True):
        tasks = read_suite(written(tmp_path, suite), quick)
        assert tasks == read_suite(written(tmp_path, spelled_out), quick)
    assert {task.run.algo for task in tasks} == {"CORA, wide", "MAPPO, slow"}


def test_a_failure_is_a_row_and_stops_no_other(tmp_path: Path) -> None:
    suite = changed(
        SMALL, "algorithms", value={"MAPPO": {"algo": "mappo"}, "bad": {"algo": "cora_ppo", "hyperparams": {"credit": "pie"}}}
    )
    suite["environments"] = {"table": {"env": "climbing"}}
    run = benchmark(tmp_path, suite, "--no-plots", check=False)
    assert run.returncode == 1 and "1 runs have failed" in run.stderr
    rows = results.read(tmp_path / "table.csv")
    failure = rows[-1]
    assert [row.kind for row in rows if row.algo == "MAPPO"][-1] == "final"
    assert (failure.algo, failure.kind, failure.mean_return) == ("bad", "failed", None)
    assert failure.message.startswith("ValueError: ") and "pie" in failure.message
    # It is tried again, and replaced once it succeeds
    suite["algorithms"]["bad"]["hyperparams"]["credit"] = "equal"
    benchmark(tmp_path, suite, "--no-plots")
    assert [row.kind for row in results.read(tmp_path / "table.csv")].count("final") == 2
    assert all(row.kind != "failed" for row in results.read(tmp_path / "table.csv"))


# Asks for the end of each training after its first step, until there have been two
STOPPING = """
import os
import signal
from pathlib import Path

import gymnasium as gym
from tests.joint_games import NoisyTeam

SEEN = Path("stopped")
stops = not SEEN.exists() or len(SEEN.read_text()) < 2


class Stopping(NoisyTeam):
    def step(self, action):
        global stops
        if stops:
            stops = False
            with SEEN.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(action)


gym.register("Stopping-v0", entry_point=Stopping)
"""


def test_a_training_that_is_ended_twice_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "stopping.py").write_text(STOPPING)
    suite = SMALL | {
        "n_timesteps": 400,
        "environments": {"stopping": {"env": "Stopping-v0"}},
        "algorithms": {"MAPPO": {"algo": "mappo"}},
    }
    flags = ("--no-plots", "--gym-packages", "stopping")
    for _ in range(2):
        ended = benchmark(tmp_path, suite, *flags, check=False)
        assert ended.returncode == 1 and "MAPPO on stopping, seed 0 has failed: EndedEarly: The training" in ended.stdout
    assert "1 of 1 runs to do" in benchmark(tmp_path, suite, *flags).stdout
    (log,) = (tmp_path / "logs").glob("*/*/run.log")
    assert [line.split()[-3:] for line in log.read_text().splitlines() if line.startswith("Resuming")] == [
        ["100", "of", "400"],
        ["200", "of", "400"],
    ]
    assert results.read(tmp_path / "table.csv")[-1].timesteps == 400


def test_two_benchmarks_do_not_train_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with FileLock(tmp_path / "logs" / "small.lock"):
        refused = benchmark(tmp_path, SMALL, check=False)
    assert refused.returncode == 1
    assert re.search(r"or trains in .*logs/small: wait for its end, or name .*--log-folder", refused.stderr)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the workers are looked for in /proc")
def test_kills_change_nothing(tmp_path: Path) -> None:
    """Of a training. Searches whose workers are killed are in test_tuning.py, benchmarks below."""
    run_python("-m", "benchmarks.kills", "--kinds", "training", "--n-kills", "1", "--output", tmp_path / "kills.csv")
    lines = (tmp_path / "kills.csv").read_text().splitlines()[1:]
    assert lines and all(line.startswith("training,") and line.endswith(",True") for line in lines)


@pytest.mark.slow
def test_a_cluster_gives_the_same_table_although_a_node_dies(
    planned_and_done: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    """Two nodes on this machine. The first is the driver's and has no core for runs, the second is killed while it trains."""
    pytest.importorskip("ray")
    expected = [row for row in without_wall_times(planned_and_done[0]) if row.env == "peaks"]
    written(tmp_path, changed(SMALL, "environments", "table", value=None))
    program = tmp_path / "cluster.py"
    program.write_text(
        f"""
import subprocess, sys, time
from ray.cluster_utils import Cluster
from sb3_cora.zoo import results
from pathlib import Path

cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 0}})
dies = cluster.add_node(num_cpus=1)
command = [sys.executable, {str(ROOT / "zoo" / "benchmark.py")!r}, {str(tmp_path / "small.yml")!r}, "--no-plots"]
outputs = ["--output", {str(tmp_path / "table.csv")!r}, "--log-folder", {str(tmp_path / "ray")!r}]
benchmark = subprocess.Popen([*command, "--ray", cluster.address, *outputs])
while not [row for row in results.read(Path({str(tmp_path / "table.csv")!r})) if row.kind == "final"]:
    time.sleep(0.1)
    assert benchmark.poll() is None
cluster.add_node(num_cpus=1)
cluster.remove_node(dies, allow_graceful=False)
sys.exit(benchmark.wait())
"""
    )
    run_python(program, environment=packages_of(tmp_path))
    assert without_wall_times(tmp_path) == expected
