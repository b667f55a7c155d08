"""The report of a study: its trials, the best one as an entry of ``hyperparams/<algo>.yml``, and plots."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from sb3_cora.zoo.hyperparams_opt import SETTINGS
from sb3_cora.zoo.tuning.entry import yaml_entry
from sb3_cora.zoo.tuning.plots import param_importances, plot_history, plot_importances
from sb3_cora.zoo.tuning.trials import TrialCounts
from sb3_cora.zoo.whole_files import write_whole

if TYPE_CHECKING:
    from sb3_cora.zoo.exp_manager import JointExperimentManager


def report_folder(manager: "JointExperimentManager", study_name: str) -> Path:
    """
    :param manager: The experiment.
    :param study_name: Name of the study.
    :return: The folder of its report.
    """
    return Path(manager.log_folder, manager.algo, f"study_{study_name.replace('/', '-')}")


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """
    :param study: The study.
    :return: Its best complete trial, None if no trial is complete.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def entry_of(study: optuna.Study, trial: FrozenTrial, env_id: str) -> str | None:
    """
    :param study: The study.
    :param trial: One of its trials.
    :param env_id: Id of the environment.
    :return: The entry, None if the trial has not recorded its settings, as those of rl_zoo3's own algorithms.
    """
    settings = trial.user_attrs.get(SETTINGS)
    if settings is None:
        return None
    return yaml_entry(env_id, settings, f"Trial {trial.number} of the study {study.study_name}: {trial.value:.6g}")


def write_report(study: optuna.Study, manager: "JointExperimentManager", folder: Path) -> None:
    """
    Print the outcome of a study, and write its files.

    :param study: The study.
    :param manager: The experiment.
    :param folder: The folder of the report.
    """
    trials = study.get_trials(deepcopy=False)
    counts = TrialCounts.of(trials)
    print(f"Study {study.study_name}: {counts.complete} trials complete, {counts.pruned} pruned, {counts.failed} failed")
    paths = {"Trials": folder / "trials.csv"}
    writers: dict[Path, Callable[[Path], object]] = {
        paths["Trials"]: partial(study.trials_dataframe().to_csv, index=False),
    }
    best = best_trial(study)
    if best is not None:
        print(f"Best trial: {best.number}, value {best.value:.6g}")
        env_id = manager.env_name.gym_id
        entry = entry_of(study, best, env_id)
        if entry is not None:
            paths["Best trial"] = folder / "best.yml"
            flags = f"--algo {manager.algo} --env {env_id} --conf-file {paths['Best trial']}"
            length = study.user_attrs[SETTINGS]["n_timesteps"]
            print(f"To train with it, for {length} timesteps (-n for others): zoo/train.py {flags}\n\n{entry}")
            writers[paths["Best trial"]] = partial(Path.write_text, data=entry, encoding="utf-8")
        if not manager.no_optim_plots:
            title = f"{manager.algo} on {manager.env_name}"
            paths["History"] = folder / "optimization_history.png"
            writers[paths["History"]] = partial(plot_history, trials, title=title)
            importances = param_importances(study)
            if importances:
                paths["Importances"] = folder / "param_importances.png"
                writers[paths["Importances"]] = partial(plot_importances, importances, title=title)
    # One by one, so that a plot that fails costs no table. Several workers may end a study at the same time.
    for path, write in writers.items():
        write_whole({path: write}, shared=True)
    for label, path in paths.items():
        print(f"{label + ':':<16}{path}")
