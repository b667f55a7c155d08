"""Python in processes of its own: what patches on import, must not have been imported yet, or is run as a script."""

import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# In seconds. The longest takes a minute: it is there to end what hangs, not to hurry a slow machine.
TIME_LIMIT = 600.0


def environment_of_a_process(changes: Mapping[str, str | None]) -> dict[str, str]:
    """
    :param changes: Variables that are set, or with ``None`` left out
    :return: All environment variables. This checkout goes before an installed one, and there is one thread, as for the
        tests, unless this process was told otherwise.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT), **changes}
    return {name: value for name, value in environment.items() if value is not None}


def packages_of(folder: Path) -> dict[str, str]:
    """
    :param folder: Folder with packages of the user's own
    :return: The environment variable with which Python finds them, and this checkout
    """
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


def run_python(
    *arguments: str | Path,
    cwd: Path | None = None,
    environment: Mapping[str, str | None] | None = None,
    check: bool = True,
    executable: str | Path = sys.executable,
) -> subprocess.CompletedProcess[str]:
    """
    Run Python to its end.

    :param arguments: The script, or ``-c`` and a program, and what is passed to it
    :param cwd: Folder to run in, by default the current one
    :param environment: Changes to the environment variables, see ``environment_of_a_process``
    :param check: Whether an exit status other than 0 is an error
    :param executable: The Python to run, by default this one
    :return: Exit status and output
    """
    run = subprocess.run(
        [executable, *arguments],
        cwd=cwd,
        env=environment_of_a_process(environment or {}),
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    if check:
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return run


def interrupt_python(*arguments: str | Path, once: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """
    Run Python as a terminal would, and press Ctrl-C.

    :param arguments: See ``run_python``
    :param once: The first line of output that holds this is when to interrupt
    :param cwd: Folder to run in
    :return: Exit status, and output with the errors among it
    """
    # A process inherits that SIGINT is ignored, as shells have it for background jobs, and Python then leaves it ignored
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            cwd=cwd,
            env=environment_of_a_process({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, inherited)
    # Reading ends with the process
    limit = Timer(TIME_LIMIT, process.kill)
    limit.start()
    try:
        with process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if once in line:
                    process.send_signal(signal.SIGINT)
                    break
            lines += process.stdout
    finally:
        limit.cancel()
    return subprocess.CompletedProcess(process.args, process.returncode, "".join(lines))


@cache
def zoo_context() -> Any:
    """
    :return: Makes processes, forked from one in which the zoo has been imported, which takes longer than most of its tests
    """
    context = multiprocessing.get_context("forkserver")
    zoo = ("sb3_cora.zoo.train", "sb3_cora.zoo.enjoy", "sb3_cora.zoo.tune")
    # What these import when they come to it
    context.set_forkserver_preload(
        [*zoo, "tests.processes", "torch._dynamo", "alembic.command", "sqlalchemy.dialects.sqlite", "psycopg"]
    )
    forkserver.ensure_running()
    return context


def become_script(script: Path, arguments: tuple[str, ...], folder: Path, output: Path) -> None:
    """
    Run a script, in this process.

    :param script: The script
    :param arguments: What is passed to it
    :param folder: Folder to run in, which may hold packages that the script imports
    :param output: Folder for what it prints
    """
    # What has been imported stays, and looking through it takes half a second of every collection
    gc.freeze()
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with (output / name).open("w") as file:
            os.dup2(file.fileno(), descriptor)
    # As in a terminal: a group of its own, which Ctrl-C interrupts even if that is ignored here, as by background jobs
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.update(packages_of(folder))
    sys.path.insert(0, str(folder))
    sys.argv = [str(script), *arguments]
    sys.orig_argv = [sys.executable, *sys.argv]
    runpy.run_path(str(script), run_name="__main__")


def start_script(script: Path, *arguments: str, folder: Path, output: Path) -> Any:
    """
    Start a script of the project. It has no time limit: whoever waits for it needs one.

    :param script: Its path
    :param arguments: What is passed to it
    :param folder: Folder to run in, which may hold packages that the script imports
    :param output: Folder for its ``stdout`` and ``stderr``
    :return: The process, of ``multiprocessing``, where it can be forked
    """
    process = zoo_context().Process(target=become_script, args=(script, arguments, folder, output))
    process.start()
    return process


def start_zoo(script: str, *arguments: str, folder: Path, output: Path) -> Any:
    """
    Start a script of the zoo by its name, see ``start_script``.
    """
    return start_script(ROOT / "zoo" / script, *arguments, folder=folder, output=output)


def run_script(script: Path, *arguments: str, folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """
    Run a script of the project to its end, where it can be forked from a process that has imported what it imports.

    :param script: Its path
    :param arguments: What is passed to it
    :param folder: Folder to run in, which may hold packages that the script imports
    :param check: Whether an exit status other than 0 is an error
    :return: Exit status and output
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return run_python(script, *arguments, cwd=folder, environment=packages_of(folder), check=check)
    with TemporaryDirectory() as output:
        process = start_script(script, *arguments, folder=folder, output=Path(output))
        process.join(TIME_LIMIT)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([str(script), *arguments], TIME_LIMIT)
        stdout, stderr = ((Path(output) / name).read_text() for name in ("stdout", "stderr"))
    if check:
        assert process.exitcode == 0, stdout[-2000:] + stderr[-4000:]
    return subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)


def run_zoo(script: str, *arguments: str, folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """
    Run a script of the zoo by its name, see ``run_script``.
    """
    return run_script(ROOT / "zoo" / script, *arguments, folder=folder, check=check)
