"""Saved runs: the flags that name a run, its environment and its model."""

import argparse
import re
from pathlib import Path
from typing import Any

import torch as th
import yaml
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import ALGOS, create_test_env, get_model_path, get_saved_hyperparams
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_cora.common.env_util import is_batched
from sb3_cora.common.vec_frame_stack import JointVecFrameStack
from sb3_cora.zoo.algos import register_algorithms
from sb3_cora.zoo.batch_env import batch_env_constructor
from sb3_cora.zoo.evaluation import EvaluationSize, load_statistics, statistics_path
from sb3_cora.zoo.mistakes import check_device, check_numbers
from sb3_cora.zoo.settings import StoreSettings


def add_arguments(parser: argparse.ArgumentParser, n_envs: int) -> None:
    """
    Add rl_zoo3's flags that name a run and how to play it.

    :param parser: The parser to add them to.
    :param n_envs: Default number of parallel environments; 0 for a number that suits the environment.
    """
    register_algorithms()
    parser.add_argument("--algo", default="cora_ppo", choices=list(ALGOS), help="algorithm")
    parser.add_argument("--env", default="give_way", type=EnvironmentName, help="environment id")
    parser.add_argument("-f", "--folder", default="logs", help="log folder")
    parser.add_argument("--exp-id", default=0, type=int, help="experiment id (0: the latest with a model, -1: no folder)")
    parser.add_argument("--load-best", action="store_true", help="load the best model instead of the last")
    parser.add_argument("--load-checkpoint", type=int, help="load the checkpoint of this many timesteps instead")
    parser.add_argument("--load-last-checkpoint", action="store_true", help="load the last checkpoint instead")
    parser.add_argument("--n-envs", default=n_envs, type=int, help="number of environments side by side")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the likeliest")
    parser.add_argument("--seed", default=0, type=int, help="random seed")
    parser.add_argument("--device", default="auto", help="PyTorch device (cpu, cuda, ...)")
    parser.add_argument("--num-threads", default=1, type=int, help="number of PyTorch's threads (-1: its default)")
    parser.add_argument("--gym-packages", default=[], nargs="+", help="modules to import: environments, algorithms")
    parser.add_argument("--env-kwargs", nargs="+", action=StoreSettings, help="arguments of the environment, as name:value")


def load_run(args: argparse.Namespace, norm_reward: bool = False, **env_kwargs: Any) -> tuple[BaseAlgorithm, VecEnv, Path]:
    """
    Load the model named by the flags, and make the environment that it was trained on, with its normalization.

    :param args: The command line's flags.
    :param norm_reward: Whether to normalize rewards if the training did, and not only observations.
    :param env_kwargs: Arguments of the environment that override all others.
    :return: The model, ``args.n_envs`` environments, and the folder of the run.
    """
    check_device(args.device)
    check_numbers(args, {"n_envs": 0, "exp_id": -1, "seed": 0})
    if args.num_threads > 0:
        th.set_num_threads(args.num_threads)
    set_random_seed(args.seed)

    model_path = _find_model(args)
    print(f"Loading {model_path}")
    env = _make_env(args, model_path, norm_reward, env_kwargs)
    return ALGOS[args.algo].load(model_path, device=args.device), env, model_path.parent


def _find_model(args: argparse.Namespace) -> Path:
    """
    :param args: The command line's flags.
    :return: File of the model that they name, in the latest run with such a model if they do not name the run.
    :raises ValueError: If there is no such model.
    """
    run_ids = [args.exp_id]
    if args.exp_id == 0:
        names = [re.fullmatch(re.escape(args.env) + r"_(\d+)", path.name) for path in Path(args.folder, args.algo).glob("*")]
        run_ids = sorted((int(name[1]) for name in names if name is not None), reverse=True)
    missing = []
    for run_id in run_ids:
        try:
            _, model_path, _ = get_model_path(
                run_id, args.folder, args.algo, args.env, args.load_best, args.load_checkpoint, args.load_last_checkpoint
            )
        except (AssertionError, ValueError) as error:
            missing.append(str(error))
        else:
            for message in missing:
                print(f"Passing over a later run: {message}")
            if missing and not (args.load_best or args.load_checkpoint or args.load_last_checkpoint):
                print("To play a run that has not come to its end: --load-last-checkpoint or --load-best")
            return Path(model_path)
    raise ValueError(
        "\n".join(missing or [f"No model found for {args.algo} on {args.env} in {args.folder}."])
        + "\nTrain one, or name another with --exp-id, --load-best or, for a run that has not come to its end, "
        "--load-last-checkpoint."
    )


def saved_settings(folder: Path) -> dict[str, Any]:
    """
    :param folder: Folder of the ``config.yml`` and ``args.yml`` of a training.
    :return: Its hyperparameters, with the environment's arguments of the command line; empty if there is no such folder.
    """
    hyperparams, found = get_saved_hyperparams(str(folder), test_mode=True)
    if found is None:
        return {}
    env_kwargs = hyperparams.get("env_kwargs") or {}
    args_file = folder / "args.yml"
    if args_file.is_file():
        # Unsafe, because rl_zoo3 writes Python objects into it.
        training_args = yaml.unsafe_load(args_file.read_text())
        env_kwargs.update(training_args["env_kwargs"] or {})
    return {**hyperparams, "env_kwargs": env_kwargs}


def _make_env(args: argparse.Namespace, model_path: Path, norm_reward: bool, more_env_kwargs: dict[str, Any]) -> VecEnv:
    """
    :param args: The command line's flags.
    :param model_path: The model, next to the folder with the training's ``config.yml`` and ``args.yml``.
    :param norm_reward: Whether to normalize rewards if the training did.
    :param more_env_kwargs: Arguments of the environment that override all others.
    :return: The ``args.n_envs`` environments.
    :raises ValueError: If the model was trained with normalization, but has no statistics.
    """
    env_id = args.env.gym_id
    hyperparams = saved_settings(model_path.parent / args.env)
    n_stack = hyperparams.pop("frame_stack", 0)
    env_kwargs = {**hyperparams.pop("env_kwargs", {}), **(args.env_kwargs or {}), **more_env_kwargs}
    env = create_test_env(
        env_id,
        n_envs=args.n_envs or EvaluationSize.of_env(env_id).n_final_envs,
        seed=args.seed,
        should_render=False,
        hyperparams=hyperparams,
        env_kwargs=env_kwargs,
        vec_env_cls=batch_env_constructor(env_id, env_kwargs) if is_batched(env_id) else DummyVecEnv,  # type: ignore[arg-type]
    )
    statistics = statistics_path(model_path, args.env)
    if statistics.is_file():
        env = normalize = load_statistics(statistics, env)
        normalize.training = False
        normalize.norm_reward = normalize.norm_reward and norm_reward
    elif hyperparams.get("normalize"):
        raise ValueError(
            f"{model_path} was trained on normalized observations, but there is no {statistics}: put it back, or name another "
            "model with --exp-id, --load-best or --load-checkpoint."
        )
    return JointVecFrameStack(env, n_stack) if n_stack > 0 else env
