"""Tables that grow while something is measured."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sb3_cora.zoo import tables


def add(rows: Iterable[NamedTuple], path: Path) -> None:
    """
    :param rows: Of one kind.
    :param path: The table to which they are added.
    """
    rows = list(rows)
    lines = ([format(cell, ".4g") if isinstance(cell, float) else cell for cell in row] for row in rows)
    tables.append(rows[0]._fields, lines, path)
