"""
The search space of ``-optimize``: hyperparameters that all algorithms share, and those that an algorithm adds. All others keep
their values in ``hyperparams/<algo>.yml``.
"""

from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_onpolicy_params

from sb3_cora import COMAPPO, CORAPPO, OptimisticMAPPO, ShapleyPPO
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.q_critic_algorithm import QCriticOnPolicyAlgorithm

# Samples of one rollout, in all environments together, as a power of two. rl_zoo3 samples steps per environment, which for a
# thousand environments would give rollouts of millions of samples.
ROLLOUT_POWERS = (12, 16)
# Samples of one minibatch, as a power of two. The smallest is large enough for rollouts of sixty thousand samples.
BATCH_POWERS = (9, 12)

Params = dict[str, Any]


def sample_params(
    algorithm: type[CooperativeOnPolicyAlgorithm], trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: Params
) -> Params:
    """
    Sample hyperparameters with an Optuna trial.

    :param algorithm: The algorithm.
    :param trial: The Optuna trial.
    :param n_actions: Length of the action space's first axis, unused: no range depends on it.
    :param n_envs: Number of parallel environments; the length of a rollout is sampled so that all of them together stay
        within ``2**12`` to ``2**16`` samples.
    :param additional_args: Arguments of rl_zoo3 for off-policy algorithms, unused.
    :return: Constructor arguments.
    """
    sampled_params = _suggest_shared_params(trial, n_envs)
    suggest = next((ADDED[parent] for parent in algorithm.__mro__ if parent in ADDED), None)
    if suggest is not None:
        sampled_params |= suggest(trial)
    return convert_params(algorithm, sampled_params)


def convert_params(algorithm: type[CooperativeOnPolicyAlgorithm], sampled_params: Params) -> Params:
    """
    Convert sampled values to constructor arguments. A Q-critic gets the widths of the value function.

    :param algorithm: The algorithm.
    :param sampled_params: Values by the names of the trial, such as ``one_minus_gamma`` and ``batch_size_pow``.
    :return: Constructor arguments, the network's architecture under ``policy_kwargs``.
    """
    hyperparams = convert_onpolicy_params(sampled_params)
    if issubclass(algorithm, QCriticOnPolicyAlgorithm):
        net_arch = hyperparams["policy_kwargs"]["net_arch"]
        net_arch["qf"] = list(net_arch["vf"])
    return hyperparams


def _suggest_shared_params(trial: optuna.Trial, n_envs: int) -> Params:
    # Bounds on the power of n_steps. At least 2**3, since with fewer steps advantages hardly depend on the future.
    envs_power = max(n_envs - 1, 0).bit_length()
    lowest, highest = (max(power - envs_power, 3) for power in ROLLOUT_POWERS)
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


def _suggest_optimism(trial: optuna.Trial) -> Params:
    return {"eta": trial.suggest_float("eta", 0.0, 1.0)}


def _suggest_q_target(trial: optuna.Trial) -> Params:
    return {"q_target": trial.suggest_categorical("q_target", ["td0", "lambda"])}


def _suggest_game(trial: optuna.Trial) -> Params:
    return {
        "baseline": trial.suggest_categorical("baseline", ["v", "q"]),
        "grand_advantage": trial.suggest_categorical("grand_advantage", ["gae", "q"]),
        **_suggest_q_target(trial),
    }


def _suggest_core(trial: optuna.Trial) -> Params:
    # The concept itself is not sampled: searches compare concepts, and tune the hyperparameters of each.
    return {**_suggest_game(trial), "variance_weight": trial.suggest_float("variance_weight", 1e-3, 10.0, log=True)}


# The hyperparameters that an algorithm, and those derived from it, add to the shared ones.
ADDED: dict[type, Callable[[optuna.Trial], Params]] = {
    COMAPPO: _suggest_q_target,
    CORAPPO: _suggest_core,
    OptimisticMAPPO: _suggest_optimism,
    ShapleyPPO: _suggest_game,
}
