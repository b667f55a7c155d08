"""rl_zoo3's experiment manager, for joint environments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_class_by_name
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from batch_env import batch_env_constructor
from evaluation import BEST_STATISTICS, Evaluation, evaluate, set_statistics
from plot import plot_learning_curve
from sb3_cora.common.env_util import is_batched

HYPERPARAMS_FOLDER = Path(__file__).resolve().parent.parent / "hyperparams"
# Settings that rl_zoo3 would evaluate as Python code if they were strings
MAPPINGS = ("policy_kwargs", "normalize", "monitor_kwargs", "env_kwargs")
# Evaluations, at most, during a training whose --eval-freq is 0
N_EVALUATIONS = 30
# Episodes of the evaluation that closes a training
N_FINAL_EPISODES = 100


class JointExperimentManager(ExperimentManager):
    """
    Trains, continues and tunes the algorithms of this project with rl_zoo3's command line.

    What differs from rl_zoo3: settings come from this project's ``hyperparams/<algo>.yml`` where there is one, and no
    string in them is evaluated; environments that have a batch of their own (VMAS) use it; ``--eval-freq 0`` spreads up to
    30 evaluations over the training; a training ends with a learning curve and with evaluations of the last and of the
    best model, 100 episodes each, and the best model keeps the normalization it was evaluated with; an error in a trial of
    the hyperparameter search ends the search.

    The parameters are those of ``rl_zoo3.exp_manager.ExperimentManager``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own_config = HYPERPARAMS_FOLDER / f"{self.algo}.yml"
        if kwargs.get("config") is None and own_config.is_file():
            self.config = str(own_config)

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable | None, list[BaseCallback], Callable | None]:
        for key in MAPPINGS:
            if isinstance(hyperparams.get(key), str):
                raise ValueError(
                    f"{key} in {self.config} is the string {hyperparams[key]!r}, which would have to be evaluated as Python "
                    "code. Write it as a YAML mapping instead, e.g. 'policy_kwargs: {net_arch: {pi: [64, 64]}}'."
                )
        preprocessed = super()._preprocess_hyperparams(hyperparams)
        self.rollout_size = preprocessed[0].get("n_steps", 1) * self.n_envs
        policy_kwargs = preprocessed[0].get("policy_kwargs", {})
        for key, value in policy_kwargs.items():
            # A dotted name stands for the class, as rl_zoo3 has it for policies and wrappers
            if key.endswith(("_class", "_fn")) and isinstance(value, str):
                policy_kwargs[key] = get_class_by_name(value)
        if self._eval_env_kwargs_args is None:
            # rl_zoo3 evaluates without the env_kwargs of the configuration unless the command line repeats them
            self.eval_env_kwargs = self.env_kwargs
        return preprocessed

    def create_callbacks(self) -> None:
        if self.eval_freq == 0:
            # The policy stays the same within a rollout, so there is nothing to see more often
            self.eval_freq = max(self.n_timesteps // N_EVALUATIONS, self.rollout_size)
        super().create_callbacks()
        for callback in self.callbacks:
            if isinstance(callback, EvalCallback) and isinstance(callback.callback_on_new_best, SaveVecNormalizeCallback):
                # rl_zoo3 keeps one file of statistics for both models, and the last model's overwrite the best one's
                callback.callback_on_new_best.save_path = str(Path(self.save_path) / BEST_STATISTICS)

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
            self.vec_env_class = batch_env_constructor(env_id, env_kwargs, monitor_dir)  # type: ignore[assignment]
        return super().create_envs(n_envs, eval_env=eval_env, no_log=no_log)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        super().save_trained_model(model)
        self.report(model)

    def report(self, model: BaseAlgorithm) -> None:
        """
        Evaluate a trained model, draw its learning curve, and print the results with the paths of all files.

        :param model: the trained model
        """
        folder = Path(self.save_path)
        paths = {
            "Model": folder / f"{self.env_name}.zip",
            "Normalization": Path(self.params_path) / "vecnormalize.pkl",
            "Best model": folder / "best_model.zip",
            "Its statistics": folder / BEST_STATISTICS / "vecnormalize.pkl",
            "Settings": Path(self.params_path) / "config.yml",
            "Evaluations": folder / "evaluations.npz",
            "Learning curve": folder / "learning_curve.png",
        }
        evaluation = self.evaluate_saved(model, paths["Normalization"])
        if paths["Evaluations"].is_file():
            title = f"{self.algo} on {self.env_name}, seed {self.seed}"
            plot_learning_curve(paths["Evaluations"], paths["Learning curve"], title, model.num_timesteps, evaluation.returns)
        print(f"{'Evaluation:':<16}{evaluation}")
        if paths["Best model"].is_file():
            best_model = type(model).load(paths["Best model"], device=model.device)
            print(f"{'Of best model:':<16}{self.evaluate_saved(best_model, paths['Its statistics'])}")
        for label, path in paths.items():
            if path.is_file():
                print(f"{label + ':':<16}{path}")

    def evaluate_saved(self, model: BaseAlgorithm, statistics: Path) -> Evaluation:
        """
        Evaluate a model over 100 episodes, in worlds of the training's seed.

        :param model: the model
        :param statistics: file of the normalization it was saved with; where there is none, nothing is normalized
        :return: the episodes' returns and lengths
        """
        n_envs = N_FINAL_EPISODES if is_batched(self.env_name.gym_id) else self.n_eval_envs
        env = self.create_envs(n_envs, eval_env=True, no_log=True)
        if statistics.is_file():
            set_statistics(env, statistics)
        evaluation = evaluate(model, env, N_FINAL_EPISODES, deterministic=self.deterministic_eval)
        env.close()
        return evaluation

    def objective(self, trial: optuna.Trial) -> float:
        try:
            return super().objective(trial)
        except optuna.TrialPruned as pruned:
            if pruned.__cause__ is not None:
                # rl_zoo3 takes errors of a training for bad luck with the settings, which would hide a bug in every trial
                raise pruned.__cause__ from None
            raise
