"""The trainings of a suite, without the zoo's folders and logs around them."""

from typing import Any

from sb3_cora import make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.zoo.benchmark.suites import Task
from sb3_cora.zoo.exp_manager import JointExperimentManager


def model_of(task: Task, algorithm: type[CooperativeOnPolicyAlgorithm], **settings: Any) -> Any:
    """
    :param task: A run on a game.
    :param algorithm: The task's algorithm, or what is derived from it.
    :param settings: Hyperparameters that differ.
    :return: The model, before its training.
    """
    arguments = JointExperimentManager._preprocess_schedules(task.hyperparams | settings)
    n_envs, env_kwargs = arguments.pop("n_envs"), arguments.pop("env_kwargs")
    del arguments["n_timesteps"]
    env = make_joint_vec_env(task.env, n_envs=n_envs, env_kwargs=env_kwargs)
    return algorithm(env=env, seed=task.run.seed, **arguments)
