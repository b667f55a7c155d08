"""
Train an algorithm on an environment, or search for its hyperparameters, with rl_zoo3's command line.

    python -m sb3_cora.zoo.train --algo cora_ppo --env give_way --progress
    python -m sb3_cora.zoo.train --algo mappo --env navigation -n 500000 -params n_epochs:5
    python -m sb3_cora.zoo.train --algo cora_ppo --env give_way -i logs/cora_ppo/give_way_1/rl_model_768000_steps.zip
    python -m sb3_cora.zoo.train --algo cora_ppo --env give_way --resume
    python -m sb3_cora.zoo.train --algo cora_ppo --env give_way -optimize --n-trials 50 --n-jobs 2

It has all flags of rl_zoo3 and six more (``--help``). Ctrl-C, or a SIGTERM, ends a training early and saves its state and its
model. After this or any other interruption, ``--resume`` goes on to the result that the training would have had. ``-i``
continues from a model alone, for the remaining timesteps or for ``-n`` more.
"""

import argparse
import difflib
import importlib.util
import signal
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import rl_zoo3.exp_manager
import rl_zoo3.train
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.utils import LinearSchedule

from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm, algorithm_name
from sb3_cora.common.saved_models import check_archive
from sb3_cora.common.vec_frame_stack import JointVecFrameStack
from sb3_cora.zoo.algos import register_algorithms
from sb3_cora.zoo.callbacks import WholeCheckpointCallback
from sb3_cora.zoo.exp_manager import JointExperimentManager
from sb3_cora.zoo.mistakes import OneLineParser, check_device, check_numbers, refusals
from sb3_cora.zoo.resuming import LATEST, resumed_arguments
from sb3_cora.zoo.settings import StoreSettings

DEFAULTS = (
    *("--algo", "cora_ppo"),
    *("--env", "give_way"),
    *("--eval-freq", "0"),  # up to 30 evaluations, spread over the training
    *("--save-freq", "0"),  # a checkpoint before each
    *("--eval-episodes", "0"),  # as many as suit the environment
    *("--n-eval-envs", "0"),  # likewise
    *("--n-evaluations", "10"),  # of each trial, for its pruning
    *("--num-threads", "1"),  # networks are small, so threads gain little, and they wait for each other if a core is busy
)

# The smallest values of flags. Negative numbers of some have a meaning.
LEAST = {
    **{"eval_episodes": 0, "n_eval_envs": 0, "n_jobs": 1, "n_trials": 1, "max_total_trials": 1, "n_evaluations": 1},
    # A heartbeat takes a second or more.
    **{"n_startup_trials": 0, "trial_id": 0, "grace_period": 2.0},
}

# Help of flags of rl_zoo3 that mean something else here.
HELP = {
    "--eval-freq": "Evaluate the agent every n timesteps (default: 0, about 30 times a training; if negative, never). "
    "A search has --n-evaluations instead",
    "--save-freq": "Keep a checkpoint every n timesteps (default: 0, before each evaluation; if negative, never)",
    "--eval-episodes": "Number of episodes of an evaluation during the training "
    "(default: 0, 50 where the suite steps its environments as one batch and 10 elsewhere)",
    "--n-eval-envs": "Number of environments of an evaluation (default: 0, as many as suit the environment)",
    "--n-evaluations": "With -optimize: number of evaluations of a trial (default: 10)",
}


class TrainArgumentParser(OneLineParser):
    """
    The parser of rl_zoo3's flags, with those of this project.

    The parameters are those of ``argparse.ArgumentParser``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_argument(
            "--final-eval-episodes",
            default=0,
            type=int,
            help="Number of episodes to evaluate the last and the best model on after the training "
            "(default: 0, 100 where the suite steps its environments as one batch and 20 elsewhere; if negative, none)",
        )
        self.add_argument(
            "--reset-num-timesteps",
            action="store_true",
            help="With -i: count timesteps and schedules from their start again",
        )
        self.add_argument(
            "--game-seeds",
            default=[],
            nargs="+",
            type=int,
            help="With -optimize: train on these random games (the environment's argument game_seed); the value of a trial is "
            "its mean return over them, in parts of their optima where these are known",
        )
        self.add_argument(
            "--grace-period",
            default=120.0,
            type=float,
            help="With -optimize and --storage: seconds without a sign of life of its worker after which a trial is repeated",
        )
        self.add_argument(
            "--state-interval",
            default=300.0,
            type=float,
            help="Seconds after which the state of the training is saved, from which --resume goes on (negative: never)",
        )
        self.add_argument(
            "--resume",
            nargs="?",
            const=LATEST,
            metavar="FOLDER",
            help="Go on with the interrupted run in this folder, or with the latest of --algo and --env, to the same result "
            "as without the interruption. Other flags need not be repeated",
        )

    def add_argument(self, *names: Any, **kwargs: Any) -> argparse.Action:
        for name in HELP.keys() & set(names):
            kwargs["help"] = HELP[name]
        return super().add_argument(*names, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed = super().parse_args(args, namespace)
        if parsed.resume is not None:
            parsed = resumed_arguments(self, parsed, sys.argv[1 + len(DEFAULTS) :])
        check_flags(parsed)
        return parsed


def check_flags(args: argparse.Namespace) -> None:
    """
    Check what rl_zoo3 would find out late, or in other words.

    :param args: The command line's flags.
    :raises ValueError: If one has a value that it cannot have.
    """
    # Those of a run that is resumed are not on the command line.
    register_algorithms(args.gym_packages)
    check_env_id(args.env)
    check_device(args.device)
    check_numbers(args, LEAST)
    if args.n_timesteps == 0:
        raise ValueError("-n 0 trains for no timestep: give 1 or more, or leave it out.")
    if args.log_interval == 0:
        raise ValueError("--log-interval 0 logs after no rollout: give 1 or more, or leave it out.")
    if args.sampler == "auto" and importlib.util.find_spec("optunahub") is None:
        raise ValueError("--sampler auto is of the package optunahub: pip install optunahub, or give tpe or random.")
    if args.trained_agent:
        check_trained_agent(args)


def check_trained_agent(args: argparse.Namespace) -> None:
    """
    :param args: The command line's flags, with ``-i``.
    :raises ValueError: If it names no model of the algorithm, or there is nothing that could go on from one.
    """
    path = args.trained_agent
    if not (path.endswith(".zip") and Path(path).is_file()):
        if args.resume:
            raise ValueError(f"--resume {args.resume}: the run was begun with -i {path}, which is gone: put it back.")
        raise ValueError(f"-i {path} is no file of a model: give one as in logs/mappo/give_way_1/give_way.zip.")
    if args.optimize_hyperparameters:
        raise ValueError(f"-optimize starts trainings of its own, and cannot go on from -i {path}: leave one out.")
    own, saved_by = ALGOS[args.algo], check_archive(path).get("algorithm")
    if issubclass(own, CooperativeOnPolicyAlgorithm) and saved_by not in (None, algorithm_name(own)):
        raise ValueError(f"-i {path} is a model of {saved_by}: give its --algo in place of {args.algo}.")


def check_env_id(env_id: str) -> None:
    """
    :param env_id: What ``--env`` names.
    :raises ValueError: If there is no such environment.
    """
    if env_id not in gym.registry:
        near = difflib.get_close_matches(env_id, gym.registry, n=1)
        meant = f"Did you mean {near[0]}?" if near else "Name the module that registers it with --gym-packages."
        raise ValueError(f"--env {env_id}: there is no such environment. {meant}")


@refusals()
def main() -> None:
    """Run rl_zoo3's training with the project's experiment manager."""
    rl_zoo3.train.argparse = SimpleNamespace(ArgumentParser=TrainArgumentParser)  # type: ignore[assignment]
    rl_zoo3.train.StoreDict = StoreSettings  # type: ignore[misc]
    rl_zoo3.train.ExperimentManager = JointExperimentManager  # type: ignore[misc]
    # For `frame_stack: 4` with masks in observations.
    rl_zoo3.exp_manager.VecFrameStack = JointVecFrameStack  # type: ignore[assignment,misc]
    rl_zoo3.exp_manager.CheckpointCallback = WholeCheckpointCallback  # type: ignore[misc]
    # rl_zoo3's falls below 0 if a training is not a whole number of rollouts. Our algorithms stop at 0 anyway, SB3's do not.
    rl_zoo3.exp_manager.SimpleLinearSchedule = partial(LinearSchedule, end=0.0, end_fraction=1.0)  # type: ignore[assignment,misc]
    register_algorithms()
    # Handled like Ctrl-C, because schedulers of clusters end jobs with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Before the user's flags, which therefore override them.
    sys.argv[1:1] = DEFAULTS
    rl_zoo3.train.train()


if __name__ == "__main__":
    main()
