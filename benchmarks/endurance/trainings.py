"""The trainings that are measured, and what measures them."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_cora import CORAPPO, make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.training_state import TrainingStateCallback
from sb3_cora.common.vec_normalize import JointVecNormalize
from sb3_cora.zoo import tables

STATUS = Path("/proc/self/status")


class Row(NamedTuple):
    """One line of the table; see ``__main__.py``."""

    training: str
    iteration: int
    timesteps: int
    rss_mib: float
    peak_mib: float
    cpu_ms: float


class Training(NamedTuple):
    """
    A training that is measured.

    :param make: Makes the model, and what is called while it learns, given a folder for its files
    :param n_timesteps: Length
    :param every: Number of iterations between two lines
    """

    make: Callable[[Path], tuple[CooperativeOnPolicyAlgorithm, list[BaseCallback]]]
    n_timesteps: int
    every: int


def long(folder: Path) -> tuple[CooperativeOnPolicyAlgorithm, list[BaseCallback]]:
    """
    Tiny iterations with all that a training has around it: monitors and their files, normalization, a log, saved states.

    :param folder: For its files
    :return: Model and callbacks
    """
    env = make_joint_vec_env("climbing", 2, seed=0, monitor_dir=str(folder / "monitor"), vec_env_cls=DummyVecEnv, n_steps=5)
    model = CORAPPO("MlpPolicy", JointVecNormalize(env), n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.set_logger(configure(str(folder / "log"), ["csv"]))
    return model, [TrainingStateCallback(folder / "states", save_freq=8 * 500)]


def wide(folder: Path) -> tuple[CooperativeOnPolicyAlgorithm, list[BaseCallback]]:
    """
    Many environments at once.

    :param folder: For its files
    :return: Model and callbacks
    """
    env = make_joint_vec_env("climbing", 4096, seed=0)
    model = CORAPPO("MlpPolicy", env, n_steps=5, batch_size=4096, n_epochs=1, seed=0, device="cpu")
    model.set_logger(configure(str(folder / "log"), ["csv"]))
    return model, []


def many(folder: Path) -> tuple[CooperativeOnPolicyAlgorithm, list[BaseCallback]]:
    """
    Fifty agents, who have 2^50 coalitions.

    :param folder: For its files
    :return: Model and callbacks
    """
    env = make_joint_vec_env("differential", 16, seed=0, n_agents=50)
    model = CORAPPO("MlpPolicy", env, n_steps=32, batch_size=128, n_coalitions=254, seed=0, device="cpu")
    model.set_logger(configure(str(folder / "log"), ["csv"]))
    return model, []


TRAININGS = {
    "long": Training(long, 20_000 * 16, 100),
    "wide": Training(wide, 10**7, 10),
    "many agents": Training(many, 12 * 512, 1),
}


def memory() -> dict[str, float]:
    """:return: Memory of this process in MiB, by the names that Linux has for it."""
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) / 1024 for line in lines if line[0].startswith("Vm")}


class MeasureCallback(BaseCallback):
    """
    Appends lines to the table.

    :param name: Of the training
    :param every: Number of iterations between two lines
    :param path: The table
    """

    def __init__(self, name: str, every: int, path: Path) -> None:
        super().__init__()
        self.name = name
        self.every = every
        self.path = path
        self.iteration = 0
        self.last = 0.0

    # Not state of the training, which others resume.
    def get_state(self) -> None:
        """:return: Nothing"""

    def set_state(self, state: None) -> None:
        """:param state: Nothing"""

    def _on_training_start(self) -> None:
        self.last = time.process_time()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._measure()
        self.iteration += 1

    def _on_training_end(self) -> None:
        self._measure()

    def _measure(self) -> None:
        if self.iteration == 0 or self.iteration % self.every > 0:
            return
        now, used = time.process_time(), memory()
        cpu_ms = round((now - self.last) / self.every * 1000, 3)
        rss, peak = (round(used[name], 3) for name in ("VmRSS", "VmHWM"))
        tables.append([Row(self.name, self.iteration, self.model.num_timesteps, rss, peak, cpu_ms)], self.path)
        self.last = now


def measure(name: str, n_timesteps: int, path: Path) -> None:
    """
    Train, in this process.

    :param name: Of the training
    :param n_timesteps: Length
    :param path: The table
    """
    th.set_num_threads(1)
    with TemporaryDirectory() as folder:
        model, callbacks = TRAININGS[name].make(Path(folder))
        model.learn(n_timesteps, [*callbacks, MeasureCallback(name, TRAININGS[name].every, path)])
        sizes = {file.name: file.stat().st_size for file in sorted(Path(folder).rglob("*.*")) if file.is_file()}
    print(f"Files of {name}: {', '.join(f'{file} {size / 1e6:.3g} MB' for file, size in sizes.items())}", flush=True)
