"""
HAPPO and MAPPO with HARL's own settings on HalfCheetah 2x3, every agent seeing the full state and its one-hot index.

    python -m benchmarks.learning.harl --algos happo mappo --seeds 0 1 2

Rows are appended to ``benchmarks/results/harl_halfcheetah.csv``, one for each evaluation: 40 deterministic episodes every
100 000 steps, as in HARL. At the end, and alone with ``--report``, they are summed up: interquartile mean over the seeds and
its 95 % bootstrap interval. HARL's settings are ``tuned_configs/mamujoco/HalfCheetah-v2-2x3`` in its repository. It ran the
``-v2`` robots, this is the ``-v5`` one.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks.tools.folders import RESULTS
from sb3_cora import HAPPO, MAPPO, make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.zoo import tables
from sb3_cora.zoo.statistics import mean_and_interval

ENV_ID = "mujoco/HalfCheetah-2x3"
N_ENVS, N_EVAL_ENVS, N_EVAL_EPISODES, EVAL_INTERVAL = 20, 20, 40, 100_000

SETTINGS: dict[str, Any] = dict(
    learning_rate=5e-4,
    n_steps=200,
    batch_size=N_ENVS * 200,
    n_epochs=15,
    gamma=0.99,
    gae_lambda=0.95,
    clip_range=0.05,
    clip_range_vf=0.05,
    pessimistic_vf_clip=True,
    ent_coef=0.01,
    # HARL halves the squared error and multiplies by 1
    vf_coef=0.5,
    max_grad_norm=10.0,
    separate_grad_norms=True,
    normalize_values=True,
    huber_delta=10.0,
    policy_kwargs=dict(
        net_arch=[128, 128, 128],
        activation_fn=th.nn.ReLU,
        normalize_features=True,
        # HARL's initial standard deviation is 0.5 * sigmoid(1) = 0.366
        log_std_init=-1.0,
    ),
    device="cpu",
)
ALGORITHMS: dict[str, tuple[type[CooperativeOnPolicyAlgorithm], dict[str, Any]]] = {
    "happo": (HAPPO, dict(share_parameters=False)),
    "mappo": (MAPPO, dict(share_parameters=True)),
}


class Row(NamedTuple):
    """A line of the CSV: an evaluation, ``seconds`` after the start of its training."""

    algo: str
    seed: int
    timesteps: int
    mean_return: float
    std_return: float
    seconds: float


class Evaluation(BaseCallback):
    """
    Evaluates the policy and appends a row to the results.

    :param algo: Name of the algorithm
    :param seed: Seed of the training
    :param n_episodes: Number of episodes
    :param path: File of the results
    """

    def __init__(self, algo: str, seed: int, n_episodes: int, path: Path):
        super().__init__()
        self.algo = algo
        self.seed = seed
        self.n_episodes = n_episodes
        self.path = path
        self.env = make_joint_vec_env(ENV_ID, n_envs=N_EVAL_ENVS, seed=1000 + seed, observation="full_state_id")
        self.start = time.perf_counter()

    def _on_step(self) -> bool:
        returns, _ = evaluate_policy(self.model, self.env, self.n_episodes, return_episode_rewards=True)
        seconds = time.perf_counter() - self.start
        numbers = (f"{np.mean(returns):.1f}", f"{np.std(returns):.1f}", f"{seconds:.0f}")
        tables.append(Row._fields, [(self.algo, self.seed, self.num_timesteps, *numbers)], self.path)
        return True


def report(path: Path) -> None:
    """
    Print the return of each algorithm at each number of steps that several seeds have reached.

    :param path: File of the results
    """
    scores: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for row in tables.read(Row, path):
        scores[row.algo, row.timesteps].append(row.mean_return)
    print(f"{'algo':<8}{'steps':>10}{'seeds':>7}{'IQM':>9}  95 % interval")
    for (algo, timesteps), returns in sorted(scores.items()):
        if len(returns) > 1:
            mean, low, high = mean_and_interval(np.array(returns))
            print(f"{algo:<8}{timesteps:>10}{len(returns):>7}{mean:>9.0f}  {low:.0f} to {high:.0f}")


def main() -> None:
    """Train what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.harl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algos", nargs="+", choices=sorted(ALGORITHMS), default=sorted(ALGORITHMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--n-timesteps", type=int, default=1_000_000)
    parser.add_argument("--eval-freq", type=int, default=EVAL_INTERVAL, help="steps between evaluations")
    parser.add_argument("--n-eval-episodes", type=int, default=N_EVAL_EPISODES)
    parser.add_argument("--report", action="store_true", help="only sum up what is there")
    parser.add_argument("--output", type=Path, default=RESULTS / "harl_halfcheetah.csv")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    for seed in [] if arguments.report else arguments.seeds:
        for algo in arguments.algos:
            algorithm, settings = ALGORITHMS[algo]
            env = make_joint_vec_env(ENV_ID, n_envs=N_ENVS, seed=seed, observation="full_state_id")
            model = algorithm("MlpPolicy", env, seed=seed, **SETTINGS, **settings)
            evaluation = Evaluation(algo, seed, arguments.n_eval_episodes, arguments.output)
            model.learn(arguments.n_timesteps, EveryNTimesteps(arguments.eval_freq, evaluation))
    report(arguments.output)


if __name__ == "__main__":
    main()
