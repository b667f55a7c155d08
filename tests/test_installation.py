"""The wheel: all that the command line needs, in a folder of its own."""

import shutil
import zipfile
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from tests.processes import ROOT, run_python

# Without a network: the dependencies, and what builds, are those of the running environment
OFFLINE = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the source distribution, so that the latter is known to be complete too."""
    # Beside the clone, in which a build leaves folders, and another test may build
    source = tmp_path_factory.mktemp("source")
    for folder in ("sb3_cora", "hyperparams", "benchmarks/suites"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    run_python("-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=source)
    (archive,) = (source / "dist").iterdir()
    run_python("-m", "pip", "wheel", *OFFLINE, "--no-build-isolation", "--wheel-dir", source, archive, cwd=source)
    (path,) = source.glob("*.whl")
    return path


def test_wheel_holds_the_package_and_its_hyperparameters(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sb3_cora").rglob("*.py")}
    folders = {"hyperparams": ROOT / "hyperparams", "suites": ROOT / "benchmarks" / "suites"}
    settings = {f"sb3_cora/zoo/{name}/{path.name}" for name, folder in folders.items() for path in folder.iterdir()}
    assert {"sb3_cora/zoo/train.py"} < modules and {"sb3_cora/zoo/hyperparams/cora_ppo.yml"} < settings
    assert held == {*modules, *settings, "sb3_cora/py.typed"}


@pytest.mark.slow
def test_installed_command_line_trains_plays_and_films_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    installed, folder = tmp_path / "installed", tmp_path / "empty"
    folder.mkdir()
    run_python("-m", "pip", "install", *OFFLINE, "--target", installed, wheel, cwd=folder)

    def run(module: str, *arguments: str) -> CompletedProcess[str]:
        environment = {"PYTHONPATH": str(installed), "DISPLAY": None}
        return run_python("-m", f"sb3_cora.zoo.{module}", *arguments, cwd=folder, environment=environment)

    run_flags = ("--algo", "mappo", "--env", "climbing")
    training = run("train", *run_flags, "-n", "400", "--eval-freq", "-1", "--final-eval-episodes", "-1")
    settings_file = installed / "sb3_cora" / "zoo" / "hyperparams" / "mappo.yml"
    assert f"Loading hyperparameters from: {settings_file}" in training.stdout
    expected = yaml.safe_load(settings_file.read_text(encoding="utf-8"))["climbing"]
    used = yaml.unsafe_load((folder / "logs" / "mappo" / "climbing_1" / "climbing" / "config.yml").read_text())
    assert dict(used) == expected
    # Episodes of 25 steps in each of two environments
    assert "length 25.0 +- 0.0, 2 episodes" in run("enjoy", *run_flags, "-n", "25", "--n-envs", "2").stdout
    film = folder / run("record_video", *run_flags, "-n", "5").stdout.rpartition("Video: ")[2].strip()
    assert film.suffix == ".mp4" and film.stat().st_size > 1000
    assert "18 of 18 runs to do" in run("benchmark", "matrix", "--quick", "--dry-run").stdout
    assert [path.name for path in folder.iterdir()] == ["logs"]
