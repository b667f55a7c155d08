"""A training that is resumed in another process ends as one that was never interrupted, to the last bit."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnNoModelImprovement
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_cora import CORAPPO, MAPPO, make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.schedules import LateSchedule
from sb3_cora.common.training_state import TrainingStateCallback
from sb3_cora.common.training_state.files import state_files
from sb3_cora.common.vec_frame_stack import JointVecFrameStack
from sb3_cora.common.vec_normalize import JointVecNormalize
from tests.algorithms import ALGORITHMS, make_tiny
from tests.joint_games import MaskedTeam, NoisyTeam
from tests.processes import TIME_LIMIT, zoo_context

N_ROLLOUTS = 4

FORKED = {"vec_env_cls": SubprocVecEnv, "vec_env_kwargs": {"start_method": "fork"}}


class GlobalNoise(gym.Wrapper):
    """Adds what environments should not have, but do: random numbers of the process, and a function that is not importable."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.scale = lambda number: 0.1 * number

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        return observation, float(reward) + self.scale(np.random.standard_normal()), *rest


class OwnState(NoisyTeam):
    """Says itself what its state is, beside something that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.resource = {object().__hash__: iter([])}

    def get_state(self) -> int:
        return self.steps

    def set_state(self, state: int) -> None:
        self.steps = state


# By the suite and the kind of VecEnv: what makes the environments of a training
ENVIRONMENTS: dict[str, Callable[[], VecEnv]] = {
    "game": lambda: make_joint_vec_env("climbing", n_envs=2, n_steps=3),
    "game one by one": lambda: VecNormalize(make_joint_vec_env("climbing", n_envs=2, vec_env_cls=DummyVecEnv, n_steps=3)),
    "joint env": lambda: JointVecNormalize(make_joint_vec_env(NoisyTeam, n_envs=2), share_statistics=True),
    "masks, stacked": lambda: JointVecFrameStack(JointVecNormalize(make_joint_vec_env(MaskedTeam, n_envs=2)), 2),
    "joint env, processes": lambda: VecNormalize(make_joint_vec_env(NoisyTeam, 2, wrapper_class=GlobalNoise, **FORKED)),
    "own state": lambda: make_joint_vec_env(OwnState, n_envs=2),
    "VMAS": lambda: JointVecNormalize(make_joint_vec_env("give_way", n_envs=2, max_steps=11)),
    "VMAS, lidars": lambda: VecNormalize(make_joint_vec_env("navigation", n_envs=2, max_steps=11)),
    "VMAS one by one": lambda: make_joint_vec_env("vmas/balance", n_envs=2, vec_env_cls=DummyVecEnv, max_steps=11),
    "MuJoCo": lambda: JointVecNormalize(make_joint_vec_env("mujoco/Ant-2x4", n_envs=2, max_steps=11)),
    "MuJoCo, processes": lambda: VecNormalize(make_joint_vec_env("mujoco/Hopper-3x1", n_envs=2, max_steps=11, **FORKED)),
    "PettingZoo": lambda: JointVecNormalize(make_joint_vec_env("mpe2/simple_spread", n_envs=2, max_cycles=11)),
    "PettingZoo, processes": lambda: make_joint_vec_env("mpe2/simple_spread", n_envs=2, max_cycles=11, **FORKED),
}
NEEDS = {"VMAS": "vmas", "MuJoCo": "gymnasium_robotics", "PettingZoo": "mpe2"}


class Training(NamedTuple):
    """What is trained, and how."""

    algorithm: type[CooperativeOnPolicyAlgorithm]
    environment: str
    settings: dict[str, Any]


class Lines(KVWriter):
    """Keeps what is logged, except for times."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        untimed = {key: value for key, value in key_values.items() if key not in ("time/fps", "time/time_elapsed")}
        self.lines.append({"step": step, **untimed})


def train(training: Training, folder: Path, outcome: Path, resumed: bool) -> None:
    """Train from the beginning, or from the state in the middle, and write down all that came of it."""
    th.set_num_threads(1)
    if resumed:
        # What another process has drawn before
        np.random.seed(77)
        th.manual_seed(77)
    env, eval_env = (ENVIRONMENTS[training.environment]() for _ in range(2))
    eval_env.seed(5)
    model: CooperativeOnPolicyAlgorithm
    if resumed:
        model = training.algorithm.resume(middle(folder), env, device="cpu")
    else:
        model = make_tiny(training.algorithm, env, **training.settings)
    log = Lines()
    model.set_logger(Logger(None, [log]))
    states = TrainingStateCallback(folder, every_seconds=0, keep=N_ROLLOUTS)
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=N_ROLLOUTS)
    evaluations = EvalCallback(
        eval_env, callback_after_eval=stop, n_eval_episodes=2, eval_freq=16, log_path=str(outcome.parent), verbose=0
    )
    callbacks: list[BaseCallback] = [evaluations] if resumed else [evaluations, states]
    if resumed:
        callbacks.append(TrainingStateCallback(outcome.parent / "others", save_freq=10**6))
        model.learn(model.timesteps_left, callbacks, log_interval=2, reset_num_timesteps=False)
    else:
        model.learn(N_ROLLOUTS * model.n_steps * model.n_envs, callbacks, log_interval=2)
    optimizers = [model.policy.optimizer, *([model.policy.q_optimizer] if hasattr(model.policy, "q_optimizer") else [])]
    with outcome.open("wb") as file:
        pickle.dump(
            {
                "weights": model.policy.state_dict(),
                "moments": [optimizer.state_dict() for optimizer in optimizers],
                "log": log.lines,
                "evaluations": [evaluations.evaluations_timesteps, evaluations.evaluations_results],
                "best": evaluations.best_mean_reward,
                "stop": [stop.n_calls, stop.no_improvement_evals],
                "counters": [model.num_timesteps, model._n_updates, model._current_progress_remaining],
                "observations": model._last_obs,
                "episodes": [(episode["r"], episode["l"]) for episode in model.ep_info_buffer or ()],
                "drawn": [np.random.random(), th.rand(1)],
            },
            file,
        )
    env.close()
    eval_env.close()


def middle(folder: Path) -> Path:
    """The state after half of the rollouts."""
    return state_files(folder)[N_ROLLOUTS // 2]


def in_a_process(function: Callable[..., None], *arguments: Any) -> None:
    process = zoo_context().Process(target=function, args=arguments)
    process.start()
    process.join(TIME_LIMIT)
    assert process.exitcode == 0


def assert_same(first: Any, second: Any, place: str) -> None:
    assert type(first) is type(second), place
    if isinstance(first, dict):
        assert list(first) == list(second), place
        for key in first:
            assert_same(first[key], second[key], f"{place}[{key!r}]")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), place
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{place}[{index}]")
    elif isinstance(first, th.Tensor):
        assert th.equal(first, second), place
    else:
        np.testing.assert_array_equal(first, second, err_msg=place)


def assert_resumed_exactly(training: Training, folder: Path) -> None:
    """Train at one go and, in another process, from the middle of it."""
    whole, half = folder / "whole" / "outcome", folder / "half" / "outcome"
    for outcome in (whole, half):
        outcome.parent.mkdir()
    train(training, folder / "states", whole, resumed=False)
    in_a_process(train, training, folder / "states", half, True)
    expected, found = (pickle.loads(outcome.read_bytes()) for outcome in (whole, half))
    # Each line of the log stands in one of the two halves
    n_steps = expected["counters"][0] // 2
    expected["log"] = [line for line in expected["log"] if line["step"] > n_steps]
    assert len(expected["log"]) > 0
    assert_same(expected, found, "")
    arrays = [np.load(outcome.with_name("evaluations.npz")) for outcome in (whole, half)]
    assert_same(dict(arrays[0]), dict(arrays[1]), "evaluations")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithms(algorithm: type[CooperativeOnPolicyAlgorithm], tmp_path: Path) -> None:
    settings = {"learning_rate": LateSchedule(1e-3, 0.0, 0.1), "ent_coef": LateSchedule(0.1, 0.0, 0.2)}
    assert_resumed_exactly(Training(algorithm, "game", settings), tmp_path)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environments(environment: str, tmp_path: Path) -> None:
    for suite, package in NEEDS.items():
        if environment.startswith(suite):
            pytest.importorskip(package)
    algorithm = CORAPPO if "VMAS" in environment else MAPPO
    assert_resumed_exactly(Training(algorithm, environment, {}), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_sde": True, "sde_sample_freq": 5},
        {"noise_correlation": 0.9},
        {"n_coalitions": 2, "coalition_sampling": "uniform", "share_parameters": True},
        {"n_steps": 17, "batch_size": 34, "target_kl": 1e-4},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    assert_resumed_exactly(Training(CORAPPO, "joint env", settings), tmp_path)
