"""Callbacks that save the log of a training, and models from which it can be continued even if its process is killed."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import CSVOutputFormat, HParam

from sb3_cora.zoo.whole_files import write_whole


def save_whole(model: BaseAlgorithm, path: Path, statistics: Path) -> None:
    """
    Save a model that is being trained. If the process is killed meanwhile, the previous files remain.

    :param model: The model.
    :param path: Its file.
    :param statistics: The file for the statistics of ``VecNormalize``.
    """
    normalize = model.get_vec_normalize_env()
    # The statistics first, so that no model is ever without them.
    writers: dict[Path, Callable[[Path], None]] = {}
    if normalize is not None:
        writers[statistics] = lambda unfinished: normalize.save(str(unfinished))
    writers[path] = model.save
    write_whole(writers)


class WholeCheckpointCallback(CheckpointCallback):
    """
    Saves checkpoints together with the statistics of ``VecNormalize``, never in part.

    The parameters are those of ``CheckpointCallback``.
    """

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq == 0:
            path, statistics = (self._checkpoint_path(*kind) for kind in (("", "zip"), ("vecnormalize_", "pkl")))
            save_whole(self.model, Path(path), Path(statistics))
        return True


class SaveModelCallback(BaseCallback):
    """
    Saves the model whenever it is called, and replaces the model saved before.

    :param path: The model's file.
    :param statistics: The file for the statistics of ``VecNormalize``.
    """

    def __init__(self, path: Path, statistics: Path) -> None:
        super().__init__()
        self.path = path
        self.statistics = statistics

    def _on_step(self) -> bool:
        save_whole(self.model, self.path, self.statistics)
        return True


class AppendedCSV(CSVOutputFormat):
    """
    Appends to a file of ``CSVOutputFormat``.

    :param filename: The file.
    """

    def __init__(self, filename: str) -> None:
        super().__init__(os.devnull)
        self.file.close()
        self.file = Path(filename).open("r+", encoding="utf-8")  # noqa: SIM115 - closed with the logger
        header = self.file.readline().rstrip("\n")
        self.keys = header.split(",") if header else []
        self.file.seek(0, os.SEEK_END)


class ProgressCallback(BaseCallback):
    """
    Writes the log of a training to a CSV file, in addition to its other outputs.

    :param path: The file.
    :param appends: Whether to append to the file, if there is one, instead of replacing it.
    """

    def __init__(self, path: Path, appends: bool = False) -> None:
        super().__init__()
        self.path = path
        self.appends = appends

    def _on_training_start(self) -> None:
        # A custom logger (set_logger) would have to repeat how SB3 names the folders of TensorBoard.
        appends = self.appends and self.path.is_file()
        self.logger.output_formats.append((AppendedCSV if appends else CSVOutputFormat)(str(self.path)))

    def _on_step(self) -> bool:
        return True


class HyperparametersCallback(BaseCallback):
    """
    Writes the hyperparameters of a training to TensorBoard, whose tab HPARAMS compares trainings by them.

    :param hyperparams: The hyperparameters by name.
    """

    def __init__(self, hyperparams: Mapping[str, Any]) -> None:
        super().__init__()
        # TensorBoard knows no mappings.
        self.hyperparams = {
            name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in hyperparams.items()
        }

    def _on_training_start(self) -> None:
        # Of the metrics only the names are written: the tab shows the last values of these curves.
        metrics = {"eval/mean_reward": 0.0, "rollout/ep_rew_mean": 0.0}
        self.logger.record("hyperparams", HParam(self.hyperparams, metrics), exclude=("stdout", "log", "json", "csv"))

    def _on_step(self) -> bool:
        return True
