"""The game played at every sample: what a coalition is worth if only its members act as they did."""

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch as th

QFunction = Callable[[th.Tensor, slice], th.Tensor]
"""Given joint actions ``(n_samples, n_joint_actions, n_agents, action_dim)`` and the slice of the batch that they belong to, a
Q-function returns their values ``(n_samples, n_joint_actions)``. It holds the states of the batch itself."""


@runtime_checkable
class FactoredQFunction(Protocol):
    """
    A Q-function whose first layer is linear in the state and in each agent's action. The pre-activation of a coalition's joint
    action is then a sum of one term per agent, and each term is computed once for all coalitions.

    Methods to write: ``state_terms``, ``action_terms``, ``output``. ``hidden`` is the width of the first layer. Several
    critics are evaluated side by side, and combined in ``output``, for example by their minimum.
    """

    def state_terms(self, samples: slice) -> th.Tensor:
        """
        The state's part of the first layer, bias included.

        :param samples: Which samples of the batch.
        :return: Of shape ``(n_critics, n_samples, hidden)``.
        """
        ...

    def action_terms(self, actions: th.Tensor, samples: slice) -> th.Tensor:
        """
        Each agent's part of the first layer.

        :param actions: Of shape ``(n_samples, n_agents, action_dim)``.
        :param samples: The samples these actions belong to.
        :return: Of shape ``(n_critics, n_samples, n_agents, hidden)``.
        """
        ...

    def output(self, preactivations: th.Tensor) -> th.Tensor:
        """
        Everything behind the first layer, including the combination of the critics. May overwrite its argument.

        :param preactivations: Of shape ``(n_critics, n_rows, hidden)``.
        :return: Values ``(n_rows,)``.
        """
        ...


@th.no_grad()
def coalition_values(
    q_fn: QFunction | FactoredQFunction,
    actions: th.Tensor,
    baseline_actions: th.Tensor,
    masks: th.Tensor,
    *,
    max_elements: int = 2**20,
) -> th.Tensor:
    """
    Value ``Q(s, (a_C, a'_{-C}))`` of every coalition ``C``: its members act as sampled, the others as in the baseline. This is
    equation 3 of CORA without the value of the state, which the caller subtracts.

    The first layer of a ``FactoredQFunction`` is evaluated once per agent, not once per coalition: the pre-activation of ``C``
    is that of the baseline plus the sum of its members' changes, which is a product with the masks.

    :param q_fn: The Q-function, in one of the two forms ``QFunction`` and ``FactoredQFunction``.
    :param actions: Sampled actions ``(batch, n_agents, action_dim)``, one-hot where discrete.
    :param baseline_actions: What agents outside the coalition do, of the same shape; or ``(n_draws, batch, n_agents,
        action_dim)`` for the mean over several joint actions, for example draws from the policy.
    :param masks: Boolean coalitions ``(n_coalitions, n_agents)``.
    :param max_elements: Batch and coalitions are cut into pieces whose largest temporary tensor has at most this many
        elements (or as many as one sample and one coalition need). Besides the values, memory holds a few temporaries of this
        size, 4 MiB each by default in single precision, whatever the batch and the number of agents. The values do not depend
        on it.
    :return: Values ``(batch, n_coalitions)``.
    :raises ValueError: If the shapes do not match.
    """
    if actions.dim() != 3 or baseline_actions.dim() not in (3, 4) or actions.shape != baseline_actions.shape[-3:]:
        raise ValueError(
            "actions must be (batch, n_agents, action_dim), and baseline_actions the same, with an axis of draws before it or "
            f"without, got {tuple(actions.shape)} and {tuple(baseline_actions.shape)}. One-hot encode discrete actions first."
        )
    batch_size, n_agents, action_dim = actions.shape
    if masks.dim() != 2 or masks.shape[1] != n_agents:
        raise ValueError(f"masks must be (n_coalitions, n_agents={n_agents}), got {tuple(masks.shape)}.")
    if max_elements < 1:
        raise ValueError(f"max_elements must be positive, got {max_elements}.")
    draws = baseline_actions if baseline_actions.dim() == 4 else baseline_actions[None]
    if len(draws) == 0:
        raise ValueError(f"baseline_actions must hold at least one draw, got shape {tuple(baseline_actions.shape)}.")
    masks = masks.to(actions.device)
    n_coalitions = len(masks)
    # Filled piece by piece, since joining the pieces in the end would take the memory of the values twice.
    values = actions.new_zeros(batch_size, n_coalitions)
    if n_coalitions == 0 or batch_size == 0:
        return values

    if isinstance(q_fn, FactoredQFunction):
        n_critics, _, hidden = q_fn.state_terms(slice(0, 1)).shape
        elements_per_value = n_critics * hidden
        # The per-agent terms are temporaries too, the largest ones if agents outnumber coalitions.
        elements_per_sample = n_agents * elements_per_value
    else:
        elements_per_value = elements_per_sample = n_agents * action_dim
    coalitions_per_chunk = min(n_coalitions, max(1, max_elements // elements_per_value))
    samples_per_chunk = max(1, max_elements // max(coalitions_per_chunk * elements_per_value, elements_per_sample))
    mask_chunks = masks.split(coalitions_per_chunk)

    for start in range(0, batch_size, samples_per_chunk):
        samples = slice(start, min(start + samples_per_chunk, batch_size))
        for drawn in draws[:, samples]:
            if isinstance(q_fn, FactoredQFunction):
                pieces = _factored_values(q_fn, actions[samples], drawn, mask_chunks, samples)
            else:
                pieces = _plain_values(q_fn, actions[samples], drawn, mask_chunks, samples)
            n_done = 0
            for piece in pieces:
                values[samples, n_done : n_done + piece.shape[1]] += piece / len(draws)
                n_done += piece.shape[1]
    return values


def _plain_values(
    q_fn: QFunction,
    actions: th.Tensor,
    baseline_actions: th.Tensor,
    mask_chunks: tuple[th.Tensor, ...],
    samples: slice,
) -> Iterator[th.Tensor]:
    """
    Coalition values by building every joint action.

    :return: Values ``(n_samples, n_coalitions_in_chunk)`` of one chunk of coalitions after another.
    """
    actions, baseline_actions = actions[:, None], baseline_actions[:, None]
    for masks in mask_chunks:
        yield q_fn(th.where(masks[None, :, :, None], actions, baseline_actions), samples)


def _factored_values(
    q_fn: FactoredQFunction,
    actions: th.Tensor,
    baseline_actions: th.Tensor,
    mask_chunks: tuple[th.Tensor, ...],
    samples: slice,
) -> Iterator[th.Tensor]:
    """
    Coalition values from the first layer's terms.

    :return: Values ``(n_samples, n_coalitions_in_chunk)`` of one chunk of coalitions after another.
    """
    baseline_terms = q_fn.action_terms(baseline_actions, samples)
    n_critics, n_samples, n_agents, hidden = baseline_terms.shape
    baseline = q_fn.state_terms(samples).add(baseline_terms.sum(dim=2)).reshape(n_critics, 1, n_samples * hidden)
    # With the agents first and everything else flat, the sum over a coalition's members is one large product per critic.
    changes = q_fn.action_terms(actions, samples) - baseline_terms
    changes = changes.transpose(1, 2).reshape(n_critics, n_agents, n_samples * hidden)
    for masks in mask_chunks:
        members = masks.to(changes.dtype).expand(n_critics, -1, -1)
        preactivations = th.baddbmm(baseline, members, changes).view(n_critics, len(masks) * n_samples, hidden)
        yield q_fn.output(preactivations).view(len(masks), n_samples).T
