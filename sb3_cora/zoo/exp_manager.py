"""rl_zoo3's experiment manager, for joint environments."""

import difflib
import inspect
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from copy import copy, deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import yaml
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from rl_zoo3.utils import ALGOS, get_class_by_name
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_cora.common.env_util import is_batched, resumable
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.saved_models import check_archive
from sb3_cora.common.schedules import LateSchedule
from sb3_cora.common.training_state.files import read_latest_state
from sb3_cora.common.vec_normalize import JointVecNormalize
from sb3_cora.zoo.batch_env import batch_env_constructor
from sb3_cora.zoo.callbacks import HyperparametersCallback, ProgressCallback, SaveModelCallback
from sb3_cora.zoo.evaluation import Evaluation, EvaluationSize, evaluate, load_statistics, set_statistics, statistics_path
from sb3_cora.zoo.hyperparams_opt import SETTINGS
from sb3_cora.zoo.mistakes import REFUSED, at_work, differences, is_of_the_user, read_yaml
from sb3_cora.zoo.plot.learning_curve import plot_learning_curve
from sb3_cora.zoo.resuming import (
    RunStateCallback,
    check_settings,
    remove_states,
    saved_when_interrupted,
    states_folder,
    take_back_logs,
    warn_of_other_versions,
)
from sb3_cora.zoo.saved_run import saved_settings
from sb3_cora.zoo.tuning.search import Search
from sb3_cora.zoo.tuning.storage import open_storage
from sb3_cora.zoo.versions import versions
from sb3_cora.zoo.whole_files import write_whole

# Hyperparameters that rl_zoo3 would evaluate as Python code if they were strings.
MAPPINGS = ("policy_kwargs", "normalize", "monitor_kwargs", "env_kwargs")
# What rl_zoo3 takes in hyperparams/<algo>.yml besides the arguments of the algorithm.
RL_ZOO3_HYPERPARAMS = {
    *("n_envs", "n_timesteps", "policy", "normalize", "env_kwargs", "env_wrapper", "vec_env_wrapper"),
    *("callback", "frame_stack", "monitor_kwargs"),
}
# Hyperparameters that may be schedules and that rl_zoo3 does not know.
SCHEDULED = ("eta", "ent_coef", "q_learning_rate", "vf_learning_rate")
# Those that -i takes from the model and its normalization, and the length, which is printed anyway.
KEPT_SETTINGS = ("n_timesteps", "normalize", "policy", "policy_kwargs")
# Largest number of evaluations and checkpoints of a training whose --eval-freq or --save-freq is 0.
N_EVALUATIONS = 30


def hyperparams_folder() -> Path:
    """
    :return: The folder of the files ``<algo>.yml``: in the installed package, or at the top of a clone.
    """
    packaged = Path(__file__).resolve().parent / "hyperparams"
    return packaged if packaged.is_dir() else packaged.parents[2] / "hyperparams"


def known_hyperparams(algo: str) -> set[str]:
    """
    :param algo: Name of an algorithm, as of ``--algo``.
    :return: The names of what it takes in ``hyperparams/<algo>.yml``.
    """
    return (RL_ZOO3_HYPERPARAMS | set(inspect.signature(ALGOS[algo]).parameters)) - {"env", "_init_setup_model", "kwargs"}


def check_hyperparams(hyperparams: Any, algo: str) -> None:
    """
    Check what rl_zoo3 and the algorithms would find out late, or in other words.

    :param hyperparams: As they are written in YAML.
    :param algo: Name of the algorithm.
    :raises ValueError: If one is unknown, or a number is none.
    """
    if not isinstance(hyperparams, dict):
        raise ValueError(f"expected a mapping of hyperparameters, got {hyperparams!r}.")
    known = known_hyperparams(algo)
    # Classes of one's own may hand any argument on, and SB3's off-policy algorithms take more from rl_zoo3.
    is_complete = issubclass(ALGOS[algo], CooperativeOnPolicyAlgorithm) and all(
        parameter.kind != parameter.VAR_KEYWORD for parameter in inspect.signature(ALGOS[algo]).parameters.values()
    )
    for name in hyperparams:
        if is_complete and name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}."
            raise ValueError(f"{algo} has no hyperparameter {name!r} ({hyperparams[name]!r}); {remedy}")
    for name, example in (("policy", "MlpPolicy"), ("n_timesteps", "1_000_000")):
        if name not in hyperparams:
            raise ValueError(f"there is no {name}: write one, e.g. {name}: {example}.")
    for name, value in hyperparams.items():
        if isinstance(value, str) and _is_number(value) and name not in ("n_envs", "n_timesteps"):
            raise ValueError(f"{name}: {value!r} is text. YAML reads 1e-2 as such: write 0.01 or 1.0e-2.")
    for name, kinds in (("n_envs", int), ("n_timesteps", int | float)):
        value = hyperparams.get(name, 1)
        if not isinstance(value, kinds) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: {value!r} is no positive number. YAML reads 1e6 as text: write 1_000_000 or 1.0e+6.")
    for name in ("learning_rate", "clip_range", "clip_range_vf"):
        value = hyperparams.get(name)
        if isinstance(value, bool | list | dict) or (isinstance(value, str) and not _is_linear(value)):
            raise ValueError(f"{name}: {value!r} is neither a number nor a schedule: write e.g. 3.0e-4, or lin_3e-4.")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_linear(value: str) -> bool:
    return value.startswith("lin_") and _is_number(value.removeprefix("lin_"))


def schedules(hyperparams: dict[str, Any]) -> dict[str, LinearSchedule | LateSchedule]:
    """
    :param hyperparams: Hyperparameters as they are written in YAML.
    :return: The schedules among them: ``lin_0.05`` falls linearly to 0, as in rl_zoo3, and
        ``{start: 0.0, end: 1.0, begin: 0.7}`` is a ``LateSchedule``.
    :raises ValueError: If a hyperparameter that may be a schedule is neither a schedule nor a number.
    """
    made: dict[str, LinearSchedule | LateSchedule] = {}
    for name in SCHEDULED:
        value = hyperparams.get(name)
        if isinstance(value, dict) and value.keys() == {"start", "end", "begin"}:
            made[name] = LateSchedule(**value)
        elif isinstance(value, str) and _is_linear(value):
            made[name] = LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
        elif isinstance(value, str | dict):
            raise ValueError(
                f"{name}: {value!r} is neither a number nor a schedule: write e.g. lin_0.05, which falls to 0 linearly, or "
                "{start: 0.0, end: 1.0, begin: 0.7}, which stays at its start for 70 % of the training."
            )
    return made


class JointExperimentManager(ExperimentManager):
    """
    Trains, continues and tunes the algorithms of this project with rl_zoo3's command line. Differences from rl_zoo3:

    - Hyperparameters are those of this project's ``hyperparams/<algo>.yml``, if there is one, and no string in them is
      evaluated as code.
    - Environments that can be stepped as one batch (such as those of VMAS) are.
    - ``--eval-freq 0`` spreads up to 30 evaluations over the training, and ``--save-freq 0`` saves a checkpoint before each.
      ``--eval-episodes 0`` and ``--n-eval-envs 0`` choose numbers that suit the environment.
    - Best models and checkpoints keep the normalization that they were saved with.
    - The log is written to ``progress.csv`` as well, and hyperparameters to TensorBoard's log.
    - A training ends with a learning curve and with evaluations of the last and the best model. If the last one is better, it
      replaces the best one.
    - ``-i`` continues to count timesteps, with the normalization of the model that it names.
    - The state of a training is saved every ``--state-interval`` seconds, and ``--resume`` goes on from it exactly.
    - If hyperparameters are refused, no folder remains.
    - The hyperparameter search is that of ``sb3_cora.zoo.tuning``.

    The parameters are those of ``rl_zoo3.exp_manager.ExperimentManager``; ``args`` also has ``final_eval_episodes``,
    ``reset_num_timesteps``, ``game_seeds``, ``grace_period``, ``state_interval`` and ``resume``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.evaluation_size = EvaluationSize.of_env(self.env_name.gym_id)
        # Hyperparameters as they are written in YAML, which the search varies.
        self.settings: dict[str, Any] = {}
        if self.optimize_hyperparameters:
            # Workers that start at the same time would choose the same folder for a run. It is not made among the runs: no
            # search leaves one behind, and who removes empty folders there may take them from another worker.
            self.save_path = str(Path(tempfile.gettempdir(), f"search_{uuid.uuid4()}"))
            self.params_path = f"{self.save_path}/{self.env_name}"
        # The state from which --resume goes on, and whether Ctrl-C or a SIGTERM has ended the training early.
        self.resumed_state: dict[str, Any] | None = None
        self.interrupted = False
        if self.args.resume is not None:
            self.save_path = self.args.resume
            self.params_path = f"{self.save_path}/{self.env_name}"
            self.resumed_state = read_latest_state(states_folder(Path(self.save_path)))
        # Whether timesteps and schedules continue from those of the model.
        self.keeps_counter = self.continue_training and not self.args.reset_num_timesteps
        if kwargs.get("config") is None:
            own_config = hyperparams_folder() / f"{self.algo}.yml"
            if own_config.is_file():
                self.config = str(own_config)
            elif not Path(self.config).is_file():
                raise ValueError(
                    f"There are no hyperparameters for {self.algo}, no {own_config}: name a file with --conf-file."
                )
        if self.trial_id is not None:
            if self.storage is None or self.study_name is None:
                raise ValueError(f"--trial-id {self.trial_id} is a trial of which study? Give its --storage and --study-name.")
            if self.trial_id == 0:
                # rl_zoo3 takes the number 0 of the first trial for no trial.
                trial = self.load_trial(self.storage, self.study_name, self.trial_id)
                self.custom_hyperparams = {**trial, **(self.custom_hyperparams or {})}

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        is_new = not Path(self.save_path).exists()
        new_parents = [path for path in Path(self.save_path).parents if not path.exists()]
        experiment = None
        try:
            experiment = super().setup_experiment()
            if experiment is not None and self.resumed_state is not None:
                return self._resumed(experiment[0]), experiment[1]
        except REFUSED as error:
            if is_of_the_user(error) or self.config in str(error):
                raise
            given = "".join(
                f" with {flag} {value}"
                for flag, value in (("-params", self.custom_hyperparams), ("--env-kwargs", self.args.env_kwargs))
                if value
            )
            raise ValueError(f"{self.config}, {self.env_name.gym_id}{given}: {error}") from error
        finally:
            if experiment is None and is_new:
                # rl_zoo3 makes the folder before it checks hyperparameters. It would count as a run, but neither refused
                # hyperparameters nor a search are one.
                shutil.rmtree(self.save_path, ignore_errors=True)
                for path in new_parents:
                    # Those that are empty.
                    with suppress(OSError):
                        path.rmdir()
        if experiment is not None:
            # Beside rl_zoo3's config.yml, args.yml (with the seed) and command.txt: all it takes to repeat the training.
            (Path(self.params_path) / "versions.yml").write_text(yaml.safe_dump(versions(), sort_keys=False), encoding="utf-8")
        return experiment

    def _resumed(self, model: BaseAlgorithm) -> BaseAlgorithm:
        """
        :param model: A new model, with the environment of the run.
        :return: The model of the run, with this environment in its last state.
        """
        folder = states_folder(Path(self.save_path))
        assert isinstance(model, CooperativeOnPolicyAlgorithm) and model.env is not None
        resumed = type(model).resume(folder, model.env, device=self.device)
        print(f"Resuming {self.save_path} at timestep {resumed.num_timesteps} of {resumed._total_timesteps}")
        return resumed

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        # A resumed run keeps what it was started with.
        if self.resumed_state is None:
            super()._save_config(saved_hyperparams)

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        self._check_config()
        hyperparams, saved_hyperparams = super().read_hyperparameters()
        check_hyperparams(hyperparams, self.algo)
        # A copy, because rl_zoo3 makes Python objects of the original.
        self.settings = deepcopy(dict(saved_hyperparams))
        if self.resumed_state is not None:
            check_settings(Path(self.save_path), self.resumed_state["settings"], self.settings)
            warn_of_other_versions(Path(self.params_path) / "versions.yml")
            # After all that can refuse to go on.
            take_back_logs(Path(self.save_path), self.resumed_state)
        elif self.continue_training:
            self._warn_of_other_hyperparams(saved_hyperparams)
        return hyperparams, saved_hyperparams

    def _check_config(self) -> None:
        """
        :raises ValueError: If the file of hyperparameters cannot be read as such.
        """
        path = Path(self.config)
        if path.suffix not in (".yml", ".yaml"):
            # A script or a module, which may do what it likes.
            if path.suffix == ".py" and not path.is_file():
                raise ValueError(f"--conf-file {path}: there is no such file.")
            return
        entries = read_yaml(path, "--conf-file")
        env_id = self.env_name.gym_id
        if env_id not in entries and "default" not in entries:
            raise ValueError(f"{path} has no entry {env_id}, and no default: it has {', '.join(map(str, entries))}.")
        entry = entries.get(env_id, entries.get("default"))
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, {env_id}: expected a mapping of hyperparameters, got {entry!r}.")

    def _warn_of_other_hyperparams(self, hyperparams: dict[str, Any]) -> None:
        """
        Warn of hyperparameters that differ from those that the model was trained with. ``-i`` takes them from the
        configuration and the command line, where the user may have forgotten to repeat them.

        :param hyperparams: The current hyperparameters.
        """
        before = saved_settings(Path(self.trained_agent).parent / str(self.env_name))
        if not before:
            return
        now = {**hyperparams, "env_kwargs": {**(hyperparams.get("env_kwargs") or {}), **self.env_kwargs}}
        compared = known_hyperparams(self.algo) - set(KEPT_SETTINGS)
        changes = differences(*({key: each[key] for key in each if key in compared} for each in (before, now)))
        if changes:
            warnings.warn(
                f"The training of {self.trained_agent} continues with other hyperparameters: {changes}. Unless "
                "this is meant, repeat the flags that it was started with (-params, --env-kwargs, --conf-file, --trial-id).",
                stacklevel=2,
            )

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        return {**ExperimentManager._preprocess_schedules(hyperparams), **schedules(hyperparams)}

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable | None, list[BaseCallback], Callable | None]:
        for key in MAPPINGS:
            if isinstance(hyperparams.get(key), str):
                raise ValueError(
                    f"{key} in {self.config} is the string {hyperparams[key]!r}, which would have to be evaluated as Python "
                    "code. Write it as a YAML mapping instead, e.g. 'policy_kwargs: {net_arch: {pi: [64, 64]}}'."
                )
        is_length_given = self.n_timesteps > 0
        preprocessed = super()._preprocess_hyperparams(hyperparams)
        # Off-policy algorithms have no rollouts.
        default = inspect.signature(ALGOS[self.algo]).parameters.get("n_steps")
        self.rollout_size = preprocessed[0].get("n_steps", default.default if default else 1) * self.n_envs
        self._set_evaluation_size()
        if self.keeps_counter:
            self._continue_counter(is_length_given)
        policy_kwargs = preprocessed[0].get("policy_kwargs", {})
        for key, value in policy_kwargs.items():
            # A dotted name stands for the class, as for policies and wrappers in rl_zoo3.
            if key.endswith(("_class", "_fn")) and isinstance(value, str):
                policy_kwargs[key] = get_class_by_name(value)
        if self._eval_env_kwargs_args is None:
            # Without this, rl_zoo3 would evaluate without the env_kwargs of the configuration.
            self.eval_env_kwargs = self.env_kwargs
        return preprocessed

    def _set_evaluation_size(self) -> None:
        """Set the numbers of episodes and environments of an evaluation that no flag sets."""
        if self.n_eval_episodes == 0:
            self.n_eval_episodes = self.evaluation_size.n_episodes
        if self.n_eval_envs == 0:
            self.n_eval_envs = min(self.n_eval_episodes, self.evaluation_size.n_episodes)
            if self.vec_env_class is SubprocVecEnv and not is_batched(self.env_name.gym_id):
                # Each is a process, so not more of them than for the training.
                self.n_eval_envs = min(self.n_eval_envs, self.n_envs)

    def _continue_counter(self, is_length_given: bool) -> None:
        """
        Set and print the timesteps of a training that is continued.

        :param is_length_given: Whether the command line sets the number of further timesteps. Otherwise it is the rest of an
            interrupted training, or the number in the configuration after a complete one.
        """
        data = check_archive(self.trained_agent)
        done, planned = data["num_timesteps"], data["_total_timesteps"]
        if not is_length_given and done < planned:
            self.n_timesteps = planned - done
        total = done + self.n_timesteps
        print(
            f"Continuing from timestep {done} to {total}: schedules go on at {done / total:.0%} of their course "
            "(--reset-num-timesteps starts both anew)"
        )

    def create_callbacks(self) -> None:
        # At most once per rollout, since the policy does not change within one.
        freq = max(self.n_timesteps // N_EVALUATIONS, self.rollout_size)
        if self.eval_freq == 0:
            self.eval_freq = freq
        if self.save_freq == 0:
            self.save_freq = self.eval_freq if self.eval_freq > 0 else freq
        super().create_callbacks()
        for callback in self.callbacks:
            if isinstance(callback, EvalCallback) and isinstance(callback.callback_on_new_best, SaveVecNormalizeCallback):
                # rl_zoo3 has one file of statistics for both models, so those of the last model overwrite those of the best.
                best = Path(self.save_path) / "best_model.zip"
                callback.best_model_save_path = None
                callback.callback_on_new_best = SaveModelCallback(best, statistics_path(best, self.env_name))
                callback.callback_on_new_best.parent = callback

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        # rl_zoo3 would use the statistics of the run's last model for all of its models.
        statistics = statistics_path(Path(self.trained_agent), self.env_name)
        if self.continue_training and statistics.is_file():
            if not eval_env:
                print(f"Loading saved VecNormalize stats from {statistics}")
            normalize = load_statistics(statistics, env)
            # Even if the hyperparameters do not ask for it, so that the statistics are saved with the model.
            self.normalize = True
        elif self.normalize:
            if self.continue_training and not eval_env:
                warnings.warn(
                    f"There is no {statistics}, so normalization starts from fresh statistics: at first "
                    f"{self.trained_agent} sees other observations than it was trained on.",
                    stacklevel=2,
                )
            normalize = JointVecNormalize(env, **self.normalize_kwargs)
        else:
            return env
        if eval_env:
            normalize.training = False
            normalize.norm_reward = False
        return normalize

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        env_id = self.env_name.gym_id
        if is_batched(env_id):
            if self.env_wrapper is not None:
                raise ValueError(
                    f"env_wrapper wraps single environments, but {env_id!r} steps all its worlds as one batch. "
                    "Use vec_env_wrapper instead."
                )
            env_kwargs = self.eval_env_kwargs if eval_env else self.env_kwargs
            monitor_dir = None if eval_env or no_log else self.save_path
            appends = self.resumed_state is not None
            self.vec_env_class = batch_env_constructor(  # type: ignore[assignment]
                env_id, env_kwargs, monitor_dir, appends, self.monitor_kwargs
            )
            return super().create_envs(n_envs, eval_env=eval_env, no_log=no_log)
        if self.resumed_state is not None:
            self.monitor_kwargs = {**self.monitor_kwargs, "override_existing": False}
        wrapper = self.env_wrapper
        if self.vec_env_class is SubprocVecEnv:
            self.env_wrapper = partial(resumable, wrapper, {})
        try:
            return super().create_envs(n_envs, eval_env=eval_env, no_log=no_log)
        finally:
            self.env_wrapper = wrapper

    @at_work()
    def learn(self, model: BaseAlgorithm) -> None:
        """
        Train to the end, or until Ctrl-C or a SIGTERM.

        It replaces rl_zoo3's method, which always counts timesteps from 0, and loses the model if Ctrl-C has also ended the
        processes of a ``SubprocVecEnv``.

        :param model: The model.
        """
        is_resumed = self.resumed_state is not None
        progress = ProgressCallback(Path(self.save_path) / "progress.csv", appends=is_resumed)
        callbacks: list[BaseCallback] = [progress, *self.callbacks]
        if self.tensorboard_log is not None:
            run = {"algo": self.algo, "env": str(self.env_name), "seed": self.seed, "folder": self.save_path}
            callbacks.append(HyperparametersCallback({**run, **self.settings}))
        saver = None
        n_timesteps = self.n_timesteps
        if isinstance(model, CooperativeOnPolicyAlgorithm):
            if self.args.state_interval >= 0:
                saver = RunStateCallback(Path(self.save_path), self.args.state_interval, self.settings)
                callbacks.append(saver)
            if is_resumed:
                n_timesteps = model.timesteps_left
        kwargs: dict[str, Any] = {"callback": callbacks, "reset_num_timesteps": not (self.keeps_counter or is_resumed)}
        if self.log_interval != -1:
            kwargs["log_interval"] = self.log_interval if self.log_interval > -1 else None
        try:
            with nullcontext() if saver is None else saved_when_interrupted(saver):
                model.learn(n_timesteps, **kwargs)
        except (KeyboardInterrupt, EOFError, ConnectionError) as error:
            # Ctrl-C may have ended the processes of a SubprocVecEnv, and not yet the training.
            if not isinstance(error, KeyboardInterrupt) and (saver is None or not saver.ends):
                raise
            self.interrupted = True
            for callback in self.callbacks:
                callback.on_training_end()
        finally:
            evaluations = [callback.eval_env for callback in self.callbacks if isinstance(callback, EvalCallback)]
            for env in (model.env, *evaluations):
                assert env is not None
                with suppress(EOFError, ConnectionError):
                    env.close()

    @at_work()
    def save_trained_model(self, model: BaseAlgorithm) -> None:
        super().save_trained_model(model)
        self.report(model)
        if not self.interrupted:
            remove_states(Path(self.save_path))
        elif states_folder(Path(self.save_path)).is_dir():
            print(f"To go on with the training: --resume {self.save_path}")

    def report(self, model: BaseAlgorithm) -> None:
        """
        Evaluate a trained model, plot its learning curve, and print the results with the paths of all files.

        :param model: The trained model.
        """
        folder = Path(self.save_path)
        last, best = folder / f"{self.env_name}.zip", folder / "best_model.zip"
        paths = {
            "Model": last,
            "Normalization": statistics_path(last, self.env_name),
            "Best model": best,
            "Its statistics": statistics_path(best, self.env_name),
            "Settings": Path(self.params_path) / "config.yml",
            "Log": folder / "progress.csv",
            "Evaluations": folder / "evaluations.npz",
            "Learning curve": folder / "learning_curve.png",
        }
        evaluation = None
        if self.args.final_eval_episodes >= 0:
            evaluation = self.evaluate_saved(model, last)
            print(f"{'Evaluation:':<16}{evaluation}")
            if best.is_file():
                best_evaluation = self.evaluate_saved(type(model).load(best, device=model.device), best)
                # Not if the training may be resumed, whose best model is the one of its evaluations.
                if evaluation.returns.mean() > best_evaluation.returns.mean() and not self.interrupted:
                    print(f"The last model is better than the best so far, {best_evaluation}, and takes its place")
                    best_evaluation = evaluation
                    copies = {paths["Its statistics"]: paths["Normalization"], best: last}
                    write_whole({to: partial(shutil.copyfile, of) for to, of in copies.items() if of.is_file()})
                print(f"{'Of best model:':<16}{best_evaluation}")
        if paths["Evaluations"].is_file():
            title = f"{self.algo} on {self.env_name}, seed {self.seed}"
            final_returns = None if evaluation is None else evaluation.returns
            plot_learning_curve(paths["Evaluations"], paths["Learning curve"], title, model.num_timesteps, final_returns)
        for label, path in paths.items():
            if path.is_file():
                print(f"{label + ':':<16}{path}")

    def evaluate_saved(self, model: BaseAlgorithm, path: Path) -> Evaluation:
        """
        Evaluate a model on the number of episodes of ``--final-eval-episodes``, in environments with the training's seed.

        :param model: The model.
        :param path: The file of the model, whose normalization is used.
        :return: The episodes' returns and lengths.
        """
        n_episodes = self.args.final_eval_episodes or self.evaluation_size.n_final_episodes
        print(f"Playing {n_episodes} episodes with {path}")
        # As in enjoy.py. Processes would take longer to start than these episodes to play.
        self.vec_env_class = DummyVecEnv
        env = self.create_envs(min(self.evaluation_size.n_final_envs, n_episodes), eval_env=True, no_log=True)
        statistics = statistics_path(path, self.env_name)
        if statistics.is_file():
            set_statistics(env, statistics)
        evaluation = evaluate(model, env, n_episodes, self.deterministic_eval, show_progress=self.show_progress)
        env.close()
        return evaluation

    def for_game(self, env_kwargs: dict[str, Any]) -> "JointExperimentManager":
        """
        :param env_kwargs: Further arguments of the environment, in training and evaluation.
        :return: A copy of the experiment with these arguments.
        """
        experiment = copy(self)
        experiment.env_kwargs = {**self.env_kwargs, **env_kwargs}
        experiment.eval_env_kwargs = {**self.eval_env_kwargs, **env_kwargs}
        return experiment

    def load_trial(self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True) -> dict[str, Any]:
        journal = Path(storage.removeprefix("journal:"))
        if (storage.startswith("journal:") or storage.endswith(".log")) and not journal.is_file():
            # To open it would make it.
            raise ValueError(f"--storage {storage}: there is no such journal. Name the one of the search.")
        try:
            study = optuna.load_study(study_name=study_name, storage=open_storage(storage))
        except KeyError as error:
            raise ValueError(
                f"--study-name {study_name}: there is no such study in --storage {storage}. `optuna studies --storage` lists "
                "them."
            ) from error
        if trial_id is not None and not 0 <= trial_id < len(study.trials):
            raise ValueError(f"--trial-id {trial_id}: the study {study_name} has the trials 0 to {len(study.trials) - 1}.")
        trial = study.best_trial if trial_id is None else study.trials[trial_id]
        if SETTINGS in trial.user_attrs:
            return trial.user_attrs[SETTINGS]
        if self.algo not in HYPERPARAMS_CONVERTER:
            raise ValueError(f"--trial-id {trial_id}: this trial was ended before it had settings. Name another.")
        # rl_zoo3's own algorithms do not record them.
        return HYPERPARAMS_CONVERTER[self.algo](trial.params) if convert else trial.params

    def objective(self, trial: optuna.Trial) -> float:
        try:
            return super().objective(trial)
        except optuna.TrialPruned as pruned:
            if pruned.__cause__ is not None:
                # rl_zoo3 prunes trials that raise an error, which would hide a bug that affects all trials.
                raise pruned.__cause__ from None
            raise

    def hyperparameters_optimization(self) -> None:
        search = Search(self)
        with at_work():
            search.run()
