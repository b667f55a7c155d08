"""Which code a training ran."""

import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import sb3_cora

# What the numbers of a training can depend on, as far as it is installed.
PACKAGES = (
    *("torch", "stable-baselines3", "gymnasium", "numpy", "rl_zoo3"),
    *("vmas", "pettingzoo", "mpe2", "supersuit", "gymnasium-robotics", "mujoco"),
)


@cache
def code_version() -> str:
    """
    :return: The commit of the clone that this package is in, with a ``+`` if the package has changes since; otherwise the
        version of the package.
    """
    package = Path(sb3_cora.__file__).parent
    if not (package.parent / ".git").exists() or shutil.which("git") is None:
        return sb3_cora.__version__

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "--short=10", "HEAD")
    if not commit:
        # Git refuses clones of other users.
        return sb3_cora.__version__
    return f"{commit}+" if git("status", "--porcelain", "--", ".", "../hyperparams") else commit


def versions() -> dict[str, str]:
    """
    :return: Versions of this package, as :func:`code_version` has it, of Python and of the packages that are installed.
    """
    found = {"sb3_cora": code_version(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
