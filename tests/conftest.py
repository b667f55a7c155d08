"""What holds for every test."""

import os

import hypothesis
import torch as th

# Networks and batches are small here: more threads would only wait for each other, and for the other test processes.
if "OMP_NUM_THREADS" not in os.environ:
    th.set_num_threads(1)

# The same examples on every machine, however slow it is
hypothesis.settings.register_profile(
    "everywhere", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("everywhere")
