"""What coalitions would still gain by deviating from an allocation."""

import torch as th


def largest_excess(allocation: th.Tensor, values: th.Tensor, masks: th.Tensor) -> th.Tensor:
    """
    Largest excess ``v(C) - x(C)`` over the coalitions at hand: positive where some coalition is given less than it is
    worth, that is where the allocation is outside the core (paper, equation 4).

    :param allocation: What each agent is given, x, ``(batch, n_agents)``
    :param values: Coalition values v, ``(batch, n_coalitions)``
    :param masks: Boolean coalitions, ``(n_coalitions, n_agents)``
    :return: ``(batch,)`` in units of the values; minus infinity where there is no coalition
    """
    if len(masks) == 0:
        return values.new_full((len(allocation),), -th.inf)
    return th.addmm(values, allocation, masks.to(allocation.dtype).T, alpha=-1).amax(dim=1)
