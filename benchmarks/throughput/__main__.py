"""
Team steps a second of MAPPO and CORAPPO, on one core, beside BenchMARL's MAPPO and the bare environment.

    python -m benchmarks.throughput --benchmarl-python /path/to/python

``--benchmarl-python`` is an interpreter that has ``benchmarl`` installed; without it, only our own rows are measured. Every
contestant is a process of its own, all are pinned to one core with one thread each, and they take turns at one iteration
each, so that whatever else the machine does slows all of them alike. The first turn of each is not counted.

Equal for all trainers: the scenario with VMAS's own settings, our length of an episode, the number of environments, 4096 team
steps an iteration (a step of one world with all its agents is one), 10 epochs of minibatch 512, which is 80 gradient steps,
two hidden layers of 64 tanh units in every network, actors that share no weights, one value network for the team; no
evaluation, no logger. Different: BenchMARL's actions are tanh-squashed Gaussians whose deviation depends on the observation,
ours are clipped Gaussians; BenchMARL evaluates the value network on the whole batch after the collection, ours at every
step; CORAPPO has its twin Q-critics and its credits besides.

The sections are CPU seconds an iteration; ratios compare two contestants in the same round; all figures are medians
over the rounds. The wall clock counts whatever else the machine does: where that is much, trust the CPU. The rows also
go to ``benchmarks/results/throughput.csv``, or where ``--output`` says.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import IO, NamedTuple

from benchmarks.throughput.workload import Work
from benchmarks.tools.folders import RESULTS
from benchmarks.tools.timing import compete, use_one_core
from sb3_cora.envs.registration import VMAS_TASKS
from sb3_cora.zoo import tables

ROOT = Path(__file__).resolve().parents[2]
CONTESTANTS = "benchmarks.throughput.contestants"
SECTIONS = ("environment", "collection", "critics", "credits", "policy")
RATES = dict.fromkeys(("steps_per_second", "steps_per_processor_second"), ".0f")
PEER = "BenchMARL MAPPO"

ROWS = (("give_way", 16), ("give_way", 256), ("navigation", 64))
"""Tasks and numbers of environments."""


class Turn(NamedTuple):
    """
    One iteration of one contestant.

    - ``wall``: wall-clock seconds
    - ``processor``: CPU seconds
    - ``sections``: CPU seconds of its parts
    """

    wall: float
    processor: float
    sections: dict[str, float]


class Contestant:
    """
    A process that does one iteration for each turn it is given.

    :param name: What the table calls it
    :param process: The process, with pipes to its standard input and output
    :param errors: The file that its standard error goes to
    """

    def __init__(self, name: str, process: "subprocess.Popen[str]", errors: IO[str]) -> None:
        self.name = name
        self.process = process
        self.errors = errors

    def take_turn(self) -> Turn:
        """
        :return: The iteration
        :raises RuntimeError: If the process has ended instead
        """
        assert self.process.stdin is not None and self.process.stdout is not None, "opened as pipes"
        with suppress(BrokenPipeError):
            # Past the buffer, in which a line that cannot be sent would wait for the pipe to be closed and fail once more
            os.write(self.process.stdin.fileno(), b"go\n")
        answer = self.process.stdout.readline()
        if not answer:
            self.errors.seek(0)
            raise RuntimeError(
                f"{self.name} has ended instead of taking its turn. The end of its messages:\n{self.errors.read()[-2000:]}"
            )
        return Turn(**json.loads(answer))


@contextmanager
def started(name: str, command: Sequence[str]) -> Iterator[Contestant]:
    """
    :param name: What the table calls the contestant
    :param command: Interpreter and arguments
    :return: The contestant, whose process ends with the context
    """
    # A file, because a pipe that nobody reads would block the process once full
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        # Leaving closes the pipes, upon which the process ends, and waits for that
        yield Contestant(name, process, errors)


class Result(NamedTuple):
    """
    A row of the table: medians over the rounds.

    - ``env``, ``n_envs``: the task and its number of environments
    - ``contestant``: who
    - ``steps_per_second``: team steps a second of the wall clock
    - ``steps_per_processor_second``: team steps a CPU second
    - ``ratio``, ``ratio_processor``: how many times as fast as BenchMARL's MAPPO in the same round, by either clock; None
      where it does not take part
    - the sections: CPU seconds an iteration; None where a contestant has no such section. BenchMARL's collection
      includes its environment
    """

    env: str
    n_envs: int
    contestant: str
    steps_per_second: float
    steps_per_processor_second: float
    ratio: float | None
    ratio_processor: float | None
    environment: float | None
    collection: float | None
    critics: float | None
    credits: float | None
    policy: float | None


def commands_for(work: Work, benchmarl_python: str | None) -> dict[str, list[str]]:
    """
    :param work: What the contestants do
    :param benchmarl_python: Interpreter that has BenchMARL, None to leave it out
    :return: Their commands by name
    """
    commands = {"bare environment": [sys.executable, "-m", f"{CONTESTANTS}.bare_vmas", work.to_json()]}
    for algorithm in ("MAPPO", "CORAPPO"):
        commands[algorithm] = [sys.executable, "-m", f"{CONTESTANTS}.sb3_cora_algorithms", algorithm, work.to_json()]
    if benchmarl_python is not None:
        commands[PEER] = [benchmarl_python, "-m", f"{CONTESTANTS}.benchmarl_mappo", work.to_json()]
    return commands


def turns_of(commands: dict[str, list[str]], n_rounds: int) -> dict[str, list[Turn]]:
    """
    Let all contestants take turns, of which the first is not counted.

    :param commands: Commands by name
    :param n_rounds: Number of turns of each that count
    :return: Turns by name
    """
    with ExitStack() as stack:
        contestants = {name: stack.enter_context(started(name, command)).take_turn for name, command in commands.items()}
        return compete(contestants, n_rounds, n_uncounted=1)


def summarize(work: Work, turns: dict[str, list[Turn]]) -> list[Result]:
    """
    :param work: What the contestants did
    :param turns: Their turns by name, as many of each
    :return: A row each
    """
    return [
        Result(
            work.scenario,
            work.n_envs,
            name,
            work.n_samples / median(turn.wall for turn in taken),
            work.n_samples / median(turn.processor for turn in taken),
            median(peer.wall / turn.wall for peer, turn in zip(turns[PEER], taken, strict=True)) if PEER in turns else None,
            median(peer.processor / turn.processor for peer, turn in zip(turns[PEER], taken, strict=True))
            if PEER in turns
            else None,
            *(median(turn.sections[name] for turn in taken) if name in taken[0].sections else None for name in SECTIONS),
        )
        for name, taken in turns.items()
    ]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--benchmarl-python", help="interpreter that has benchmarl installed")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contestant that count")
    parser.add_argument("--core", type=int, help="core to use, the last one allowed when not given (Linux)")
    parser.add_argument("--output", type=Path, default=RESULTS / "throughput.csv", help="CSV file to write")
    args = parser.parse_args()
    if args.benchmarl_python is not None:
        found = shutil.which(args.benchmarl_python)
        if found is None:
            parser.error(
                f"--benchmarl-python {args.benchmarl_python}: there is no such program. Give the path of an interpreter."
            )
        # Not resolved, because the interpreter of a virtual environment is a link to one without its packages
        args.benchmarl_python = str(Path(found).absolute())

    # And so do the contestants, which inherit it
    use_one_core(args.core)
    results: list[Result] = []
    for scenario, n_envs in ROWS:
        work = Work(scenario, VMAS_TASKS[scenario]["max_steps"], n_envs)
        rows = summarize(work, turns_of(commands_for(work, args.benchmarl_python), args.rounds))
        tables.show(rows, RATES, default=".3f")
        results += rows
    tables.write(results, args.output, default=".4f")
    print(f"Written to {args.output}")


if __name__ == "__main__":
    main()
