"""What holds for every test."""

import multiprocessing
import os

import hypothesis
import pytest
import torch as th

from tests.processes import zoo_context

# Networks and batches are small here: more threads would only wait for each other, and for the other test processes.
if "OMP_NUM_THREADS" not in os.environ:
    th.set_num_threads(1)

# The same examples on every machine, however slow it is
hypothesis.settings.register_profile(
    "everywhere", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("everywhere")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Start the process from which the zoo's commands are forked. It imports what it was told before it started,
    and the first to start one could be Stable-Baselines3, for a ``SubprocVecEnv``.
    """
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    forking = ("run_zoo", "run_script")
    if can_fork and any(hasattr(getattr(item, "module", None), name) for item in items for name in forking):
        zoo_context()
