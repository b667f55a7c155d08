"""
How the command line refuses: one line on stderr that names what is wrong and the remedy, exit code 2, no traceback.

That is for what a user got wrong before anything runs. An error of a training that runs, and one of a user's own code, such as
an environment, keep their traceback, as do all errors in Python's development mode, ``python -X dev zoo/train.py``.
"""

import argparse
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import gymnasium as gym
import torch as th
import yaml

# What the project, and the libraries that it calls, raise on what they are given.
REFUSED = (ValueError, TypeError, ImportError, OSError, AssertionError, gym.error.Error)
# Attribute of an error that came up after all was set up.
AT_WORK = "_came_up_at_work"
# Of Python, of the installed packages, and of this project.
NOT_THE_USERS = tuple(
    f"{Path(folder).resolve()}{os.sep}"
    for folder in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
        str(Path(__file__).parents[1]),
    }
)


class Refused(SystemExit):
    """
    Ends a command with exit code 2.

    :param message: The line that was printed.
    """

    def __init__(self, message: str):
        super().__init__(2)
        self.message = message

    def __str__(self) -> str:
        return self.message


def refuse(message: str, cause: BaseException | None = None) -> NoReturn:
    """
    :param message: What is wrong, and the remedy.
    :param cause: The error that says so.
    :raises Refused: Always.
    """
    line = " ".join(message.split())
    print(f"{Path(sys.argv[0]).name}: error: {line}", file=sys.stderr)
    raise Refused(line) from cause


class OneLineParser(argparse.ArgumentParser):
    """
    A parser that does not print its usage, which has more lines than a screen, before what is wrong.

    The parameters are those of ``argparse.ArgumentParser``.
    """

    def error(self, message: str) -> NoReturn:
        hint = "" if "choose from" in message else " (--help lists all flags)"
        refuse(message.rstrip(".") + hint)


@contextmanager
def refusals() -> Iterator[None]:
    """A context, or decorator, in which errors that a user has caused end the command as this module says."""
    try:
        yield
    except REFUSED as error:
        if sys.flags.dev_mode or hasattr(error, AT_WORK) or is_of_the_user(error):
            raise
        refuse(str(error) or type(error).__name__, error)


@contextmanager
def at_work() -> Iterator[None]:
    """A context, or decorator, whose errors keep their traceback, because the user's input has been found right."""
    try:
        yield
    except Exception as error:
        setattr(error, AT_WORK, True)
        raise


def is_of_the_user(error: BaseException) -> bool:
    """
    :param error: An error that was raised.
    :return: Whether it has come through code of the user's own.
    """
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        # Without the names of code that was never in a file, such as "<frozen importlib._bootstrap>".
        if not file.startswith("<") and not str(Path(file).resolve()).startswith(NOT_THE_USERS):
            return True
        trace = trace.tb_next
    return False


def check_numbers(args: argparse.Namespace, least: Mapping[str, float]) -> None:
    """
    :param args: The command line's flags.
    :param least: The smallest value of flags, by name. None is none of their values.
    :raises ValueError: If one is smaller.
    """
    for name, bound in least.items():
        value = getattr(args, name)
        if value is not None and not value >= bound:
            raise ValueError(f"--{name.replace('_', '-')} {value} is out of range: give {bound} or more.")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """
    :param before: Settings.
    :param now: Others.
    :return: What has changed, in words; empty if nothing has.
    """
    return ", ".join(
        f"{name} is {now.get(name)!r} and was {before.get(name)!r}"
        for name in sorted({*before, *now})
        if now.get(name) != before.get(name)
    )


def check_device(name: str) -> None:
    """
    :param name: Of a PyTorch device, or ``auto``.
    :raises ValueError: If there is none of this name.
    """
    if name == "auto":
        return
    try:
        th.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"--device {name} is not there ({first}): give cpu, cuda, cuda:<number>, mps or auto.") from error


class _StrictLoader(yaml.SafeLoader):
    """Refuses keys that are there twice, of which YAML would take the last."""


def _unique_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: list[Any] = []
    # Before what `<<` brings in is added, whose keys may be replaced.
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
        seen.append(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml(path: Path, flag: str) -> dict[str, Any]:
    """
    :param path: A YAML file that a user may have written.
    :param flag: What names it on the command line, for messages.
    :return: The mapping in it.
    :raises ValueError: If there is no such file, or no mapping in it, or a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give {flag} the path of a YAML file.") from error
    try:
        content = yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"{path}{where}: {error.problem}. Correct the YAML there.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({error}): correct it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {content!r:.60}, expected a mapping of lines such as `name: value`.")
    return content
