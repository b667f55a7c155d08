"""A display for programs that draw in a window, on machines without one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def virtual_display() -> Iterator[None]:
    """
    Within, what draws through X finds a display: the machine's own if there is one, else one that Xvfb simulates. Where Xvfb
    is not installed there is none, and an environment that needs it says so itself.
    """
    xvfb = shutil.which("Xvfb")
    if os.environ.get("DISPLAY") or xvfb is None:
        yield
        return
    reader, writer = os.pipe()
    # Xvfb looks for a free number itself, and tells it once it is ready
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
