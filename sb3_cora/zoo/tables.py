"""Tables whose rows are named tuples: printed, written to a CSV file, and read back from it."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

Row = TypeVar("Row", bound=NamedTuple)
Formats = Mapping[str, str]
"""How the floats of a field are written, by the field's name."""

DEFAULT: Formats = MappingProxyType({})


def _texts(row: NamedTuple, formats: Formats, default: str, missing: str) -> dict[str, str]:
    """
    :param row: Of a table
    :param formats: Of its floats
    :param default: Format of the floats of all other fields
    :param missing: What stands for ``None``
    :return: The text of each field
    """
    texts = {name: missing if value is None else str(value) for name, value in row._asdict().items()}
    floats = {name: value for name, value in row._asdict().items() if isinstance(value, float)}
    return texts | {name: format(value, formats.get(name, default)) for name, value in floats.items()}


def show(
    rows: Sequence[Row], formats: Formats = DEFAULT, default: str = ".3g", note: Callable[[Row], str] = lambda row: ""
) -> None:
    """
    Print rows of one kind, with their fields as columns, except for the bounds of a range.

    :param rows: At least one
    :param formats: Of floats
    :param default: Format of the floats of all other fields
    :param note: What stands behind a row
    """
    fields = [field for field in rows[0]._fields if not field.endswith(("_low", "_high"))]
    table = [_texts(row, formats, default, "-") for row in rows]
    widths = {field: max(len(field), *(len(texts[field]) for texts in table)) for field in fields}
    print("  ".join(field.rjust(widths[field]) for field in fields))
    for row, texts in zip(rows, table, strict=True):
        print("  ".join(texts[field].rjust(widths[field]) for field in fields) + note(row), flush=True)


def write(rows: Iterable[NamedTuple], path: Path, formats: Formats = DEFAULT, default: str = ".4g") -> None:
    """
    :param rows: At least one
    :param path: The CSV file
    :param formats: Of floats
    :param default: Format of the floats of all other fields
    """
    path.unlink(missing_ok=True)
    append(rows, path, formats, default)


def append(rows: Iterable[NamedTuple], path: Path, formats: Formats = DEFAULT, default: str = "") -> None:
    """
    :param rows: What to append, of one kind
    :param path: The CSV file, begun where it does not exist
    :param formats: Of floats
    :param default: Format of the floats of all other fields, by default all their digits
    """
    rows = list(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    whole = _whole_lines(path) if path.is_file() else b""
    if rows and not whole:
        writer.writerow(rows[0]._fields)
    writer.writerows(_texts(row, formats, default, "").values() for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In one piece, so that it takes a kill within this very call to leave a part of a line behind
    with path.open("ab") as file:
        file.truncate(len(whole))
        file.write(text.getvalue().encode())


def _whole_lines(path: Path) -> bytes:
    """
    :param path: A CSV file
    :return: Its content, without the last line if that has no end, because the process that wrote it was killed
    """
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _value(text: str, kind: Any) -> Any:
    """
    :param text: As ``append`` has it
    :param kind: Annotation of the field: ``int``, ``float``, ``str``, ``bool``, or one of them or ``None``
    :return: The value
    """
    if isinstance(kind, UnionType):
        if text == "":
            return None
        kind = get_args(kind)[0]
    return text == "True" if kind is bool else kind(text)


def read(row_type: type[Row], path: Path) -> list[Row]:
    """
    :param row_type: What the rows are
    :param path: A CSV file that ``append`` has written, or none
    :return: The rows of the file, none where there is no such file
    :raises ValueError: If it has other columns, or a value is none of its column
    """
    kinds = get_type_hints(row_type)
    try:
        text = _whole_lines(path).decode() if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}): name another file.") from error
    lines = csv.DictReader(io.StringIO(text, newline=""))
    if lines.fieldnames is not None and list(lines.fieldnames) != list(kinds):
        raise ValueError(f"{path} has the columns {lines.fieldnames}, expected {list(kinds)}: name another file.")
    rows = []
    for number, line in enumerate(lines, start=2):
        values = []
        for name, kind in kinds.items():
            try:
                values.append(_value(line[name], kind))
            except (TypeError, ValueError) as error:
                wanted = getattr(kind, "__name__", kind)
                raise ValueError(
                    f"{path}, line {number}, column {name}: {line[name]!r} is no {wanted}. Correct or remove the line."
                ) from error
        rows.append(row_type._make(values))
    return rows
