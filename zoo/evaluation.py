"""The evaluation of a trained model."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

# Folder of the normalization statistics of a run's best model, beside the model
BEST_STATISTICS = "best_model_statistics"


class Evaluation(NamedTuple):
    """Returns (team reward, not discounted) and lengths (steps) of the episodes, each ``(n_episodes,)``."""

    returns: np.ndarray
    lengths: np.ndarray

    def __str__(self) -> str:
        return (
            f"return {self.returns.mean():.2f} +- {self.returns.std():.2f}, "
            f"length {self.lengths.mean():.1f} +- {self.lengths.std():.1f}, {len(self.returns)} episodes"
        )


def evaluate(model: BaseAlgorithm, env: VecEnv, n_episodes: int, deterministic: bool) -> Evaluation:
    """
    Play episodes, as many at a time as there are environments.

    :param model: the trained model
    :param env: the environments, whose normalization of rewards is off
    :param n_episodes: number of episodes, shared out evenly among the environments
    :param deterministic: whether to take the likeliest actions instead of sampling
    :return: the episodes' returns and lengths
    """
    returns, lengths = evaluate_policy(
        model, env, n_eval_episodes=n_episodes, deterministic=deterministic, return_episode_rewards=True
    )
    return Evaluation(np.asarray(returns), np.asarray(lengths))


def set_statistics(env: VecEnv, path: Path) -> None:
    """
    Give normalized environments the statistics that a model was saved with.

    :param env: environments with a ``VecNormalize`` wrapper
    :param path: file of a ``VecNormalize``
    :raises ValueError: if the environments have no such wrapper
    """
    normalize = unwrap_vec_normalize(env)
    if normalize is None:
        raise ValueError(f"{path} has statistics for VecNormalize, but the environment has no such wrapper.")
    normalize.obs_rms = VecNormalize.load(str(path), normalize.venv).obs_rms
