"""The gallery of trained teams: it is complete, and the command that makes it works."""

import csv
from pathlib import Path

import pytest
import yaml

from tests.processes import ROOT, run_script

COMMAND = ROOT / "benchmarks" / "gallery" / "__main__.py"
GALLERY = ROOT / "docs" / "gallery"
TEAMS = yaml.safe_load(COMMAND.with_name("teams.yml").read_text(encoding="utf-8"))

Image = pytest.importorskip("PIL.Image")


def test_the_gallery_is_complete() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    with (GALLERY / "gallery.csv").open(newline="") as file:
        measured = {row["team"]: row for row in csv.DictReader(file)}
    assert {path.stem for path in GALLERY.glob("*.webp")} == set(measured) == set(TEAMS)
    sizes = []
    for name, team in TEAMS.items():
        section = page.partition(f"## {team['title']}\n")[2].partition("\n## ")[0]
        assert f"(gallery/{name}.webp)" in section and team["text"].strip() in section
        assert f"{int(measured[name]['timesteps']):,} steps" in section
        assert f"return {float(measured[name]['mean_return']):.2f} " in section
        path = GALLERY / f"{name}.webp"
        with Image.open(path) as film:
            assert film.n_frames > 1
        sizes.append(path.stat().st_size)
    assert max(sizes) < 500_000 and sum(sizes) < 1_600_000


def test_a_team_is_trained_and_filmed(tmp_path: Path) -> None:
    run_script(COMMAND, "multi_peak", "--quick", "-f", "logs", "--output", "docs", folder=tmp_path)
    (model,) = tmp_path.glob("logs/cora_ppo/multi_peak_1/multi_peak.zip")
    page = (tmp_path / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert "`multi_peak`, 64 steps of training, return " in page and "Navigation" not in page
    with Image.open(tmp_path / "docs" / "gallery" / "multi_peak.webp") as film:
        assert film.n_frames == 4 and film.width == 800
    # The second time nothing is trained
    before = model.stat().st_mtime_ns
    run_script(COMMAND, "multi_peak", "--quick", "-f", "logs", "--output", "docs", folder=tmp_path)
    assert model.stat().st_mtime_ns == before
    assert len((tmp_path / "docs" / "gallery" / "gallery.csv").read_text().splitlines()) == 2


def test_an_unknown_team_is_refused(tmp_path: Path) -> None:
    run = run_script(COMMAND, "chess", folder=tmp_path, check=False)
    assert run.returncode == 2 and "chess not among the teams give_way, " in run.stderr
