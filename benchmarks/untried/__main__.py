"""
How wrong Q-critics are on joint actions that nobody has tried, what becomes of the credits, and what the truth would be worth.

    python -m benchmarks.untried
    python -m benchmarks.untried --parts critics --environments "multi_peak (3, 5)" --n-games 5

Only games whose table is known can tell. The settings are those of ``CORA`` in the suite ``matrix``. Two parts:

- ``critics``: a training is stopped now and then, and its Q-critics are compared with the table; ``untried_critics.csv`` has
  them by how often a joint action was taken, ``untried_credits.csv`` the credits that follow, by how often the least tried of
  the joint actions was taken that they were computed from.
- ``returns``: the same training, but credits are computed from the table; ``untried_returns.csv``. ``matrix.csv`` has what the
  learned critics come to on the same games.

What the tables have is not measured again. ``untried.png`` shows them.
"""

import argparse
from pathlib import Path
from typing import NamedTuple, cast

import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from tqdm import tqdm

from benchmarks.tools.folders import RESULTS
from benchmarks.tools.training import model_of
from benchmarks.untried.known_game import InformedCORAPPO
from benchmarks.untried.picture import draw
from benchmarks.untried.probe import CreditRow, CriticRow, Probe, ProbedCORAPPO
from sb3_cora.envs.batched_game import make_game
from sb3_cora.envs.matrix_game import MatrixGame
from sb3_cora.zoo import tables
from sb3_cora.zoo.algos import register_algorithms
from sb3_cora.zoo.benchmark.suites import Task, find_suite, read_suite

ENVIRONMENTS = ("multi_peak (3, 5)", "multi_peak (3, 8)", "multi_peak (5, 5)")
CONCEPTS = ("core", "shapley", "shared")
# Comparisons of a training
N_COMPARISONS = 12


class ReturnRow(NamedTuple):
    """
    What a training with true credits comes to.

    - ``share``: return of the most likely actions, over the best return possible
    """

    env: str
    game_seed: int
    concept: str
    share: float


def game_of(task: Task) -> MatrixGame:
    """
    :param task: A run on a game of tables.
    :return: The game.
    """
    return cast(MatrixGame, make_game(task.env, **task.hyperparams["env_kwargs"]))


def compare(task: Task, output: Path) -> None:
    """
    Train, and compare critics and credits with the truth.

    :param task: A run of CORAPPO on a game of tables.
    :param output: Folder of the tables.
    """
    model = model_of(task, ProbedCORAPPO)
    n_rollouts = task.n_timesteps // (model.n_steps * model.n_envs)
    assert task.run.game_seed is not None
    model.probe = Probe(task.run.env, task.run.game_seed, game_of(task), max(n_rollouts // N_COMPARISONS, 1))
    model.learn(task.n_timesteps)
    tables.append(model.probe.critic_rows, output / "untried_critics.csv", default=".4g")
    tables.append(model.probe.credit_rows, output / "untried_credits.csv", default=".4g")


def train_informed(task: Task, concept: str, output: Path) -> None:
    """
    Train with credits of the true Q-function, and evaluate.

    :param task: A run of CORAPPO on a game of tables.
    :param concept: What divides the advantage.
    :param output: Folder of the tables.
    """
    game = game_of(task)
    InformedCORAPPO.game = game
    model = model_of(task, InformedCORAPPO, credit=concept)
    model.learn(task.n_timesteps)
    mean_return, _ = evaluate_policy(model, model.env, n_eval_episodes=1, warn=False)
    assert task.run.game_seed is not None
    row = ReturnRow(task.run.env, task.run.game_seed, concept, cast(float, mean_return) / game.optimal_return)
    tables.append([row], output / "untried_returns.csv", default=".4g")


def main() -> None:
    """Measure what the command line names, as far as the tables lack it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.untried", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=("critics", "returns"), default=["critics", "returns"])
    parser.add_argument("--environments", nargs="+", default=ENVIRONMENTS, help="names of the suite matrix")
    parser.add_argument("--n-games", type=int, default=5)
    parser.add_argument("-n", "--n-timesteps", type=int, help="of a training (default: the suite's)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the tables and the picture")
    args = parser.parse_args()
    th.set_num_threads(1)
    register_algorithms()
    chosen = [
        task._replace(hyperparams=task.hyperparams | ({"n_timesteps": args.n_timesteps} if args.n_timesteps else {}))
        for task in read_suite(find_suite("matrix"))
        if task.run.algo == "CORA" and task.run.env in args.environments and (task.run.game_seed or 0) < args.n_games
    ]
    path = args.output / "untried_credits.csv"
    compared = {(row.env, row.game_seed) for row in tables.read(CreditRow, path)}
    returned = {(row.env, row.game_seed, row.concept) for row in tables.read(ReturnRow, args.output / "untried_returns.csv")}
    if "critics" in args.parts:
        for task in tqdm([task for task in chosen if (task.run.env, task.run.game_seed) not in compared], "critics"):
            compare(task, args.output)
    if "returns" in args.parts:
        runs = [(task, concept) for task in chosen for concept in CONCEPTS]
        for task, concept in tqdm(
            [run for run in runs if (run[0].run.env, run[0].run.game_seed, run[1]) not in returned], "returns"
        ):
            train_informed(task, concept, args.output)
    draw(
        tables.read(CriticRow, args.output / "untried_critics.csv"), tables.read(CreditRow, path), args.output / "untried.png"
    )


if __name__ == "__main__":
    main()
