"""The random states that a process has besides those of its objects."""

import random
from typing import Any, NamedTuple

import numpy as np
import torch as th


class RandomStates(NamedTuple):
    """
    :param python: That of ``random``.
    :param numpy: That of ``numpy.random``.
    :param torch: That of PyTorch on the CPU.
    :param cuda: Those of PyTorch on each GPU; empty if none is in use.
    """

    python: Any
    numpy: Any
    torch: th.Tensor
    cuda: list[th.Tensor]


def random_states() -> RandomStates:
    """:return: The present random states of this process."""
    cuda = th.cuda.get_rng_state_all() if th.cuda.is_available() and th.cuda.is_initialized() else []
    return RandomStates(random.getstate(), np.random.get_state(), th.get_rng_state(), cuda)  # noqa: NPY002


def set_random_states(states: RandomStates) -> None:
    """:param states: What the random states of this process shall be."""
    random.setstate(states.python)
    np.random.set_state(states.numpy)  # noqa: NPY002
    th.set_rng_state(states.torch)
    if states.cuda and th.cuda.is_available():
        th.cuda.set_rng_state_all(states.cuda)
