"""What is saved while a training goes on: its log, and what it can be gone on from whenever the process is killed."""

from collections.abc import Callable
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import CSVOutputFormat


def save_whole(model: BaseAlgorithm, path: Path, statistics: Path) -> None:
    """
    Save a model that is being trained. A process that is killed meanwhile leaves what was there before.

    :param model: the model
    :param path: its file
    :param statistics: the file for the statistics of ``VecNormalize``
    """
    normalize = model.get_vec_normalize_env()
    # The statistics first, so that no model is without them
    writers: dict[Path, Callable[[str], None]] = {} if normalize is None else {statistics: normalize.save}
    writers[path] = model.save
    # None of them takes its place before all are written: these statistics are no other model's
    unfinished = {target: target.with_name(f"{target.name}.unfinished") for target in writers}
    for target, write in writers.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write(str(unfinished[target]))
    for target, written in unfinished.items():
        written.replace(target)


class WholeCheckpointCallback(CheckpointCallback):
    """
    Checkpoints with the statistics of ``VecNormalize``, each of which is whole.

    The parameters are those of ``CheckpointCallback``.
    """

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq == 0:
            path, statistics = (self._checkpoint_path(*kind) for kind in (("", "zip"), ("vecnormalize_", "pkl")))
            save_whole(self.model, Path(path), Path(statistics))
        return True


class SaveModelCallback(BaseCallback):
    """
    Saves the model whenever it is called, in the place of its last save.

    :param path: The model's file
    :param statistics: The file for the statistics of ``VecNormalize``
    """

    def __init__(self, path: Path, statistics: Path) -> None:
        super().__init__()
        self.path = path
        self.statistics = statistics

    def _on_step(self) -> bool:
        save_whole(self.model, self.path, self.statistics)
        return True


class ProgressCallback(BaseCallback):
    """
    Writes what a training logs into a CSV file too, wherever else it goes.

    :param path: The file, begun anew
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _on_training_start(self) -> None:
        # A logger of one's own (set_logger) would have to repeat how SB3 names the folders of TensorBoard
        self.logger.output_formats.append(CSVOutputFormat(str(self.path)))

    def _on_step(self) -> bool:
        return True
