"""Suites of benchmarks, changed in one place."""

import copy
from typing import Any


def changed(suite: dict[str, Any], *path: str, value: Any) -> dict[str, Any]:
    """
    :param suite: A suite
    :param path: Keys from its top to one that is to change
    :param value: The value that it gets, or ``None`` to have it removed
    :return: A changed copy
    """
    suite = copy.deepcopy(suite)
    entry = suite
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    if value is None:
        del entry[path[-1]]
    return suite
