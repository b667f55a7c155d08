"""Files that are written whole or not at all."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from sb3_cora.zoo.whole_files import write_whole


def test_an_error_leaves_the_previous_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_whole({first: partial(Path.write_text, data="old"), second: partial(Path.write_text, data="old")})

    def fail(path: Path) -> None:
        path.write_text("ne")
        raise OSError("No space left")

    with pytest.raises(OSError, match="No space left"):
        write_whole({first: partial(Path.write_text, data="new"), second: fail})
    assert first.read_text() == second.read_text() == "old"


def test_what_a_killed_writer_left_is_not_gone_on_with(tmp_path: Path) -> None:
    table = tmp_path / "folder" / "table.csv"

    def append(path: Path) -> None:
        with path.open("a") as file:
            file.write("row\n")

    table.parent.mkdir()
    table.with_name("table.csv.unfinished").write_text("half a r")
    write_whole({table: append})
    assert table.read_text() == "row\n"
    assert list(table.parent.iterdir()) == [table]


def test_several_writers_of_one_file(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    texts = [str(number) * 100_000 for number in range(4)]

    def write_often(text: str) -> None:
        for _ in range(50):
            write_whole({report: partial(Path.write_text, data=text)}, shared=True)
            assert report.read_text() in texts

    with ThreadPoolExecutor(len(texts)) as threads:
        list(threads.map(write_often, texts))
    assert list(tmp_path.iterdir()) == [report]
