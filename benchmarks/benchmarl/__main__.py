"""
What BenchMARL's MAPPO learns on the tasks of the suite ``vmas``, with as many samples.

    /path/to/python -m benchmarks.benchmarl
    /path/to/python -m benchmarks.benchmarl --tasks give_way --seeds 0

The interpreter is one that has ``benchmarl`` installed. The settings are those of ``hyperparams/mappo.yml`` as far as
BenchMARL has them: environments, lengths of rollouts and episodes, minibatches, epochs, discounts, actors that share no
weights, networks of two layers of 64. It has no falling learning rate, no normalized observations and no correlated noise, and
its distribution is a tanh-squashed Gaussian whose deviation depends on the observation. Evaluations are 100 episodes of the
most likely actions.

Rows go to ``benchmarks/results/benchmarl.csv`` after each training, and what the table has is not repeated.
"""

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
import yaml
from benchmarl.algorithms import MappoConfig  # type: ignore[import-not-found]
from benchmarl.environments import VmasTask  # type: ignore[import-not-found]
from benchmarl.experiment import Callback, Experiment, ExperimentConfig  # type: ignore[import-not-found]
from benchmarl.models.mlp import MlpConfig  # type: ignore[import-not-found]

from benchmarks.tools.folders import HYPERPARAMS, RESULTS

TASKS = ("give_way", "navigation", "multi_give_way")
NET_ARCH = [64, 64]
N_EVALUATIONS = 10
N_EPISODES = 100


class Settings(NamedTuple):
    """
    A training's settings, of ``hyperparams/mappo.yml``.

    - ``n_timesteps``: team steps of all environments together
    - ``n_steps``: team steps of an environment in a rollout, which is an episode
    - ``learning_rate``: at the beginning
    """

    n_timesteps: int
    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    learning_rate: float
    gamma: float
    gae_lambda: float
    clip_range: float


def read_settings(task: str) -> Settings:
    """
    :param task: Name of the task.
    :return: Its settings.
    """
    entry = yaml.safe_load((HYPERPARAMS / "mappo.yml").read_text(encoding="utf-8"))[task]
    entry["learning_rate"] = float(entry["learning_rate"].removeprefix("lin_"))
    return Settings(**{name: entry[name] for name in Settings._fields})


class Row(NamedTuple):
    """
    An evaluation.

    - ``timesteps``: team steps of the training before it
    - ``mean_return``, ``min_return``, ``max_return``: of the team, which is the mean of the agents
    """

    task: str
    seed: int
    timesteps: int
    mean_return: float
    min_return: float
    max_return: float


def team_returns(episodes: Sequence[Any], group: str) -> th.Tensor:
    """
    :param episodes: TensorDicts of an episode each.
    :param group: Name of the agents.
    :return: The team's return in each episode.
    """
    return th.stack([episode.get(("next", group, "reward")).squeeze(-1).mean(dim=-1).sum() for episode in episodes])


class Report(Callback):
    """
    Makes a row of each evaluation.

    :param task: Name of the task.
    :param seed: The training's seed.
    """

    def __init__(self, task: str, seed: int) -> None:
        super().__init__()
        self.task, self.seed = task, seed
        self.rows: list[Row] = []

    def on_evaluation_end(self, rollouts: list[Any]) -> None:
        """:param rollouts: The episodes"""
        (group,) = self.experiment.group_map
        returns = team_returns(rollouts, group)
        numbers = (returns.mean(), returns.min(), returns.max())
        self.rows.append(Row(self.task, self.seed, self.experiment.total_frames, *(round(float(n), 4) for n in numbers)))


def append(rows: Sequence[Row], path: Path) -> None:
    """
    :param rows: Of a training.
    :param path: The table that they are added to.
    """
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(Row._fields)
        writer.writerows(rows)


def train(task: str, seed: int, settings: Settings) -> list[Row]:
    """
    :param task: Name of the task.
    :param seed: Seed of the training.
    :param settings: The training's settings.
    :return: Its evaluations.
    """
    report = Report(task, seed)
    n_samples = settings.n_envs * settings.n_steps
    config = ExperimentConfig.get_from_yaml()
    config.sampling_device = config.train_device = config.buffer_device = "cpu"
    config.share_policy_params = False
    config.lr = settings.learning_rate
    config.gamma = settings.gamma
    config.on_policy_n_envs_per_worker = settings.n_envs
    config.on_policy_collected_frames_per_batch = n_samples
    config.on_policy_n_minibatch_iters = settings.n_epochs
    config.on_policy_minibatch_size = settings.batch_size
    config.max_n_frames = settings.n_timesteps
    config.max_n_iters = None
    config.evaluation = True
    config.render = False
    config.evaluation_interval = max(settings.n_timesteps // n_samples // N_EVALUATIONS, 1) * n_samples
    config.evaluation_episodes = N_EPISODES
    config.evaluation_deterministic_actions = True
    config.loggers = []
    # Nobody reads it, but BenchMARL evaluates only if there is something to log to
    config.create_json = True

    scenario = VmasTask[task.upper()].get_from_yaml()
    # Not BenchMARL's settings of the scenario, which differ from VMAS's own (navigation with 3 agents instead of 4)
    scenario.config = {"max_steps": settings.n_steps}
    algorithm_config = MappoConfig.get_from_yaml()
    algorithm_config.lmbda = settings.gae_lambda
    algorithm_config.clip_epsilon = settings.clip_range
    algorithm_config.entropy_coef = 0.0
    model_config = MlpConfig.get_from_yaml()
    model_config.num_cells = NET_ARCH
    with tempfile.TemporaryDirectory() as folder:
        config.save_folder = folder
        Experiment(
            task=scenario,
            algorithm_config=algorithm_config,
            model_config=model_config,
            critic_model_config=model_config,
            seed=seed,
            config=config,
            callbacks=[report],
        ).run()
    return report.rows


def main() -> None:
    """Train what the table lacks."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.benchmarl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("-n", "--n-timesteps", type=int, help="of a training (default: that of hyperparams/mappo.yml)")
    parser.add_argument("--output", type=Path, default=RESULTS / "benchmarl.csv", help="the table")
    args = parser.parse_args()
    th.set_num_threads(1)
    known: set[tuple[str, int]] = set()
    if args.output.exists():
        with args.output.open(newline="") as file:
            known = {(row["task"], int(row["seed"])) for row in csv.DictReader(file)}
    for seed in args.seeds:
        for task in args.tasks:
            if (task, seed) not in known:
                settings = read_settings(task)
                settings = settings._replace(n_timesteps=args.n_timesteps or settings.n_timesteps)
                append(train(task, seed, settings), args.output)


if __name__ == "__main__":
    main()
