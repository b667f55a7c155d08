"""
The search space of ``-optimize``: hyperparameters that all algorithms share, and those that an algorithm adds. All others keep
their values in ``hyperparams/<algo>.yml``.
"""

import inspect
from collections.abc import Callable
from typing import Any

import optuna
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from sb3_cora import COMAPPO, CORAPPO, HAPPO, OptimisticMAPPO, ShapleyPPO
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.q_critic_algorithm import QCriticOnPolicyAlgorithm
from sb3_cora.credit import CONCEPTS

Params = dict[str, Any]

# User attribute of a study: the settings that its trials vary; of a trial: all settings that it is trained with. Both as they
# are written in hyperparams/<algo>.yml.
SETTINGS = "settings"

# Lengths of rollouts and sizes of minibatches, as multiples of those in the configuration: a rollout is 256 samples in a game
# of one step and tens of thousands in hundreds of worlds, so no fixed range suits both.
MULTIPLES = (0.5, 1, 2, 4)

NET_ARCHS = {"small": [64, 64], "medium": [256, 256]}
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


def sample_params(
    algorithm: type[CooperativeOnPolicyAlgorithm], trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: Params
) -> Params:
    """
    Sample hyperparameters around the settings that the trial's study has in its user attribute ``settings``, or around the
    algorithm's defaults if it has none. The trial's own user attribute ``settings`` is set to all settings it is trained with.

    :param algorithm: The algorithm.
    :param trial: The Optuna trial.
    :param n_actions: Length of the action space's first axis, unused: no range depends on it.
    :param n_envs: Number of parallel environments. Minibatches are not larger than the rollout of all of them.
    :param additional_args: Arguments of rl_zoo3 for off-policy algorithms, unused.
    :return: Constructor arguments.
    """
    defaults = {name: parameter.default for name, parameter in inspect.signature(algorithm).parameters.items()}
    around = trial.study.user_attrs.get(SETTINGS, {})
    sampled = _suggest_shared_params(trial, {**defaults, **around})
    suggest = next((ADDED[parent] for parent in algorithm.__mro__ if parent in ADDED), None)
    if suggest is not None:
        sampled |= suggest(trial, {**defaults, **around})
    networks = ("pi", "vf", "qf") if issubclass(algorithm, QCriticOnPolicyAlgorithm) else ("pi", "vf")
    settings = _as_settings(sampled, around, n_envs, networks)
    trial.set_user_attr(SETTINGS, {**around, **settings})
    return _as_arguments(settings)


def _as_settings(sampled: Params, around: Params, n_envs: int, networks: tuple[str, ...]) -> Params:
    """
    :param sampled: Values by the names of the trial.
    :param around: The settings that are varied.
    :param n_envs: Number of parallel environments.
    :param networks: Names of the networks in ``net_arch``, which all get the same widths.
    :return: The sampled settings, as they are written in YAML.
    """
    settings = dict(sampled)
    settings["gamma"] = 1 - settings.pop("one_minus_gamma")
    settings["gae_lambda"] = 1 - settings.pop("one_minus_gae_lambda")
    settings["batch_size"] = min(settings["batch_size"], settings["n_steps"] * n_envs)
    for name, value in settings.items():
        if isinstance(around.get(name), str) and around[name].startswith("lin_"):
            # The value at the start of a schedule that the configuration wants to fall to 0.
            settings[name] = f"lin_{value}"
    widths = NET_ARCHS[settings.pop("net_arch")]
    activation = ACTIVATIONS[settings.pop("activation_fn")]
    # What else the configuration says of networks, such as the initial noise, stays.
    settings["policy_kwargs"] = {
        **(around.get("policy_kwargs") or {}),
        "net_arch": {name: list(widths) for name in networks},
        "activation_fn": f"{activation.__module__}.{activation.__qualname__}",
    }
    return settings


def _as_arguments(settings: Params) -> Params:
    """
    :param settings: Settings as they are written in YAML.
    :return: The same as constructor arguments.
    """
    arguments = {
        name: LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
        if isinstance(value, str) and value.startswith("lin_")
        else value
        for name, value in settings.items()
    }
    activations = {f"{activation.__module__}.{activation.__qualname__}": activation for activation in ACTIVATIONS.values()}
    policy_kwargs = settings["policy_kwargs"]
    arguments["policy_kwargs"] = {**policy_kwargs, "activation_fn": activations[policy_kwargs["activation_fn"]]}
    return arguments


def _multiples(value: int) -> list[int]:
    return [int(multiple * value) for multiple in MULTIPLES if multiple * value % 1 == 0]


def _suggest_shared_params(trial: optuna.Trial, around: Params) -> Params:
    return {
        "n_steps": trial.suggest_categorical("n_steps", _multiples(around["n_steps"])),
        "batch_size": trial.suggest_categorical("batch_size", _multiples(around["batch_size"])),
        "n_epochs": trial.suggest_categorical("n_epochs", [5, 10, 20]),
        "learning_rate": trial.suggest_float("learning_rate", 5e-5, 5e-3, log=True),
        "vf_learning_rate": trial.suggest_float("vf_learning_rate", 1e-4, 1e-2, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-3, 0.1, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 1e-2, 0.2, log=True),
        "clip_range": trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3]),
        "ent_coef": trial.suggest_float("ent_coef", 1e-6, 0.2, log=True),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.3, 5.0, log=True),
        "net_arch": trial.suggest_categorical("net_arch", list(NET_ARCHS)),
        "activation_fn": trial.suggest_categorical("activation_fn", list(ACTIVATIONS)),
    }


def _suggest_optimism(trial: optuna.Trial, around: Params) -> Params:
    # A schedule is a course that was thought out, of which a single number would be a poor replacement.
    is_scheduled = isinstance(around["eta"], dict | str)
    return {} if is_scheduled else {"eta": trial.suggest_float("eta", 0.0, 1.0)}


def _suggest_gradient_norms(trial: optuna.Trial, around: Params) -> Params:
    # HARL clips the value function's gradient by a norm of its own; here it shares that of the first agent's turn by default.
    return {"separate_grad_norms": trial.suggest_categorical("separate_grad_norms", [False, True])}


def _suggest_q_critic(trial: optuna.Trial, around: Params) -> Params:
    return {
        "q_target": trial.suggest_categorical("q_target", ["td0", "lambda"]),
        "q_learning_rate": trial.suggest_float("q_learning_rate", 3e-4, 1e-2, log=True),
        "center_advantage": trial.suggest_categorical("center_advantage", [True, False]),
        **_suggest_optimism(trial, around),
    }


def _suggest_game(trial: optuna.Trial, around: Params) -> Params:
    return {
        "baseline": trial.suggest_categorical("baseline", ["v", "q"]),
        "baseline_action": trial.suggest_categorical("baseline_action", ["mode", "expectation"]),
        "grand_advantage": trial.suggest_categorical("grand_advantage", ["gae", "q"]),
        "shrink_credits": trial.suggest_categorical("shrink_credits", [False, True]),
        **_suggest_q_critic(trial, around),
    }


def _suggest_core(trial: optuna.Trial, around: Params) -> Params:
    # The concept itself is not sampled: searches compare concepts, and tune the hyperparameters of each.
    params = _suggest_game(trial, around)
    concept = CONCEPTS.get(around.get("credit", "core"))
    if concept is not None and "variance_weight" in concept.settings:
        params["variance_weight"] = trial.suggest_float("variance_weight", 1e-3, 10.0, log=True)
    return params


# The hyperparameters that an algorithm, and those derived from it, add to the shared ones: a function of the trial and of the
# settings that are varied.
ADDED: dict[type, Callable[[optuna.Trial, Params], Params]] = {
    COMAPPO: _suggest_q_critic,
    CORAPPO: _suggest_core,
    HAPPO: _suggest_gradient_norms,
    OptimisticMAPPO: _suggest_optimism,
    ShapleyPPO: _suggest_game,
}
