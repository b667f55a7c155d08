"""Videos of every suite, recorded as a user records them, on a machine without a display."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from sb3_cora.zoo.display import virtual_display
from tests.processes import run_zoo

imageio = pytest.importorskip("imageio.v3")

needs_xvfb = pytest.mark.skipif(
    sys.platform == "linux" and shutil.which("Xvfb") is None, reason="draws through X: apt-get install xvfb"
)
SHORT = ("--env-kwargs", "max_steps:20")


# imageio leaves the pipes to ffmpeg, which it reads a video through, to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("env_id", "kind", "arguments"),
    [
        ("climbing", "mp4", ()),
        ("mpe2/simple_spread", "gif", ()),
        pytest.param("give_way", "gif", SHORT, marks=needs_xvfb),
        pytest.param("mujoco/HalfCheetah-2x3", "mp4", SHORT, marks=needs_xvfb),
    ],
)
def test_a_trained_model_is_recorded(
    env_id: str, kind: str, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    settings = ("-n", "32", "--eval-freq", "-1", "-params", "n_envs:2", "n_steps:16", "batch_size:16", *arguments)
    run_zoo("train.py", "--algo", "mappo", "--env", env_id, *settings, folder=tmp_path)
    flags = ("--algo", "mappo", "--env", env_id, "-n", "12", "--format", kind)
    run = run_zoo("record_video.py", *flags, folder=tmp_path)
    path = tmp_path / run.stdout.rpartition("Video: ")[2].strip()
    assert path.suffix == f".{kind}" and path.is_file()
    assert {file.suffix for file in path.parent.iterdir()} == {f".{kind}"}
    with imageio.imopen(path, "r", plugin="FFMPEG" if kind == "mp4" else "pillow") as file:
        frames = [frame.astype(float) for frame in file.iter()]
    assert len(frames) >= 12 - 1
    assert all(frame.std() > 1 for frame in frames)
    if env_id != "climbing":
        assert np.abs(frames[0] - frames[-1]).max() > 10


@needs_xvfb
def test_the_display_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with virtual_display():
        number = os.environ["DISPLAY"]
        assert number.startswith(":")
        with virtual_display():
            assert os.environ["DISPLAY"] == number
        assert os.environ["DISPLAY"] == number
    assert "DISPLAY" not in os.environ
