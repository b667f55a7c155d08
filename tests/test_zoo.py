"""The command line, run as a user runs it: rl_zoo3 patches Gymnasium on import, so each run is a process of its own."""

import inspect
import itertools
import json
import os
import pickle
import re
import shlex
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3 import PPO

from sb3_cora import CORAPPO, MAPPO, make_joint_vec_env
from sb3_cora.common.vec_normalize import JointVecNormalize
from sb3_cora.zoo.callbacks import save_whole
from sb3_cora.zoo.resuming import states_folder
from tests import algorithms
from tests.processes import ROOT, TIME_LIMIT, interrupt_python, run_python, run_script, run_zoo, start_zoo

# By the names of their folders, which are those of the command line
ALGORITHMS = {algorithm.__module__.split(".")[1]: algorithm for algorithm in algorithms.ALGORITHMS}
SCENARIOS = (
    *("give_way", "multi_give_way", "navigation"),
    *("matrix_team", "multi_peak", "climbing", "penalty", "differential", "gaussian_squeeze", "bar_problem"),
)

# What rl_zoo3 reads from an entry besides constructor arguments
ZOO_KEYS = {
    "callback",
    "env_kwargs",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "n_timesteps",
    "normalize",
    "vec_env_wrapper",
}

# A training of two short rollouts, and episodes of 20 steps
TINY = ("-params", "n_envs:8", "n_steps:32", "batch_size:128", "n_epochs:2")
SHORT = ("--env-kwargs", "max_steps:20", "--eval-episodes", "8", "--n-eval-envs", "8", "--eval-freq", "256")

WITHOUT_EVALUATIONS = ("--eval-freq", "-1", "--final-eval-episodes", "-1")

# One worker runs them all, so that the training they share is run once
pytestmark = pytest.mark.xdist_group("zoo")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the zoo registers, by name, asked in a process of its own."""
    probe = tmp_path_factory.mktemp("registry") / "probe.py"
    probe.write_text("""
import json
from rl_zoo3.exp_manager import ALGOS
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from sb3_cora.zoo.algos import register_algorithms

of_rl_zoo3 = set(ALGOS)
register_algorithms()
assert set(ALGOS) - of_rl_zoo3 <= set(HYPERPARAMS_SAMPLER)
print(json.dumps({name: ALGOS[name].__name__ for name in ALGOS.keys() - of_rl_zoo3}))
""")
    return json.loads(run_script(probe, folder=probe.parent).stdout)


def test_registry_is_complete(registry: dict[str, str]) -> None:
    assert {"coma_ppo", "cora_ppo", "happo", "ippo", "mappo", "optimistic_mappo", "shapley_ppo"} <= set(ALGORITHMS)
    # The command line knows whatever the package exports
    assert registry == {name: cls.__name__ for name, cls in ALGORITHMS.items()}
    assert {path.stem for path in (ROOT / "hyperparams").glob("*.yml")} == set(registry)


def hyperparams(name: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / "hyperparams" / f"{name}.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_hyperparams_have_default_and_scenarios(name: str) -> None:
    assert {"default", *SCENARIOS} <= set(hyperparams(name))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_hyperparams_are_plain_settings(name: str) -> None:
    arguments = set(inspect.signature(ALGORITHMS[name]).parameters)
    for env_id, settings in hyperparams(name).items():
        assert set(settings) <= arguments | ZOO_KEYS, env_id
        assert {"policy", "n_envs", "n_timesteps", "n_steps", "batch_size"} <= set(settings), env_id
        # A number that YAML takes for a string, such as 1e6, would surface as an obscure error deep in the training
        for key in ("n_timesteps", "n_envs", "n_steps", "batch_size", "n_epochs"):
            assert type(settings[key]) is int, (env_id, key)
        assert type(settings["gamma"]) is float
        for key in ("policy_kwargs", "normalize", "env_kwargs", "monitor_kwargs"):
            assert not isinstance(settings.get(key), str), (env_id, key)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_hyperparams_make_a_model(name: str, scenario: str) -> None:
    settings = hyperparams(name)[scenario]
    env = make_joint_vec_env(scenario, n_envs=settings["n_envs"], seed=0, **settings.get("env_kwargs", {}))
    arguments = {key: value for key, value in settings.items() if key not in ZOO_KEYS}
    # "lin_" is rl_zoo3's mark for a value that decreases linearly to 0
    arguments["learning_rate"] = float(str(arguments["learning_rate"]).removeprefix("lin_"))
    # Warnings are errors here, a truncated last minibatch among them
    model = ALGORITHMS[name](env=env, **arguments)
    assert model.n_steps * model.n_envs % model.batch_size == 0
    env.close()


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which CORAPPO was trained on give_way for two rollouts with normalized observations, and the output."""
    folder = tmp_path_factory.mktemp("training")
    run = run_zoo(
        "train.py",
        *("--algo", "cora_ppo", "--env", "give_way", "-n", "512", "--seed", "3", "--progress"),
        *TINY,
        "normalize:dict(norm_obs=True,norm_reward=False)",
        *SHORT,
        folder=folder,
    )
    return folder, run.stdout


def test_training_writes_and_prints_everything(training: tuple[Path, str]) -> None:
    folder, output = training
    run_folder = folder / "logs" / "cora_ppo" / "give_way_1"
    for metric in ("ep_rew_mean", "total_timesteps", "mean_reward", "credit/", "q_loss"):
        assert metric in output
    assert re.search(
        r"^Evaluation: +return -?\d+\.\d\d \+- \d+\.\d\d, length 20\.0 \+- 0\.0, 100 episodes$", output, re.MULTILINE
    )
    written = {
        "Model": run_folder / "give_way.zip",
        "Best model": run_folder / "best_model.zip",
        "Its statistics": run_folder / "best_model_statistics" / "vecnormalize.pkl",
        "Settings": run_folder / "give_way" / "config.yml",
        "Normalization": run_folder / "give_way" / "vecnormalize.pkl",
        "Log": run_folder / "progress.csv",
        "Evaluations": run_folder / "evaluations.npz",
        "Learning curve": run_folder / "learning_curve.png",
    }
    for label, path in written.items():
        assert re.search(rf"^{label}: +{re.escape(str(path.relative_to(folder)))}$", output, re.MULTILINE), label
        assert path.is_file()
    assert written["Learning curve"].read_bytes().startswith(b"\x89PNG")
    with np.load(written["Evaluations"]) as evaluations:
        assert evaluations["timesteps"].tolist() == [256, 512]
        assert evaluations["results"].shape == (2, 8)
        assert (evaluations["ep_lengths"] == 20).all()
    # The monitor's file has one line for each of the 8 worlds' episodes of 20 steps, after a comment and a header
    assert len((run_folder / "0.monitor.csv").read_text().splitlines()) == 2 + 8 * (64 // 20)


@pytest.mark.parametrize(("label", "flags"), [("Evaluation", []), ("Of best model", ["--load-best"])])
def test_training_ends_with_the_models_it_saved(training: tuple[Path, str], label: str, flags: list[str]) -> None:
    folder, output = training
    evaluation = re.search(rf"^{label}: +(.*)$", output, re.MULTILINE)
    assert evaluation is not None
    model = CORAPPO.load(folder / "logs" / "cora_ppo" / "give_way_1" / "give_way.zip")
    assert (model.num_timesteps, model.seed) == (512, 3)
    assert model.variance_weight == hyperparams("cora_ppo")["give_way"]["variance_weight"]
    # The same worlds, with the saved normalization, played by the saved model
    arguments = ("--algo", "cora_ppo", "--env", "give_way", "--seed", "3", "--verbose", "0", *flags)
    run = run_zoo("enjoy.py", *arguments, folder=folder)
    assert f"Evaluation: {evaluation[1]}" in run.stdout


# These share nothing, so any worker may run them
@pytest.mark.parametrize(
    ("name", "env_id"),
    # A discrete and a continuous task in turns: to the command line they are the same
    [
        pytest.param(name, env_id, marks=pytest.mark.xdist_group(f"zoo {name}"))
        for name, env_id in zip(ALGORITHMS, itertools.cycle(["penalty", "differential"]))
    ],
)
def test_every_algorithm_trains_and_resumes(name: str, env_id: str, tmp_path: Path) -> None:
    first, second = (tmp_path / "logs" / name / f"{env_id}_{run}" / f"{env_id}.zip" for run in (1, 2))
    arguments = ("--algo", name, "--env", env_id, "-n", "256", "--eval-freq", "-1", "--n-eval-envs", "20", *TINY)
    run_zoo("train.py", *arguments, folder=tmp_path)
    resumed = run_zoo("train.py", *arguments, "-i", str(first), folder=tmp_path)
    assert "Loading pretrained agent" in resumed.stdout
    assert re.search(r"^Evaluation: +return -?\d+\.\d\d \+- .*, 100 episodes$", resumed.stdout, re.MULTILINE)
    # The counter and the optimizer have gone on from where they were: as many steps again
    timesteps, steps = [], []
    for path in (first, second):
        model = ALGORITHMS[name].load(path)
        timesteps.append(model.num_timesteps)
        steps.append({int(moments["step"]) for moments in model.policy.optimizer.state_dict()["state"].values()})
    assert timesteps == [256, 512]
    assert steps == [{4}, {8}]


def hyperparams_in_tensorboard(folder: Path) -> dict[str, Any]:
    """
    :param folder: Of a training in TensorBoard's log
    :return: What its tab HPARAMS shows
    """
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plugin_data = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    hparams = plugin_data.HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in hparams.items()}


def test_a_training_is_repeated_from_its_folder(tmp_path: Path) -> None:
    arguments = ("--algo", "mappo", "--env", "climbing", "-n", "512", *WITHOUT_EVALUATIONS, *TINY)
    run_zoo("train.py", *arguments, "--tensorboard-log", "runs", folder=tmp_path)
    kept = tmp_path / "logs" / "mappo" / "climbing_1" / "climbing"
    versions = yaml.safe_load((kept / "versions.yml").read_text())
    assert versions["torch"] == th.__version__ and versions["sb3_cora"]
    # The seed was drawn, and stands with the other flags
    seed = yaml.unsafe_load((kept / "args.yml").read_text())["seed"]
    in_tensorboard = hyperparams_in_tensorboard(tmp_path / "runs" / "climbing" / "MAPPO_1")
    assert in_tensorboard["algo"] == "mappo" and in_tensorboard["seed"] == seed and in_tensorboard["n_steps"] == 32
    assert (tmp_path / in_tensorboard["folder"] / "climbing.zip").is_file()
    config = ("--conf-file", str(tmp_path / "kept.yml"), "--seed", str(seed))
    (tmp_path / "kept.yml").write_text(yaml.safe_dump({"climbing": dict(yaml.unsafe_load((kept / "config.yml").read_text()))}))
    run_zoo("train.py", *arguments[: -len(TINY)], *config, folder=tmp_path)
    first, second = (MAPPO.load(kept.parent.with_name(f"climbing_{run}") / "climbing.zip") for run in (1, 2))
    for name, parameter in first.policy.state_dict().items():
        assert th.equal(parameter, second.policy.state_dict()[name]), name


@pytest.mark.slow
def test_weights_and_biases_keeps_what_is_logged(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    flags = ("--algo", "mappo", "--env", "climbing", "-n", "512", *WITHOUT_EVALUATIONS, *TINY)
    # By a shell's variable, because this is how one tells it to stay off the net
    command = (ROOT / "zoo" / "train.py", *flags, "--track", "--wandb-project-name", "team", "--wandb-tags", "trial")
    run_python(*command, cwd=tmp_path, environment={"WANDB_MODE": "offline"})
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    kept = record.read_bytes()
    for written in ("rollout/ep_rew_mean", "train/value_loss", "team", "trial", "--wandb-project-name"):
        assert written.encode() in kept, written


def test_statistics_shared_among_agents(tmp_path: Path) -> None:
    settings = {**hyperparams("ippo")["give_way"], "normalize": {"share_statistics": True}}
    (tmp_path / "ippo.yml").write_text(yaml.safe_dump({"give_way": settings}))
    arguments = ("--algo", "ippo", "--env", "give_way")
    run_zoo("train.py", *arguments, "--conf-file", "ippo.yml", "-n", "256", *TINY, *SHORT, folder=tmp_path)
    # Its file is read again, and says the same
    run = run_zoo("enjoy.py", *arguments, "--load-best", "--eval-episodes", "4", folder=tmp_path)
    assert "4 episodes" in run.stdout
    with open(tmp_path / "logs" / "ippo" / "give_way_1" / "give_way" / "vecnormalize.pkl", "rb") as file:
        normalize = pickle.load(file)
    # Observations and returns of both agents in one
    assert normalize.obs_rms.mean.shape == (4,) and normalize.agent_ret_rms.mean.shape == ()


def test_enjoy_plays_the_asked_episodes(training: tuple[Path, str]) -> None:
    folder, _ = training
    arguments = ("--env", "give_way", "--load-best", "--stochastic", "--eval-episodes", "6", "--n-envs", "3")
    run = run_zoo("enjoy.py", *arguments, "--env-kwargs", "max_steps:7", folder=folder)
    assert len(re.findall(r"^Episode return .*, length 7$", run.stdout, re.MULTILINE)) == 6
    assert "length 7.0 +- 0.0, 6 episodes" in run.stdout


def test_continuing_goes_on_from_the_saved_model(training: tuple[Path, str]) -> None:
    folder, _ = training
    first = folder / "logs" / "cora_ppo" / "give_way_1" / "give_way.zip"
    run = run_zoo(
        "train.py",
        *("--algo", "cora_ppo", "--env", "give_way", "-n", "256", "--seed", "4", "-i", str(first)),
        *TINY,
        # A learning rate at which nothing moves by more than the comparison below allows
        "learning_rate:1e-9",
        "q_learning_rate:1e-9",
        "normalize:dict(norm_obs=True,norm_reward=False)",
        *SHORT,
        folder=folder,
    )
    assert "Loading pretrained agent" in run.stdout
    assert "Loading saved VecNormalize stats" in run.stdout
    before = CORAPPO.load(first).policy.named_parameters()
    after = dict(CORAPPO.load(folder / "logs" / "cora_ppo" / "give_way_2" / "give_way.zip").policy.named_parameters())
    for name, parameter in before:
        th.testing.assert_close(after[name], parameter, rtol=0, atol=1e-6)


def test_interrupted_training_saves(tmp_path: Path) -> None:
    arguments = ("--algo", "mappo", "--env", "give_way", "-n", "100000000", *TINY, *SHORT)
    # Logged for the first time when training has been through an update
    run = interrupt_python(ROOT / "zoo" / "train.py", *arguments, once="clip_fraction", cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-4000:]
    assert "100 episodes" in run.stdout
    assert "To go on with the training: --resume logs/mappo/give_way_1" in run.stdout
    assert MAPPO.load(tmp_path / "logs" / "mappo" / "give_way_1" / "give_way.zip").num_timesteps >= 256


# A joint environment outside of the project, which has no batch: one step an episode, reward 1
FOREIGN_ENV = """
import os

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Coin(gym.Env):
    def __init__(self, poisoned=False):
        with open("processes.txt", "a") as file:
            print(os.getpid(), file=file)
        self.observation_space = spaces.Box(-1, 1, (2, 3), np.float32)
        self.action_space = spaces.MultiDiscrete([2, 2])
        self.poisoned = poisoned

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((2, 3), np.float32), {}

    def step(self, action):
        if self.poisoned:
            raise ValueError("a bug in the environment")
        return np.zeros((2, 3), np.float32), 1.0, True, False, {}


gym.register("Coin-v0", entry_point=Coin)
"""


@pytest.fixture
def foreign_env(tmp_path: Path) -> Path:
    (tmp_path / "foreign_env.py").write_text(FOREIGN_ENV)
    return tmp_path


def test_environment_without_entry_or_batch_uses_default(foreign_env: Path) -> None:
    run = run_zoo(
        "train.py",
        *("--algo", "mappo", "--env", "Coin-v0", "--gym-packages", "foreign_env", "-n", "256"),
        *TINY,
        *("--eval-episodes", "2", "--n-eval-envs", "1"),
        folder=foreign_env,
    )
    assert "Using 'default' hyperparameters" in run.stdout
    # Fewer than of a batch, which plays them in the time of one
    assert "return 1.00 +- 0.00, length 1.0 +- 0.0, 20 episodes" in run.stdout
    arguments = ("--algo", "mappo", "--env", "Coin-v0", "--gym-packages", "foreign_env", "--n-envs", "2", "--verbose", "0")
    assert "return 1.00 +- 0.00" in run_zoo("enjoy.py", *arguments, folder=foreign_env).stdout


# Ctrl-C reaches the processes of the environments as well
@pytest.mark.slow
def test_processes_are_few_and_may_be_interrupted(foreign_env: Path) -> None:
    flags = (
        "--algo",
        "mappo",
        "--env",
        "Coin-v0",
        "--gym-packages",
        "foreign_env",
        "--vec-env",
        "subproc",
        "--eval-freq",
        "64",
    )
    settings = ("n_envs:1", "n_steps:64", "batch_size:64", "n_epochs:2000")
    process = start_training(foreign_env, *flags, "-n", "100000000", "-params", *settings)
    try:
        wait_for(foreign_env / "logs" / "mappo" / "Coin-v0_1" / "rl_model_64_steps.zip", process, foreign_env)
        # From then on it updates for seconds, while the environments wait
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        assert_ends_well(process, foreign_env)
    finally:
        process.kill()
    assert "return 1.00 +- 0.00, length 1.0 +- 0.0, 20 episodes" in (foreign_env / "stdout").read_text()
    # One of the training and one of its evaluations; the models it ends with are played in the training's own process
    assert len(set((foreign_env / "processes.txt").read_text().split())) == 1 + 1 + 1


def test_new_algorithm_follows_the_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An algorithm of one's own, by the section of CONTRIBUTING.md, what is written there taken to the letter: 16 lines of Python
    and YAML in three files, blank ones not counted, and none in the zoo.
    """
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## A new algorithm\n")[2].partition("\n## ")[0]
    # The blocks stand within a list
    section = re.sub("^   ", "", section, flags=re.MULTILINE)
    files = dict(re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE))
    assert len(files) == 3
    assert sum(1 for content in files.values() for line in content.splitlines() if line) == 16
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (command,) = re.findall(r"^```bash\npython (.*)\n```", section, flags=re.MULTILINE)

    def run(arguments: str) -> str:
        _, module, *flags = shlex.split(arguments)
        return run_zoo(f"{module.removeprefix('sb3_cora.zoo.')}.py", *flags, folder=tmp_path).stdout

    # One rollout
    run(f"{command} -n 128 --eval-freq -1 --final-eval-episodes -1")
    monkeypatch.syspath_prepend(str(tmp_path))
    from noisy_mappo import NoisyMAPPO

    model = NoisyMAPPO.load(tmp_path / "logs" / "noisy_mappo" / "climbing_1" / "climbing.zip")
    assert (model.num_timesteps, model.n_steps, model.batch_size) == (128, 32, 64)
    named = "--gym-packages noisy_mappo --algo noisy_mappo --env climbing"
    assert "length 25.0 +- 0.0, 4 episodes" in run(f"-m sb3_cora.zoo.enjoy {named} --eval-episodes 4")

    # And whatever else starts or goes on with trainings
    once = "-n 128 --n-evaluations 1 --sampler random --n-trials 1"
    assert "(-n for others): zoo/train.py --algo noisy_mappo --env climbing --conf-file" in run(
        f"-m sb3_cora.zoo.tune {named} --conf-file noisy_mappo.yml {once}"
    )
    run(f"{command} -n 128 --eval-freq -1 --final-eval-episodes -1 --conf-file logs/tuning/climbing/noisy_mappo.yml")
    suite = {
        "hyperparams": {"n_envs": 4, "n_steps": 32, "batch_size": 64, "n_timesteps": 128},
        "environments": {"climbing": {"env": "climbing"}},
        "algorithms": {"noisy": {"algo": "noisy_mappo"}},
    }
    (tmp_path / "suite.yml").write_text(yaml.safe_dump(suite))
    run("-m sb3_cora.zoo.benchmark suite.yml --gym-packages noisy_mappo --output table.csv --no-plots")
    flags = "-n 20000 --eval-freq -1 --final-eval-episodes -1 --state-interval 0 --conf-file noisy_mappo.yml"
    process = start_training(tmp_path, *named.split(), *flags.split())
    interrupted = tmp_path / "logs" / "noisy_mappo" / "climbing_3"
    try:
        wait_for(states_folder(interrupted), process, tmp_path)
        os.kill(process.pid, signal.SIGTERM)
        process.join(TIME_LIMIT)
    finally:
        process.kill()
    assert "Resuming" in run(f"-m sb3_cora.zoo.train --resume {interrupted}")
    assert NoisyMAPPO.load(interrupted / "climbing.zip").num_timesteps >= 20000


# What an algorithm of one's own is searched over, and what is said of one that has no settings, or another's name
OWN_ALGORITHMS = """
import sys, types
import optuna
from sb3_cora import CORAPPO, ShapleyPPO
from sb3_cora.zoo.algos import register_algorithms
from sb3_cora.zoo.hyperparams_opt import sample_params
from sb3_cora.zoo.train import main

optuna.logging.set_verbosity(optuna.logging.ERROR)
sys.modules["mine"] = mine = types.ModuleType("mine")
mine.Mine = type("Mine", (CORAPPO,), {"__module__": "mine"})
for algorithm in (mine.Mine, ShapleyPPO):
    print("variance_weight" in sample_params(algorithm, optuna.create_study().ask(), 2, 4, {}))
sys.argv = ["train", "--gym-packages", "mine", "--algo", "mine", "--env", "climbing"]
try:
    main()
except SystemExit as error:
    print(error)
sys.argv = ["train", "--gym-packages", "mine"]
mine.Mine = type("Other", (CORAPPO,), {"__module__": "mine"})
try:
    register_algorithms()
except ValueError as error:
    print(error)
"""


def test_algorithms_of_ones_own_are_searched_and_told_apart(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_ALGORITHMS)
    inherited, nearest, *output = run_script(tmp_path / "own.py", folder=tmp_path).stdout.splitlines()
    assert (inherited, nearest) == ("True", "False")
    assert re.search(r"^There are no hyperparameters for mine, no .*mine\.yml: name a file with --conf-file", output[-2])
    assert "would be --algo mine, after its module, and so is <class 'mine.Mine'>: rename the module" in output[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


def test_without_n_steps_a_rollout_is_as_long_as_by_default(tmp_path: Path) -> None:
    """And evaluations come once a rollout, not once a step."""
    (tmp_path / "ppo.yml").write_text(yaml.safe_dump({"climbing": {"policy": "MlpPolicy", "n_timesteps": 300, "n_epochs": 1}}))
    flags = ("--algo", "ppo", "--env", "climbing", "--conf-file", "ppo.yml", "--eval-episodes", "1", "--n-eval-envs", "1")
    run_zoo("train.py", *flags, "--final-eval-episodes", "-1", folder=tmp_path)
    with np.load(tmp_path / "logs" / "ppo" / "climbing_1" / "evaluations.npz") as data:
        assert data["timesteps"].tolist() == [2048]


def test_schedules_of_sb3s_own_algorithms_end_at_zero(tmp_path: Path) -> None:
    # As one central agent; rl_zoo3's own schedule is below 0 in the last of the two rollouts
    settings = {"policy": "MlpPolicy", "n_timesteps": 300, "n_steps": 200, "batch_size": 100, "learning_rate": "lin_1e-3"}
    (tmp_path / "ppo.yml").write_text(yaml.safe_dump({"penalty": settings}))
    arguments = ("--algo", "ppo", "--env", "penalty", "--conf-file", "ppo.yml", "--eval-freq", "-1")
    run_zoo("train.py", *arguments, "--final-eval-episodes", "-1", folder=tmp_path)
    model = PPO.load(tmp_path / "logs" / "ppo" / "penalty_1" / "penalty.zip")
    assert model.num_timesteps == 400 and model.policy.optimizer.param_groups[0]["lr"] == 0.0


def test_classes_and_schedules_have_a_written_form(tmp_path: Path) -> None:
    settings = {
        **hyperparams("mappo")["give_way"],
        "eta": {"start": 0.0, "end": 1.0, "begin": 0.7},
        "ent_coef": "lin_0.1",
        "policy_kwargs": {"activation_fn": "torch.nn.ReLU", "net_arch": {"pi": [8]}},
    }
    (tmp_path / "mappo.yml").write_text(yaml.safe_dump({"give_way": settings}))
    arguments = ("--algo", "mappo", "--env", "give_way", "--conf-file", "mappo.yml", "-n", "256")
    run_zoo("train.py", *arguments, *TINY, *SHORT, folder=tmp_path)
    model = MAPPO.load(tmp_path / "logs" / "mappo" / "give_way_1" / "give_way.zip")
    assert callable(model.eta) and [model.eta(progress) for progress in (1.0, 0.3, 0.0)] == pytest.approx([0.0, 0.0, 1.0])
    assert callable(model.ent_coef) and model.ent_coef(0.5) == pytest.approx(0.05)
    policy = model.policy
    assert policy.activation_fn.__name__ == "ReLU"
    assert policy.net_arch["pi"] == [8]


# Modules with a main, one after the other in one process, which spares the imports; each leaves its output, or its error
SESSION = """
import contextlib, importlib, json, sys, warnings

for index, (module, *arguments) in enumerate(json.loads(sys.argv[1])):
    sys.argv = [module, *arguments]
    with open(f"output_{index}.txt", "w") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            try:
                importlib.import_module(module).main()
            except (Exception, SystemExit) as error:
                print(f"{type(error).__name__}: {error}")
"""
TRAIN, ENJOY = "sb3_cora.zoo.train", "sb3_cora.zoo.enjoy"
# A training on a game whose episodes have 25 steps
PENALTY = (TRAIN, "--algo", "mappo", "--env", "penalty", "--eval-freq", "256", "--final-eval-episodes", "4", *TINY)
# Observations of several parts, masks among them, which are not stacked
STACKED = ("--algo", "ippo", "--env", "mpe2/simple_spread")
STACKING = ("-n", "256", "--eval-freq", "-1", *TINY, "frame_stack:3")
NORMALIZED = "normalize:dict(norm_obs=True,norm_reward=False)"


def run_session(commands: list[tuple[str, ...]], folder: Path) -> list[str]:
    (folder / "session.py").write_text(SESSION)
    run_script(folder / "session.py", json.dumps(commands), folder=folder)
    return [(folder / f"output_{index}.txt").read_text() for index in range(len(commands))]


def start_training(folder: Path, *arguments: str) -> Any:
    return start_zoo("train.py", *arguments, folder=folder, output=folder)


def said(folder: Path) -> str:
    return "".join((folder / name).read_text() for name in ("stdout", "stderr"))[-4000:]


def wait_for(path: Path, process: Any, folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.exitcode is None and time.monotonic() < deadline, said(folder)
        time.sleep(0.05)


def assert_ends_well(process: Any, folder: Path) -> None:
    process.join(60)
    assert process.exitcode == 0, said(folder)


def seen_observations(statistics: Path) -> int:
    """How many observations have been normalized: those of 8 environments at the reset, and one a timestep."""
    with open(statistics, "rb") as file:
        return round(pickle.load(file).obs_rms.count)


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a training of MAPPO, run 1, was killed some time after its third checkpoint."""
    folder = tmp_path_factory.mktemp("killed")
    process = start_training(folder, *PENALTY[1:], NORMALIZED, "-n", "100000000")
    try:
        wait_for(folder / "logs" / "mappo" / "penalty_1" / "rl_model_768_steps.zip", process, folder)
    finally:
        process.kill()
        process.join(60)
    return folder


def last_checkpoint(folder: Path) -> int:
    checkpoints = (folder / "logs" / "mappo" / "penalty_1").glob("rl_model_*_steps.zip")
    return max(int(path.name.split("_")[2]) for path in checkpoints)


@pytest.mark.xdist_group("zoo killed")
def test_killed_training_leaves_checkpoints_with_their_statistics(killed_run: Path) -> None:
    run_folder = killed_run / "logs" / "mappo" / "penalty_1"
    assert not (run_folder / "penalty.zip").exists()
    for path in run_folder.glob("rl_model_*_steps.zip"):
        assert zipfile.is_zipfile(path)
        steps = int(path.name.split("_")[2])
        assert seen_observations(run_folder / f"rl_model_vecnormalize_{steps}_steps.pkl") == 8 + steps


def test_model_and_statistics_take_their_places_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = JointVecNormalize(make_joint_vec_env("penalty", n_envs=8, seed=0))
    model = MAPPO("MlpPolicy", env, n_steps=32, batch_size=128, n_epochs=1, seed=0)
    path, statistics = tmp_path / "best_model.zip", tmp_path / "statistics" / "vecnormalize.pkl"
    save_whole(model.learn(256), path, statistics)
    assert seen_observations(statistics) == 8 + 256
    model.learn(256)

    def interrupted(self: MAPPO, path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MAPPO, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_whole(model, path, statistics)
    assert (MAPPO.load(path).num_timesteps, seen_observations(statistics)) == (256, 8 + 256)


# What enjoy.py and record_video.py load
PROBE = """
import argparse, json
from sb3_cora.zoo.saved_run import add_arguments, load_run

def main():
    parser = argparse.ArgumentParser()
    add_arguments(parser, n_envs=2)
    loaded = []
    for flags in (["--load-last-checkpoint"], ["--load-checkpoint", "512"], ["--load-best"]):
        model, env, _ = load_run(parser.parse_args(["--algo", "mappo", "--env", "penalty", "--exp-id", "1", *flags]))
        assert not env.training and not env.norm_reward
        loaded.append((model.num_timesteps, round(env.obs_rms.count)))
    print(json.dumps(loaded))
"""


def policy_that_plays(logits: tuple[float, float, float]) -> MAPPO:
    """MAPPO on the game of penalties, both of whose agents have these logits."""
    model = MAPPO("MlpPolicy", make_joint_vec_env("penalty", n_envs=8), n_steps=32, batch_size=128, n_epochs=2, seed=0)
    with th.no_grad():
        *_, weight, bias = model.policy.actor.parameters()
        weight.zero_()
        bias.copy_(th.tensor(logits).expand_as(bias))
    return model


@pytest.fixture(scope="module")
def continued(killed_run: Path) -> dict[str, str]:
    """What is printed where models are trained on and played behind the killed training, as runs 2 to 5."""
    # Stopped after one of two rollouts; and without statistics
    interrupted = policy_that_plays((0.0, 0.0, 0.0))
    interrupted.learn(512, callback=lambda *_: interrupted.num_timesteps < 256)
    interrupted.save(killed_run / "interrupted")
    policy_that_plays((0.1, 0.05, 0.0)).save(killed_run / "worst")
    for run in (1, 2):
        (killed_run / "behind" / "mappo" / f"penalty_{run}").mkdir(parents=True)
    interrupted.save(killed_run / "behind" / "mappo" / "penalty_1" / "penalty")
    (killed_run / "probe.py").write_text(PROBE)
    checkpoint = f"logs/mappo/penalty_1/rl_model_{last_checkpoint(killed_run)}_steps.zip"
    best = "logs/mappo/penalty_1/best_model.zip"
    train = (*PENALTY, NORMALIZED, "learning_rate:lin_1e-3")
    play = (ENJOY, "--algo", "mappo", "--env", "penalty")
    commands = {
        "checkpoint": (*train, "-i", checkpoint, "-n", "300"),
        "best": (*PENALTY, NORMALIZED, *("-i", best, "-n", "256", "--reset-num-timesteps", "-P", "--env-kwargs", "k:-50")),
        "interrupted": (*train, "-i", "interrupted.zip"),
        # Evaluated only before its one update
        "worst": (*PENALTY, "n_steps:64", "learning_rate:0.01", "-i", "worst.zip", "-n", "512", "--save-freq", "-1"),
        "loaded": ("probe",),
        "play best": (*play, "--load-best", "-n", "60", "--no-render", "--deterministic", "--n-envs", "3"),
        "play checkpoint": (*play, "--load-last-checkpoint", "-n", "24"),
        "play behind": (*play, "--folder", "behind", "-n", "24"),
        "stacked": (TRAIN, *STACKED, *STACKING, "--env-kwargs", "team_reward:sum"),
        "play stacked": (ENJOY, *STACKED, "--eval-episodes", "2", "--verbose", "0"),
    }
    return dict(zip(commands, run_session(list(commands.values()), killed_run), strict=True))


@pytest.mark.xdist_group("zoo killed")
def test_killed_training_is_played_with_the_statistics_of_the_model(killed_run: Path, continued: dict[str, str]) -> None:
    checkpoint, earlier, best = json.loads(continued["loaded"].splitlines()[-1])
    steps = last_checkpoint(killed_run)
    assert checkpoint == [steps, 8 + steps]
    assert earlier == [512, 8 + 512]
    assert best[0] <= steps and best[1] == 8 + best[0]


@pytest.mark.xdist_group("zoo killed")
def test_continuing_takes_counter_schedule_and_statistics_of_the_model(killed_run: Path, continued: dict[str, str]) -> None:
    logs = killed_run / "logs" / "mappo"
    models = {run: MAPPO.load(logs / f"penalty_{run}" / "penalty.zip") for run in (2, 3, 4)}
    seen = {run: seen_observations(logs / f"penalty_{run}" / "penalty" / "vecnormalize.pkl") for run in models}
    checkpoint, best = last_checkpoint(killed_run), MAPPO.load(logs / "penalty_1" / "best_model.zip").num_timesteps

    share = f"{checkpoint / (checkpoint + 300):.0%}"
    message = f"Continuing from timestep {checkpoint} to {checkpoint + 300}: schedules go on at {share} of their course"
    assert message in continued["checkpoint"]
    # Two rollouts of 256, the second of which goes beyond the end of the schedule
    assert models[2].num_timesteps == checkpoint + 512
    assert seen[2] == (8 + checkpoint) + (8 + 512)
    assert {group["lr"] for group in models[2].policy.optimizer.param_groups} == {0.0}

    assert "Continuing from" not in continued["best"]
    assert models[3].num_timesteps == 256
    assert seen[3] == (8 + best) + (8 + 256)

    # Without -n, what was left
    assert "Continuing from timestep 256 to 512: schedules go on at 50% of their course" in continued["interrupted"]
    assert models[4].num_timesteps == 512
    assert "There is no penalty/vecnormalize.pkl, so normalization starts from fresh statistics" in continued["interrupted"]
    assert "fresh statistics" not in continued["checkpoint"] + continued["best"]
    assert seen[4] == 8 + 256


@pytest.mark.xdist_group("zoo killed")
def test_closing_evaluation_has_a_length_and_shows_its_progress(continued: dict[str, str]) -> None:
    assert "Playing 4 episodes with logs/mappo/penalty_3/penalty.zip" in continued["best"]
    assert re.search(r"^Evaluation: .*, 4 episodes$", continued["best"], re.MULTILINE)
    assert re.search(r"4/4 \[.*episode", continued["best"])
    assert "4/4" not in continued["checkpoint"]


@pytest.mark.xdist_group("zoo killed")
def test_last_model_may_be_the_best(killed_run: Path, continued: dict[str, str]) -> None:
    run_folder = killed_run / "logs" / "mappo" / "penalty_5"
    with np.load(run_folder / "evaluations.npz") as evaluations:
        assert (evaluations["results"] == -100 * 25).all()
    assert "The last model is better than the best so far, return -2500.00" in continued["worst"]
    returns = re.findall(r"^(?:Evaluation|Of best model): +return (\S+) ", continued["worst"], re.MULTILINE)
    assert len(returns) == 2 and returns[0] == returns[1] != "-2500.00"
    assert (run_folder / "best_model.zip").read_bytes() == (run_folder / "penalty.zip").read_bytes()
    # Two episodes of 25 steps in each of three environments
    assert f"return {returns[0]} +- 0.00, length 25.0 +- 0.0, 6 episodes" in continued["play best"]


@pytest.mark.xdist_group("zoo killed")
def test_latest_run_is_the_latest_with_such_a_model(continued: dict[str, str]) -> None:
    assert "Passing over a later run: No checkpoint found for mappo on penalty" in continued["play checkpoint"]
    assert "Loading logs/mappo/penalty_4/rl_model_512_steps.zip" in continued["play checkpoint"]
    assert "No episode has ended within 24 steps" in continued["play checkpoint"]


@pytest.mark.xdist_group("zoo killed")
def test_later_run_that_has_not_come_to_its_end_is_told(continued: dict[str, str]) -> None:
    hint = "To play a run that has not come to its end: --load-last-checkpoint or --load-best"
    assert hint in continued["play behind"] and "Loading behind/mappo/penalty_1/penalty.zip" in continued["play behind"]
    assert hint not in continued["play best"] + continued["play checkpoint"]


@pytest.mark.xdist_group("zoo killed")
def test_settings_that_are_not_repeated_are_told(continued: dict[str, str]) -> None:
    told = (
        r"UserWarning: The training of \S+ continues with other hyperparameters: (.*)\. Unless this is meant, repeat the flags"
    )
    changes = {name: re.findall(told, output) for name, output in continued.items()}
    assert changes.pop("checkpoint") == ["learning_rate is 'lin_1e-3' and was 'lin_2.0e-3'"]
    assert changes.pop("best") == ["env_kwargs is {'k': -50} and was {}"]
    # The others are started anew, or from a file that tells no settings
    assert not any(changes.values())


@pytest.mark.xdist_group("zoo killed")
def test_words_are_text_and_observations_are_stacked_as_in_training(continued: dict[str, str]) -> None:
    assert "env_kwargs={'team_reward': 'sum'}" in continued["stacked"]
    returns = [
        re.search(r"return (.*), length 25.0 .*, (?:20|2) episodes", continued[key]) for key in ("stacked", "play stacked")
    ]
    assert None not in returns


@pytest.mark.xdist_group("zoo killed")
def test_terminated_training_saves(tmp_path: Path) -> None:
    flags = ("-n", "100000000", "--final-eval-episodes", "-1")
    process = start_training(tmp_path, *PENALTY[1:], NORMALIZED, *flags)
    try:
        wait_for(tmp_path / "logs" / "mappo" / "penalty_1" / "rl_model_512_steps.zip", process, tmp_path)
        process.terminate()
        assert_ends_well(process, tmp_path)
    finally:
        process.kill()
    run_folder = tmp_path / "logs" / "mappo" / "penalty_1"
    model = MAPPO.load(run_folder / "penalty.zip")
    assert model.num_timesteps >= 512
    # The signal may have come between a step and its count
    seen = seen_observations(run_folder / "penalty" / "vecnormalize.pkl")
    assert seen - model.num_timesteps in (8, 8 + 8)
    # A negative number: there is no closing evaluation
    output = (tmp_path / "stdout").read_text()
    assert "Playing" not in output and "Evaluation:" not in output
    assert "Learning curve:" in output
