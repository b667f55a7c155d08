"""Runs on a Ray cluster."""

from collections.abc import Generator, Sequence
from pathlib import Path

from sb3_cora.zoo.benchmark.suites import Task
from sb3_cora.zoo.benchmark.training import N_ATTEMPTS, execute, failed
from sb3_cora.zoo.results import Row
from sb3_cora.zoo.versions import code_version


def run_on_ray(
    tasks: Sequence[Task], address: str, log_folder: Path, packages: Sequence[str]
) -> Generator[list[Row], None, None]:
    """
    Execute runs on a cluster whose nodes have this package, one core each. If a node dies, its runs start again elsewhere.

    :param tasks: The runs.
    :param address: Of the cluster, as ``ray.init`` takes it: ``auto``, ``host:6379``, ``ray://host:10001``, or ``local`` for
        one on this machine.
    :param log_folder: Folder in which each run gets a folder of its own, on the node that executes it.
    :param packages: Modules that each run imports, as of ``--gym-packages``.
    :return: The rows of each run, when it has finished or failed.
    :raises ImportError: If Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('--ray needs Ray: pip install "sb3-cora[ray]"') from error
    ray.init(address=address, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}}, log_to_driver=False)

    def rows_of_runs() -> Generator[list[Row], None, None]:
        try:
            # Only the end of a worker or of its node is retried: an error of the run itself is among its rows.
            remote = ray.remote(num_cpus=1, max_retries=N_ATTEMPTS - 1)(execute)
            commit = code_version()
            going = {remote.remote(task, log_folder.absolute(), commit, packages): task for task in tasks}
            while going:
                (ready,), _ = ray.wait(list(going))
                task = going.pop(ready)
                try:
                    yield ray.get(ready)
                except ray.exceptions.RayError as error:
                    yield [failed(task, commit, f"{type(error).__name__}: {error}", 0.0)]
        finally:
            ray.shutdown()

    return rows_of_runs()
