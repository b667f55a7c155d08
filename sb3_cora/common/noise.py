"""Exploration noise."""

import torch as th


def autoregressive_noise(previous: th.Tensor, correlation: float) -> th.Tensor:
    """
    Noise that is correlated in time: the next element of a series of standard normal numbers, a first-order autoregressive
    process (an Ornstein-Uhlenbeck process in discrete time).

    :param previous: The previous element of the series, of any shape, standard normal.
    :param correlation: Correlation of successive elements, in [0, 1).
    :return: The next element, of the same shape, standard normal.
    """
    return correlation * previous + (1.0 - correlation**2) ** 0.5 * th.randn_like(previous)
