"""What an agent adds as the first of all, and as the last."""

import torch as th

from sb3_cora.credit.coalitions import leave_one_out, singletons


def difference(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    Difference rewards: what the team would lose without the agent, ``v(N) - v(N without i)`` (Wolpert and Tumer 2001).
    Not efficient.

    :return: Of shape ``(batch, n_agents)``.
    :raises ValueError: If some coalition of all agents but one is not given.
    """
    wanted = leave_one_out(masks.shape[1], masks.device)
    return grand_value[:, None] - values[:, _find(masks, wanted, "difference")]


def singleton(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """
    What the agent is worth on its own, ``v({i})``. Not efficient.

    :return: Of shape ``(batch, n_agents)``.
    :raises ValueError: If some agent's coalition of one is not given.
    """
    return values[:, _find(masks, singletons(masks.shape[1], masks.device), "singleton")]


def _find(masks: th.Tensor, wanted: th.Tensor, concept: str) -> th.Tensor:
    """
    :param masks: Boolean ``(n_coalitions, n_agents)``.
    :param wanted: Boolean ``(n_wanted, n_agents)``.
    :return: The row of each wanted coalition, ``(n_wanted,)``.
    """
    found = (masks == wanted[:, None]).all(dim=2)
    missing = (~found.any(dim=1)).nonzero()[:, 0]
    if len(missing):
        members = wanted[missing[0]].nonzero()[:, 0].tolist()
        raise ValueError(
            f"concept={concept!r} needs {len(wanted)} coalitions of which {len(missing)} are not given, the first with the "
            f"agents {members}. Pass all_coalitions(n_agents), or add the missing ones to the masks."
        )
    return found.int().argmax(dim=1)
