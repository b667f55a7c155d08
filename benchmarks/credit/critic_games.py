"""Games as training meets them: coalitions valued by the Q-critics."""

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_cora.common.critics import QCritic
from sb3_cora.credit import coalition_values

STATE_DIM, ACTION_DIM = 20, 2
NET_ARCH = [64, 64]


class Situation(NamedTuple):
    """
    States and what the agents do in them, beside what they might have done.

    :param critic: Twin Q-critics, freshly initialized
    :param states: ``(n_samples, state_dim)``
    :param actions: ``(n_samples, n_agents, action_dim)``
    :param baseline_actions: The same shape
    """

    critic: QCritic
    states: th.Tensor
    actions: th.Tensor
    baseline_actions: th.Tensor


def situation(n_agents: int, n_samples: int, seed: int) -> Situation:
    """
    :param n_agents: Number of agents
    :param n_samples: Number of states
    :param seed: Of the critics' weights and of all else
    :return: Standard normal states and actions, in single precision
    """
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        return Situation(
            QCritic(STATE_DIM, n_agents, ACTION_DIM, NET_ARCH),
            th.randn(n_samples, STATE_DIM),
            th.randn(n_samples, n_agents, ACTION_DIM),
            th.randn(n_samples, n_agents, ACTION_DIM),
        )


def critic(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    What twin Q-critics at the start of a training make of the coalitions: ``Q`` of the members' actions beside the others'
    baseline actions, less ``Q`` of the baseline actions alone, so that the empty coalition is worth 0.

    :param rng: Source of the seed
    :param n_games: Number of states
    :param masks: Boolean ``(n_coalitions, n_agents)``
    :return: Values ``(n_games, n_coalitions)`` and grand values ``(n_games,)``
    """
    n_agents = masks.shape[1]
    drawn = situation(n_agents, n_games, int(rng.integers(2**31)))
    ends = np.array([[False] * n_agents, [True] * n_agents])
    bound = drawn.critic.bind(drawn.states)
    values = coalition_values(bound, drawn.actions, drawn.baseline_actions, th.from_numpy(np.concatenate([ends, masks])))
    values = values.double() - values[:, :1].double()
    return values[:, 2:].numpy(), values[:, 1].numpy()
