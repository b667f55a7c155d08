"""How wrong critics are on joint actions that nobody has tried, and what becomes of the credits."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch as th
import torch.nn.functional as F

from benchmarks.untried.known_game import TableCritic, critic_of, table_critic
from sb3_cora import CORAPPO
from sb3_cora.common.rollout import Rollout
from sb3_cora.envs.matrix_game import MatrixGame

# How often a joint action has been taken in a step: these numbers and more, up to the next.
VISITS = (0, 1, 4, 16, 64)
CONCEPTS = ("core", "shapley", "shared")


class CriticRow(NamedTuple):
    """
    How the Q-critics do on joint actions that were taken equally often.

    - ``visits``: at least so often since the training began, and less often than the next number
    - ``share``: of all joint actions of all steps
    - ``asked``: share of the joint actions (a_C, ā_-C) that the credits of a rollout ask for
    - ``error``: root mean square error, in standard deviations of the step's rewards over all joint actions
    - ``asked_error``: the same over the joint actions that are asked for, as often as they are
    """

    env: str
    game_seed: int
    timesteps: int
    visits: int
    share: float
    asked: float
    error: float
    asked_error: float


class CreditRow(NamedTuple):
    """
    How credits of learned Q-critics compare with those of the true Q-function, by the same concept for the same samples.
    Samples in which nothing is worth anything, because everybody took the likeliest action, are left out.

    - ``visits``: of the joint actions that a sample's coalitions are valued by, the least tried one was taken at least so
      often, and less often than the next number
    - ``share``: of all samples of a rollout
    - ``error``: norm of the difference, over the norm of the true credits
    - ``right_sign``: share of the true credits' absolute sum whose sign is right
    """

    env: str
    game_seed: int
    timesteps: int
    concept: str
    visits: int
    share: float
    error: float
    right_sign: float


class ProbedCORAPPO(CORAPPO):
    """CORAPPO that now and then is compared with the table of its game. The training itself is unchanged."""

    probe: "Probe"

    def _allocate_credits(self, rollout: Rollout) -> th.Tensor:
        credits = super()._allocate_credits(rollout)
        # Coalitions may be drawn.
        with th.random.fork_rng(), th.no_grad():
            self.probe.look(self, rollout.flatten())
        return credits


class Probe:
    """
    Compares a model with the table of its game after the critics' updates, at regular intervals.

    :param env: Name of the environment.
    :param game_seed: Seed of the game.
    :param game: The game.
    :param interval: Number of rollouts between two comparisons.
    """

    def __init__(self, env: str, game_seed: int, game: MatrixGame, interval: int):
        self.env, self.game_seed, self.game, self.interval = env, game_seed, game, interval
        self.visits = th.zeros(game.n_steps, int(game.payoffs[0].size), dtype=th.long)
        self.n_rollouts = 0
        self.critic_rows: list[CriticRow] = []
        self.credit_rows: list[CreditRow] = []

    def look(self, model: CORAPPO, rollout: Rollout) -> None:
        """
        Count what was tried, and compare if it is time to.

        :param model: The model, whose critics have just been updated.
        :param rollout: The flattened rollout.
        """
        truth = table_critic(self.game, rollout, model.gamma)
        steps = truth.steps(rollout.observation.state)
        taken = truth.joint(model._action_features(rollout.observation, rollout.actions))
        self.visits.index_put_((steps, taken), th.ones_like(taken), accumulate=True)
        self.n_rollouts += 1
        if self.n_rollouts % self.interval == 0:
            asked = self.asked(model, rollout, truth)
            self.compare_critics(model, truth, steps, asked)
            self.compare_credits(model, rollout, truth, self.visits[steps[:, None], asked].amin(dim=1))

    def asked(self, model: CORAPPO, rollout: Rollout, truth: TableCritic) -> th.Tensor:
        """
        :param model: The model.
        :param rollout: The flattened rollout.
        :param truth: The true Q-function.
        :return: Columns of the joint actions that coalitions are valued by, ``(batch, n_coalitions)``.
        """
        (modes,) = model._baseline_actions(rollout)
        actions = model._action_features(rollout.observation, rollout.actions)
        masks = model.games(rollout).coalitions.masks
        mixed = th.where(masks[None, :, :, None], actions[:, None], modes[:, None])
        return truth.joint(mixed)

    def compare_critics(self, model: CORAPPO, truth: TableCritic, steps: th.Tensor, asked: th.Tensor) -> None:
        """
        :param model: The model.
        :param truth: The true Q-function.
        :param steps: Of the samples, ``(batch,)``.
        :param asked: See ``asked``.
        """
        n_steps, n_joint = truth.table.shape
        columns = th.cartesian_prod(*map(th.arange, truth.n_actions)).reshape(n_joint, -1)
        features = model.policy.action_features(columns)
        estimates = []
        for step in range(n_steps):
            states = F.one_hot(th.tensor([step]), n_steps).float().repeat(n_joint, self.game.n_agents)
            estimates.append(model.policy.q_critic.estimate(states, features))
        squares = ((th.stack(estimates) - truth.table) / truth.table.std(dim=1, correction=0, keepdim=True)).square()
        n_asked = th.zeros_like(squares).index_put_(
            (steps[:, None].expand_as(asked), asked), th.ones(asked.shape), accumulate=True
        )
        for least, among in self.by_visits(self.visits):
            if among.any():
                weights = n_asked[among]
                asked_square = (squares[among] * weights).sum() / weights.sum().clamp(min=1.0)
                self.critic_rows.append(
                    CriticRow(
                        **self.where(model),
                        visits=least,
                        share=among.float().mean().item(),
                        asked=(weights.sum() / n_asked.sum()).item(),
                        error=squares[among].mean().sqrt().item(),
                        asked_error=asked_square.sqrt().item(),
                    )
                )

    def compare_credits(self, model: CORAPPO, rollout: Rollout, truth: TableCritic, visits: th.Tensor) -> None:
        """
        :param model: The model.
        :param rollout: The flattened rollout.
        :param truth: The true Q-function.
        :param visits: Of each sample, how often the least tried joint action was taken that its coalitions are valued by,
            ``(batch,)``.
        """
        learned = model.games(rollout)
        with critic_of(model, truth):
            true = model.games(rollout)
        deviates = (true.values != 0.0).any(dim=1)
        for concept in CONCEPTS:
            estimated, correct = (model.divide(games, concept).credits for games in (learned, true))
            for least, among in self.by_visits(visits):
                among &= deviates
                if among.any():
                    first, second = estimated[among].flatten(), correct[among].flatten()
                    right = th.where(first.sign() == second.sign(), second.abs(), 0.0)
                    self.credit_rows.append(
                        CreditRow(
                            **self.where(model),
                            concept=concept,
                            visits=least,
                            share=among.float().mean().item(),
                            error=((first - second).norm() / second.norm()).item(),
                            right_sign=(right.sum() / second.abs().sum()).item(),
                        )
                    )

    @staticmethod
    def by_visits(visits: th.Tensor) -> Iterator[tuple[int, th.Tensor]]:
        """
        :param visits: How often something was taken.
        :return: Of each of ``VISITS``, which were taken so often, and less often than the next one.
        """
        for least, bound in zip(VISITS, [*VISITS[1:], th.inf], strict=True):
            yield least, (visits >= least) & (visits < bound)

    def where(self, model: CORAPPO) -> dict[str, Any]:
        """
        :param model: The model.
        :return: The first fields of a row.
        """
        return {"env": self.env, "game_seed": self.game_seed, "timesteps": model.num_timesteps}
