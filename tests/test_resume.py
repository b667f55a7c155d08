"""A training that is resumed in another process ends as one that was never interrupted, to the last bit."""

import argparse
import errno
import os
import pickle
import signal
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    ConvertCallback,
    EvalCallback,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_cora import CORAPPO, MAPPO, make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.schedules import LateSchedule
from sb3_cora.common.training_state import TrainingStateCallback
from sb3_cora.common.training_state.callbacks import callbacks_in
from sb3_cora.common.training_state.files import read_latest_state, read_state, state_files, state_path, write_state
from sb3_cora.common.training_state.object_graph import set_state_of_object, state_of_object
from sb3_cora.common.vec_frame_stack import JointVecFrameStack
from sb3_cora.common.vec_normalize import JointVecNormalize
from sb3_cora.zoo.resuming import LATEST, check_settings, resumed_arguments, saved_when_interrupted, warn_of_other_versions
from sb3_cora.zoo.versions import versions
from tests.algorithms import LEARNERS, assert_same_weights, make_tiny, weights
from tests.joint_games import MaskedTeam, NoisyTeam
from tests.processes import TIME_LIMIT, run_zoo, zoo_context

N_ROLLOUTS = 2

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
        generator = (number for number in ())
        self.hidden = {generator}

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
    "VMAS one by one": lambda: make_joint_vec_env("vmas/balance", n_envs=1, vec_env_cls=DummyVecEnv, max_steps=11),
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
        model.learn(model.timesteps_left, callbacks, reset_num_timesteps=False)
    else:
        model.learn(N_ROLLOUTS * model.n_steps * model.n_envs, callbacks)
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


@pytest.mark.parametrize("algorithm", LEARNERS)
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


def test_settings_of_the_training_are_checked(tmp_path: Path) -> None:
    model = make_tiny(MAPPO, ENVIRONMENTS["game one by one"]())
    model.learn(32, TrainingStateCallback(tmp_path, save_freq=1))
    with pytest.raises(ValueError, match=r"wrappers=.* make and wrap it as there"):
        MAPPO.resume(tmp_path, ENVIRONMENTS["game"]())
    with pytest.raises(ValueError, match="num_envs=1, and that of the saved training 2"):
        MAPPO.resume(tmp_path, VecNormalize(make_joint_vec_env("climbing", vec_env_cls=DummyVecEnv, n_steps=3)))
    with pytest.raises(ValueError, match="saved by MAPPO, and CORAPPO cannot load it"):
        CORAPPO.resume(tmp_path, ENVIRONMENTS["game one by one"]())
    resumed = MAPPO.resume(tmp_path, ENVIRONMENTS["game one by one"]())
    assert resumed.timesteps_left == 0
    with pytest.raises(ValueError, match="reset_num_timesteps=True would begin it anew"):
        resumed.learn(32)
    with pytest.warns(UserWarning, match="missing is .*TrainingStateCallback"):
        resumed.learn(32, reset_num_timesteps=False)
    assert resumed.num_timesteps == 64


@pytest.mark.parametrize("arguments", [{}, {"save_freq": 0}, {"every_seconds": -1.0}, {"save_freq": 1, "keep": 0}], ids=str)
def test_arguments_of_the_callback(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected at least|give one of them"):
        TrainingStateCallback("states", **arguments)


class Unpicklable(NoisyTeam):
    """Has something that can neither be pickled nor found again."""

    def __init__(self) -> None:
        super().__init__()
        generator = (number for number in ())
        self.hidden = {generator}


@pytest.mark.parametrize("processes", [{}, FORKED], ids=["one by one", "processes"])
def test_without_the_state_of_the_environment_new_episodes_begin(processes: dict[str, Any], tmp_path: Path) -> None:
    env, other = (make_joint_vec_env(Unpicklable, **processes) for _ in range(2))
    model = make_tiny(MAPPO, env)
    with pytest.warns(UserWarning, match="resumed at an episode boundary, with new episodes, and not exactly"):
        model.learn(32, TrainingStateCallback(tmp_path, save_freq=16))
    with pytest.warns(UserWarning, match="state of the environment was not saved"):
        resumed = MAPPO.resume(tmp_path, other)
    with pytest.warns(UserWarning):
        resumed.learn(16, TrainingStateCallback(tmp_path, save_freq=16), reset_num_timesteps=False)
    assert resumed.num_timesteps == 48
    env.close()
    other.close()


def test_processes_without_the_wrapper_say_what_to_do() -> None:
    env = SubprocVecEnv([NoisyTeam], start_method="fork")
    with pytest.raises(pickle.PicklingError, match="make_joint_vec_env"):
        state_of_object(env)
    env.close()


def test_objects_keep_their_identity() -> None:
    env, other = (make_joint_vec_env(NoisyTeam, n_envs=2, seed=seed) for seed in (0, 1))
    assert isinstance(env, DummyVecEnv) and isinstance(other, DummyVecEnv)
    inner = other.envs[1].unwrapped
    env.reset()
    other.reset()
    set_state_of_object(other, state_of_object(env))
    assert other.envs[1].unwrapped is inner
    actions = np.zeros((2, 3, 2), np.float32)
    for _ in range(20):
        for one, same in zip(env.step(actions)[:3], other.step(actions)[:3], strict=True):
            np.testing.assert_array_equal(one, same)


class Parts:
    """Whole arrays, and parts of them on the same memory."""

    def __init__(self, value: float) -> None:
        self.array = np.full((3, 4), value)
        self.columns = [self.array[:, :1], self.array.T[::-2]]
        self.seen = np.broadcast_to(self.array[0], (2, 4))
        self.tensor = th.full((3, 4), value)
        self.rows = {"first": self.tensor[0], "others": self.tensor[1:, ::2]}


def test_what_is_written_to_a_part_is_found_in_the_whole() -> None:
    parts, restored = Parts(1.0), Parts(2.0)
    parts.columns[1][:] = 7.0
    parts.rows["others"].fill_(8.0)
    set_state_of_object(restored, state_of_object(parts))
    for same in (parts, restored):
        same.columns[0] += 0.5
        same.array[0, 1] = 3.0
        same.rows["first"].mul_(0.25)
        same.tensor[2] -= 1.0
    assert_same(vars(parts), vars(restored), "")
    assert not restored.seen.flags.writeable and restored.columns[0].flags.writeable


class Variables:
    """Local functions count in variables around them, of which one refers to the object and one has no value yet."""

    def __init__(self, late: bool = False) -> None:
        n_calls = 0
        self.later: list[Variables] = []

        def count() -> int:
            nonlocal n_calls
            n_calls += 1
            self.later.append(self)
            return n_calls

        self.count, self.not_yet = count, lambda: unknown
        if late:
            self.only_here, unknown = (lambda: n_calls), 0


def test_local_functions_get_their_variables() -> None:
    counted, restored = Variables(), Variables()
    assert [counted.count() for _ in range(3)] == [1, 2, 3] and restored.count() == 1
    set_state_of_object(restored, state_of_object(counted))
    assert restored.count() == counted.count() == 4
    assert len(restored.later) == 4 and all(one is restored for one in restored.later)


def test_what_is_known_of_no_generator_and_of_no_other_function() -> None:
    generating = Variables()
    generating.later = (number for number in ())  # type: ignore[assignment]
    with pytest.raises(pickle.PicklingError, match=r"a generator, .*cannot be pickled"):
        state_of_object(generating)
    with pytest.raises(pickle.UnpicklingError, match="a function or class was in only_here, where there is none now"):
        set_state_of_object(Variables(), state_of_object(Variables(late=True)))


def test_defaults_of_dicts_and_keys_that_are_no_text() -> None:
    def holder(value: int) -> Parts:
        parts = Parts(0.0)
        parts.rows = defaultdict(lambda: value, {(0,): [value], 0: [value + 1]})
        return parts

    restored = holder(1)
    set_state_of_object(restored, state_of_object(holder(5)))
    assert restored.rows["new"] == 5
    assert restored.rows[(0,)] == [5] and restored.rows[0] == [6]


class LateTeam(NoisyTeam):
    """Has a function only once it was reset."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.pay = lambda: self.n_agents
        return super().reset(**kwargs)


@pytest.mark.parametrize("processes", [{}, FORKED], ids=["one by one", "processes"])
def test_a_state_that_does_not_fit_lets_new_episodes_begin(processes: dict[str, Any], tmp_path: Path) -> None:
    env, other = (make_joint_vec_env(LateTeam, **processes) for _ in range(2))
    make_tiny(MAPPO, env).learn(32, TrainingStateCallback(tmp_path, save_freq=16))
    with pytest.warns(UserWarning, match=r"does not fit \(a function or class was in .*pay.*with new episodes"):
        resumed = MAPPO.resume(tmp_path, other)
    resumed.learn(16, TrainingStateCallback(tmp_path, save_freq=16), reset_num_timesteps=False)
    assert resumed.num_timesteps == 48
    env.close()
    other.close()


class Watching(BaseCallback):
    """Keeps what belongs to the model and what cannot be pickled."""

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        self.path, self.steps = path, 0
        self.counts: dict[str, int] = defaultdict(lambda: 0)

    def _on_training_start(self) -> None:
        self.parameters = list(self.model.policy.parameters())

    def _on_step(self) -> bool:
        self.steps += 1
        self.counts["steps"] += 1
        return True


def test_callbacks_keep_what_is_the_models_and_say_what_is_lost(tmp_path: Path) -> None:
    states = TrainingStateCallback(tmp_path, save_freq=16)
    with pytest.warns(UserWarning, match=r"counts of Watching cannot be pickled.*get_state\(\) and set_state"):
        make_tiny(MAPPO, NoisyTeam()).learn(32, [Watching(), states])
    resumed = MAPPO.resume(tmp_path, NoisyTeam())
    watching = Watching("given.csv")
    with pytest.warns(UserWarning, match="counts of Watching"):
        resumed.learn(16, [watching, states], reset_num_timesteps=False)
    assert watching.steps == 48 and watching.counts["steps"] == 16
    assert all(kept is own for kept, own in zip(watching.parameters, resumed.policy.parameters(), strict=True))
    # Where the first training had none
    assert watching.path == "given.csv"


def test_states_of_another_training_are_not_replaced(tmp_path: Path) -> None:
    states = TrainingStateCallback(tmp_path, save_freq=10**6)
    model = make_tiny(MAPPO, ENVIRONMENTS["game"]())
    for n_timesteps in (32, 64):
        # With the same callback as well
        model.learn(32, states, reset_num_timesteps=False)
        assert_same_weights(weights(MAPPO.resume(tmp_path, ENVIRONMENTS["game"]())), weights(model))
        assert state_files(tmp_path)[0] == state_path(tmp_path, n_timesteps)
    before = state_files(tmp_path)
    other = make_tiny(MAPPO, ENVIRONMENTS["game"]())
    with pytest.raises(ValueError, match=r"another training, the latest in training_state_64_steps\.bin.* resume"):
        other.learn(32, TrainingStateCallback(tmp_path, every_seconds=0))
    assert state_files(tmp_path) == before


class Friend(BaseCallback):
    """Refers to another callback."""

    friend: BaseCallback

    def _on_step(self) -> bool:
        return True


def test_callbacks_may_refer_to_one_another() -> None:
    first, second = Friend(), Friend()
    first.friend, second.friend = second, first
    root = CallbackList([first, second])
    assert [id(callback) for callback in callbacks_in(root)] == [id(callback) for callback in (root, first, second)]
    make_tiny(MAPPO, NoisyTeam()).learn(32, [first, second])


def test_the_latest_states_are_kept_and_damaged_ones_passed_over(tmp_path: Path) -> None:
    model = make_tiny(MAPPO, ENVIRONMENTS["game"]())
    model.learn(160, TrainingStateCallback(tmp_path, every_seconds=0, keep=2))
    latest, before = state_files(tmp_path)
    assert [path.name for path in (latest, before)] == [f"training_state_{n}_steps.bin" for n in (160, 128)]
    whole = latest.read_bytes()
    contents = {
        "is truncated": whole[:-1],
        "is truncated, 30 bytes": whole[:30],
        "is damaged": whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
        "is no training state": b"PK" + whole,
        "is a zip archive, perhaps a model for load": read_state(latest)["model"],
        "format 7, and this version of sb3_cora reads up to 1": whole[:24] + b"\7" + whole[25:],
    }
    for message, content in contents.items():
        latest.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_state(latest)
        with pytest.warns(UserWarning, match=f"{message}.* The one before it is used"):
            assert read_latest_state(tmp_path)["num_timesteps"] == 128
    before.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="is truncated, 0 bytes long"):
        MAPPO.resume(tmp_path, ENVIRONMENTS["game"]())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="There is no training state in"):
        read_latest_state(tmp_path / "empty")


def write_and_be_killed(path: Path) -> None:
    """Write a state, and be killed before the file is known to be on the disk."""
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    write_state(path, {"new": True})


def test_a_save_that_does_not_finish_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "training_state_1_steps.bin"
    write_state(path, {"new": False})
    process = zoo_context().Process(target=write_and_be_killed, args=(path,))
    process.start()
    process.join(TIME_LIMIT)
    assert process.exitcode == -signal.SIGKILL
    assert read_latest_state(tmp_path) == {"new": False}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_state(path, {"new": True})
    assert list(tmp_path.iterdir()) == [path]
    assert read_state(path) == {"new": False}


# Registers an environment, and kills the process within its sixth save, or has the disk full from its third on, if there is a
# file that says so
KILLER = """
import os
import resource
import signal
from pathlib import Path

import gymnasium as gym

gym.register("Noisy-v0", entry_point="tests.joint_games:NoisyTeam")
fsync = os.fsync
calls = []

def killing(descriptor):
    calls.append(descriptor)
    # One call is for the file, the next for its folder
    if len(calls) == 11 and Path("kill").exists():
        Path("kill").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if len(calls) == 4 and Path("fill").exists():
        Path("fill").unlink()
        # Logs fit, states do not
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    fsync(descriptor)

os.fsync = killing
"""

RUN = (
    *("-n", "1024", "--seed", "3", "--gym-packages", "killer", "--eval-freq", "128", "--state-interval", "0"),
    *("--eval-episodes", "4", "--n-eval-envs", "2", "--final-eval-episodes", "4"),
    *("-params", "n_envs:8", "n_steps:16", "batch_size:64", "n_epochs:2", "normalize:True", "learning_rate:lin_1e-3"),
)


def comparable(run: Path) -> dict[str, Any]:
    """What a run has come to, without times."""
    (model,) = (path for path in run.glob("*.zip") if not path.name.startswith(("rl_model", "best")))
    progress = [line.split(",") for line in (run / "progress.csv").read_text().splitlines()]
    # The order of the columns is that of a set
    columns = {name: index for index, name in enumerate(progress[0]) if name not in ("time/fps", "time/time_elapsed")}
    return {
        "weights": {path.name: MAPPO.load(path).get_parameters() for path in (model, *sorted(run.glob("[rb]*.zip")))},
        "evaluations": dict(np.load(run / "evaluations.npz")),
        "progress": {name: [line[columns[name]] for line in progress] for name in sorted(columns)},
        "episodes": {
            path.name: [line.split(",")[:2] for line in path.read_text().splitlines()[1:]]
            for path in sorted(run.glob("*monitor.csv"))
        },
        "picture": (run / "learning_curve.png").read_bytes(),
        "files": sorted(path.name for path in run.iterdir()),
    }


# Environments in processes of their own are in the tests above: here they would take a minute to start.
@pytest.mark.parametrize("flags", [("--env", "penalty"), ("--env", "Noisy-v0")], ids=["batch", "one by one"])
def test_a_run_that_was_killed_and_then_filled_the_disk_is_resumed_exactly(flags: tuple[str, ...], tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
        (folder / "killer.py").write_text(KILLER)
    (folders[1] / "kill").touch()
    train = ("train.py", "--algo", "mappo", *flags)
    run_zoo(*train, *RUN, folder=folders[0])
    assert run_zoo(*train, *RUN, folder=folders[1], check=False).returncode == -signal.SIGKILL
    resume = (*train, "--gym-packages", "killer", "--resume")
    (folders[1] / "fill").touch()
    full = run_zoo(*resume, folder=folders[1], check=False)
    assert "at timestep 640 of 1024" in full.stdout
    assert full.returncode == 1 and "OSError: [Errno 27] File too large" in full.stderr
    resumed = run_zoo(*resume, folder=folders[1])
    assert "at timestep 896 of 1024" in resumed.stdout
    runs = [next((folder / "logs" / "mappo").iterdir()) for folder in folders]
    assert_same(*map(comparable, runs), "")
    again = run_zoo(*resume, folder=folders[1], check=False)
    assert again.returncode == 2 and "was interrupted after its state was saved" in again.stderr


def test_changed_settings_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "mappo" / "penalty_1"
    (folder / "penalty").mkdir(parents=True)
    before = {"algo": "mappo", "env": "penalty", "seed": 3, "hyperparams": {"n_epochs": 2, "gamma": 0.9}, "resume": None}
    (folder / "penalty" / "args.yml").write_text(yaml.safe_dump(before))
    parser = argparse.ArgumentParser()
    for flag, default in (("--algo", "cora_ppo"), ("--env", "give_way"), ("--log-folder", str(tmp_path / "logs"))):
        parser.add_argument(flag, default=default)
    parser.add_argument("--seed", default=-1, type=int)
    parser.add_argument("--hyperparams", type=yaml.safe_load)
    parser.add_argument("--resume", nargs="?", const=LATEST)

    def resumed(*given: str) -> argparse.Namespace:
        return resumed_arguments(parser, parser.parse_args(given), given)

    with pytest.raises(ValueError, match=r"there is no .*bin\. The training has come to its end, or was killed before"):
        resumed("--resume", str(folder))
    write_state(folder / "training_state" / "training_state_8_steps.bin", {})
    with pytest.raises(ValueError, match=r"no run of --algo cora_ppo --env give_way in .* was interrupted"):
        resumed("--resume")
    for given in ((str(folder),), ("--algo", "mappo", "--env", "penalty", "--hyperparams", "{gamma: 0.9}", "--seed", "3")):
        args = resumed("--resume", *given)
        assert {**vars(args), "log_folder": None} == {**before, "resume": str(folder), "log_folder": None}
    with pytest.raises(ValueError, match=r"but n_epochs of --hyperparams is 5 and was 2, --seed is 4 and was 3\. Leave out"):
        resumed("--resume", str(folder), "--seed", "4", "--hyperparams", "{n_epochs: 5}")
    with pytest.raises(ValueError, match="is no folder of a run"):
        resumed("--resume", str(tmp_path))
    with pytest.raises(ValueError, match=r"but n_epochs is 5 and was 2, n_steps is None and was 8\. Restore"):
        check_settings(folder, {"n_epochs": 2, "n_steps": 8}, {"n_epochs": 5})
    (folder / "versions.yml").write_text(yaml.safe_dump({**versions(), "torch": "1.0"}))
    with pytest.warns(UserWarning, match=r"other code, so it may come to another result: torch is .* and was .1\.0.\."):
        warn_of_other_versions(folder / "versions.yml")


def test_the_first_signal_waits_for_the_end_of_the_rollout(tmp_path: Path) -> None:
    model = make_tiny(MAPPO, ENVIRONMENTS["game"]())
    saver = TrainingStateCallback(tmp_path, save_freq=10**6)
    before = signal.getsignal(signal.SIGTERM)

    def interrupt(*_: Any) -> bool:
        if model.num_timesteps == 40:
            os.kill(os.getpid(), signal.SIGTERM)
        return True

    with pytest.raises(KeyboardInterrupt), saved_when_interrupted(saver):
        model.learn(320, CallbackList([saver, ConvertCallback(interrupt)]))
    assert [path.name for path in state_files(tmp_path)] == ["training_state_64_steps.bin"]
    assert signal.getsignal(signal.SIGTERM) is before
    assert MAPPO.resume(tmp_path, ENVIRONMENTS["game"]()).timesteps_left == 320 - 64
