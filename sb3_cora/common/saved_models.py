"""What a file is that should hold a model, found out before anything in it is unpickled."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.save_util import open_path

from sb3_cora.common.training_state.files import NAME
from sb3_cora.version import __version__

# Parts of every model of Stable-Baselines3's format: its attributes, and the weights of its policy.
PARTS = ("data", "policy.pth")
# As many bytes of a file as are looked at. Of a zip archive they have the name of its first part, from the thirtieth on.
HEAD = 128
# Where the classes of Stable-Baselines3's own policies are.
FOREIGN_MODULES = ("stable_baselines3.", "sb3_contrib.")


def version_numbers(version: str) -> tuple[int, ...]:
    """
    :param version: A version, such as ``"1.2.3"``.
    :return: Its first two numbers: those that change when files do.
    """
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def check_archive(path: Any) -> dict[str, Any]:
    """
    :param path: A file of a model, with or without ``.zip``, or an open one.
    :return: The attributes of the model. Those that are not plain JSON are descriptions of what is pickled.
    :raises ValueError: If it is truncated, damaged or no model.
    """
    file = open_path(path, "r", suffix="zip")
    name = getattr(file, "name", "The file")
    begin = file.tell()
    try:
        return _attributes(file, name)
    finally:
        if file is path:
            file.seek(begin)
        else:
            file.close()


def _attributes(file: Any, name: str) -> dict[str, Any]:
    head = file.read(HEAD)
    if head == b"":
        raise ValueError(f"{name} is empty: a model was not saved to its end, give another one.")
    if head.startswith(NAME):
        raise ValueError(f"{name} is the state of a training and no model: go on from it with resume(...).")
    if not head.startswith(b"PK"):
        raise ValueError(f"{name} is no model, which is a zip archive: give a file that model.save(...) has written.")
    try:
        with zipfile.ZipFile(file) as archive:
            # Of a truncated file, zipfile may find the directory of an archive within it, of which each of the weights is one.
            names = [part.filename for part in archive.infolist() if part.header_offset == 0]
            if not names or not head[30:].startswith(names[0].encode()):
                raise zipfile.BadZipFile("it has no directory")
            missing = [part for part in PARTS if part not in archive.namelist()]
            if missing:
                raise ValueError(
                    f"{name} is a zip archive without {' and '.join(missing)}, so no model: give a file that "
                    "model.save(...) has written."
                )
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{name} is damaged, its part {damaged} does not have its checksum: give another model.")
            attributes: dict[str, Any] = json.loads(archive.read("data"))
            return attributes
    except zipfile.BadZipFile as error:
        raise ValueError(f"{name} is truncated or damaged ({error}): give another model.") from error


def check_model(path: Any, algorithm: str) -> None:
    """
    :param path: A file of a model, with or without ``.zip``, or an open one.
    :param algorithm: Name of the algorithm that shall load it.
    :raises ValueError: If it is truncated, damaged, no model of this package, or was saved by a newer version of it.
    """
    attributes = check_archive(path)
    name = path if isinstance(path, str | Path) else "The file"
    policy = attributes.get("policy_class", {})
    module = policy.get("__module__", "") if isinstance(policy, dict) else ""
    if "algorithm" not in attributes and module.startswith(FOREIGN_MODULES):
        raise ValueError(
            f"{name} is a model of another package, with a policy of {module}, and {algorithm} cannot load it: load it with "
            "the class that saved it."
        )
    version = attributes.get("sb3_cora_version", "0.0")
    if version_numbers(version) > version_numbers(__version__):
        raise ValueError(
            f"{name} was saved by sb3_cora {version}, which is newer than the {__version__} that is installed: "
            "install that version."
        )
