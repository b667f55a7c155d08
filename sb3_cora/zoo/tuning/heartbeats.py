"""Which trials have been abandoned by a worker that was killed, and that they are run again."""

import copy
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, TrialState

from sb3_cora.zoo.hyperparams_opt import SETTINGS

# System attribute of a trial: when its worker was last alive.
HEARTBEAT = "heartbeat"
# Begins the names of system attributes in which Optuna's pruner by halving keeps what a trial has reached.
RUNG = "completed_rung_"
# Number of heartbeats within the grace period.
BEATS = 4
# How often a trial is run again. Its hyperparameters may be what kills its workers, by taking too much memory.
MAX_RETRIES = 3


def run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """
    Enqueue a trial with the hyperparameters of an abandoned one, unless that has been done, or they have been tried
    ``MAX_RETRIES`` times more.

    :param study: The study.
    :param trial: The abandoned trial.
    """
    if any(trial.number in other.system_attrs.get("retry_history", ()) for other in study.get_trials(deepcopy=False)):
        return
    trial = copy.deepcopy(trial)
    # What these say is true of the abandoned trial only.
    if SETTINGS not in trial.user_attrs:
        # Killed while they were sampled. Sampled anew from the beginning, they are the same.
        trial.params, trial.distributions = {}, {}
    trial.user_attrs = {}
    trial.system_attrs = {
        name: value for name, value in trial.system_attrs.items() if name != HEARTBEAT and not name.startswith(RUNG)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)(study, trial)


class Heartbeats(BaseStorage, BaseHeartbeat):
    """
    A storage by whose heartbeats ``Study.optimize`` finds abandoned trials, and runs them again.

    Optuna has this for databases only, and there it misses workers that were killed before their first heartbeat, for whose
    trial a study with a fixed number of trials would wait forever. Here a heartbeat is an attribute of the trial, so that
    every storage can keep it. A trial is abandoned when this attribute has not changed for the grace period while this
    process was watching, so the clocks of machines need not agree.
    """

    def _watch(self, grace_period: float) -> None:
        """
        Called by constructors.

        :param grace_period: See ``sb3_cora.zoo.tuning.storage.open_storage``.
        """
        self._grace_period = grace_period
        # The last heartbeat of each running trial, and since when it has been the last, by this process's clock.
        self._last_beats: dict[int, tuple[str | None, float]] = {}

    def record_heartbeat(self, trial_id: int) -> None:
        # Another process may have taken the trial for abandoned; a storage out of reach may be back before the next one.
        with suppress(UpdateFinishedTrialError, StorageInternalError):
            self.set_trial_system_attr(trial_id, HEARTBEAT, datetime.now(timezone.utc).isoformat())

    def get_heartbeat_interval(self) -> int:
        return max(1, int(self._grace_period / BEATS))

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        now = time.monotonic()
        stale = []
        for trial in self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            beat = trial.system_attrs.get(HEARTBEAT)
            last_beat, since = self._last_beats.get(trial._trial_id, (beat, now))
            if beat != last_beat:
                since = now
            self._last_beats[trial._trial_id] = beat, since
            if now - since > self._grace_period:
                stale.append(trial._trial_id)
        return stale

    def get_heartbeat_stale_trial_callback(self) -> Callable[[optuna.Study, FrozenTrial], None]:
        return run_again
