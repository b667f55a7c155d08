"""The evaluation of a trained model."""

import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from tqdm import tqdm

from sb3_cora.common.env_util import is_batched

# Folder of the normalization statistics of a run's best model, next to the model.
BEST_STATISTICS = "best_model_statistics"


class EvaluationSize(NamedTuple):
    """
    Default sizes of evaluations.

    :param n_episodes: Number of episodes, and of environments, of an evaluation during the training.
    :param n_final_episodes: Number of episodes of the evaluation of a trained model.
    :param n_final_envs: Number of environments of the evaluation of a trained model.
    """

    n_episodes: int
    n_final_episodes: int
    n_final_envs: int

    @classmethod
    def of_env(cls, env_id: str) -> "EvaluationSize":
        """
        :param env_id: Id of the environment.
        :return: The default sizes. They are larger for batched environments, which play a hundred episodes in little more than
            the time of one. Otherwise each episode takes its own time, a large part of a second for a robot's thousand steps.
        """
        return cls(50, 100, 100) if is_batched(env_id) else cls(10, 20, 10)


class Evaluation(NamedTuple):
    """Returns (team reward, not discounted) and lengths (steps) of the episodes, each ``(n_episodes,)``."""

    returns: np.ndarray
    lengths: np.ndarray

    def __str__(self) -> str:
        return (
            f"return {self.returns.mean():.2f} +- {self.returns.std():.2f}, "
            f"length {self.lengths.mean():.1f} +- {self.lengths.std():.1f}, {len(self.returns)} episodes"
        )


def evaluate(
    model: BaseAlgorithm, env: VecEnv, n_episodes: int, deterministic: bool, show_progress: bool = False
) -> Evaluation:
    """
    Play episodes in parallel, one per environment.

    :param model: The trained model.
    :param env: The environments, whose normalization of rewards is off.
    :param n_episodes: Number of episodes, distributed evenly among the environments.
    :param deterministic: Whether to take the most likely actions instead of sampling.
    :param show_progress: Whether to show a progress bar.
    :return: The episodes' returns and lengths.
    """
    with tqdm(total=n_episodes, unit="episode", disable=not show_progress) as bar:

        def count(step: dict[str, Any], _: dict[str, Any]) -> None:
            if step["done"]:
                bar.update()

        returns, lengths = evaluate_policy(
            model, env, n_eval_episodes=n_episodes, deterministic=deterministic, return_episode_rewards=True, callback=count
        )
    return Evaluation(np.asarray(returns), np.asarray(lengths))


def play(model: BaseAlgorithm, env: VecEnv, n_steps: int, deterministic: bool) -> Evaluation:
    """
    Play for a number of steps.

    :param model: The trained model.
    :param env: The environments, in a monitor, whose normalization of rewards is off.
    :param n_steps: Number of steps of each environment.
    :param deterministic: Whether to take the most likely actions instead of sampling.
    :return: Returns and lengths of the episodes that ended within these steps, which may be none.
    """
    episodes: list[dict[str, float]] = []
    observations = env.reset()
    for _ in range(n_steps):
        actions, _ = model.predict(observations, deterministic=deterministic)  # type: ignore[arg-type]
        observations, _, _, infos = env.step(actions)
        episodes += [info["episode"] for info in infos if "episode" in info]
    return Evaluation(np.array([episode["r"] for episode in episodes]), np.array([episode["l"] for episode in episodes]))


def statistics_path(model_path: Path, env_name: str) -> Path:
    """
    :param model_path: File of a model: a run's last one, its best one, or a checkpoint.
    :param env_name: The environment's name in the folders.
    :return: The file of the normalization statistics that were saved with this model, if it was trained with normalization.
    """
    if model_path.name == "best_model.zip":
        return model_path.parent / BEST_STATISTICS / "vecnormalize.pkl"
    checkpoint = re.fullmatch(r"(.+)_(\d+_steps)\.zip", model_path.name)
    if checkpoint is not None:
        return model_path.parent / f"{checkpoint[1]}_vecnormalize_{checkpoint[2]}.pkl"
    return model_path.parent / env_name / "vecnormalize.pkl"


def load_statistics(path: Path, venv: VecEnv) -> VecNormalize:
    """
    :param path: File of a ``VecNormalize``. It is unpickled, which can run any code: read only files that you trust.
    :param venv: Environments to wrap.
    :return: They, in this ``VecNormalize``.
    :raises ValueError: If the file is truncated, no ``VecNormalize``, holds what this version does not know, or is of other
        environments.
    """
    content = path.read_bytes()
    # As Python's pickles begin and end.
    is_pickle = content.startswith(b"\x80")
    if content == b"" or (is_pickle and not content.endswith(b".")):
        raise ValueError(f"{path} is truncated, {len(content)} bytes long: give the normalization of another model.")
    foreign = "is no normalization, which VecNormalize.save(...) writes: give the file that was saved with the model."
    if not is_pickle:
        raise ValueError(f"{path} {foreign}")
    try:
        normalize = pickle.loads(content)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}): give the normalization of another model.") from error
    except (AttributeError, ImportError) as error:
        raise ValueError(
            f"{path} holds what this version of the code does not know ({error}): install the packages, or the newer version "
            "of sb3_cora, that it was saved with."
        ) from error
    if not isinstance(normalize, VecNormalize):
        raise ValueError(f"{path} holds a {type(normalize).__name__} and {foreign}")
    normalize.set_venv(venv)
    return normalize


def set_statistics(env: VecEnv, path: Path) -> None:
    """
    Give normalized environments the statistics that a model was saved with.

    :param env: Environments with a ``VecNormalize`` wrapper.
    :param path: File of a ``VecNormalize``.
    :raises ValueError: If the environments have no such wrapper.
    """
    normalize = unwrap_vec_normalize(env)
    if normalize is None:
        raise ValueError(
            f"{path} has statistics for VecNormalize, but the environment has no such wrapper: wrap it, or delete the file."
        )
    normalize.obs_rms = load_statistics(path, normalize.venv).obs_rms
