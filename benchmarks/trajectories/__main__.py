"""
Where training takes each algorithm's most likely joint action on one differential game, as in figure 2 of the CORA paper.

    python -m benchmarks.trajectories
    python -m benchmarks.trajectories --game-seed 3 --n-seeds 1

The algorithms and their settings are those of the suite ``differential``, with two agents. The joint action after every
rollout goes to ``trajectories.csv``, which is not measured again where it is there, and ``trajectories.png`` shows them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch as th
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from benchmarks.tools.folders import RESULTS
from benchmarks.tools.training import model_of
from benchmarks.trajectories.picture import draw
from sb3_cora.envs.batched_game import make_game
from sb3_cora.envs.differential_game import DifferentialGame
from sb3_cora.zoo import tables
from sb3_cora.zoo.algos import register_algorithms
from sb3_cora.zoo.benchmark.suites import Task, find_suite, read_suite

ENVIRONMENT = "differential, 2 agents"


class Point(NamedTuple):
    """
    The most likely joint action at one time of one training.

    - ``timesteps``: samples before it
    - ``first``, ``second``: actions of the two agents, in [-1, 1]
    - ``share``: its reward, over the best possible
    """

    algo: str
    game_seed: int
    seed: int
    timesteps: int
    first: float
    second: float
    share: float


class Tracker(BaseCallback):
    """
    Keeps the most likely joint action before every rollout and after the last.

    :param task: The training.
    :param game: Its game.
    """

    def __init__(self, task: Task, game: DifferentialGame) -> None:
        super().__init__()
        self.task = task
        self.game = game
        self.points: list[Point] = []

    def _track(self) -> None:
        # The game has a single state: all observations are equal
        observations = cast(np.ndarray, self.model._last_obs)
        actions, _ = self.model.predict(observations[:1], deterministic=True)
        share = self.game.rewards(0, actions)[0] / self.game.optimal_return
        run = self.task.run
        assert run.game_seed is not None
        first, second = actions[0, :, 0].tolist()
        self.points.append(Point(run.algo, run.game_seed, run.seed, self.num_timesteps, first, second, share))

    def _on_rollout_start(self) -> None:
        self._track()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._track()


def trainings(game_seed: int, n_seeds: int, n_timesteps: int | None) -> Iterator[Task]:
    """
    :param game_seed: Seed of the game.
    :param n_seeds: Number of trainings of each algorithm, which differ in their seeds.
    :param n_timesteps: Their length, None for the suite's.
    :return: The trainings.
    """
    for task in read_suite(find_suite("differential")):
        if (task.run.env, task.run.game_seed, task.run.seed) == (ENVIRONMENT, game_seed, 0):
            for seed in range(n_seeds):
                hyperparams = task.hyperparams | ({} if n_timesteps is None else {"n_timesteps": n_timesteps})
                yield task._replace(run=task.run._replace(seed=seed), hyperparams=hyperparams)


def main() -> None:
    """Train what the table lacks, and draw."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trajectories", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game-seed", type=int, default=0)
    parser.add_argument("--n-seeds", type=int, default=3, help="trainings of each algorithm")
    parser.add_argument("-n", "--n-timesteps", type=int, help="of a training (default: the suite's)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the table and the picture")
    args = parser.parse_args()
    th.set_num_threads(1)
    register_algorithms()
    path = args.output / "trajectories.csv"
    tasks = list(trainings(args.game_seed, args.n_seeds, args.n_timesteps))
    if not tasks:
        parser.error(f"--game-seed {args.game_seed}: the suite differential has none of that seed, only 0 to 9.")
    known = {(point.algo, point.game_seed, point.seed) for point in tables.read(Point, path)}
    for task in tqdm([task for task in tasks if (task.run.algo, task.run.game_seed, task.run.seed) not in known]):
        tracker = Tracker(task, cast(DifferentialGame, make_game(task.env, **task.hyperparams["env_kwargs"])))
        model_of(task, ALGOS[task.algo]).learn(task.n_timesteps, callback=tracker)  # type: ignore[arg-type]
        tables.append(tracker.points, path, default=".4g")
    game = cast(DifferentialGame, make_game(tasks[0].env, **tasks[0].hyperparams["env_kwargs"]))
    draw(
        game,
        [point for point in tables.read(Point, path) if point.game_seed == args.game_seed],
        args.output / "trajectories.png",
    )


if __name__ == "__main__":
    main()
