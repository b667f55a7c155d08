"""The search of the zoo: what it samples, what counts as a trial, and that no worker's death loses any."""

import csv
import inspect
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import pytest
import torch as th
import yaml
from optuna.storages import fail_stale_trials
from optuna.trial import TrialState
from stable_baselines3.common.utils import LinearSchedule

from sb3_cora import CORAPPO
from sb3_cora.common.q_critic_algorithm import QCriticOnPolicyAlgorithm
from sb3_cora.zoo.hyperparams_opt import SETTINGS, sample_params
from sb3_cora.zoo.tuning.entry import plain_settings, yaml_entry
from sb3_cora.zoo.tuning.games import Game, GameTrial
from sb3_cora.zoo.tuning.heartbeats import run_again
from sb3_cora.zoo.tuning.samplers import SamplerOfEachTrial
from sb3_cora.zoo.tuning.storage import open_storage
from sb3_cora.zoo.tuning.trials import ERROR, TrialCounts, is_abandoned, is_one_too_many, seed_of_trial
from tests import algorithms
from tests.processes import ROOT, TIME_LIMIT, run_zoo, start_zoo

ALGORITHMS = {algorithm.__module__.split(".")[1]: algorithm for algorithm in algorithms.ALGORITHMS}

# One worker runs them all: they share the process from which the zoo's are forked
pytestmark = [
    pytest.mark.xdist_group("zoo"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    # Here a test plays the worker, and dies
    pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed"),
]

# A joint environment of one step an episode, whose faults are files
COIN = """
import os
import sys
import time
from contextlib import suppress

import gymnasium as gym
import numpy as np
from gymnasium import spaces


def note_folder(event, arguments):
    if event == "os.mkdir":
        with open("folders.txt", "a") as file:
            print(os.fsdecode(arguments[0]), file=file)


sys.addaudithook(note_folder)


def is_found(name):
    # By one process only
    with suppress(FileNotFoundError):
        os.rename(name, name + ".found")
        return True
    return False


class Coin(gym.Env):
    optimal_return = 4.0

    def __init__(self, game_seed=0, poisoned=False, reward=1.0, fading=False):
        self.observation_space = spaces.Box(-1, 1, (2, 3), np.float32)
        self.action_space = spaces.MultiDiscrete([2, 2])
        self.poisoned = poisoned
        self.reward = float(reward) + game_seed
        if fading:
            with open("made.txt", "a") as file:
                self.reward -= file.tell()
                file.write("made")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((2, 3), np.float32), {}

    def step(self, action):
        if is_found("hang"):
            time.sleep(600)
        if self.poisoned or is_found("poison"):
            raise ValueError("a bug in the environment")
        return np.zeros((2, 3), np.float32), self.reward, True, False, {}


gym.register("Coin-v0", entry_point=Coin)
"""

# Of the smallest rollouts
SEARCH = (
    *("--env", "Coin-v0", "--gym-packages", "coin", "-n", "64", "--n-evaluations", "2", "--eval-episodes", "2"),
    *("--n-eval-envs", "1", "--grace-period", "2", "-params", "n_envs:2", "n_steps:32", "batch_size:64"),
)


@pytest.fixture
def coin(tmp_path: Path) -> Path:
    (tmp_path / "coin.py").write_text(COIN)
    return tmp_path


def in_memory(settings: dict[str, Any] | None = None, seed: int = 0) -> optuna.Study:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed), direction="maximize")
    if settings is not None:
        study.set_user_attr("settings", settings)
    return study


def close(study: optuna.Study) -> None:
    database = getattr(study._storage, "_backend", None)
    if isinstance(database, optuna.storages.RDBStorage):
        database.remove_session()
        database.engine.dispose()


def entries(name: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / "hyperparams" / f"{name}.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_sampled(name: str) -> None:
    algorithm = ALGORITHMS[name]
    arguments = set(inspect.signature(algorithm).parameters)
    for env_id in ("default", "give_way", "climbing", "differential"):
        around = entries(name)[env_id]
        study = in_memory(around)
        samples = []
        for _ in range(20):
            trial = study.ask()
            sampled = sample_params(algorithm, trial, 2, around["n_envs"], {})
            settings = trial.user_attrs["settings"]
            samples.append(settings)
            assert set(sampled) <= arguments
            # Asked once more, the trial says the same
            again = sample_params(algorithm, trial, 2, around["n_envs"], {})
            assert {**again, "learning_rate": 0, "ent_coef": 0} == {**sampled, "learning_rate": 0, "ent_coef": 0}
            assert trial.user_attrs["settings"] == json.loads(json.dumps(settings))
            assert settings["n_steps"] / around["n_steps"] in (0.5, 1, 2, 4)
            assert settings["batch_size"] <= settings["n_steps"] * around["n_envs"]
            # Schedules keep their form, and networks what else is said of them
            assert isinstance(settings["learning_rate"], str) == isinstance(around["learning_rate"], str)
            assert isinstance(sampled["learning_rate"], LinearSchedule) == isinstance(around["learning_rate"], str)
            assert settings.get("eta") == around.get("eta") or not isinstance(around.get("eta"), dict)
            log_std = (around.get("policy_kwargs") or {}).get("log_std_init")
            assert settings["policy_kwargs"].get("log_std_init") == log_std
            assert sampled["policy_kwargs"]["activation_fn"] in (th.nn.Tanh, th.nn.ReLU)
            assert ("qf" in sampled["policy_kwargs"]["net_arch"]) == issubclass(algorithm, QCriticOnPolicyAlgorithm)
        assert len({settings["learning_rate"] for settings in samples}) == 20
    if issubclass(algorithm, CORAPPO):
        assert {settings["baseline_action"] for settings in samples} == {"mode", "expectation"}
        assert {settings["baseline"] for settings in samples} == {"v", "q"}
        assert {settings["grand_advantage"] for settings in samples} == {"gae", "q"}
        assert all(3e-4 <= settings["q_learning_rate"] <= 1e-2 for settings in samples)
        assert len({settings.get("variance_weight") for settings in samples}) == (20 if algorithm is CORAPPO else 1)
        assert {settings.get("credit") for settings in samples} == {around.get("credit")}


def test_a_concept_without_variance_has_no_weight_of_it() -> None:
    trial = in_memory({"credit": "shapley"}).ask()
    assert "variance_weight" not in sample_params(CORAPPO, trial, 2, 4, {})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_entry_is_read_back(name: str) -> None:
    for env_id in ("differential", "mujoco/Ant-4x2"):
        trial = in_memory(entries(name)[env_id]).ask()
        sample_params(ALGORITHMS[name], trial, 2, 4, {})
        settings = trial.user_attrs["settings"]
        assert yaml.safe_load(yaml_entry(env_id, settings, "Of a test")) == {env_id: settings}


def test_settings_are_written_plainly() -> None:
    settings = {"policy_kwargs": {"activation_fn": th.nn.ReLU, "net_arch": (8, 8)}}
    plain = {"policy_kwargs": {"activation_fn": "torch.nn.modules.activation.ReLU", "net_arch": [8, 8]}}
    assert plain_settings(settings) == plain
    with pytest.raises(ValueError, match=r"The setting tensor\(1\.\) is no part of a YAML file"):
        plain_settings({"eta": th.tensor(1.0)})


def test_samples_depend_on_the_number_of_the_trial_alone() -> None:
    def drawn(study: optuna.Study) -> float:
        return study.ask().suggest_float("x", 0.0, 1.0)

    def study() -> optuna.Study:
        sampler = SamplerOfEachTrial(lambda seed: optuna.samplers.RandomSampler(seed=seed), seed=7)
        return optuna.create_study(sampler=sampler)

    one, other = study(), study()
    together = [drawn(one) for _ in range(4)]
    # A worker that comes later does not begin again with what others have tried
    other.add_trial(optuna.create_trial(value=0.0))
    assert [drawn(other) for _ in range(3)] == together[1:]
    assert len(set(together)) == 4


def test_several_games_are_one_trial() -> None:
    study = in_memory()
    trial = study.ask()
    first = GameTrial(trial, Game({}, 2.0), [], n_evaluations=2)
    for step, value in enumerate((1.0, 2.0, 7.0), start=1):
        first.report(value, step)
    # The third is of timesteps that others do not have
    assert not first.should_prune()
    second = GameTrial(trial, Game({}, 10.0), [1.0], n_evaluations=2)
    second.report(5.0, 1)
    assert second.number == trial.number
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 1.0, 3: 0.75}


@pytest.mark.parametrize("kind", ["study.log", "sqlite"])
def test_an_abandoned_trial_is_run_again_a_few_times(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_cora.zoo.tuning.heartbeats.MAX_RETRIES", 2)
    url = f"sqlite:///{tmp_path}/study.db" if kind == "sqlite" else str(tmp_path / "new" / kind)
    study = optuna.create_study(storage=open_storage(url, grace_period=0.1), study_name="a")
    mine, dead = study.ask(), study.ask()
    x = dead.suggest_float("x", 0.0, 1.0)
    # All have been sampled
    dead.set_user_attr(SETTINGS, {"x": x})
    # What Optuna's pruner by halving keeps, which would take the repeated trial for one that has been there
    study._storage.set_trial_system_attr(dead._trial_id, "completed_rung_0", 20.0)
    for attempt in range(2 + 1):
        watcher = optuna.load_study(study_name="a", storage=open_storage(url, grace_period=0.1))
        assert len(watcher.trials) == attempt + 2
        for _ in range(2):
            fail_stale_trials(watcher)
            time.sleep(0.15)
            # A sign of life
            study._storage.record_heartbeat(mine._trial_id)  # type: ignore[attr-defined]
        fail_stale_trials(watcher)
        assert watcher.trials[0].state is TrialState.RUNNING
        assert is_abandoned(watcher.trials[attempt + 1])
        if attempt < 2:
            again = watcher.ask()
            assert not any(name.startswith("completed_rung") for name in watcher.trials[-1].system_attrs)
            assert again.number == attempt + 2 and again.suggest_float("x", 0.0, 1.0) == x
            again.set_user_attr(SETTINGS, {"x": x})
    assert TrialCounts.of(study.trials) == TrialCounts(complete=0, pruned=0, failed=0, abandoned=2 + 1, running=1)
    # Whoever was taken for dead changes nothing any more
    study._storage.record_heartbeat(dead._trial_id)  # type: ignore[attr-defined]


def test_trials_that_start_together_agree_on_who_stays() -> None:
    study = in_memory()
    study.add_trial(optuna.create_trial(value=1.0))
    # Abandoned, failed, waiting to be run again, and running
    study.add_trial(optuna.create_trial(state=TrialState.FAIL))
    study.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={ERROR: "ValueError: NaN"}))
    study.enqueue_trial({})
    study.add_trial(optuna.create_trial(state=TrialState.RUNNING))
    assert [is_one_too_many(number, study.trials, 3) for number in range(5)] == [False] * 4 + [True]
    assert TrialCounts.of(study.trials) == TrialCounts(complete=1, pruned=0, failed=1, abandoned=1, running=1)
    assert len({seed_of_trial(seed, trial, study.trials) for seed in range(10) for trial in study.trials}) == 50


def test_a_repeated_trial_has_its_seed_and_the_next_one_that_of_an_unbroken_search() -> None:
    unbroken, killed = in_memory(), in_memory()
    for _ in range(3):
        unbroken.add_trial(optuna.create_trial(value=1.0))
    killed.add_trial(optuna.create_trial(value=1.0))
    # Killed while its hyperparameters were sampled, and again after that
    half = {"params": {"a": 0.5}, "distributions": {"a": optuna.distributions.FloatDistribution(0, 1)}}
    killed.add_trial(optuna.create_trial(state=TrialState.FAIL, **half))
    run_again(killed, killed.trials[1])
    assert killed.trials[2].params == {}
    killed.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={SETTINGS: {}}, **half))
    for _ in range(2):
        # Once, whoever notices it
        run_again(killed, killed.trials[3])
    assert killed.trials[4].params == {"a": 0.5}
    seeds, others = ([seed_of_trial(7, trial, study.trials) for trial in study.trials] for study in (unbroken, killed))
    assert others == [seeds[0], seeds[1], seeds[1], seeds[2], seeds[2]]


def test_a_worker_killed_while_it_wrote_spoils_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    study = optuna.create_study(storage=open_storage(f"journal:{journal}"), study_name="a")
    study.add_trial(optuna.create_trial(value=1.0))
    whole = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    study.add_trial(optuna.create_trial(value=2.0))
    assert journal.read_bytes().startswith(whole)
    reader = optuna.load_study(storage=open_storage(str(journal)), study_name="a")
    assert [trial.value for trial in reader.trials] == [1.0, 2.0]


def test_storages_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--storage study is neither a journal file, .* nor a database"):
        open_storage("study")
    with pytest.raises(ValueError, match=r"The grace period is 0 seconds"):
        open_storage("study.log", grace_period=0)
    monkeypatch.setattr("sb3_cora.zoo.tuning.storage.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "sb3-cora\[postgresql\]"'):
        open_storage("postgresql://localhost/studies")


def wait_until(is_so: Any, process: Any, output: Path) -> None:
    limit = time.monotonic() + TIME_LIMIT
    while not is_so():
        assert process.is_alive() and time.monotonic() < limit, (output / "stderr").read_text()[-4000:]
        time.sleep(0.2)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """URL of a server of the tests' own."""
    pytest.importorskip("psycopg")
    programs = sorted(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("Debian's package postgresql is not installed")
    # It refuses to run as root
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []

    def run(program: str, *arguments: str) -> None:
        # Without pipes, which the server would inherit and keep open
        with (Path(folder) / program).open("w") as output:
            command = [*user, str(programs[-1] / program), "-D", f"{folder}/data", *arguments]
            subprocess.run(command, cwd=folder, check=True, stdout=output, stderr=output, timeout=60)

    # Not below pytest's folder, which is for its own user only
    with TemporaryDirectory(dir="/tmp") as folder:
        if user:
            shutil.chown(folder, "postgres", "postgres")
        run("initdb", "--auth=trust", "--username=tests", "--no-sync", "--locale=C", "--encoding=UTF8")
        # In reach of a socket only
        run("pg_ctl", "-w", "-l", f"{folder}/log", "-o", f"-k {folder} -c listen_addresses= -F", "start")
        yield f"postgresql://tests@/postgres?host={folder}"
        run("pg_ctl", "-w", "-m", "immediate", "stop")


@pytest.mark.parametrize("kind", ["journal", "sqlite", "postgresql"])
def test_killed_worker_loses_no_trial(kind: str, coin: Path, request: pytest.FixtureRequest) -> None:
    storages = {"journal": "studies/coin.log", "sqlite": "sqlite:///studies/coin.db"}
    storage = storages[kind] if kind in storages else request.getfixturevalue("postgresql")
    flags = (*("--algo", "mappo", "-optimize", "--max-total-trials", "4", "--storage", storage, "--study-name", kind), *SEARCH)
    processes = []

    def start(name: str) -> Any:
        (coin / name).mkdir()
        processes.append(start_zoo("train.py", *flags, folder=coin, output=coin / name))
        return processes[-1]

    try:
        (coin / "hang").touch()
        victim = start("victim")
        wait_until((coin / "hang.found").exists, victim, coin / "victim")
        study = optuna.load_study(study_name=kind, storage=open_storage(storage.replace("studies/", f"{coin}/studies/")))
        survivor = start("survivor")
        wait_until(lambda: TrialCounts.of(study.trials).finished >= 2, survivor, coin / "survivor")
        before = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
        killed = study.trials[0]
        assert killed.state is TrialState.RUNNING
        victim.kill()
        victim.join(60)
        restarted = start("restarted")
        for process, name in ((survivor, "survivor"), (restarted, "restarted")):
            process.join(TIME_LIMIT)
            assert process.exitcode == 0, (coin / name / "stderr").read_text()[-4000:]
    finally:
        for process in processes:
            process.kill()
    trials = study.trials
    close(study)
    counts = TrialCounts.of(trials)
    assert counts.complete == counts.finished == 4 and counts.running == 0
    assert is_abandoned(trials[0])
    histories = [trial.system_attrs.get("retry_history") for trial in trials if trial.params == killed.params]
    assert histories[:2] == [None, [0]]
    assert [trials[trial.number] for trial in before] == before
    # Each worker that comes to the end writes the report
    with (coin / "logs" / "mappo" / f"study_{kind}" / "trials.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)].count("COMPLETE") == 4


def test_failed_trial_is_a_failure_and_no_end(coin: Path) -> None:
    (coin / "poison").touch()
    flags = ("--algo", "mappo", "-optimize", "--max-total-trials", "3", "--storage", "a.log", "--study-name", "a", *SEARCH)
    run = run_zoo("train.py", *flags, folder=coin)
    assert "Study a: 2 trials complete, 0 pruned, 1 failed" in run.stdout
    # With its traceback
    assert 'raise ValueError("a bug in the environment")' in run.stderr
    study = optuna.load_study(study_name="a", storage=open_storage(str(coin / "a.log")))
    failed, *others = study.trials
    assert failed.state is TrialState.FAIL and failed.user_attrs[ERROR] == "ValueError: a bug in the environment"
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 2
    # Nothing is left to do, and workers of one study do the same
    assert "2 trials complete" in run_zoo("train.py", *flags, folder=coin).stdout
    other = run_zoo("train.py", *flags, "--n-evaluations", "3", folder=coin, check=False)
    assert other.returncode == 2 and "n_evaluations is 3 and was 2" in other.stderr
    assert len(study.trials) == 3
    # None made a folder among the runs that another may just be using
    folders = (coin / "folders.txt").read_text().split()
    assert "logs/mappo/study_a" in folders and not [name for name in folders if name.startswith("logs/mappo/search_")]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("--env-kwargs", "poisoned:True"), "ValueError: a bug in the environment"),
        (("--eval-env-kwargs", "reward:nan"), "ValueError: An evaluation returned NaN."),
    ],
)
def test_a_fault_of_all_trials_ends_the_search(fault: tuple[str, str], message: str, coin: Path) -> None:
    flags = ("--algo", "mappo", "-optimize", "--n-trials", "9", "--storage", "a.log", "--study-name", "a", *SEARCH, *fault)
    run = run_zoo("train.py", *flags, folder=coin, check=False)
    assert run.returncode == 1
    assert message in run.stderr.splitlines()[-1]
    study = optuna.load_study(study_name="a", storage=open_storage(str(coin / "a.log")))
    assert [trial.user_attrs[ERROR] for trial in study.trials] == [message] * 3


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_worse_trials_are_pruned(pruner: str, coin: Path) -> None:
    flags = ("--algo", "mappo", "-optimize", "--max-total-trials", "4", "--pruner", pruner, "--n-startup-trials", "1")
    # Every environment pays less than the one before
    run = run_zoo("train.py", *flags, *SEARCH, "--n-jobs", "1", "--env-kwargs", "fading:True", folder=coin)
    assert "1 trials complete, 3 pruned, 0 failed" in run.stdout, run.stdout


def test_algorithms_are_tuned_equally(tmp_path: Path) -> None:
    flags = (
        *("--algo", "cora_ppo", "mappo", "--env", "differential", "--n-trials", "2", "--game-seeds", "100", "101"),
        *("-n", "128", "--n-evaluations", "1", "--sampler", "random", "--seed", "3"),
        *("-params", "n_envs:8", "n_steps:16", "batch_size:128", "--env-kwargs", "n_agents:3"),
    )
    run_zoo("tune.py", *flags, folder=tmp_path)
    folder = tmp_path / "logs" / "tuning" / "differential"
    with (folder / "report.csv").open() as file:
        rows = {row["algorithm"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["cora_ppo", "mappo"]
    assert "- game_seeds: [100, 101]" in (folder / "report.md").read_text()
    storage = open_storage(str(folder) + ".log")
    for algo, row in rows.items():
        assert (row["finished"], row["complete"], row["failed"], row["abandoned"]) == ("2", "2", "0", "0")
        study = optuna.load_study(study_name=f"differential-{algo}", storage=storage)
        best = study.best_trial
        assert best.value == pytest.approx(sum(best.user_attrs["game_values"]) / 2)
        # In parts of the optimum
        assert 0 < best.value < 1 and float(row["best_value"]) == pytest.approx(best.value, rel=1e-5)
        assert int(row["best_trial"]) == best.number and float(row["hours"]) > 0
        assert (tmp_path / "logs" / algo / f"study_differential-{algo}" / "optimization_history.png").is_file()

    # With the entry one trains as the trial did, and so with the trial's number
    study = optuna.load_study(study_name="differential-cora_ppo", storage=storage)
    settings = study.best_trial.user_attrs["settings"]
    training = ("--algo", "cora_ppo", "--env", "differential", "--eval-freq", "-1", "--final-eval-episodes", "-1")
    run_zoo("train.py", *training, "--conf-file", str(folder / "cora_ppo.yml"), folder=tmp_path)
    by_number = ("--storage", f"{folder}.log", "--study-name", "differential-cora_ppo", "--trial-id")
    run_zoo("train.py", *training, *by_number, str(study.best_trial.number), folder=tmp_path)
    for run in ("differential_1", "differential_2"):
        saved = yaml.unsafe_load((tmp_path / "logs" / "cora_ppo" / run / "differential" / "config.yml").read_text())
        saved["policy_kwargs"] = plain_settings(saved["policy_kwargs"])
        assert plain_settings(dict(saved)) == settings
        model = CORAPPO.load(tmp_path / "logs" / "cora_ppo" / run / "differential.zip")
        for name in ("n_steps", "batch_size", "n_epochs", "gamma", "variance_weight", "baseline_action", "center_advantage"):
            assert getattr(model, name) == settings[name]
        # With the environment's arguments, whose flag need not be repeated
        assert model.n_agents == 3
        assert model.q_learning_rate(1.0) == settings["q_learning_rate"]  # type: ignore[operator,misc]
        assert model.num_timesteps >= 128

    unknown = run_zoo("tune.py", "--algo", "cora_ppo", "mapo", "--env", "differential", folder=tmp_path, check=False)
    assert "--algo cora_ppo mapo: mapo is unknown, expected some of" in unknown.stderr


def test_games_without_seeds_are_refused(tmp_path: Path) -> None:
    flags = ("--algo", "mappo", "--env", "climbing", "-optimize", "--game-seeds", "1")
    run = run_zoo("train.py", *flags, folder=tmp_path, check=False)
    assert "--game-seeds 1: climbing cannot be made with the argument game_seed" in run.stderr
