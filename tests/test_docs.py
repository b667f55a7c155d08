"""The documentation tells the truth: its code runs, its commands are understood, its links lead somewhere."""

import doctest
import importlib.util
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from sb3_cora import CORAPPO
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.credit import CONCEPTS
from tests.algorithms import ALGORITHMS, make_tiny
from tests.processes import ROOT, TIME_LIMIT, run_python, run_script, run_zoo, start_zoo
from tests.test_record_video import needs_xvfb

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
# What is written there is followed by test_guides.py, test_credit_concepts.py, test_zoo.py and test_worlds.py
GUIDE = ROOT / "CONTRIBUTING.md"

# Models that a page loads, by the file and with their environments
LOADED = {
    "docs/environments.md": {"simple_spread": "mpe2/simple_spread", "give_way": "give_way"},
    "docs/explaining.md": {"logs/cora_ppo/multi_peak_1/multi_peak": "multi_peak"},
}
# What is true once the code of a page has run
OUTCOMES = {
    "README.md": 'model.num_timesteps > 0 and Path("give_way.zip").is_file()',
    "docs/credits.md": "divided.tolist() == [pytest.approx([2 / 3, 1 / 6, 1 / 6])] and estimated.shape == (1, 10)",
    "docs/environments.md": "dones.shape == (8,) and rows.tolist() == pytest.approx(np.array([[0.1, 0.2, 0.3], [0.4, 0, 0]]))",
    "docs/explaining.md": 'Path("credits.csv").is_file()',
    "docs/quickstart.md": 'Path("climbing.zip").is_file()',
}
# Extras that a page takes besides Stable-Baselines3
SUITES = {
    "README.md": ("vmas",),
    "docs/coming_from.md": ("vmas", "gymnasium_robotics", "mpe2"),
    "docs/environments.md": ("vmas", "gymnasium_robotics", "mpe2"),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """
    :param page: A page
    :param languages: Of code
    :return: Its blocks of code, those within lists too
    """
    pattern = rf"^( *)```(?:{'|'.join(languages)})\n(.*?)^\1```"
    found = re.findall(pattern, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


PAGES_WITH_CODE = [page for page in PAGES if page != GUIDE and blocks(page, "python", "pycon")]


def test_pages_are_found() -> None:
    assert {*OUTCOMES, *LOADED, *SUITES} <= {name_of(page) for page in PAGES_WITH_CODE}
    # `python3` or `py` with a title would not be found
    for page in PAGES:
        languages = set(re.findall(r"^ *```(\w+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert languages <= {"python", "pycon", "py", "sh", "bash", "yaml"}, page
        # What is not run is another library's
        assert name_of(page) == "docs/coming_from.md" or languages.isdisjoint({"py", "sh"}), page


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=name_of)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page in their order, as if they were one program, with short trainings."""
    for module in SUITES.get(name_of(page), ()):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    for file, env in LOADED.get(name_of(page), {}).items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        make_tiny(CORAPPO, env).save(file)
    learn = CooperativeOnPolicyAlgorithm.learn

    def learn_little(model: Any, total_timesteps: float, *args: Any, **kwargs: Any) -> Any:
        assert total_timesteps == 0 or total_timesteps >= 10_000
        model.n_epochs, model.n_steps = 1, 8
        model.rollout_buffer.buffer_size = model.n_steps
        model.rollout_buffer.reset()
        return learn(model, 1, *args, **kwargs)

    monkeypatch.setattr(CooperativeOnPolicyAlgorithm, "learn", learn_little)
    namespace: dict[str, Any] = {"__name__": "page"}
    for code in blocks(page, "python", "pycon"):
        if code.startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(code, namespace, page.name, str(page), 0)
            runner = doctest.DocTestRunner()
            runner.run(test, clear_globs=False)
            assert runner.failures == 0
            namespace |= test.globs
        else:
            exec(compile(code.replace("range(300)", "range(3)"), page, "exec"), namespace)
    assert eval(OUTCOMES.get(name_of(page), "True"), {**globals(), **namespace, "Path": Path, "pytest": pytest, "np": np})


def test_every_concept_is_on_the_worked_example() -> None:
    shown = re.findall(r'^>>> credits\("(\w+)"', (ROOT / "docs/credits.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(shown) == set(CONCEPTS)


def test_every_algorithm_has_a_page() -> None:
    titles = {page.read_text(encoding="utf-8").partition("\n")[0] for page in ROOT.glob("docs/algorithms/*.md")}
    assert titles == {f"# {algorithm.__name__}" for algorithm in ALGORITHMS}


def test_the_core_in_the_figure() -> None:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("game_theory", ROOT / "docs" / "figures" / "game_theory.py")
    assert spec is not None and spec.loader is not None
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    # x_0 + x_1 >= 8, x_0 + x_2 >= -1 and x_1 + x_2 >= -2, of 3 in sum
    corners = np.array([[4.0, 4.0, -5.0], [5.0, 3.0, -5.0], [5.0, 4.0, -6.0]])
    found = figures.GRAND_VALUE / 3 + figures.epsilon_core(figures.WITH_CORE, 0.0) @ figures.PLANE.T / 1.5
    assert np.unique(found.round(6), axis=0).tolist() == corners.tolist()


def commands(page: Path) -> Iterator[list[str]]:
    """
    :param page: A page
    :return: The words of each command in its blocks for a shell
    """
    for code in blocks(page, "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def test_numbers_are_measured_ones() -> None:
    """Those with decimals in the text of the README and of the pages of algorithms stand among the results."""
    results = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    quoted = set()
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md", *ROOT.glob("docs/algorithms/*.md")):
        # Neither code nor formulas, nor addresses
        text = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$|\]\([^)]*\)", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        quoted |= set(re.findall(r"(?<![\d.])\d+\.\d+(?!\.?\d)", text))
    assert {"0.76", "0.64"} <= quoted
    assert {number for number in quoted if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", results)} == set()


@cache
def flags_of(script: str) -> set[str]:
    """
    :param script: Name of a script of the zoo
    :return: The flags that its help names
    """
    help_text = run_zoo(f"{script}.py", "--help", folder=ROOT).stdout
    return set(re.findall(r"(?<![\w-])-{1,2}[a-zA-Z][\w-]*", help_text))


def check_zoo_command(script: str, arguments: list[str]) -> None:
    """
    :param script: Name of a script of the zoo
    :param arguments: What it is given
    """
    given = {word for word in arguments if re.match(r"-{1,2}[a-zA-Z]", word)}
    # A search hands on what it is given to trainings
    unknown = given - flags_of(script) - (flags_of("train") if script == "tune" else set())
    assert not unknown, (script, unknown)
    for flag, value in pairwise(arguments):
        # Packages of the user's own bring algorithms and environments
        if flag == "--algo" and "--gym-packages" not in arguments:
            assert (ROOT / "hyperparams" / f"{value}.yml").exists(), value
        if flag == "--env" and "--gym-packages" not in arguments:
            gym.spec(value)


def test_commands_are_understood() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for page in PAGES:
        for command in commands(page):
            while "=" in command[0]:
                command = command[1:]
            match command:
                # Those of zoo/ are run by test_commands.py
                case ["python", "-m", module, *arguments] if module.startswith("sb3_cora.zoo."):
                    check_zoo_command(module.rpartition(".")[2], arguments)
                case ["python", path, *_] if path.endswith(".py"):
                    assert (ROOT / path).exists(), path
                case ["python", "-m", module, *_] if module.startswith("benchmarks."):
                    assert (ROOT / module.replace(".", "/")).exists(), module
                case ["make", target, *_]:
                    assert target in targets, target
                case ["pip", "install", *arguments]:
                    check_extras(arguments)


def check_extras(arguments: list[str]) -> None:
    """
    :param arguments: Of ``pip install``, which itself passes over an extra that there is not
    """
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    extras = set(re.findall(r"^([a-z]+) = ", metadata.partition("\n[tool")[0], flags=re.MULTILINE))
    for argument in arguments:
        asked = re.search(r"\[(.*)\]", argument)
        assert asked is None or set(asked[1].split(",")) <= extras, argument


def test_pip_lines_of_the_readme_install() -> None:
    lines = [words for words in commands(ROOT / "README.md") if words[0] == "pip"]
    arguments = [argument for words in lines for argument in words[2:]]
    assert "torch" in arguments and len(arguments) > 1
    for argument in set(arguments) - {"torch"}:
        # All but the download and the installation: reads the line, and builds the metadata of the clone
        dry_run = ["install", "--dry-run", "--no-deps", "--no-build-isolation", "--no-index"]
        run = run_python("-m", "pip", *dry_run, argument, cwd=ROOT)
        assert "Would install sb3-cora" in run.stdout, argument


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    included = re.findall(r"```\{(?:literal)?include\} (\S+)", text)
    for link in [*re.findall(r"\]\((?!https?:)([^)#]+)", text), *included]:
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=name_of)
def test_what_is_included_is_there(page: Path) -> None:
    """Between marks that follow each other where they are looked for."""
    for file, options in re.findall(r"```\{include\} (\S+)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        included = (page.parent / file).read_text(encoding="utf-8")
        marks = re.findall(r'^:(?:start-after|end-before): "(.*)"$', options, flags=re.MULTILINE)
        for mark in marks:
            assert mark in included, mark
            included = included.partition(mark)[2]
        assert len(marks) == options.count(': "')


# Of each example a line that it prints
PRINTED = {
    "custom_concept": r"ensc: \[4\.67, 3\.67, -5\.33\]",
    "explain_team": r"credits\.csv: 15 columns, the values of 7 coalitions among them",
    "own_pettingzoo_task": r"IPPO: return of 1 seeds -\d",
    "train_and_film": r"Film: .*\.mp4",
    "train_robot": r"Return: -?\d+",
    "value_data": r"All data together: \d",
}
# Suites that they play
TAKEN = {"own_pettingzoo_task": ("pettingzoo",), "train_and_film": ("vmas",), "train_robot": ("gymnasium_robotics",)}


def test_examples_are_shown_and_run() -> None:
    shown = re.findall(r"^(examples/\w+)$", (ROOT / "docs/examples.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(f"{page}.py" for page in shown) == [name_of(path) for path in EXAMPLES]
    assert {path.stem for path in EXAMPLES} == {*PRINTED, "tune_on_two_processes"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=needs_xvfb if n == "train_and_film" else ()) for n in PRINTED])
def test_examples_run(name: str, tmp_path: Path) -> None:
    for module in TAKEN.get(name, ()):
        pytest.importorskip(module)
    path = ROOT / "examples" / f"{name}.py"
    quick = ("--quick",) if "--quick" in path.read_text(encoding="utf-8") else ()
    assert re.search(PRINTED[name], run_script(path, *quick, folder=tmp_path).stdout)


def test_tuning_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers are forked from a process that has imported the zoo."""
    started = []

    class Worker:
        def __init__(self, command: list[str]) -> None:
            assert command[:3] == [sys.executable, "-m", "sb3_cora.zoo.train"]
            output = tmp_path / f"worker_{len(started)}"
            output.mkdir()
            self.process = start_zoo("train.py", *command[3:], folder=tmp_path, output=output)
            started.append(self.process)

        def wait(self) -> int:
            self.process.join(TIME_LIMIT)
            return self.process.exitcode

    monkeypatch.setattr(subprocess, "Popen", Worker)
    monkeypatch.setattr(sys, "argv", ["tune_on_two_processes.py", "--quick"])
    path = ROOT / "examples" / "tune_on_two_processes.py"
    try:
        exec(compile(path.read_text(encoding="utf-8"), path, "exec"), {"__name__": "__main__"})
    finally:
        for process in started:
            process.kill()
    assert len(started) == 2
    with (tmp_path / "logs" / "cora_ppo" / "study_climbing-cora" / "trials.csv").open() as file:
        assert len(file.readlines()) == 1 + 2
