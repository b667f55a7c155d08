"""What everything else builds on, in seconds: tried with the lowest and the newest versions of the dependencies as well."""

import os
from pathlib import Path

import gymnasium as gym
import pytest
import yaml

from sb3_cora import MAPPO, check_joint_env, make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.training_state import TrainingStateCallback
from sb3_cora.common.training_state.files import state_files
from tests.algorithms import ALGORITHMS, TINY, assert_same_weights, assert_trained, make_tiny, weights
from tests.processes import run_python

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_game_is_trained_saved_and_resumed(algorithm: type[CooperativeOnPolicyAlgorithm], tmp_path: Path) -> None:
    steps = 2 * TINY["n_steps"] * 4

    def callback() -> TrainingStateCallback:
        return TrainingStateCallback(tmp_path, every_seconds=0)

    model = make_tiny(algorithm, make_joint_vec_env("climbing", n_envs=4, seed=0))
    before = weights(model)
    model.learn(steps, callback())
    assert model.num_timesteps == steps
    assert_trained(before, model)
    model.save(tmp_path / "model")
    assert_same_weights(weights(model), weights(algorithm.load(tmp_path / "model")))
    _, after_one = state_files(tmp_path)
    resumed = algorithm.resume(after_one, make_joint_vec_env("climbing", n_envs=4, seed=0))
    resumed.learn(resumed.timesteps_left, callback(), reset_num_timesteps=False)
    assert_same_weights(weights(model), weights(resumed))


@pytest.mark.parametrize(
    ("env_id", "package"),
    [("give_way", "vmas"), ("mpe2/simple_spread", "mpe2"), ("mujoco/HalfCheetah-2x3", "gymnasium_robotics")],
)
def test_a_task_of_each_suite_is_trained_on(env_id: str, package: str) -> None:
    pytest.importorskip(package)
    check_joint_env(gym.make(f"sb3_cora:{env_id}"))
    model = make_tiny(MAPPO, env_id)
    before = weights(model)
    assert_trained(before, model.learn(2 * TINY["n_steps"] * model.n_envs))


def test_the_command_line_trains(tmp_path: Path) -> None:
    for package in ("rl_zoo3", "tensorboard"):
        pytest.importorskip(package)
    flags = ("--algo", "mappo", "--env", "climbing", "-n", "400", "--eval-freq", "200", "--tensorboard-log", "runs")
    # Which of the installed packages go first is for this process to say
    packages = {"PYTHONPATH": os.environ.get("PYTHONPATH")}
    run_python("-m", "sb3_cora.zoo.train", *flags, "--progress", cwd=tmp_path, environment=packages)
    folder = tmp_path / "logs" / "mappo" / "climbing_1"
    assert {"climbing.zip", "best_model.zip", "learning_curve.png"} <= {path.name for path in folder.iterdir()}
    assert yaml.safe_load((folder / "climbing" / "versions.yml").read_text())["torch"]
    assert list(tmp_path.glob("runs/**/events.out.tfevents.*"))
