"""The same credit for every agent, whatever coalitions are worth."""

import torch as th


def equal(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    Equal shares, ``v(N) / n``. Efficient.

    :return: Of shape ``(batch, n_agents)``.
    """
    return (grand_value[:, None] / masks.shape[1]).expand(-1, masks.shape[1])


def shared(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    The whole grand value to every agent, as in MAPPO. Not efficient.

    :return: Of shape ``(batch, n_agents)``.
    """
    return grand_value[:, None].expand(-1, masks.shape[1])
