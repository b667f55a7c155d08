"""Samplers of a study that several workers take part in."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sb3_cora.zoo.tuning.trials import seed_of_trial


class SamplerOfEachTrial(BaseSampler):
    """
    A sampler of its own for each trial, whose seed depends on the trial. With a single one, workers with the same
    ``--seed``, and a search that is continued, would try the same hyperparameters again.

    :param make_sampler: Makes a sampler of a seed.
    :param seed: Seed of all samplers, together with ``seed_of_trial``.
    """

    def __init__(self, make_sampler: Callable[[int], BaseSampler], seed: int) -> None:
        self._make_sampler = make_sampler
        self._seed = seed
        self._samplers: dict[int, BaseSampler] = {}

    def _sampler(self, study: Study, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._samplers:
            seed = seed_of_trial(self._seed, trial, study.get_trials(deepcopy=False))
            with warnings.catch_warnings():
                # rl_zoo3's sampler takes an argument that Optuna calls experimental.
                warnings.simplefilter("ignore", ExperimentalWarning)
                self._samplers[trial.number] = self._make_sampler(seed)
        return self._samplers[trial.number]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler(study, trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._sampler(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler(study, trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler(study, trial).after_trial(study, trial, state, values)
        self._samplers.pop(trial.number, None)
