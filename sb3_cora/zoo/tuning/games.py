"""Trials over several games: one training in each, and the mean as the trial's value."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import optuna

if TYPE_CHECKING:
    from sb3_cora.zoo.exp_manager import JointExperimentManager


class Game(NamedTuple):
    """
    A game of ``--game-seeds``.

    :param env_kwargs: Arguments of the environment.
    :param optimum: The optimal return, by which returns are divided; 1 if it is not known, or not positive.
    """

    env_kwargs: dict[str, Any]
    optimum: float


def games_of(manager: "JointExperimentManager", game_seeds: Sequence[int]) -> list[Game]:
    """
    :param manager: The experiment.
    :param game_seeds: Seeds of the games. If there are none, the environment is played as it is.
    :return: The games.
    :raises ValueError: If the environment takes no seed of a game.
    """
    if not game_seeds:
        return [Game({}, 1.0)]
    return [Game({"game_seed": game_seed}, _optimum(manager, game_seed)) for game_seed in game_seeds]


def _optimum(manager: "JointExperimentManager", game_seed: int) -> float:
    with_seed = manager.for_game({"game_seed": game_seed})
    try:
        env = with_seed.create_envs(1, eval_env=True, no_log=True)
    except TypeError as error:
        raise ValueError(
            f"--game-seeds {game_seed}: {manager.env_name} cannot be made with the argument game_seed ({error}). Leave "
            "--game-seeds out, or choose a random game, such as differential, matrix_team or multi_peak."
        ) from error
    try:
        optimum = float(env.get_attr("optimal_return")[0])
    except AttributeError:
        return 1.0
    finally:
        env.close()
    return optimum if optimum > 0 else 1.0


class GameTrial:
    """
    The trial as the training on one of its games sees it: what it reports becomes the mean over this game and those before it.
    So a pruner compares trials after equal parts of the same games.

    :param trial: The trial.
    :param game: The game.
    :param before: Values of the games before it.
    :param n_evaluations: Number of evaluations on each game.
    """

    def __init__(self, trial: optuna.Trial, game: Game, before: Sequence[float], n_evaluations: int) -> None:
        self._trial = trial
        self._game = game
        self._before = before
        self._n_evaluations = n_evaluations
        self._can_be_pruned = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def report(self, value: float, step: int) -> None:
        """
        :param value: Mean return of an evaluation.
        :param step: The number of evaluations on this game.
        """
        # Whole rollouts may be more than the timesteps asked for, and the evaluations then more than others have.
        self._can_be_pruned = step <= self._n_evaluations
        if self._can_be_pruned:
            mean = fmean([*self._before, value / self._game.optimum])
            self._trial.report(mean, len(self._before) * self._n_evaluations + step)

    def should_prune(self) -> bool:
        """
        :return: Whether the pruner ends the trial.
        """
        return self._can_be_pruned and self._trial.should_prune()
