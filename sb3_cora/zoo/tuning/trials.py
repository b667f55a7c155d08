"""Which trials count, and as what."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

# User attribute of a trial: the error that it failed with.
ERROR = "error"


class TrialCounts(NamedTuple):
    """
    Numbers of trials.

    :param complete: Trials that came to their end.
    :param pruned: Trials that the pruner ended.
    :param failed: Trials that ended with an error of their own, which their hyperparameters may have caused (NaN).
    :param abandoned: Trials that do not count: their worker was killed or interrupted, or they were one too many.
    :param running: Trials that are running, or whose worker was killed not long ago.
    """

    complete: int
    pruned: int
    failed: int
    abandoned: int
    running: int

    @property
    def finished(self) -> int:
        """Number of trials that count: complete, pruned and failed ones."""
        return self.complete + self.pruned + self.failed

    @classmethod
    def of(cls, trials: Iterable[FrozenTrial]) -> "TrialCounts":
        """
        :param trials: The trials.
        :return: How many of them there are of each kind. Trials that have yet to start are of none.
        """
        states = [None if is_abandoned(trial) else trial.state for trial in trials]
        return cls(
            complete=states.count(TrialState.COMPLETE),
            pruned=states.count(TrialState.PRUNED),
            failed=states.count(TrialState.FAIL),
            abandoned=states.count(None),
            running=states.count(TrialState.RUNNING),
        )


def is_one_too_many(number: int, trials: Sequence[FrozenTrial], max_total_trials: int) -> bool:
    """
    Several workers may find at the same time that one more trial is wanted. The storage numbers trials in the order in which
    it makes them, so that all workers agree on the first ones, which stay.

    :param number: Number of a trial that has just started.
    :param trials: All trials of its study, in the order of their numbers.
    :param max_total_trials: Number of trials that shall count.
    :return: Whether the trial has to give way.
    """
    # Those that wait to be run again are taken before new ones are made.
    return sum(not is_abandoned(earlier) for earlier in trials[:number]) >= max_total_trials


def seed_of_trial(seed: int, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """
    :param seed: The ``--seed`` of a worker.
    :param trial: A trial.
    :param trials: All trials of its study, in the order of their numbers.
    :return: A seed for this trial. Workers never meet the same one twice, whether their own are equal or successive, unless
        the trial is an abandoned one that is run again. So a search whose only worker was killed ends as without the kill.
    """
    first = _first_number(trial)
    n_repeated = sum(_first_number(earlier) != earlier.number for earlier in trials[:first])
    return int(np.random.SeedSequence((seed, first - n_repeated)).generate_state(1)[0])


def _first_number(trial: FrozenTrial) -> int:
    """The number of the abandoned trial that this one repeats, otherwise its own."""
    # As RetryHeartbeatStaleTrialCallback.retried_trial_number, which warns of being experimental.
    return trial.system_attrs.get("failed_trial", trial.number)


def is_abandoned(trial: FrozenTrial) -> bool:
    """
    :param trial: A trial.
    :return: Whether it ended, but does not count.
    """
    return trial.state is TrialState.FAIL and ERROR not in trial.user_attrs
