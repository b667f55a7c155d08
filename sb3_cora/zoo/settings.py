"""Settings on the command line, such as ``-params`` and ``--env-kwargs``."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from rl_zoo3.utils import StoreDict

# Identifiers that are Python constants. All others are text, even names of Python functions, as in `team_reward:sum`.
CONSTANTS = ("True", "False", "None")
# Ids, names of modules and files, and rl_zoo3's schedules such as `lin_3e-4`.
TEXT = re.compile(r"[\w./:+-]+")


class StoreSettings(StoreDict):
    """
    Stores ``name:value``, as in rl_zoo3, which evaluates every value as a Python expression. Here words are text, so that one
    can write ``credit:shapley`` instead of ``credit:"'shapley'"``; both have the same meaning.

    The parameters are those of ``argparse.Action``.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str] | Any,
        option_string: str | None = None,
    ) -> None:
        settings: dict[str, Any] = {}
        for argument in values:
            name, _, value = argument.partition(":")
            if not (name.isidentifier() and value):
                raise argparse.ArgumentError(self, f"{argument!r} is no setting: write name:value, for example n_epochs:5")
            if value.isidentifier() and value not in CONSTANTS:
                settings[name] = value
                continue
            try:
                super().__call__(parser, namespace, [argument], option_string)
                settings.update(getattr(namespace, self.dest))
            # Whatever the expression may raise
            except Exception as error:
                if TEXT.fullmatch(value) is None:
                    message = f"{value!r}, given for {name}, is neither a word nor a Python expression: {error}"
                    raise argparse.ArgumentError(self, message) from error
                settings[name] = value
        setattr(namespace, self.dest, settings)
