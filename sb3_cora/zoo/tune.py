"""
Search for the hyperparameters of several algorithms with equal effort: one study each, with the same number of finished
trials, sampler, pruner, seed, timesteps and games.

    python -m sb3_cora.zoo.tune --algo cora_ppo mappo happo --env differential --n-trials 20 --game-seeds 100 101 102

The games should be others than those that the algorithms are compared on afterwards. Further flags are those of
``python -m sb3_cora.zoo.train -optimize``. Any number of processes and machines may run the same command at the same time with
one ``--storage``; one that is started again goes on where the searches are.
"""

import sys
from functools import partial
from pathlib import Path

import optuna
from rl_zoo3.utils import ALGOS

from sb3_cora.zoo import train
from sb3_cora.zoo.algos import register_algorithms
from sb3_cora.zoo.exp_manager import known_hyperparams
from sb3_cora.zoo.hyperparams_opt import SETTINGS
from sb3_cora.zoo.mistakes import OneLineParser, check_numbers, refusals
from sb3_cora.zoo.settings import StoreSettings
from sb3_cora.zoo.tuning.comparison import TunedAlgorithm, write_comparison
from sb3_cora.zoo.tuning.report import best_trial, entry_of
from sb3_cora.zoo.tuning.search import PLAN
from sb3_cora.zoo.tuning.storage import open_storage
from sb3_cora.zoo.whole_files import write_whole


@refusals()
def main() -> None:
    """
    Search, one algorithm after another, and report.

    :raises ValueError: If an algorithm is unknown or named twice.
    """
    parser = OneLineParser(
        description="Tune several algorithms with equal effort. Further flags are those of train.py -optimize.",
        allow_abbrev=False,
    )
    parser.add_argument("--algo", default=["cora_ppo"], nargs="+", help="the algorithms")
    parser.add_argument("--env", default="give_way", help="environment id")
    parser.add_argument("--n-trials", default=20, type=int, help="number of finished trials of each algorithm")
    parser.add_argument("--storage", help="journal file or database of the studies (default: a journal in the log folder)")
    parser.add_argument("--study-name", help="first part of the studies' names (default: the environment's id)")
    parser.add_argument("--seed", default=0, type=int, help="random seed of the samplers and trainings of all algorithms")
    parser.add_argument("-n", "--n-timesteps", type=int, help="timesteps of a training (default: the first algorithm's)")
    parser.add_argument("-f", "--log-folder", default="logs", help="log folder")
    args, flags = parser.parse_known_args()
    register_algorithms()
    _check_algorithms(args.algo)
    _check_params(args.algo, flags)
    check_numbers(args, {"n_trials": 1})

    name = args.study_name or args.env
    folder = Path(args.log_folder, "tuning", name.replace("/", "-"))
    storage_name = args.storage or f"{folder}.log"
    n_timesteps = args.n_timesteps
    rows = []
    try:
        for algo in args.algo:
            # train.py puts its defaults before these.
            sys.argv[1:] = [
                *("--algo", algo, "--env", args.env, "-optimize", "--max-total-trials", str(args.n_trials)),
                *("--storage", storage_name, "--study-name", f"{name}-{algo}"),
                *("--seed", str(args.seed), "-f", args.log_folder),
                *(() if n_timesteps is None else ("-n", str(n_timesteps))),
                *flags,
            ]
            train.main()
            folder.mkdir(parents=True, exist_ok=True)
            study = optuna.load_study(study_name=f"{name}-{algo}", storage=open_storage(storage_name))
            n_timesteps = study.user_attrs[SETTINGS]["n_timesteps"]
            rows.append(TunedAlgorithm.of(algo, study))
            best = best_trial(study)
            entry = None if best is None else entry_of(study, best, args.env)
            if entry is not None:
                write_whole({folder / f"{algo}.yml": partial(Path.write_text, data=entry, encoding="utf-8")}, shared=True)
            if rows[-1].finished < args.n_trials:
                # After Ctrl-C. The report says how many there are.
                break
    finally:
        # Also if a later search fails.
        if rows:
            plan = {name: value for name, value in study.user_attrs[PLAN].items() if name != "algo"}
            write_comparison(rows, {**plan, "n_timesteps": n_timesteps, "n_trials": args.n_trials, "seed": args.seed}, folder)


def _check_algorithms(names: list[str]) -> None:
    """
    :param names: Names of the algorithms.
    :raises ValueError: If one is unknown, or named twice.
    """
    # The first search takes hours, after which it would be late for an error in the name of the second.
    unknown = sorted(set(names) - ALGOS.keys())
    if unknown or len(set(names)) < len(names):
        what = f"{', '.join(unknown)} is unknown" if unknown else "an algorithm is named twice"
        raise ValueError(f"--algo {' '.join(names)}: {what}, expected some of {', '.join(sorted(ALGOS))}, each once.")


def _check_params(names: list[str], flags: list[str]) -> None:
    """
    :param names: Names of the algorithms.
    :param flags: Those for ``train.py``.
    :raises ValueError: If ``-params`` has a setting that one of the algorithms does not know.
    """
    parser = OneLineParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-params", "--hyperparams", nargs="+", action=StoreSettings, default={})
    params = parser.parse_known_args(flags)[0].hyperparams
    for algo in names:
        unknown = params.keys() - known_hyperparams(algo)
        if unknown:
            raise ValueError(f"-params {min(unknown)} is no setting of {algo}: give only what all of the algorithms have.")


if __name__ == "__main__":
    main()
