"""Every command of the zoo that README and docs name, run as they have it, with less work to do."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.processes import ROOT, run_zoo

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

# What the commands begin with, and with which flags they have less to do. Of flags given twice the last one holds.
SHORT = ("--env-kwargs", "max_steps:5")
TINY = ("n_envs:2", "n_steps:16", "batch_size:16", "n_epochs:1")
LESS = {
    "train.py": ("-n", "32", "--eval-freq", "32", "--eval-episodes", "2", "--n-eval-envs", "2", "--final-eval-episodes", "-1"),
    "enjoy.py": ("--eval-episodes", "2", "--n-envs", "2"),
    "record_video.py": ("-n", "3"),
    "explain.py": ("-n", "3", "--format", "none"),
    "tune.py": ("-n", "32", "--n-trials", "1", "--n-evaluations", "1"),
    "benchmark.py": ("--workers", "2", "--no-plots", "--dry-run"),
    "plot.py": (),
}
# The results of a benchmark of two algorithms on two environments, one run each
RESULTS = """\
suite,algo,env,game_seed,seed,config,commit,kind,timesteps,wall_seconds,mean_return,std_return,min_return,max_return,optimum,\
q_explained_variance,rollout_return,message
""" + "".join(
    f"tiny,{algo},{env},,0,{algo}{env},,{kind},{timesteps},1.0,{timesteps / 10},0.0,0.0,9.0,,,,\n"
    for algo in ("cora_ppo", "mappo")
    for env in ("give_way", "navigation")
    for kind, timesteps in (("curve", 32), ("curve", 64), ("final", 64))
)


def commands() -> Iterator[tuple[str, ...]]:
    """The scripts of the zoo with their arguments, each once."""
    seen = set()
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                # The two ways to call one are the same, see test_project.py
                words = tuple(shlex.split(re.sub(r"-m sb3_cora\.zoo\.(\w+)", r"zoo/\1.py", line), comments=True))
                if words[:1] == ("python",) and words[1].startswith("zoo/") and words not in seen:
                    seen.add(words)
                    yield words[1:]


pytestmark = pytest.mark.xdist_group("commands")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands find: models of their environments, a suite, and the results of one."""
    folder = tmp_path_factory.mktemp("commands")
    for env in ("give_way", "multi_peak"):
        short = SHORT if env == "give_way" else ()
        run_zoo("train.py", "--algo", "cora_ppo", "--env", env, *LESS["train.py"], *short, "-params", *TINY, folder=folder)
        run = folder / "logs" / "cora_ppo" / f"{env}_1"
        for steps in (768_000, 19_968):
            shutil.copy(run / f"{env}.zip", run / f"rl_model_{steps}_steps.zip")
            if (statistics := run / env / "vecnormalize.pkl").exists():
                shutil.copy(statistics, run / f"rl_model_vecnormalize_{steps}_steps.pkl")
    for page, suite in (("benchmarking", "climbing"), ("environments", "rendezvous")):
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        (folder / f"{suite}.yml").write_text(text.partition(f"```yaml\n# {suite}.yml\n")[2].partition("```")[0])
    shutil.copy(ROOT / "examples" / "own_pettingzoo_task.py", folder)
    (folder / "benchmarks" / "results").mkdir(parents=True)
    for table in ("results.csv", "benchmarks/results/matrix.csv"):
        (folder / table).write_text(RESULTS)
    (folder / "scores.yml").write_text("give_way: {low: 0.0, high: 9.0}\nnavigation: {low: 0.0, high: 4.0}\n")
    return folder


def test_the_task_of_the_docs_is_imported_without_training(folder: Path) -> None:
    suite = yaml.safe_load((folder / "rendezvous.yml").read_text())
    suite["quick"] |= {"n_timesteps": 256, "algorithms": ["MAPPO"], "hyperparams": {"n_steps": 64, "batch_size": 64}}
    (folder / "smaller.yml").write_text(yaml.safe_dump(suite))
    run_zoo("benchmark.py", "smaller.yml", "--quick", "--workers", "1", "--no-plots", folder=folder)
    (log,) = folder.glob("logs/benchmarks/smaller_quick/**/run.log")
    assert "return of" not in log.read_text()


def test_commands_are_found() -> None:
    assert {command[0].removeprefix("zoo/") for command in commands()} == set(LESS)


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_a_command_runs(command: tuple[str, ...], folder: Path) -> None:
    script = command[0].removeprefix("zoo/")
    arguments = list(command[1:])
    if any(argument.startswith("postgresql:") for argument in arguments):
        pytest.skip("there is no such server; tests/test_tuning.py starts one")
    if "--resume" in arguments:
        pytest.skip("nothing was interrupted; tests/test_resume.py does so")
    less = list(LESS[script])
    if script in ("train.py", "tune.py"):
        # What the command itself sets stays
        place = arguments.index("-params") + 1 if "-params" in arguments else len(arguments)
        arguments[place:place] = TINY if "-params" in arguments else ("-params", *TINY)
        less += SHORT if "give_way" in arguments else ()
    if "-optimize" in arguments:
        less += ["--max-total-trials", "1", "--n-evaluations", "1"]
    if "--quick" in arguments:
        # Its runs are known from tests/test_suites.py
        less.append("--dry-run")
    run_zoo(script, *arguments, *less, folder=folder)
