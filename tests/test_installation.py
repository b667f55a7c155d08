"""Wheel and source distribution: all that the command line needs, and beside the packages that they declare no other."""

import re
import shutil
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import sb3_cora
from tests.processes import ROOT, run_python

# Without a network: the dependencies, and what builds, are those of the running environment
OFFLINE = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")


# What a clone has that goes into a distribution
FOLDERS = ("sb3_cora", "hyperparams", "benchmarks/suites")
FILES = ("CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Beside the clone, in which a build leaves folders, and another test may build
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, source)
    # Left out
    (source / "tests").mkdir()
    (source / "tests" / "test_nothing.py").touch()
    run_python("-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=source)
    (archive,) = (source / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(source_distribution: Path) -> Path:
    """The wheel of the source distribution, so that the latter is known to be complete too."""
    folder = source_distribution.parent
    run_python("-m", "pip", "wheel", *OFFLINE, "--no-build-isolation", "--wheel-dir", folder, source_distribution, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_source_distribution_holds_what_makes_the_wheel(source_distribution: Path) -> None:
    with tarfile.open(source_distribution) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    wanted = {path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    made = {name for name in held if name.startswith("sb3_cora.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert held - made == {name for name in wanted if "__pycache__" not in name} | set(FILES)


def test_one_version(wheel: Path) -> None:
    version = sb3_cora.__version__
    assert wheel.name == f"sb3_cora-{version}-py3-none-any.whl"
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").startswith(f"# Changelog\n\n## {version} ")


def test_wheel_holds_the_package_and_its_hyperparameters(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sb3_cora").rglob("*.py")}
    folders = {"hyperparams": ROOT / "hyperparams", "suites": ROOT / "benchmarks" / "suites"}
    settings = {f"sb3_cora/zoo/{name}/{path.name}" for name, folder in folders.items() for path in folder.iterdir()}
    assert {"sb3_cora/zoo/train.py"} < modules and {"sb3_cora/zoo/hyperparams/cora_ppo.yml"} < settings
    assert held == {*modules, *settings, "sb3_cora/py.typed"}


def install(wheel: Path, extras: tuple[str, ...], folder: Path) -> Path:
    """
    What ``pip install`` makes of an empty environment, without a download: packages are linked from the running one.

    :param wheel: Its path
    :param extras: Those that are asked for
    :param folder: Where the environment is made
    :return: Its Python
    """
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    run_python("-m", "pip", "install", *OFFLINE, "--target", packages, wheel, cwd=folder)
    (metadata,) = packages.glob("sb3_cora-*.dist-info")
    found: set[tuple[str, str]] = set()
    wanted = [(Distribution.at(metadata), ("", *extras))]
    while wanted:
        package, asked = wanted.pop()
        for requirement in map(Requirement, package.requires or ()):
            marker = requirement.marker
            needed = marker is None or any(marker.evaluate({"extra": extra}) for extra in asked)
            names = {(requirement.name, extra) for extra in ("", *requirement.extras)}
            if needed and not names <= found:
                found |= names
                wanted.append((distribution(requirement.name), ("", *requirement.extras)))
    for name, _ in found:
        package = distribution(name)
        for part in {path.parts[0] for path in package.files or ()} - {"..", "__pycache__"}:
            if not (packages / part).exists():
                (packages / part).symlink_to(package.locate_file(part))
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise, and links want a privilege")
def test_quickstart_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    python, folder = install(wheel, ("vmas", "zoo"), tmp_path / "environment"), tmp_path / "empty"
    folder.mkdir()

    def run(*arguments: str) -> str:
        environment = {"PYTHONPATH": None, "DISPLAY": None}
        return run_python(*arguments, cwd=folder, environment=environment, executable=python).stdout

    packages = next((tmp_path / "environment").glob("lib/python*/site-packages"))
    assert not (packages / "pettingzoo").exists() and (packages / "vmas").exists()
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert "learn(40_000)" in code
    # Mean and standard deviation of the return
    returns = run("-c", code.replace("learn(40_000)", "learn(800)"))
    assert len(re.findall(r"-?\d+\.\d+", returns)) == 2

    def zoo(module: str, *arguments: str) -> str:
        return run("-m", f"sb3_cora.zoo.{module}", *arguments)

    run_flags = ("--algo", "mappo", "--env", "climbing")
    training = zoo("train", *run_flags, "-n", "400", "--eval-freq", "-1", "--final-eval-episodes", "-1")
    settings_file = packages / "sb3_cora" / "zoo" / "hyperparams" / "mappo.yml"
    assert f"Loading hyperparameters from: {settings_file}" in training
    expected = yaml.safe_load(settings_file.read_text(encoding="utf-8"))["climbing"]
    used = yaml.unsafe_load((folder / "logs" / "mappo" / "climbing_1" / "climbing" / "config.yml").read_text())
    assert dict(used) == expected
    film = folder / zoo("record_video", *run_flags, "-n", "5").rpartition("Video: ")[2].strip()
    assert film.suffix == ".mp4" and film.stat().st_size > 1000
    assert "18 of 18 runs to do" in zoo("benchmark", "matrix", "--quick", "--dry-run")
    assert {path.name for path in folder.iterdir()} == {"climbing.zip", "logs"}
