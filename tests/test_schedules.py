"""What a schedule is told of the progress of a training."""

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule

from sb3_cora import make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.schedules import LateSchedule
from tests.algorithms import ALGORITHMS


class LinearlyToZero:
    """``lin_1e-3`` of the zoo, and what it was asked."""

    def __init__(self) -> None:
        self.progress: list[float] = []

    def __call__(self, progress_remaining: float) -> float:
        if progress_remaining not in self.progress:
            self.progress.append(progress_remaining)
        return 1e-3 * progress_remaining


def train(algorithm: type, total_timesteps: int) -> tuple[list[float], float]:
    """The progress that a learning rate sees in rollouts of 64 steps, and the rate at the end."""
    learning_rate = LinearlyToZero()
    env = make_joint_vec_env("penalty", n_envs=2)
    model = algorithm("MlpPolicy", env, learning_rate=learning_rate, n_steps=32, n_epochs=1, device="cpu")
    # Asked for the first time when the optimizer is made
    model.learn(total_timesteps)
    return learning_rate.progress, model.policy.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_schedule_ends_at_zero_whatever_the_length(algorithm: type[CooperativeOnPolicyAlgorithm]) -> None:
    assert train(algorithm, 100) == ([1.0, 1 - 64 / 100, 0.0], 0.0)


def test_up_to_the_end_progress_is_that_of_ppo() -> None:
    ours, _ = train(ALGORITHMS[0], 150)
    theirs, _ = train(PPO, 150)
    assert theirs[-1] < 0
    assert ours == [*theirs[:-1], 0.0]
    assert train(ALGORITHMS[0], 128) == train(PPO, 128)


def test_linear_schedule_ends_at_its_end() -> None:
    env = make_joint_vec_env("penalty", n_envs=2)
    schedule = LinearSchedule(1e-3, 0.0, 1.0)
    model = ALGORITHMS[0]("MlpPolicy", env, learning_rate=schedule, clip_range=LinearSchedule(0.2, 0.1, 1.0), n_steps=32)
    model.learn(100)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0
    assert model.logger.name_to_value["train/clip_range"] == pytest.approx(0.1)


def test_learning_on_is_the_later_part_of_a_schedule() -> None:
    learning_rate = LinearlyToZero()
    env = make_joint_vec_env("penalty", n_envs=2)
    model = ALGORITHMS[0]("MlpPolicy", env, learning_rate=learning_rate, n_steps=32, n_epochs=1)
    model.learn(64)
    learning_rate.progress.clear()
    model.learn(128, reset_num_timesteps=False)
    assert learning_rate.progress == pytest.approx([1 / 3, 0.0])


def test_late_schedule() -> None:
    schedule = LateSchedule(0.0, 1.0, begin=0.7)
    assert [schedule(progress) for progress in (1.0, 0.5, 0.3, 0.15, 0.0)] == pytest.approx([0.0, 0.0, 0.0, 0.5, 1.0])
    assert LateSchedule(0.2, 0.1, begin=0.0)(0.5) == pytest.approx(0.15)
    for begin in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"begin must be in \[0, 1\), a fraction of the training, got {begin}"):
            LateSchedule(0.0, 1.0, begin)
