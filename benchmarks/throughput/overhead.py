"""
What credit costs: CPU seconds of an iteration of CORAPPO over those of MAPPO, from 2 to 20 agents, on one core.

    python -m benchmarks.throughput.overhead

Both train on one task with the algorithms' own defaults but for 4096 samples an iteration in minibatches of 512, and take
turns at one iteration each, the first of which is not counted. In ``navigation`` the environment and the networks grow with
the number of agents; in ``differential`` an environment costs nothing, and an observation has a single number. Which
coalitions CORAPPO values is its own choice: all up to a number of agents, then a sample. The rows go to
``benchmarks/results/overhead.csv``.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch as th

import sb3_cora
from benchmarks.throughput.contestants.sb3_cora_algorithms import SECTIONS
from benchmarks.tools.folders import RESULTS
from benchmarks.tools.timing import Stopwatch, compete, timed, use_one_core
from sb3_cora import make_joint_vec_env
from sb3_cora.zoo import tables

ENVIRONMENTS = ("navigation", "differential")
N_AGENTS = (2, 4, 6, 10, 20)
N_ENVS = 64
N_STEPS = 64


class Turn(NamedTuple):
    """
    One iteration of an algorithm.

    - ``processor``: CPU seconds
    - ``sections``: CPU seconds of its parts
    """

    processor: float
    sections: dict[str, float]


class Overhead(NamedTuple):
    """
    A row of the table: medians over the rounds.

    - ``n_coalitions``: number of coalitions that CORAPPO values
    - ``mappo``, ``cora_ppo``: CPU seconds an iteration
    - ``ratio``: the second over the first in the same round
    - ``critics``, ``credits``: CPU seconds that CORAPPO spends on its Q-critics, and on coalitions, their values and dividing
    """

    env: str
    n_agents: int
    n_coalitions: int
    mappo: float
    cora_ppo: float
    ratio: float
    critics: float
    credits: float


def contestant(algorithm: str, env: str, n_agents: int) -> tuple[Callable[[], Turn], Any]:
    """
    :param algorithm: Name of a class of sb3_cora.
    :param env: Id of the environment.
    :param n_agents: Number of its agents.
    :return: What trains for one iteration, and the model that is trained.
    """
    vec_env = make_joint_vec_env(env, N_ENVS, env_kwargs={"n_agents": n_agents})
    model = getattr(sb3_cora, algorithm)("MlpPolicy", vec_env, n_steps=N_STEPS, batch_size=512, seed=0, device="cpu")
    stopwatch = Stopwatch()
    for method, section in SECTIONS.items():
        setattr(model, method, timed(getattr(model, method), stopwatch, section))

    def take_turn() -> Turn:
        stopwatch.reset()
        wall, processor = time.perf_counter(), time.process_time()
        model.learn(N_ENVS * N_STEPS, reset_num_timesteps=False)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        # The stopwatch counts wall-clock seconds: others on the core lengthen all sections alike
        return Turn(processor, {name: seconds * processor / wall for name, seconds in stopwatch.seconds.items()})

    return take_turn, model


def measure(env: str, n_agents: int, n_rounds: int) -> Overhead:
    """
    :param env: Id of the environment.
    :param n_agents: Number of its agents.
    :param n_rounds: Number of iterations of each algorithm that count.
    :return: A row.
    """
    mappo, _ = contestant("MAPPO", env, n_agents)
    cora_ppo, model = contestant("CORAPPO", env, n_agents)
    turns = compete({"MAPPO": mappo, "CORAPPO": cora_ppo}, n_rounds, n_uncounted=1)
    pairs = list(zip(turns["MAPPO"], turns["CORAPPO"], strict=True))
    return Overhead(
        env,
        n_agents,
        len(model._coalitions(th.Generator()).masks),
        median(turn.processor for turn, _ in pairs),
        median(turn.processor for _, turn in pairs),
        median(ours.processor / base.processor for base, ours in pairs),
        median(turn.sections["critics"] for _, turn in pairs),
        median(turn.sections["credits"] for _, turn in pairs),
    )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--n-agents", type=int, nargs="+", default=N_AGENTS)
    parser.add_argument("--rounds", type=int, default=5, help="iterations of each algorithm that count")
    parser.add_argument("--core", type=int, help="core to use, the last one allowed when not given (Linux)")
    parser.add_argument("--output", type=Path, default=RESULTS / "overhead.csv", help="CSV file to write")
    args = parser.parse_args()
    use_one_core(args.core)
    th.set_num_threads(1)
    rows: list[Overhead] = []
    for env in ENVIRONMENTS:
        for n_agents in args.n_agents:
            rows.append(measure(env, n_agents, args.rounds))
            tables.show(rows[-1:], default=".3g")
    tables.write(rows, args.output)
    print(f"Written to {args.output}")


if __name__ == "__main__":
    main()
