"""The results of a benchmark: a long-format table, to which each run adds its rows when it has finished."""

from pathlib import Path
from typing import NamedTuple

from sb3_cora.zoo import tables


class Run(NamedTuple):
    """
    What tells the runs of benchmarks apart.

    :param suite: Name of the suite.
    :param algo: What the suite calls the algorithm with its hyperparameters.
    :param env: What the suite calls the environment with its arguments.
    :param game_seed: Seed of what the environment samples once and for all, None where it samples nothing.
    :param seed: Seed of the training.
    :param config: Digest of the configuration: algorithm, environment, hyperparameters and evaluations, without the seeds.
    """

    suite: str
    algo: str
    env: str
    game_seed: int | None
    seed: int
    config: str

    def __str__(self) -> str:
        game = "" if self.game_seed is None else f", game {self.game_seed}"
        return f"{self.algo} on {self.env}{game}, seed {self.seed}"


class Row(NamedTuple):
    """
    A line of the table: an evaluation, or the failure of a run. Its first fields are those of the :class:`Run`.

    :param suite: See :class:`Run`, as the next five.
    :param algo: See above.
    :param env: See above.
    :param game_seed: See above.
    :param seed: See above.
    :param config: See above.
    :param commit: Version of the code: the commit of a clone, with a ``+`` if it had changes, or the package's version.
    :param kind: ``"curve"`` for an evaluation during the training, ``"best"`` for that of the best model of these, ``"final"``
        for that of the trained model, which is the last row of a run, and ``"failed"`` for a run that has no other row.
    :param timesteps: Steps of all environments together that the evaluated model has seen.
    :param wall_seconds: Duration of the whole training, the same in all rows of a run.
    :param mean_return: Over the episodes of the evaluation (team reward, not discounted); None where the run has failed, as
        the next three.
    :param std_return: Standard deviation over the episodes.
    :param min_return: Lowest return.
    :param max_return: Highest return.
    :param optimum: Highest return possible, None where the environment does not know it.
    :param q_explained_variance: ``train/q_explained_variance`` of the last update before an evaluation of the kind
        ``"curve"``, None where the algorithm has no Q-critic.
    :param rollout_return: ``rollout/ep_rew_mean`` at the last rollout before such an evaluation: what the last hundred
        episodes of the training earned, with sampled actions.
    :param message: Error of a run that has failed, else empty.
    """

    suite: str
    algo: str
    env: str
    game_seed: int | None
    seed: int
    config: str
    commit: str
    kind: str
    timesteps: int
    wall_seconds: float
    mean_return: float | None
    std_return: float | None
    min_return: float | None
    max_return: float | None
    optimum: float | None
    q_explained_variance: float | None
    rollout_return: float | None
    message: str

    @property
    def run(self) -> Run:
        """The run that the row belongs to."""
        return Run._make(self[: len(Run._fields)])


def read(path: Path) -> list[Row]:
    """
    :param path: A table, or none.
    :return: Its rows, none where there is no such file.
    :raises ValueError: If it has other columns.
    """
    return tables.read(Row, path)
