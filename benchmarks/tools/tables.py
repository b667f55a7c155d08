"""Tables whose rows are named tuples: printed, written to a CSV file, and read back from it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

Row = TypeVar("Row", bound=NamedTuple)


def _text(value: object, digits: int, missing: str) -> str:
    """
    :param value: of a field
    :param digits: significant ones of a float
    :param missing: what stands for ``None``
    :return: the value in a table
    """
    if value is None:
        return missing
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def show(rows: Sequence[NamedTuple]) -> None:
    """
    Print rows of one kind, with their fields as columns, except for the bounds of a range.

    :param rows: at least one
    """
    fields = [field for field in rows[0]._fields if not field.endswith(("_low", "_high"))]
    lines = [fields, *([_text(getattr(row, field), 3, "-") for field in fields] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)), flush=True)


def write(rows: Sequence[NamedTuple], path: Path) -> None:
    """
    :param rows: at least one
    :param path: the CSV file
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0]._fields)
        writer.writerows([_text(value, 4, "") for value in row] for row in rows)


def _value(text: str, kind: Any) -> Any:
    """
    :param text: as ``write`` has it
    :param kind: annotation of the field: ``int``, ``float``, ``str``, or one of them or ``None``
    :return: the value
    """
    if isinstance(kind, UnionType):
        if text == "":
            return None
        kind = get_args(kind)[0]
    return text == "True" if kind is bool else kind(text)


def read(row_type: type[Row], path: Path) -> list[Row]:
    """
    :param row_type: what the rows are
    :param path: a CSV file that ``write`` has written, or none
    :return: its rows, none where there is no such file
    """
    if not path.is_file():
        return []
    kinds = get_type_hints(row_type)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [row_type._make(_value(line[name], kinds[name]) for name in row_type._fields) for line in lines]
