"""Files that are written whole or not at all, and whose damage is noticed."""

import hashlib
import os
import pickle
import re
import struct
import warnings
from pathlib import Path
from typing import Any

# Begins each file; the number is that of the format.
NAME = b"sb3_cora training state "
VERSION = 1
HEADER = struct.Struct("<QQ32s")

_FILENAME = re.compile(r"training_state_(\d+)_steps\.bin")


def write_state(path: Path, state: dict[str, Any]) -> None:
    """
    Write a state to a new file, which then takes its place at once. If the process is killed meanwhile, or the disk is full,
    what was there before remains.

    :param path: The file. Its folder is made if there is none.
    :param state: The state.
    :raises OSError: If it cannot be written.
    """
    payload = pickle.dumps(state, protocol=5)
    header = HEADER.pack(VERSION, len(payload), hashlib.sha256(payload).digest())
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(NAME + header + payload)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    # The new name too must be on the disk. Windows has no descriptors of folders.
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_state(path: Path) -> dict[str, Any]:
    """
    :param path: A file of :func:`write_state`. It holds pickled objects, which can run any code: read only files that you
        trust.
    :return: The state.
    :raises ValueError: If it is another file, is damaged, was written by a newer version, or holds unknown objects.
    """
    content = path.read_bytes()
    begin = len(NAME) + HEADER.size
    if len(content) < begin and content[: len(NAME)] == NAME[: len(content)]:
        raise ValueError(f"{path} is truncated, {len(content)} bytes long: use an older training state.")
    if not content.startswith(NAME):
        of_model = "a zip archive, perhaps a model for load(...), and " if content.startswith(b"PK\3\4") else ""
        raise ValueError(
            f"{path} is {of_model}no training state, which TrainingStateCallback writes: give one, or the folder of them."
        )
    version, length, digest = HEADER.unpack(content[len(NAME) : begin])
    if version > VERSION:
        raise ValueError(
            f"{path} has format {version}, and this version of sb3_cora reads up to {VERSION}: install the version that wrote "
            "it."
        )
    payload = content[begin:]
    if len(payload) < length:
        raise ValueError(f"{path} is truncated, {len(payload)} of {length} bytes: use an older training state.")
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError(f"{path} is damaged, its checksum differs from that of its content: use an older training state.")
    try:
        return pickle.loads(payload)
    except Exception as error:
        raise ValueError(
            f"{path} holds what this version of the code does not know ({type(error).__name__}: {error}): resume with the "
            "packages and your own modules of the training."
        ) from error


def state_path(folder: Path, num_timesteps: int) -> Path:
    """
    :param folder: Folder of the states of one training.
    :param num_timesteps: How far it is.
    :return: The file of its state.
    """
    return folder / f"training_state_{num_timesteps}_steps.bin"


def state_files(folder: Path) -> list[Path]:
    """
    :param folder: Folder of the states of one training.
    :return: Their files, the latest first.
    """
    found = [(int(name[1]), path) for path in folder.glob("*") if (name := _FILENAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def read_latest_state(path: Path) -> dict[str, Any]:
    """
    :param path: The file of a state, or a folder of them, of which the latest that is undamaged is read.
    :return: The state.
    :raises FileNotFoundError: If there is none.
    :raises ValueError: If it is another file, is damaged, or was written by a newer version.
    """
    if not path.is_dir():
        return read_state(path)
    files = state_files(path)
    if not files:
        raise FileNotFoundError(f"There is no training state in {path}, no training_state_<n>_steps.bin.")
    for file in files[:-1]:
        try:
            return read_state(file)
        except ValueError as error:
            warnings.warn(f"{error} The one before it is used.", stacklevel=3)
    return read_state(files[-1])
