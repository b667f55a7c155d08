"""Divisions that ask no coalition."""

import torch as th


def equal(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    Equal shares, ``v(N) / n``. Efficient.

    :return: ``(batch, n_agents)``
    """
    return (grand_value[:, None] / masks.shape[1]).expand(-1, masks.shape[1])


def shared(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    The whole grand value to every agent, as MAPPO has it. Not efficient.

    :return: ``(batch, n_agents)``
    """
    return grand_value[:, None].expand(-1, masks.shape[1])
