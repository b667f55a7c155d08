"""
What can be mistaken in YAML files and on the command line, in a table: each ends in one line on stderr that names file, key or
flag, value and remedy, with exit code 2, no traceback, and no file or folder more than before.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.processes import ROOT, run_python, run_script
from tests.suites import changed

pytestmark = pytest.mark.xdist_group("mistakes")

# Of MAPPO on a game, without anything wrong
ENTRY = {"policy": "MlpPolicy", "n_envs": 2, "n_timesteps": 64, "n_steps": 16, "batch_size": 16, "n_epochs": 1}
SUITE: dict[str, Any] = {
    "seeds": 1,
    "environments": {"table": {"env": "climbing"}, "peaks": {"env": "multi_peak", "game_seeds": 1}},
    "algorithms": {"CORA": {"algo": "cora_ppo"}, "MAPPO": {"algo": "mappo"}},
    "quick": {"n_timesteps": 100},
}
HEADER = (
    "suite,algo,env,game_seed,seed,config,commit,kind,timesteps,wall_seconds,mean_return,std_return,min_return,max_return,"
    "optimum,q_explained_variance,rollout_return,message\n"
)
RUN = "tiny,MAPPO,penalty,,0,abc,,final,64,1.0,2.0,0.0,2.0,2.0,,,,\n"


class Mistake(NamedTuple):
    """
    A command that has to be refused.

    :param command: Name of the script and its arguments.
    :param said: What the line has to name.
    :param files: Contents of the files that the command finds, by name.
    """

    command: tuple[str, ...]
    said: tuple[str, ...]
    files: dict[str, str] = {}  # noqa: RUF012


def train(*flags: str, said: tuple[str, ...], **files: str) -> Mistake:
    return Mistake(("train", "--algo", "mappo", "--env", "penalty", *flags), said, files)


def entry(said: tuple[str, ...], *flags: str, without: str | None = None, **changes: Any) -> Mistake:
    """The entry of a file of one's own, with other settings."""
    settings = {key: value for key, value in {**ENTRY, **changes}.items() if key != without}
    return conf(yaml.safe_dump({"penalty": settings}), ("own.yml", *said), *flags)


def conf(text: str, said: tuple[str, ...], *flags: str) -> Mistake:
    return Mistake(("train", "--algo", "mappo", "--env", "penalty", "--conf-file", "own.yml", *flags), said, {"own.yml": text})


def suite(said: tuple[str, ...], *path: str, value: Any = None, flags: tuple[str, ...] = ()) -> Mistake:
    """The suite with another value at a path, or without it for None."""
    return Mistake(
        ("benchmark", "own.yml", *flags),
        ("own.yml", *said),
        {"own.yml": yaml.safe_dump(changed(SUITE, *path, value=value), sort_keys=False)},
    )


def plot(text: str, said: tuple[str, ...], *flags: str, **files: str) -> Mistake:
    return Mistake(("plot", "table.csv", *flags), said, {"table.csv": text, **files})


def play(command: str, *flags: str, said: tuple[str, ...]) -> Mistake:
    """A command that plays the trained model."""
    return Mistake((command, "--algo", "cora_ppo", "--env", "penalty", "-f", "../trained/logs", *flags), said)


MISTAKES = {
    # Flags of train.py
    "unknown flag": train("--n-step", "5", said=("unrecognized arguments: --n-step 5", "--help")),
    "unknown algorithm": Mistake(("train", "--algo", "maddpg"), ("--algo", "'maddpg'", "mappo")),
    "unknown environment": Mistake(("train", "--env", "give_wya"), ("--env give_wya", "Did you mean give_way?")),
    "environment of nobody": Mistake(("train", "--env", "qqqq"), ("--env qqqq", "--gym-packages")),
    "no integer": train("-n", "many", said=("-n/--n-timesteps", "'many'")),
    "no timesteps": train("-n", "0", said=("-n 0", "give 1 or more")),
    "negative episodes": train("--eval-episodes", "-3", said=("--eval-episodes -3", "give 0 or more")),
    "negative environments": train("--n-eval-envs", "-1", said=("--n-eval-envs -1", "give 0 or more")),
    "unknown device": train("--device", "gpu", said=("--device gpu", "cpu, cuda")),
    "unknown package": train("--gym-packages", "nowhere", said=("--gym-packages nowhere", "Install it")),
    "unknown vec env": train("--vec-env", "fork", said=("--vec-env", "'fork'", "subproc")),
    "missing model": train("-i", "model.zip", said=("-i model.zip", "give one as in logs/")),
    "model of another algorithm": train(
        *("-i", "../trained/logs/cora_ppo/penalty_1/penalty.zip"), said=("penalty.zip is a model of CORAPPO", "--algo")
    ),
    "resume of nothing": train("--resume", said=("--resume", "--algo mappo --env penalty", "-i")),
    "resume of no run": train("--resume", "logs", said=("--resume logs", "name one as in logs/")),
    "unknown env_kwargs": train("--env-kwargs", "foo:1", said=("penalty", "--env-kwargs {'foo': 1}", "'foo'")),
    "env_kwargs without value": train("--env-kwargs", "k", said=("--env-kwargs", "'k'", "write name:value")),
    "params without value": train("-params", "n_epochs=5", said=("-params", "'n_epochs=5'", "write name:value")),
    "params of no Python": train("-params", "policy_kwargs:dict(net_arch=[8)", said=("-params", "dict(net_arch=[8)")),
    "params that fail": train("-params", "learning_rate:1/0", said=("learning_rate: '1/0'", "neither a number")),
    "log of nothing": train("--log-interval", "0", said=("--log-interval 0", "give 1 or more")),
    "unknown hyperparameter": train("-params", "n_step:5", said=("mappo.yml", "'n_step' (5)", "n_steps?")),
    "trial of no study": train("--trial-id", "0", said=("--trial-id 0", "--storage and --study-name")),
    "unknown study": train(
        *("--trial-id", "3", "--storage", "study.log", "--study-name", "none"), said=("--storage study.log", "of the search")
    ),
    # Hyperparameters
    "missing file": train("--conf-file", "own.yml", said=("own.yml", "--conf-file", "path of a YAML file")),
    "malformed YAML": conf("penalty: {n_envs: 2\n", ("own.yml, line 2, column 1", "Correct")),
    "tabs in YAML": conf("penalty:\n\tn_envs: 2\n", ("own.yml, line 2, column 1", "'\\t'")),
    "duplicate key": conf("penalty: {n_envs: 2, n_envs: 3}\n", ("own.yml, line 1, column 22", "'n_envs'", "twice")),
    "empty file": conf("", ("own.yml", "None", "expected a mapping")),
    "list": conf("- penalty\n", ("own.yml", "['penalty']", "expected a mapping")),
    "no entry": conf("climbing: {n_envs: 2}\n", ("own.yml", "no entry penalty", "climbing")),
    "entry of nothing": conf("penalty: 5\n", ("own.yml, penalty", "expected a mapping", "5")),
    "wrong key": entry(("penalty", "'n_epoch' (3)", "n_epochs?"), n_epoch=3),
    "wrong type": entry(("penalty", "n_epochs='many', expected an integer"), n_epochs="many"),
    "number as text": entry(("penalty", "n_timesteps: '1e6'", "1_000_000"), n_timesteps="1e6"),
    "no environments": entry(("penalty", "n_envs: 0", "positive"), n_envs=0),
    "exponent as text": entry(("penalty", "target_kl: '1e-2' is text", "1.0e-2"), target_kl="1e-2"),
    "no length": entry(("penalty", "no n_timesteps", "1_000_000"), "-n", "128", without="n_timesteps"),
    "learning rate": entry(("penalty", "learning_rate: 'fast'", "lin_3e-4"), learning_rate="fast"),
    "negative batch": entry(("penalty", "batch_size=-8, expected an integer"), batch_size=-8),
    "batch of one": entry(("penalty", "batch_size=1", "normalize_advantage=False"), batch_size=1),
    "unknown policy": entry(("penalty", "'CnnPolicy'", "MlpPolicy"), policy="CnnPolicy"),
    "no policy": entry(("penalty", "policy"), without="policy"),
    "policy_kwargs": entry(("penalty", "'layers'", "policy_kwargs"), policy_kwargs={"layers": 3}),
    "policy_kwargs as code": entry(
        ("policy_kwargs", "dict(net_arch=[8])", "YAML mapping"), policy_kwargs="dict(net_arch=[8])"
    ),
    "normalize as code": entry(("normalize", "dict(norm_obs=True)", "YAML mapping"), normalize="dict(norm_obs=True)"),
    "no schedule": entry(("penalty", "ent_coef", "'falling'", "lin_0.05"), ent_coef="falling"),
    "no linear schedule": entry(("penalty", "ent_coef", "'lin_low'", "lin_0.05"), ent_coef="lin_low"),
    "unknown wrapper": entry(("penalty", "nowhere"), env_wrapper="nowhere.Wrapper"),
    "unknown concept": Mistake(
        ("train", "--algo", "cora_ppo", "--env", "penalty", "-params", "credit:nash"),
        ("cora_ppo.yml, penalty", "credit='nash'", "'least_core'"),
    ),
    "negative weight": Mistake(
        ("train", "--algo", "cora_ppo", "--env", "penalty", "-params", "variance_weight:-1.0"),
        ("cora_ppo.yml, penalty", "variance_weight", "-1.0", "least core"),
    ),
    # Searches
    "wrong storage": train("-optimize", "--storage", "study", "--study-name", "s", said=("--storage study", "sqlite:///")),
    "storage in no folder": train(
        *("-optimize", "--study-name", "s", "--storage", "sqlite:////proc/no/study.db"), said=("/proc/no",)
    ),
    "no trials": Mistake(("tune", "--n-trials", "0"), ("--n-trials 0", "give 1 or more")),
    "unknown algorithm of a search": Mistake(("tune", "--algo", "mappo", "maddpg"), ("--algo", "maddpg", "happo")),
    "algorithm twice": Mistake(("tune", "--algo", "mappo", "mappo"), ("--algo mappo mappo", "twice")),
    "setting of one algorithm": Mistake(
        ("tune", "--algo", "cora_ppo", "mappo", "--env", "penalty", "-params", "credit:shapley"), ("credit", "mappo")
    ),
    "environment of a search": Mistake(("tune", "--env", "give_wya"), ("--env give_wya", "give_way")),
    "grace period": train(
        *("-optimize", "--storage", "study.log", "--study-name", "s", "--grace-period", "0"),
        said=("--grace-period 0", "2.0 or more"),
    ),
    # Playing
    "no model": Mistake(("enjoy", "--algo", "mappo", "--env", "penalty"), ("mappo on penalty in logs", "Train one")),
    "model of no bytes": Mistake(
        ("enjoy", "--algo", "mappo", "--env", "climbing"),
        ("logs/mappo/climbing_1/climbing.zip is empty", "was not saved to its end"),
        {"logs/mappo/climbing_1/climbing.zip": ""},
    ),
    "no best model": play("enjoy", "--load-best", said=("best_model.zip", "penalty", "--exp-id")),
    "no such run": play("enjoy", "--exp-id", "7", said=("penalty_7", "--exp-id")),
    "no steps": play("enjoy", "-n", "0", said=("--n-timesteps 0", "give 1 or more")),
    "environments side by side": play("enjoy", "--n-envs", "-2", said=("--n-envs -2", "give 0 or more")),
    "environment's arguments": play("enjoy", "--env-kwargs", "foo:1", said=("'foo'",)),
    "unknown format": play("record_video", "--format", "avi", said=("--format", "'avi'", "gif")),
    "video of nothing": play("record_video", "-n", "0", said=("--n-timesteps 0", "give 1 or more")),
    "concept": play("explain", "--concept", "nash", "--format", "none", said=("nash", "least_core")),
    "frames": play("explain", "--fps", "0", said=("--fps 0.0", "positive")),
    "nothing to explain": Mistake(
        ("explain", "--algo", "mappo", "--env", "penalty"), ("MAPPO has no coalition values", "CORAPPO")
    ),
    # Suites
    "no suite": Mistake(("benchmark", "matrices"), ("matrices", "matrix")),
    "no workers": Mistake(("benchmark", "matrix", "--workers", "0"), ("--workers 0", "give 1 or more")),
    "malformed suite": Mistake(("benchmark", "own.yml"), ("own.yml, line 2", "Correct"), {"own.yml": "seeds: [1\n"}),
    "suite's key": suite(("'seed'", "seeds"), "seed", value=[0]),
    "suite without environments": suite(("environments", "None"), "environments"),
    "list of environments": suite(("environments", "['climbing']"), "environments", value=["climbing"]),
    "suite without id": suite(("environments, table, env", "None"), "environments", "table", "env"),
    "suite's environment": suite(("table", "'hiking'", "--gym-packages"), "environments", "table", "env", value="hiking"),
    "no game": suite(("climbing takes no game_seed", "leave"), "environments", "table", "game_seeds", value=2),
    "game twice": suite(("peaks has a game_seed", "leave"), "environments", "peaks", "env_kwargs", value={"game_seed": 1}),
    "suite's algorithm": suite(("CORA", "'cora'", "cora_ppo"), "algorithms", "CORA", "algo", value="cora"),
    "suite's hyperparameter": suite(
        ("cora_ppo has no hyperparameter 'n_step'", "n_steps"), "hyperparams", value={"n_step": 5}
    ),
    "hyperparameters' mapping": suite(("hyperparams", "expected a mapping, got 3"), "hyperparams", value=3),
    "names of environments": suite(
        ("expected names among table, peaks", "['peak']"), "algorithms", "MAPPO", "environments", value=["peak"]
    ),
    "seeds": suite(("seeds of table", "expected how many", "-1"), "seeds", value=-1),
    "seed twice": suite(("seeds of table: [1, 1]", "twice"), "environments", "table", "seeds", value=[1, 1]),
    "steps": suite(("n_timesteps", "'many'", "number of steps"), "n_timesteps", value="many"),
    "no steps at all": suite(("n_timesteps", "0", "number of steps"), "n_timesteps", value=0),
    "rate as text": suite(("CORA", "learning_rate: 'fast'"), "hyperparams", value={"learning_rate": "fast"}),
    "nobody": suite(("quick, algorithms", "[]"), "quick", "algorithms", value=[], flags=("--quick",)),
    "table without name": Mistake(("benchmark", "spot_check", "--output", "table"), ("--output table", "table.csv")),
    "list of trials": suite(("trials", "expected a mapping", "[1]"), "trials", value=[1]),
    "trial": suite(("trials, fast", "hyperparameters, got 0.1"), "trials", value={"fast": 0.1}),
    "quick": suite(("quick, environments", "['peak']"), "quick", "environments", value=["peak"], flags=("--quick",)),
    "no quick form": suite(("`quick`", "--quick"), "quick", flags=("--quick",)),
    # Plots
    "no table": Mistake(("plot", "table.csv"), ("table.csv", "--folders")),
    "nothing to plot": Mistake(("plot",), ("CSV tables", "--folders")),
    "columns": plot("suite,algo\ntiny,MAPPO\n", ("table.csv", "['suite', 'algo']", "'mean_return'")),
    "cell": plot(HEADER + RUN.replace(",64,", ",many,"), ("table.csv, line 2, column timesteps", "'many'", "int", "remove")),
    "short line": plot(HEADER + "tiny,MAPPO\n", ("table.csv, line 2, column game_seed", "None")),
    "unknown label": plot(HEADER + RUN, ("'HAPPO'", "MAPPO"), "--algos", "HAPPO"),
    "ablation of nothing": plot(HEADER + RUN, ("--ablation", "'HAPPO'", "'MAPPO'"), "--ablation", "HAPPO"),
    "no scores": plot(HEADER + RUN, ("scores.yml", "--scores"), "--scores", "scores.yml"),
    "scores": plot(HEADER + RUN, ("scores.yml", "penalty", "low"), "--scores", "scores.yml", **{"scores.yml": "penalty: 5\n"}),
    "folder without trainings": Mistake(("plot", "--folders", "."), ("evaluations.npz", "logs/")),
    "file for a folder": plot(HEADER + RUN, ("table.csv is no folder", "--output"), "--output", "table.csv"),
}

# The commands one after the other in one process, each in a folder of its own
SESSION = """
import contextlib, importlib, io, json, os, sys, traceback, warnings
from pathlib import Path

def files():
    return sorted(str(path) for path in Path().rglob("*"))

def call(name, arguments):
    sys.argv = [name + ".py", *arguments]
    importlib.import_module("sb3_cora.zoo." + name).main()

root = Path.cwd()
(root / "trained").mkdir()
os.chdir(root / "trained")
settings = ("n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1")
with contextlib.redirect_stdout(io.StringIO()):
    flags = ("--eval-freq", "-1", "--final-eval-episodes", "-1", "--seed", "0", "-params", *settings)
    call("train", ["--algo", "cora_ppo", "--env", "penalty", "-n", "32", *flags])
results = {}
for number, (name, (command, _, contents)) in enumerate(json.loads((root / "mistakes.json").read_text()).items()):
    folder = root / str(number)
    folder.mkdir()
    os.chdir(folder)
    for file, text in contents.items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text)
    before, code, errors = files(), 0, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(command[0], command[1:])
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = 1
            traceback.print_exc()
    results[name] = [code, errors.getvalue(), sorted(set(files()) - set(before))]
(root / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, str, list[str]]]:
    """Exit code, stderr and new files of each mistake."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "session.py").write_text(SESSION)
    (folder / "mistakes.json").write_text(json.dumps(MISTAKES))
    run_script(folder / "session.py", folder=folder)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_in_a_line(name: str, refused: dict[str, tuple[Any, str, list[str]]]) -> None:
    code, errors, new = refused[name]
    (line,) = errors.splitlines()
    assert line.startswith(f"{MISTAKES[name].command[0]}.py: error: ")
    for word in MISTAKES[name].said:
        assert word in line, line
    assert (code, new) == (2, [])


def test_there_are_fifty() -> None:
    assert len(MISTAKES) >= 50


def test_a_process_of_its_own_is_refused_likewise(tmp_path: Path) -> None:
    (command, *arguments), said, files = MISTAKES["wrong key"]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    run = run_python(ROOT / "zoo" / f"{command}.py", *arguments, cwd=tmp_path, check=False)
    (line,) = run.stderr.splitlines()
    assert run.returncode == 2 and re.fullmatch(rf"{command}\.py: error: .+", line)
    assert all(word in line for word in said)
    assert {path.name for path in tmp_path.iterdir()} == set(files)


# A bug of the environment is none of the command line's
BROKEN = (
    "import gymnasium as gym\n\ndef make():\n    raise ValueError('a bug')\n\ngym.register('Broken-v0', entry_point=make)\n"
)


def test_errors_of_ones_own_code_keep_their_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    flags = ("--algo", "mappo", "--env", "Broken-v0", "--gym-packages", "broken")
    run = run_script(ROOT / "zoo" / "train.py", *flags, folder=tmp_path, check=False)
    assert run.returncode == 1 and run.stderr.endswith("ValueError: a bug\n") and "in make" in run.stderr
    assert not (tmp_path / "logs").exists()
