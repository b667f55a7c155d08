"""
Kills a benchmark, or a worker of it, at random moments, starts it again, and compares its table with that of one unbroken run.

    python -m benchmarks.kills --n-kills 20

SIGKILL, which no program can answer, either to ``zoo/benchmark.py`` or to one of the processes that train for it. Every table
must end up the same, row for row, but for the wall times. Exits with an error if one does not. It looks for workers in
``/proc``, so it takes Linux.
"""

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from sb3_cora.zoo import results
from sb3_cora.zoo.results import Row

ROOT = Path(__file__).resolve().parents[2]

# Small runs of both kinds of environment that a benchmark has: with games, and with seeds alone.
SUITE = {
    "n_timesteps": 1200,
    "hyperparams": {"n_envs": 4, "n_steps": 25, "batch_size": 50, "n_epochs": 2},
    "eval_freq": 400,
    "environments": {
        "climbing": {"env": "climbing"},
        "multi_peak": {"env": "multi_peak", "env_kwargs": {"n_actions": 3}, "game_seeds": 2},
    },
    "algorithms": {"CORA": {"algo": "cora_ppo"}, "MAPPO": {"algo": "mappo"}},
}


def children(pid: int) -> list[int]:
    """
    :param pid: Of a process.
    :return: Of the processes that it has started and that run.
    """
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything; then come the state and the parent.
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(status.parent.name))
    return found


def start(suite: Path, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """
    :param suite: The suite.
    :param folder: Where table and models go.
    :param log: What it prints is added to this file.
    :return: A benchmark with two workers.
    """
    flags = ("--workers", "2", "--no-plots", "--output", str(folder / "table.csv"), "--log-folder", str(folder / "logs"))
    command = (sys.executable, ROOT / "zoo" / "benchmark.py", suite, *flags)
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def without_wall_times(table: Path) -> list[Row]:
    """
    :param table: A table.
    :return: Its rows, all but how long they took.
    """
    return [row._replace(wall_seconds=0.0) for row in results.read(table)]


def kill(process: subprocess.Popen[bytes], generator: random.Random, kills_worker: bool, longest: float) -> str | None:
    """
    Kill a benchmark or one of its workers after a random time.

    :param process: The benchmark.
    :param generator: Of the time, and of the worker.
    :param kills_worker: Whether to kill a worker, the first that there is from then on.
    :param longest: Seconds that the time is at most.
    :return: What was killed, None if the benchmark had come to its end.
    """
    time.sleep(generator.uniform(0.0, longest))
    workers: list[int] = []
    while kills_worker and not workers and process.poll() is None:
        # Those that train are children of the one that forks, and come after its imports.
        workers = [worker for forks in children(process.pid) for worker in children(forks)]
        time.sleep(0.05)
    if process.poll() is not None:
        return None
    if workers:
        try:
            # A worker that has just finished has no process any more.
            os.kill(generator.choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            return None
        return "worker"
    process.kill()
    process.wait()
    return "runner"


def main() -> None:
    """Kill as often as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-kills", type=int, default=20)
    parser.add_argument("--n-seeds", type=int, default=2, help="seeds of the trainings, with six runs each")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed and when")
    args = parser.parse_args()
    generator = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        suite = Path(scratch, "small.yml")
        suite.write_text(yaml.safe_dump({"seeds": args.n_seeds, **SUITE}, sort_keys=False))
        log = Path(scratch, "benchmark.log")
        unbroken = Path(scratch, "unbroken")
        begin = time.perf_counter()
        if start(suite, unbroken, log).wait() != 0:
            sys.exit(f"The unbroken benchmark has failed:\n{log.read_text()}")
        duration = time.perf_counter() - begin
        expected = without_wall_times(unbroken / "table.csv")
        print(f"Unbroken: {len(expected)} rows in {duration:.0f} s", flush=True)
        n_kills = 0
        for attempt in itertools.count():
            folder = Path(scratch, f"killed_{attempt}")
            n_starts = 0
            while True:
                process = start(suite, folder, log)
                n_starts += 1
                while n_kills < args.n_kills and process.poll() is None:
                    # A worker's death does not end the benchmark, which can then be killed again.
                    killed = kill(process, generator, kills_worker=n_kills % 2 == 1, longest=duration)
                    n_kills += killed is not None
                    if killed is not None:
                        n_done = len({row.run for row in results.read(folder / "table.csv")})
                        print(f"Kill {n_kills}: {killed}, {n_done} runs in the table", flush=True)
                    if killed == "runner":
                        break
                else:
                    if process.wait() != 0:
                        sys.exit(f"A benchmark has failed:\n{log.read_text()}")
                    break
            found = without_wall_times(folder / "table.csv")
            if found != expected:
                different = [pair for pair in itertools.zip_longest(found, expected) if pair[0] != pair[1]]
                sys.exit(f"After {n_starts} starts the table differs, first in\n{different[0][0]}\n{different[0][1]}")
            print(f"Table {attempt}: the same after {n_starts} starts", flush=True)
            if n_kills >= args.n_kills:
                break


if __name__ == "__main__":
    main()
