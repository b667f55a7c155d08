"""
Prints requirements for pip: of what the tests marked ``smoke`` use of pyproject.toml, ``lowest`` the lowest versions that it
declares, ``newest`` the newest that pip finds, as far as they are newer than what is installed.
"""

import json
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTRAS = ("vmas", "pettingzoo", "mujoco", "zoo")

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
lines = {*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])}
# Another torch than the one that is pinned would be a download of gigabytes
declared = [requirement for requirement in map(Requirement, sorted(lines)) if requirement.name != "torch"]
if sys.argv[1] == "lowest":
    for requirement in declared:
        (lowest,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
        print(f"{requirement.name}=={lowest}")
else:
    dry_run = ("install", "--quiet", "--no-deps", "--dry-run", "--upgrade", "--report", "-")
    pip = subprocess.run(
        [sys.executable, "-m", "pip", *dry_run, *map(str, declared)], stdout=subprocess.PIPE, text=True, check=True
    )
    for item in json.loads(pip.stdout)["install"]:
        print(f"{item['metadata']['name']}=={item['metadata']['version']}")
