"""
Kills trainings, searches and benchmarks at random moments, starts them again, and compares what they come to with what
unbroken ones do.

    python -m benchmarks.kills

SIGKILL, which no program can answer, to ``train.py``, to ``tune.py``, and to ``benchmark.py`` or one of the processes that
train for it. Every second kill waits, from a random moment on, for the next save, and hits it while it goes on. Models,
optimizers, logs, evaluations and pictures must end up the same to the last bit, searches with the same finished trials, tables
with the same rows. Exits with an error if they do not. It looks for processes in ``/proc``, so it takes Linux.

Each kill is a line of ``benchmarks/results/kills.csv``:

- ``kind``, ``subject``, ``attempt``: what was killed; each attempt begins anew and is killed a few times
- ``victim``: of a benchmark, the process that runs it or one that trains
- ``aimed``: whether the kill waited for a save
- ``seconds``: since the start or the restart
- ``progress``: what was done by then and not lost: timesteps of the saved state, finished trials, runs in the table
- ``unfinished``: files that the killed process was in the middle of, and left behind
- ``same``: whether the attempt came to the same end as the unbroken one
"""

import argparse
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.kills.subjects import SUBJECTS, Subject, context
from benchmarks.tools.folders import RESULTS
from sb3_cora.zoo import tables

# Of the time that an unbroken one takes: after so much of it at most is it, or what goes on with it, killed.
LONGEST = 0.4
# Seconds between two looks for a save, and until files that nobody writes any more count as left behind.
POLL_INTERVAL = 0.001
SETTLED = 0.3


class Row(NamedTuple):
    """One line of the table; see the top of this file."""

    kind: str
    subject: str
    attempt: int
    victim: str
    aimed: bool
    seconds: float
    progress: int
    unfinished: str
    same: bool


class Killer:
    """
    Kills at random moments.

    :param seed: Of what is killed and when
    """

    def __init__(self, seed: int) -> None:
        self.generator = random.Random(seed)
        self.turns = itertools.count()

    def kill(self, subject: Subject, process: BaseProcess, folder: Path, longest: float) -> Row | None:
        """
        Wait for a random time, and kill.

        :param subject: What is killed
        :param process: Its process
        :param folder: Its folder
        :param longest: Seconds that the time is at most
        :return: A line without the outcome; None if it came to its end before
        """
        turn = next(self.turns)
        aimed = turn % 2 == 1
        target = subject.targets[turn // 2 % len(subject.targets)]
        begin = time.perf_counter()
        # Of earlier kills.
        old = subject.saves(folder)
        process.join(self.generator.uniform(0.0, longest))
        victims: list[int] = []
        while process.exitcode is None:
            if not aimed or subject.saves(folder).items() - old.items():
                victims = subject.victims(process, target)
                if victims:
                    break
            time.sleep(POLL_INTERVAL)
        if not victims:
            return None
        try:
            os.kill(self.generator.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            # It has just finished.
            return None
        seconds = time.perf_counter() - begin
        if target != "worker":
            process.join()
        at_once = subject.saves(folder)
        time.sleep(SETTLED)
        unfinished = sorted((at_once.items() & subject.saves(folder).items()) - old.items())
        names = "; ".join(f"{Path(name).name} ({size} bytes)" for name, (size, _) in unfinished)
        return Row("", subject.name, 0, target or "process", aimed, seconds, subject.progress(folder), names, False)


def attempts(subject: Subject, killer: Killer, scratch: Path) -> Iterator[list[Row]]:
    """
    :param subject: What is killed
    :param killer: What kills
    :param scratch: A folder for all that is written
    :return: The lines of one attempt after another
    """
    begin = time.perf_counter()
    unbroken = scratch / "unbroken"
    finish(subject, subject.start(unbroken), unbroken)
    duration = time.perf_counter() - begin
    expected = subject.outcome(unbroken)
    print(f"{subject.name}: {len(expected)} things to compare, {duration:.1f} s", flush=True)
    for attempt in itertools.count(1):
        folder = scratch / f"killed_{attempt}"
        rows: list[Row] = []
        process = subject.start(folder)
        while process is not None and len(rows) < subject.most_kills:
            row = killer.kill(subject, process, folder, LONGEST * duration)
            if row is None:
                break
            rows.append(row)
            if process.exitcode is not None:
                process = subject.start(folder)
        finish(subject, process, folder)
        found = subject.outcome(folder)
        different = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
        for name in different:
            print(f"{folder}: {name} is {found.get(name)} and should be {expected.get(name)}", file=sys.stderr)
        yield [row._replace(attempt=attempt, same=not different) for row in rows]


def finish(subject: Subject, process: BaseProcess | None, folder: Path) -> None:
    """
    Wait for the end.

    :param subject: What runs
    :param process: Its process, if there is anything left to do
    :param folder: Its folder
    """
    if process is None:
        return
    process.join()
    if process.exitcode != 0:
        sys.exit(f"{subject.name} has failed:\n{(folder / 'output.log').read_text()[-5000:]}")


def main() -> None:
    """Kill as often as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="what is killed")
    parser.add_argument("--n-kills", type=int, default=34, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed and when")
    parser.add_argument("--output", type=Path, default=RESULTS / "kills.csv", help="the table, to which lines are appended")
    args = parser.parse_args()
    killer = Killer(args.seed)
    # So that the first that is timed need not wait for the imports.
    first = context().Process(target=int)
    first.start()
    first.join()
    all_same = True
    for kind in args.kinds:
        n_kills = n_interrupted = 0
        with TemporaryDirectory() as scratch:
            subjects = SUBJECTS[kind]
            going = itertools.cycle([attempts(one, killer, Path(scratch, str(n))) for n, one in enumerate(subjects)])
            while n_kills < args.n_kills:
                rows = [row._replace(kind=kind) for row in next(next(going))]
                if rows:
                    tables.append(rows, args.output, default=".2f")
                n_kills += len(rows)
                n_interrupted += sum(bool(row.unfinished) for row in rows)
                all_same &= all(row.same for row in rows)
                print(f"{kind}: {n_kills} kills, {n_interrupted} of them in the middle of a save", flush=True)
    if not all_same:
        sys.exit("Not all came to the end of the unbroken ones, see above.")


if __name__ == "__main__":
    main()
