"""A game whose table is known: the Q-function that critics should have learned, and the credits that follow from it."""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch as th
from torch import nn

from sb3_cora import CORAPPO
from sb3_cora.common.critics import QCritic
from sb3_cora.common.rollout import Rollout
from sb3_cora.cora_ppo.cora_ppo import Games
from sb3_cora.credit.games import QFunction
from sb3_cora.envs.matrix_game import MatrixGame


def steps_of(states: th.Tensor, n_steps: int) -> th.Tensor:
    """
    :param states: Of shape ``(batch, n_agents * n_steps)``: every agent observes the step as the same one-hot vector.
    :param n_steps: Number of steps of an episode.
    :return: The steps, ``(batch,)``.
    """
    return states[:, :n_steps].argmax(dim=1)


class TableCritic(nn.Module):
    """
    What Q-critics are trained to be in a game of tables, ``r(s, a) + gamma V(s') - V(s)`` (CORA, equation 1), without error.

    :param table: It, ``(n_steps, n_joint_actions)``.
    :param n_actions: Number of actions of each agent.
    """

    def __init__(self, table: th.Tensor, n_actions: Sequence[int]):
        super().__init__()
        self.table = table
        self.n_actions = n_actions

    @property
    def n_steps(self) -> int:
        """Number of steps of an episode."""
        return len(self.table)

    def steps(self, states: th.Tensor) -> th.Tensor:
        """
        :param states: See :func:`steps_of`.
        :return: The steps, ``(batch,)``.
        """
        return steps_of(states, self.n_steps)

    def joint(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: One-hot, ``(..., n_agents, action_dim)``.
        :return: Their columns in the table, ``(...)``.
        """
        index = th.zeros(actions.shape[:-2], dtype=th.long)
        for agent, n_actions in enumerate(self.n_actions):
            index = index * n_actions + actions[..., agent, :].argmax(dim=-1)
        return index

    def estimate(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param states: Of shape ``(batch, state_dim)``.
        :param actions: Of shape ``(batch, n_agents, action_dim)``.
        :return: The values, ``(batch,)``.
        """
        return self.table[self.steps(states), self.joint(actions)]

    def bind(self, states: th.Tensor) -> QFunction:
        """
        :param states: Of shape ``(batch, state_dim)``.
        :return: The values of joint actions in these states.
        """
        steps = self.steps(states)
        return lambda actions, samples: self.table[steps[samples, None], self.joint(actions)]


def table_critic(game: MatrixGame, rollout: Rollout, gamma: float) -> TableCritic:
    """
    :param game: The game.
    :param rollout: Flattened, of whole episodes.
    :param gamma: Discount factor.
    :return: The Q-function less V(s), where V is the one that the targets of the rollout were computed with.
    """
    payoffs = th.as_tensor(game.payoffs, dtype=th.float32).flatten(start_dim=1)
    steps = steps_of(rollout.observation.state, len(payoffs))
    # V is the same wherever the step is.
    values = th.zeros(len(payoffs) + 1).scatter(0, steps, rollout.values[:, 0])
    return TableCritic(payoffs + (gamma * values[1:] - values[:-1])[:, None], game.payoffs.shape[1:])


@contextmanager
def critic_of(model: CORAPPO, critic: nn.Module) -> Any:
    """
    :param model: A model.
    :param critic: What it takes for its Q-critics in this context.
    """
    own = model.policy.q_critic
    model.policy.q_critic = cast(QCritic, critic)
    try:
        yield
    finally:
        model.policy.q_critic = own


class InformedCORAPPO(CORAPPO):
    """CORAPPO with the true Q-function of :attr:`game` in place of its critics, wherever credits are computed."""

    game: ClassVar[MatrixGame]

    def games(self, rollout: Rollout, concepts: Sequence[str] | None = None) -> Games:
        with critic_of(self, table_critic(self.game, rollout, self.gamma)):
            return super().games(rollout, concepts)
