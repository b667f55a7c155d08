"""The shape of the project: who imports whom, what an import loads, and that the README names what there is."""

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.algorithms import ALGORITHMS
from tests.processes import ROOT, run_python

PACKAGE = ROOT / "sb3_cora"
ALGORITHM_PACKAGES = {
    path.parent.name for path in PACKAGE.glob("*/__init__.py") if path.parent.name not in ("common", "credit", "envs", "zoo")
}

# Modules of optional dependencies, each with the only files outside of the zoo that may import it
OPTIONAL = {
    "vmas": ["envs/vmas.py"],
    "pettingzoo": ["envs/pettingzoo.py"],
    "mpe2": [],
    "supersuit": [],
    "gymnasium_robotics": ["envs/mamujoco.py"],
    "mujoco": ["envs/mamujoco.py"],
    "cvxpy": ["credit/solvers/cvxpylayers.py"],
    "cvxpylayers": ["credit/solvers/cvxpylayers.py"],
    "clarabel": [],
    "diffcp": ["credit/solvers/cvxpylayers.py"],
    "rl_zoo3": [],
    "optuna": [],
    "matplotlib": ["envs/differential_game.py"],
    "tensorboard": [],
}

# What their names have in common with those of their modules and tasks
SUITES = ("vmas", "pettingzoo", "mpe2", "supersuit", "mujoco", "gymnasium.robotics")


def imported_modules(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports anywhere, ``from a import b`` counted as ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(part: str) -> list[Path]:
    return sorted((PACKAGE / part).rglob("*.py"))


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_parts_are_found() -> None:
    assert {"cora_ppo", "mappo"} <= ALGORITHM_PACKAGES
    assert all(files_of(part) for part in ("common", "credit", "envs", "zoo"))


@pytest.mark.parametrize("path", files_of("credit"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_credit_is_pure_torch(path: Path) -> None:
    allowed = {"torch", "numpy", *sys.stdlib_module_names}
    if path.name == "cvxpylayers.py":
        allowed |= {"cvxpy", "cvxpylayers", "diffcp"}
    foreign = [
        module
        for module in imported_modules(path)
        if not within(module, "sb3_cora.credit") and module.partition(".")[0] not in allowed
    ]
    assert foreign == []


def test_credit_is_usable_alone() -> None:
    """Without Stable-Baselines3 and Gymnasium, and without the parts of the package that need them."""
    code = f"""
import sys, types
sys.modules.update(stable_baselines3=None, gymnasium=None, sb3_cora=types.ModuleType("sb3_cora"))
sys.modules["sb3_cora"].__path__ = [{str(PACKAGE)!r}]
import torch as th
from sb3_cora.credit import all_coalitions, allocate
print(allocate(th.tensor([[5.0, -5.0]]), all_coalitions(2), th.tensor([-5.0])).credits.tolist())
"""
    assert run_python("-c", code).stdout.strip() == "[[2.5, -7.5]]"


def code_of(path: Path) -> str:
    """A file without its comments and docstrings: names, and what stands in strings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        # A string that is a statement does nothing: it documents what it follows
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                documented = [s for s in statements if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
                setattr(node, field, documented or [ast.Pass()] * bool(statements))
    return ast.unparse(tree)


# What the files of a part may name of the project.
ALLOWED = {
    "credit": {"credit"},
    "common": {"common"},
    "envs": {"common", "envs"},
    **{algorithm: {"common", "credit", *ALGORITHM_PACKAGES} for algorithm in sorted(ALGORITHM_PACKAGES)},
}


def parts_named_in(path: Path) -> set[str]:
    """The packages of the project that a file names, as imports or in strings, such as those for importlib."""
    imported = {module.split(".")[1] for module in imported_modules(path) if module.startswith("sb3_cora.")}
    in_strings = {"common", "credit", "envs", "zoo", *ALGORITHM_PACKAGES} & set(re.findall(r"sb3_cora\.(\w+)", code_of(path)))
    return (imported | in_strings) - {"version"}


@pytest.mark.parametrize("part", ALLOWED)
def test_parts_name_only_what_they_build_on(part: str) -> None:
    beyond = {path: parts_named_in(path) - ALLOWED[part] for path in files_of(part)}
    assert {path: found for path, found in beyond.items() if found} == {}


@pytest.mark.parametrize("path", files_of("common"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_common_names_no_algorithm_and_no_suite(path: Path) -> None:
    """Not as an attribute or in a message either: what it must know of them, they tell it."""
    code = code_of(path)
    assert re.findall(rf"(?i)\w*(?:{'|'.join(SUITES)})\w*", code) == []
    assert [algorithm.__name__ for algorithm in ALGORITHMS if re.search(rf"\b{algorithm.__name__}\b", code)] == []


def test_code_is_told_from_what_documents_it(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('''"""vmas"""
import importlib  # vmas
A = 1
"""pettingzoo"""
def function():
    """mujoco"""
    return importlib.import_module("sb3_cora.envs")
''')
    assert "vmas" not in code_of(path) and "pettingzoo" not in code_of(path) and "mujoco" not in code_of(path)
    assert parts_named_in(path) == {"envs"}


def files_outside_the_zoo() -> list[Path]:
    return sorted(set(PACKAGE.rglob("*.py")) - set(files_of("zoo")))


def test_nothing_imports_the_zoo() -> None:
    for path in files_outside_the_zoo():
        assert [module for module in imported_modules(path) if within(module, "sb3_cora.zoo") or within(module, "zoo")] == []
        # Nor through a name that something else imports
        assert "sb3_cora.zoo" not in path.read_text(encoding="utf-8"), path


def test_what_runs_in_a_clone_is_what_is_installed() -> None:
    scripts = sorted((ROOT / "zoo").glob("*.py"))
    assert {"train", "enjoy", "record_video"} <= {script.stem for script in scripts}
    for script in scripts:
        assert list(imported_modules(script)) == [f"sb3_cora.zoo.{script.stem}.main"]


@pytest.mark.parametrize("module", sorted(OPTIONAL))
def test_optional_dependency_is_imported_only_where_it_is_adapted(module: str) -> None:
    importers = [
        path.relative_to(PACKAGE).as_posix()
        for path in files_outside_the_zoo()
        if any(within(imported, module) for imported in imported_modules(path))
    ]
    assert set(importers) <= set(OPTIONAL[module])


def test_import_loads_no_optional_dependency() -> None:
    # Through the parts that have optional dependencies in their reach, the adapters themselves left out
    code = "import sys, sb3_cora, sb3_cora.credit, sb3_cora.envs; print(*sys.modules)"
    loaded = run_python("-c", code).stdout.split()
    assert "sb3_cora.cora_ppo" in loaded
    # Stable-Baselines3 itself imports these where they are installed
    imported_by_sb3 = {"matplotlib", "tensorboard"}
    assert sorted(set(OPTIONAL) & set(loaded) - imported_by_sb3) == []


def test_readme_is_one_screen_and_one_picture() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) < 50 and readme.count("![") == 1


def test_readme_names_what_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    commands = set(re.findall(r"`make ([a-z]+)`", readme))
    assert {"train", "test"} <= commands <= targets
    for name in re.findall(r"(?:zoo|sb3_cora|hyperparams)/[a-z_/]*(?:\.\w+)?", readme):
        assert (ROOT / name).exists(), name


def test_the_instructions_name_files_that_exist() -> None:
    table = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Where a line belongs")[2].partition("\n## ")[0]
    )
    named = re.findall(r"`([a-z_0-9/]+(?:\.py|/))`", table)
    assert len(named) > 20
    for name in named:
        assert any((folder / name).exists() for folder in (ROOT, PACKAGE, PACKAGE / "envs")), name


def test_torch_is_the_first_constraint_and_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+", lines[0])
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+( ; python_version >= "3\.11")?', line) for line in lines)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*.py")), ids=lambda path: path.name)
def test_what_tests_start_has_a_time_limit(path: Path) -> None:
    without = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        limited = any(keyword.arg == "timeout" for keyword in node.keywords)
        if called in ("subprocess.run", "subprocess.check_output") and not limited:
            without.append(f"line {node.lineno}: {called}")
        # Popen takes no limit: whoever waits for it has to, and finds a start that does not ignore SIGINT
        if called == "subprocess.Popen" and path.name != "processes.py":
            without.append(f"line {node.lineno}: {called}")
    assert without == []


def test_ci_is_executable() -> None:
    scripts = [path for path in (ROOT / ".ci").iterdir() if not path.suffix]
    assert {path.name for path in scripts} == {"quickstart", "run", "smoke", "system"}
    assert all(os.access(path, os.X_OK) for path in scripts)
