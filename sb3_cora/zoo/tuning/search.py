"""The trials of a search: how many, and by how many workers."""

import json
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from sb3_cora.zoo.hyperparams_opt import SETTINGS
from sb3_cora.zoo.mistakes import differences
from sb3_cora.zoo.tuning.entry import plain_settings
from sb3_cora.zoo.tuning.heartbeats import run_again
from sb3_cora.zoo.tuning.objective import Objective
from sb3_cora.zoo.tuning.report import report_folder, write_report
from sb3_cora.zoo.tuning.samplers import SamplerOfEachTrial
from sb3_cora.zoo.tuning.storage import open_storage
from sb3_cora.zoo.tuning.trials import TrialCounts, is_abandoned

if TYPE_CHECKING:
    from sb3_cora.zoo.exp_manager import JointExperimentManager

# User attribute of a study: what all of its trials have in common besides the settings, so that their values compare.
PLAN = "plan"
# As many trials may fail before one succeeds. If all of them do, the error is probably not due to their hyperparameters.
MAX_FIRST_FAILURES = 3
# Seconds between two looks at the trials of the other workers.
POLL_INTERVAL = 2.0


class Search:
    """
    A worker of a study.

    :param manager: The experiment, after its setup.
    :raises ValueError: If the study has been started with other settings.
    """

    def __init__(self, manager: "JointExperimentManager") -> None:
        self.manager = manager
        self.objective = Objective(manager, manager.max_total_trials)
        self.study = _open_study(manager)
        self._n_started = 0
        self._lock = Lock()
        self._is_ended = Event()

    def run(self) -> None:
        """
        Run trials until there are enough, or until Ctrl-C, and write the report.

        :raises Exception: The error of the last trial, if all trials failed.
        """
        n_jobs = max(self.manager.n_jobs, 1)
        total, trials = self.manager.max_total_trials, self.study.get_trials(deepcopy=False)
        if total is None or TrialCounts.of(trials).finished < total:
            # Whoever noticed that a trial was abandoned may have been killed before it could enqueue it.
            for trial in filter(is_abandoned, trials):
                run_again(self.study, trial)
        try:
            if n_jobs == 1:
                # In the main thread, so that Ctrl-C reaches the training.
                self._work()
            else:
                with ThreadPoolExecutor(n_jobs) as executor:
                    workers = [executor.submit(self._work) for _ in range(n_jobs)]
                    try:
                        for worker in workers:
                            worker.result()
                    except BaseException:
                        self._is_ended.set()
                        raise
            self._raise_if_none_succeeded(1)
        except KeyboardInterrupt:
            print("Interrupted. With --storage and --study-name the search goes on when it is started again.")
        write_report(self.study, self.manager, report_folder(self.manager, self.study.study_name))

    def _work(self) -> None:
        while self._wants_another_trial():
            self._run_trial()
            self._raise_if_none_succeeded(MAX_FIRST_FAILURES)

    def _wants_another_trial(self) -> bool:
        """
        Wait until one more trial is wanted, because another worker's was abandoned, or until none is.

        :return: Whether one more trial is wanted.
        """
        total = self.manager.max_total_trials
        if total is None:
            with self._lock:
                self._n_started += 1
                return self._n_started <= self.manager.n_trials and not self._is_ended.is_set()
        is_waiting = False
        while not self._is_ended.is_set():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(self.study)
            counts = TrialCounts.of(self.study.get_trials(deepcopy=False))
            if counts.finished >= total:
                return False
            if counts.finished + counts.running < total:
                return True
            if not is_waiting:
                is_waiting = True
                print(f"Waiting for {counts.running} trials of other workers, and ready to repeat them", flush=True)
            time.sleep(min(POLL_INTERVAL, self.manager.args.grace_period / 4))
        return False

    def _run_trial(self) -> None:
        try:
            # rl_zoo3 collects garbage as well: an environment and its callbacks refer to each other.
            self.study.optimize(self.objective, n_trials=1, catch=(Exception,), gc_after_trial=True)
        except Exception:
            # Errors of the trial have been caught, this one is Optuna's. It refuses the result of a trial that another worker
            # took for abandoned, for example because this machine was asleep, or of one that SQLite, which locks no rows, gave
            # to two workers, of which the other was the first.
            number = getattr(self.objective.current, "number", None)
            if number is None or not self.study.get_trials(deepcopy=False)[number].state.is_finished():
                raise
            print(f"Trial {number} was ended by another worker, or taken for abandoned and repeated", flush=True)

    def _raise_if_none_succeeded(self, n_failures: int) -> None:
        """
        :param n_failures: The least number of failures at which to raise the error.
        :raises Exception: The error of the last trial of this process, if so many trials of the study have failed and none has
            succeeded.
        """
        counts = TrialCounts.of(self.study.get_trials(deepcopy=False))
        if counts.failed < n_failures or counts.complete + counts.pruned > 0:
            return
        if self.objective.error is not None:
            raise self.objective.error
        raise ValueError(
            f"All {counts.failed} trials of the study {self.study.study_name} have failed; the user attribute 'error' of each "
            "says of what. Once that is mended, search with another --study-name."
        )


def _open_study(manager: "JointExperimentManager") -> optuna.Study:
    def make_sampler(seed: int) -> BaseSampler:
        seeded = copy(manager)
        seeded.seed = seed
        return seeded._create_sampler(manager.sampler)

    storage = None
    if manager.storage is not None:
        storage = open_storage(manager.storage, manager.args.grace_period)
        if manager.study_name is None:
            print("Without --study-name the study gets a name of its own, by which other workers can join it.")
    study = optuna.create_study(
        sampler=SamplerOfEachTrial(make_sampler, manager.seed),
        pruner=manager._create_pruner(manager.pruner),
        storage=storage,
        study_name=manager.study_name,
        load_if_exists=True,
        direction="maximize",
    )
    # With the environment's arguments of the command line, which are a part of what is trained.
    env_kwargs = {"env_kwargs": plain_settings(manager.env_kwargs)} if manager.env_kwargs else {}
    _agree(study, SETTINGS, {**plain_settings(manager.settings), "n_timesteps": manager.n_timesteps, **env_kwargs})
    _agree(
        study,
        PLAN,
        {
            "algo": manager.algo,
            "env": manager.env_name.gym_id,
            "env_kwargs": plain_settings(manager.env_kwargs),
            "eval_env_kwargs": plain_settings(manager.eval_env_kwargs),
            "game_seeds": list(manager.args.game_seeds),
            "n_evaluations": manager.n_evaluations,
            "n_eval_episodes": manager.n_eval_episodes,
            "sampler": manager.sampler,
            "pruner": manager.pruner,
        },
    )
    if "command" not in study.user_attrs:
        study.set_user_attr("command", " ".join(sys.orig_argv))
    return study


def _agree(study: optuna.Study, name: str, values: dict[str, Any]) -> None:
    """
    Record what the trials of a study have in common, or compare it with what another worker recorded.

    :param study: The study.
    :param name: The user attribute.
    :param values: Its values.
    :raises ValueError: If they are others.
    """
    # In the form in which storages return them.
    values = json.loads(json.dumps(values))
    recorded = study.user_attrs.get(name)
    if recorded is None:
        study.set_user_attr(name, values)
        return
    if changes := differences(recorded, values):
        raise ValueError(
            f"The study {study.study_name} was started with other settings: {changes}. Its trials would not "
            "compare: repeat the flags that it was started with, or choose another --study-name."
        )
