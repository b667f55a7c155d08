"""
Steps a second of each suite through its adapter, beside the suite alone.

    python -m benchmarks.environments

Both play the same number of steps with actions sampled beforehand and take turns on one core; a figure is the best turn's, in
CPU seconds, so that what else the machine does counts little. The table goes to ``benchmarks/results/environments.csv``:

- ``n_worlds``: environments stepped at once
- ``bare`` and ``adapted``: environment steps a CPU second of the suite as it comes and of what an algorithm is given, resets
  included
- ``lost``: the share of the suite's speed that the adapter costs; negative where it is faster than the suite
- ``target``: at most so much may be lost, or for the games of the project, which have no suite, so many steps
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import mpe2.simple_spread_v3
import numpy as np
import torch as th
import vmas
from gymnasium_robotics import mamujoco_v1
from stable_baselines3.common.vec_env import VecEnv

import sb3_cora.envs  # noqa: F401  registers the environments
from benchmarks.tools.folders import RESULTS
from benchmarks.tools.timing import compete, use_one_core
from sb3_cora.envs.batched_game import GameVecEnv
from sb3_cora.envs.registration import GAMES
from sb3_cora.envs.vmas import VmasVecEnv
from sb3_cora.zoo import tables

N_ROUNDS = 7
PAPER_ROBOTS = (("HalfCheetah", "2x3"), ("HalfCheetah", "6x1"), ("Ant", "4x2"), ("Walker2d", "2x3"), ("Hopper", "3x1"))
MOST_LOST, GAME_STEPS = 0.15, 1e6
FORMATS = {"bare": ".0f", "adapted": ".0f", "lost": ".3g", "target": ".7g"}

Play = Callable[[int], None]
"""Plays so many steps of all its environments."""


class Row(NamedTuple):
    """One line of the table; see the top of this file."""

    task: str
    n_worlds: int
    bare: float | None
    adapted: float
    lost: float | None
    target: float | None

    def misses_target(self) -> bool:
        """
        :return: Whether the figure is worse than its target
        """
        if self.target is None:
            return False
        return self.adapted < self.target if self.lost is None else self.lost > self.target


def bare_vmas(scenario: str, n_worlds: int) -> Play:
    """
    :param scenario: Name of the scenario
    :param n_worlds: Number of worlds
    :return: VMAS alone
    """
    env = vmas.make_env(scenario, num_envs=n_worlds, max_steps=100, seed=0, terminated_truncated=True)
    env.reset()
    actions = [[agent.u_range * (2 * th.rand(n_worlds, 2) - 1) for agent in env.agents] for _ in range(16)]

    def play(n_steps: int) -> None:
        for step in range(n_steps):
            *_, truncated, _ = env.step(actions[step % 16])
            if bool(truncated.all()):
                env.reset()

    return play


def batched(env: VecEnv) -> Play:
    """
    :param env: Worlds stepped as one batch
    :return: It
    """
    env.reset()
    actions = [np.stack([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(16)]

    def play(n_steps: int) -> None:
        for step in range(n_steps):
            env.step(actions[step % 16])

    return play


def bare_parallel(env: Any) -> Play:
    """
    :param env: A PettingZoo ``ParallelEnv``
    :return: It alone
    """
    env.reset(seed=0)
    actions = [{agent: env.action_space(agent).sample() for agent in env.possible_agents} for _ in range(16)]

    def play(n_steps: int) -> None:
        for step in range(n_steps):
            env.step(actions[step % 16])
            if not env.agents:
                env.reset()

    return play


def adapted_single(env: gym.Env) -> Play:
    """
    :param env: A joint environment
    :return: It
    """
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(16)]

    def play(n_steps: int) -> None:
        for step in range(n_steps):
            _, _, terminated, truncated, _ = env.step(actions[step % 16])
            if terminated or truncated:
                env.reset()

    return play


def steps_per_second(contestants: dict[str, Play], n_steps: int, n_rounds: int) -> dict[str, float]:
    """
    :param contestants: What to time, by name; they take turns
    :param n_steps: Steps a turn
    :param n_rounds: Turns of each, after one that does not count
    :return: Steps a CPU second of each one's best turn
    """

    def seconds(play: Play) -> float:
        start = time.process_time()
        play(n_steps)
        return time.process_time() - start

    turns = compete({name: partial(seconds, play) for name, play in contestants.items()}, n_rounds, n_uncounted=1)
    return {name: n_steps / min(taken) for name, taken in turns.items()}


def rows(shorter: int, n_rounds: int) -> Iterator[Row]:
    """
    :param shorter: Divides the number of steps
    :param n_rounds: Turns of each contestant
    :return: The rows of the table
    """
    tasks: list[tuple[str, int, int, float | None, Play, Play]] = []
    for scenario in ("give_way", "navigation"):
        pair = bare_vmas(scenario, 64), batched(VmasVecEnv(scenario, 64, max_steps=100, seed=0))
        tasks.append((f"vmas/{scenario}", 64, 200, MOST_LOST, *pair))
    for scenario, split in PAPER_ROBOTS:
        bare = bare_parallel(mamujoco_v1.parallel_env(scenario, split))
        adapted = adapted_single(gym.make(f"mujoco/{scenario}-{split}"))
        tasks.append((f"mujoco/{scenario}-{split}", 1, 2000, MOST_LOST, bare, adapted))
    bare = bare_parallel(mpe2.simple_spread_v3.parallel_env())
    tasks.append(("mpe2/simple_spread", 1, 1000, None, bare, adapted_single(gym.make("mpe2/simple_spread"))))
    for name, n_worlds, n_steps, target, bare, adapted in tasks:
        speeds = steps_per_second({"bare": bare, "adapted": adapted}, max(20, n_steps // shorter), n_rounds)
        lost = 1 - speeds["adapted"] / speeds["bare"]
        yield Row(name, n_worlds, n_worlds * speeds["bare"], n_worlds * speeds["adapted"], lost, target)
    for name in GAMES:
        speed = steps_per_second({name: batched(GameVecEnv(name, 4096))}, max(20, 200 // shorter), n_rounds)[name]
        yield Row(name, 4096, None, 4096 * speed, None, GAME_STEPS)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.environments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few steps: a test, not a measurement")
    parser.add_argument("--output", type=Path, default=RESULTS / "environments.csv", help="where the CSV goes")
    args = parser.parse_args()
    th.set_num_threads(1)
    use_one_core()
    table = list(rows(50 if args.quick else 1, 1 if args.quick else N_ROUNDS))
    tables.show(table, FORMATS, note=lambda row: "  MISSES TARGET" if row.misses_target() else "")
    tables.write(table, args.output, FORMATS)


if __name__ == "__main__":
    main()
