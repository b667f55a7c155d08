"""A virtual display for environments that render in a window, on machines without a display."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def virtual_display() -> Iterator[None]:
    """
    A context with an X display: the machine's own if there is one, otherwise one that Xvfb simulates. If Xvfb is not
    installed there is none, and environments that need one raise an error of their own.
    """
    xvfb = shutil.which("Xvfb")
    if os.environ.get("DISPLAY") or xvfb is None:
        yield
        return
    reader, writer = os.pipe()
    # With -displayfd, Xvfb finds a free number itself and writes it once it is ready.
    command = [xvfb, "-displayfd", str(writer), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        with os.fdopen(reader) as numbers:
            number = numbers.readline().strip()
        if not number:
            raise RuntimeError(f"Xvfb ended with code {server.wait()} before it was ready. Run `{xvfb} :99` to see why.")
        os.environ["DISPLAY"] = f":{number}"
        yield
    finally:
        os.environ.pop("DISPLAY", None)
        server.terminate()
        server.wait()
