"""What a trial is worth, and what happens to one that fails."""

import math
from threading import local
from typing import TYPE_CHECKING

import numpy as np
import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from stable_baselines3.common.utils import set_random_seed

from sb3_cora.zoo.tuning.games import GameTrial, games_of
from sb3_cora.zoo.tuning.heartbeats import run_again
from sb3_cora.zoo.tuning.trials import ERROR, is_one_too_many, seed_of_trial

if TYPE_CHECKING:
    from sb3_cora.zoo.exp_manager import JointExperimentManager

# User attribute of a trial: its value on each game, in the order of --game-seeds.
GAME_VALUES = "game_values"


class OneTrialTooMany(Exception):
    """Raised in a trial that another worker's has forestalled."""


class Objective:
    """
    Trains with the hyperparameters of a trial, and evaluates. An error, or a NaN, is the trial's failure, with its message in
    the trial's user attribute ``error``.

    :param manager: The experiment.
    :param max_total_trials: Number of trials of the study that shall count, None for any number.
    """

    def __init__(self, manager: "JointExperimentManager", max_total_trials: int | None) -> None:
        self.manager = manager
        self.max_total_trials = max_total_trials
        self.games = games_of(manager, manager.args.game_seeds)
        # The error of this process's last trial, if it failed.
        self.error: Exception | None = None
        # Of the thread's current trial.
        self.current = local()

    def __call__(self, trial: optuna.Trial) -> float:
        """
        :param trial: The trial.
        :return: Mean return of its last evaluation; over several games, the mean of the returns over their optima.
        """
        self.current.number = trial.number
        # Its traceback keeps the failed trial's model in memory, which may be what there was too little of.
        self.error = None
        total = self.max_total_trials
        if total is not None and is_one_too_many(trial.number, trial.study.get_trials(deepcopy=False), total):
            raise OneTrialTooMany(f"{total} others started before")
        try:
            return self._value(trial)
        except optuna.TrialPruned:
            if any(map(math.isnan, _of_storage(trial).intermediate_values.values())):
                # Optuna prunes what reports NaN.
                self._fail(trial, ValueError("An evaluation returned NaN."))
            raise
        except KeyboardInterrupt:
            # Recorded as a failure, too, but not one of these hyperparameters.
            run_again(trial.study, _of_storage(trial))
            raise
        except Exception as error:
            self._fail(trial, error)
            raise

    def _fail(self, trial: optuna.Trial, error: Exception) -> None:
        self.error = error
        trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
        raise error

    def _value(self, trial: optuna.Trial) -> float:
        manager = self.manager
        # rl_zoo3 asks for them once more in each training, and is given the same.
        off_policy_args = {"using_her_replay_buffer": False, "her_kwargs": {}}
        hyperparams = HYPERPARAMS_SAMPLER[manager.algo](trial, manager.n_actions, manager.n_envs, off_policy_args)
        values: list[float] = []
        for game in self.games:
            of_game = manager.for_game(game.env_kwargs)
            if "gamma" in hyperparams:
                # For the normalization of rewards.
                of_game.normalize_kwargs = {**manager.normalize_kwargs, "gamma": hyperparams["gamma"]}
            # rl_zoo3 does not seed trials, so that the trials of two workers with one --seed would have the same weights.
            set_random_seed(seed_of_trial(manager.seed, _of_storage(trial), trial.study.get_trials(deepcopy=False)))
            part = GameTrial(trial, game, values, manager.n_evaluations)
            value = of_game.objective(part) / game.optimum  # type: ignore[arg-type]
            if math.isnan(value):
                raise ValueError("An evaluation returned NaN.")
            values.append(value)
        if len(values) > 1:
            trial.set_user_attr(GAME_VALUES, values)
        return float(np.mean(values))


def _of_storage(trial: optuna.Trial) -> optuna.trial.FrozenTrial:
    return trial.study.get_trials(deepcopy=False)[trial.number]
