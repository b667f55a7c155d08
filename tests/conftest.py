"""What holds for every test."""

import torch as th

# Networks and batches are small here: more threads would only wait for each other, and for the other test processes.
th.set_num_threads(1)
