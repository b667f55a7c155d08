"""
What ``train.py -optimize`` searches over, for each algorithm.

A sampler draws settings through an Optuna trial. A converter turns the names of a stored trial into the algorithm's
constructor arguments. Importing this module makes both known to rl_zoo3. What is not sampled keeps its value of
``hyperparams/<algo>.yml``.
"""

from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER, convert_onpolicy_params

# Samples of one rollout, all worlds together, as a power of two. rl_zoo3 samples steps per environment, which with a
# thousand worlds at once would reach rollouts of millions of samples.
ROLLOUT_POWERS = (12, 16)
# Samples of one minibatch, as a power of two: the lower end still keeps a sixty-thousand-sample rollout affordable.
BATCH_POWERS = (9, 12)


Params = dict[str, Any]


def sample_shared_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: Params) -> Params:
    """
    Draw the settings that every algorithm of the project shares.

    :param trial: the Optuna trial
    :param n_actions: length of the action space's first axis, unused: no range depends on it
    :param n_envs: number of parallel environments; the length of a rollout is drawn so that all of them together stay
        within ``2**12`` to ``2**16`` samples
    :param additional_args: what rl_zoo3 tells the samplers of replay buffers, unused
    :return: constructor arguments
    """
    return convert_onpolicy_params(_suggest_shared_params(trial, n_envs))


def sample_optimistic_mappo_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: Params) -> Params:
    """
    Draw the shared settings and the degree of optimism.

    The parameters and the result are those of :func:`sample_shared_params`.
    """
    sampled_params = _suggest_shared_params(trial, n_envs)
    sampled_params["eta"] = trial.suggest_float("eta", 0.0, 1.0)
    return convert_onpolicy_params(sampled_params)


def sample_coma_ppo_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: Params) -> Params:
    """
    Draw the shared settings and what the Q-critic learns.

    The parameters and the result are those of :func:`sample_shared_params`.
    """
    sampled_params = _suggest_shared_params(trial, n_envs)
    sampled_params["q_target"] = trial.suggest_categorical("q_target", ["td0", "lambda"])
    return convert_q_critic_params(sampled_params)


def sample_shapley_ppo_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: Params) -> Params:
    """
    Draw the shared settings and those of the game: what a coalition's value is measured from, what the credits sum to, and
    what the Q-critic learns.

    The parameters and the result are those of :func:`sample_shared_params`.
    """
    return convert_q_critic_params(_suggest_game_params(trial, n_envs))


def sample_cora_ppo_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: Params) -> Params:
    """
    Draw the settings of the game and how strongly equal credits are preferred.

    The rule of credit itself is not drawn: it is what a search compares, not what it tunes.

    The parameters and the result are those of :func:`sample_shared_params`.
    """
    sampled_params = _suggest_game_params(trial, n_envs)
    sampled_params["variance_weight"] = trial.suggest_float("variance_weight", 1e-3, 10.0, log=True)
    return convert_q_critic_params(sampled_params)


def convert_q_critic_params(sampled_params: Params) -> Params:
    """
    Turn sampled names into constructor arguments; the Q-critic gets the widths of the value function.

    :param sampled_params: what the trial holds, such as ``one_minus_gamma`` and ``batch_size_pow``
    :return: constructor arguments, the network's architecture under ``policy_kwargs``
    """
    hyperparams = convert_onpolicy_params(sampled_params)
    net_arch = hyperparams["policy_kwargs"]["net_arch"]
    net_arch["qf"] = list(net_arch["vf"])
    return hyperparams


def _suggest_game_params(trial: optuna.Trial, n_envs: int) -> Params:
    return {
        **_suggest_shared_params(trial, n_envs),
        "baseline": trial.suggest_categorical("baseline", ["v", "q"]),
        "grand_advantage": trial.suggest_categorical("grand_advantage", ["gae", "q"]),
        "q_target": trial.suggest_categorical("q_target", ["td0", "lambda"]),
    }


def _suggest_shared_params(trial: optuna.Trial, n_envs: int) -> Params:
    # Bounds on the power of n_steps; never below 2**3, under which advantages see next to no future.
    world_power = max(n_envs - 1, 0).bit_length()
    lowest, highest = (max(power - world_power, 3) for power in ROLLOUT_POWERS)
    return {
        "n_steps_pow": trial.suggest_int("n_steps_pow", lowest, highest),
        "batch_size_pow": trial.suggest_int("batch_size_pow", *BATCH_POWERS),
        "n_epochs": trial.suggest_categorical("n_epochs", [5, 10, 20]),
        "learning_rate": trial.suggest_float("learning_rate", 5e-5, 2e-3, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 1e-2, 0.2, log=True),
        "clip_range": trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3]),
        "ent_coef": trial.suggest_float("ent_coef", 1e-8, 1e-2, log=True),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.3, 5.0, log=True),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium"]),
        "activation_fn": trial.suggest_categorical("activation_fn", ["tanh", "relu"]),
    }


SAMPLERS: dict[str, Callable[[optuna.Trial, int, int, Params], Params]] = {
    "coma_ppo": sample_coma_ppo_params,
    "cora_ppo": sample_cora_ppo_params,
    "happo": sample_shared_params,
    "ippo": sample_shared_params,
    "mappo": sample_shared_params,
    "optimistic_mappo": sample_optimistic_mappo_params,
    "shapley_ppo": sample_shapley_ppo_params,
}
CONVERTERS: dict[str, Callable[[Params], Params]] = {
    "coma_ppo": convert_q_critic_params,
    "cora_ppo": convert_q_critic_params,
    "happo": convert_onpolicy_params,
    "ippo": convert_onpolicy_params,
    "mappo": convert_onpolicy_params,
    "optimistic_mappo": convert_onpolicy_params,
    "shapley_ppo": convert_q_critic_params,
}

HYPERPARAMS_SAMPLER.update(SAMPLERS)
HYPERPARAMS_CONVERTER.update(CONVERTERS)
