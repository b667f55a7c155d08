"""The settings of a trial as an entry of ``hyperparams/<algo>.yml``."""

from typing import Any

import yaml


def plain_settings(value: Any) -> Any:
    """
    :param value: Settings, or a part of them, possibly with Python objects from the command line.
    :return: The same as YAML writes it: classes by their dotted names, tuples as lists.
    :raises ValueError: If it cannot be written so.
    """
    if isinstance(value, dict):
        return {name: plain_settings(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_settings(part) for part in value]
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"The setting {value!r} is no part of a YAML file, expected a number, a word, a class, or lists and mappings of these."
    )


def yaml_entry(env_id: str, settings: dict[str, Any], comment: str) -> str:
    """
    :param env_id: Id of the environment, the entry's key.
    :param settings: All settings of the entry.
    :param comment: Of one line.
    :return: The entry's text, which is a whole file for ``--conf-file`` as well.
    """
    lines = [f"# {comment}", f"{_flow(env_id)}:", *(f"  {name}: {_flow(value)}" for name, value in settings.items())]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    # Without the dots with which YAML ends a document of one word.
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).removesuffix("...\n").strip()
