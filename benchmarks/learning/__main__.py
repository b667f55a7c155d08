"""
Train algorithms on environments over several games and seeds, and compare their returns.

    python -m benchmarks.learning --algo cora_ppo mappo --env give_way --seeds 0 1 2 3 4 --jobs 2
    python -m benchmarks.learning --algo cora_ppo cora_ppo:credit=shared,eta=0.0 --env multi_peak:n_actions=8 --game-seeds 0 1
    python -m benchmarks.learning --algo cora_ppo --env give_way -- -n 1000000 -params variance_weight:0
    python -m benchmarks.learning --env give_way --report

An algorithm may carry hyperparameters, which makes it a variant with figures of its own, and an environment may carry
arguments; values are read as ``zoo/train.py`` reads those of ``-params``: words are text. ``--game-seeds`` gives every
environment each of these numbers as its argument ``game_seed``, for games that sample their rewards. What follows ``--`` is
handed to ``zoo/train.py`` for all runs.

Each run is a process of its own: ``zoo/train.py``, without checkpoints and an evaluation at its end, followed by
``zoo/enjoy.py`` on the trained model and on the best of the evaluations during the training: 100 deterministic episodes each,
from a seed that no training has, and a single episode where nothing is random. The processes are forked from one that has
imported everything, because imports would take longer than the small trainings.

A finished run goes at once to the CSV, ``benchmarks/results/learning_<env>.csv`` unless ``--output`` says otherwise, and a run
that the file has is not repeated, so an interrupted sweep continues where it was. A run is known by its algorithm and
environment with what they carry, its game seed and seed, the arguments after ``--`` and its entry in
``hyperparams/<algo>.yml``: change any of them, and the runs are new, with figures of their own in the report. A change of the
code goes unnoticed; delete the rows that it concerns.

The report, also printed at the end of a sweep, has a table for each environment with a line for each variant: the
interquartile mean over its runs (the mean without the best and the worst quarter) with its 95 % bootstrap interval (Agarwal et
al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"), of the trained model's return and of the
area under the learning curve, both divided by the best return possible where the environment knows it. The runs are a single
stratum, so the interval speaks of other games as well as of other seeds. The learning curves go to a PNG file beside the CSV.
"""

import argparse
import inspect
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from benchmarks.learning.report import report
from benchmarks.learning.runs import ROOT, Run, joined, read, settings_digest, single_settings, variant
from benchmarks.learning.sweep import Sweep
from benchmarks.tools.folders import RESULTS


def draws_a_game(env: str) -> bool:
    """
    :param env: Id of an environment
    :return: Whether it takes a ``game_seed``; True where it is unknown here, because it may be registered in the training
    """
    import sb3_cora.envs  # noqa: F401  registers the environments
    from sb3_cora.envs.registration import GAMES

    if env not in gym.registry:
        return True
    entry_point: Any = GAMES.get(env, gym.registry[env].entry_point)
    made = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    return "game_seed" in inspect.signature(made).parameters


def main() -> None:
    """Parse the command line, train what is missing, and report."""
    # argparse would take the flags of the training for its own where they share a beginning
    own = sys.argv[1:]
    rest: list[str] = []
    if "--" in own:
        rest = own[own.index("--") + 1 :]
        own = own[: own.index("--")]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    algos, envs = [("cora_ppo", ""), ("mappo", "")], [("give_way", "")]
    parser.add_argument("--algo", nargs="+", type=variant, default=algos, help="algorithms, as name or name:setting=value,...")
    parser.add_argument("--env", nargs="+", type=variant, default=envs, help="environments, as id or id:argument=value,...")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="seeds of the trainings")
    parser.add_argument("--game-seeds", nargs="+", type=int, default=[None], help="game_seed of the environments")
    parser.add_argument("--jobs", type=int, default=1, help="number of trainings at once, which share the cores")
    parser.add_argument("--log-folder", type=Path, default=ROOT / "logs" / "learning", help="folder for the trainings' files")
    parser.add_argument("--output", type=Path, help="CSV file, benchmarks/results/learning_<env>.csv when not given")
    parser.add_argument("--report", action="store_true", help="train nothing, report what the CSV file has")
    args = parser.parse_args(own)
    names = list(dict.fromkeys(env.replace("/", "-") for env, _ in args.env))
    results = args.output or RESULTS / f"learning_{'_'.join(names)}.csv"

    n_failed = 0
    if not args.report:
        if args.game_seeds != [None]:
            for env, env_arguments in args.env:
                if any(setting.startswith("game_seed=") for setting in single_settings(env_arguments)):
                    parser.error(f"{joined(env, env_arguments)} has a game_seed already: leave it or --game-seeds out")
                if not draws_a_game(env):
                    parser.error(f"{env} takes no game_seed, because it draws nothing: leave --game-seeds out, use --seeds")
        finished = {row.run for row in read(results)}
        # Seed by seed, so that an interrupted sweep has seen every algorithm
        runs = [
            Run(joined(algo, overrides), env, env_arguments, game_seed, seed, shlex.join(rest), settings_digest(algo, env))
            for seed in args.seeds
            for game_seed in args.game_seeds
            for env, env_arguments in args.env
            for algo, overrides in args.algo
        ]
        missing = [run for run in runs if run not in finished]
        print(f"{len(runs)} runs, {len(runs) - len(missing)} of them in {results}", flush=True)
        # As upon Ctrl-C: the trainings end with the sweep
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            if missing:
                n_failed = Sweep(results, args.log_folder, {run.env for run in missing}, args.jobs).execute(missing)
        except KeyboardInterrupt:
            sys.exit("Stopped. The same command continues with the runs that are missing.")
    rows = read(results)
    if rows:
        report(rows, results.with_suffix(".png"))
    if n_failed or not rows:
        sys.exit(f"{n_failed} runs failed." if n_failed else f"{results} has no runs to report.")


if __name__ == "__main__":
    main()
