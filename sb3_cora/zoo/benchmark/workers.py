"""Runs on this machine: each in a process of its own, several at a time."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import gymnasium as gym

from sb3_cora.zoo.benchmark.suites import Task
from sb3_cora.zoo.benchmark.training import LOG, N_ATTEMPTS, execute, failed, run_folder
from sb3_cora.zoo.results import Row
from sb3_cora.zoo.versions import code_version

# What a run imports, once for all runs: this module, in which each process finds its target, and what the first optimizer and
# the first picture import.
PRELOADED = ("sb3_cora.zoo.benchmark.workers", "torch._dynamo", "matplotlib.backends.backend_agg")


class Job(NamedTuple):
    """A run that goes on: its process, and how often it has been started."""

    task: Task
    process: BaseProcess
    attempt: int


def run_in_process(task: Task, log_folder: Path, commit: str, packages: Sequence[str], sender: Connection) -> None:
    """
    Execute a run, and send its rows.

    :param task: The run.
    :param log_folder: Folder of all runs.
    :param commit: Version of the code.
    :param packages: Modules that it imports, as of ``--gym-packages``.
    :param sender: Where to send them.
    """
    Thread(target=end_with_parent, daemon=True).start()
    sender.send(execute(task, log_folder, commit, packages))


def end_with_parent() -> None:
    """End this process as soon as the one that asked for it has ended, however that was."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """
    Have Ctrl-C and SIGTERM wait: a process that is being started is not yet among those that end with the benchmark.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def n_cores() -> int:
    """
    :return: Number of cores that this process may use.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_vmas(env: str) -> bool:
    """
    :param env: Id of an environment.
    :return: Whether it is one of VMAS, whose import takes seconds.
    """
    return str(gym.registry[env].entry_point).startswith("sb3_cora.envs.vmas:")


def start_context(envs: Iterable[str], n_workers: int) -> Any:
    """
    :param envs: Ids of the environments.
    :param n_workers: Number of runs at once.
    :return: Makes processes, forked from one that has imported everything where the system can fork: imports would take longer
        than small trainings.
    """
    os.environ["OMP_NUM_THREADS"] = str(max(n_cores() // n_workers, 1))
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Until Python 3.13 the process that is forked does not get our path.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context.set_forkserver_preload([*PRELOADED, *(["sb3_cora.envs.vmas"] if any(map(is_vmas, envs)) else [])])
    # Ctrl-C would reach the trainings too, which would then save their models as if they had finished. They inherit this.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    return context


def run_locally(
    tasks: Sequence[Task], n_workers: int, log_folder: Path, packages: Sequence[str]
) -> Generator[list[Row], None, None]:
    """
    Execute runs in processes of this machine. When the iteration ends, early or not, so do they.

    :param tasks: The runs.
    :param n_workers: Number of runs at once.
    :param log_folder: Folder in which each gets a folder of its own.
    :param packages: Modules that each run imports, as of ``--gym-packages``.
    :return: The rows of each run, when it has finished or failed.
    """
    context = start_context({task.env for task in tasks}, n_workers)
    commit = code_version()
    waiting = [(task, 1) for task in reversed(tasks)]
    going: dict[Connection, Job] = {}

    def start(task: Task, attempt: int) -> None:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=run_in_process, args=(task, log_folder, commit, packages, sender))
        process.start()
        # So that the end of the process ends the receiving.
        sender.close()
        going[receiver] = Job(task, process, attempt)

    try:
        while waiting or going:
            while waiting and len(going) < n_workers:
                with deferred_signals():
                    start(*waiting.pop())
            for ready in wait(list(going)):
                assert isinstance(ready, Connection)
                job = going.pop(ready)
                try:
                    rows = ready.recv()
                except EOFError:
                    job.process.join()
                    if job.attempt < N_ATTEMPTS:
                        waiting.append((job.task, job.attempt + 1))
                        continue
                    message = f"{N_ATTEMPTS} processes ended, the last with exit code {job.process.exitcode}"
                    rows = [failed(job.task, commit, f"{message}: {run_folder(job.task, log_folder) / LOG}", 0.0)]
                job.process.join()
                yield rows
    finally:
        for job in going.values():
            job.process.kill()
            job.process.join()
