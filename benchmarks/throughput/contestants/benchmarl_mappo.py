"""BenchMARL's MAPPO (https://github.com/facebookresearch/BenchMARL); runs in an interpreter that has ``benchmarl``."""

import sys
import tempfile

import torch as th
from benchmarl.algorithms import MappoConfig  # type: ignore[import-not-found]
from benchmarl.environments import VmasTask  # type: ignore[import-not-found]
from benchmarl.experiment import Callback, Experiment, ExperimentConfig  # type: ignore[import-not-found]
from benchmarl.models.mlp import MlpConfig  # type: ignore[import-not-found]

from benchmarks.throughput.turns import Turns
from benchmarks.throughput.workload import Work


class TakeTurns(Callback):
    """
    Collects and trains only when it is BenchMARL's turn.

    :param turns: BenchMARL's turns
    """

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self.turns = turns
        self.collection = 0.0

    def on_batch_collected(self, batch: object) -> None:
        """:param batch: The samples, which hold the environment's time as well"""
        self.collection = self.turns.elapsed()[1]

    def on_train_end(self, training_td: object, group: str) -> None:
        """
        :param training_td: The losses
        :param group: The agents, all in one group
        """
        self.turns.end({"collection": self.collection, "policy": self.turns.elapsed()[1] - self.collection})
        self.turns.begin()


def run(work: Work) -> None:
    """
    :param work: What to do
    """
    th.set_num_threads(1)
    config = ExperimentConfig.get_from_yaml()
    config.share_policy_params = False
    config.lr = 3e-4
    config.on_policy_n_envs_per_worker = work.n_envs
    config.on_policy_collected_frames_per_batch = work.n_samples
    config.on_policy_n_minibatch_iters = work.n_epochs
    config.on_policy_minibatch_size = work.batch_size
    config.max_n_frames = None
    # Until there is no further turn
    config.max_n_iters = 10**6
    config.evaluation = False
    config.loggers = []
    config.create_json = False

    task = VmasTask[work.scenario.upper()].get_from_yaml()
    # Not BenchMARL's settings of the scenario, which differ from VMAS's own (navigation with 3 agents instead of 4)
    task.config = {"max_steps": work.max_steps}
    algorithm_config = MappoConfig.get_from_yaml()
    algorithm_config.lmbda = 0.95
    model_config = MlpConfig.get_from_yaml()
    model_config.num_cells = work.net_arch

    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        config.save_folder = folder
        experiment = Experiment(
            task=task,
            algorithm_config=algorithm_config,
            model_config=model_config,
            critic_model_config=model_config,
            seed=work.seed,
            config=config,
            callbacks=[TakeTurns(turns)],
        )
        turns.begin()
        experiment.run()


if __name__ == "__main__":
    run(Work.from_json(sys.argv[1]))
