import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from typing_extensions import Unpack

from sb3_cora.common.counts import check_count
from sb3_cora.common.diagnostics import relative_spread
from sb3_cora.common.policies import CooperativeActorQCriticPolicy
from sb3_cora.common.q_critic_algorithm import QCriticArguments, QCriticOnPolicyAlgorithm
from sb3_cora.common.rollout import Rollout
from sb3_cora.common.type_aliases import JointEnvLike
from sb3_cora.credit import (
    CONCEPTS,
    SAMPLINGS,
    SOLVERS,
    CoalitionSample,
    ConvergenceError,
    Credits,
    allocate,
    coalition_values,
    largest_excess,
    make_solver,
    shared_needs,
    splits,
)
from sb3_cora.credit.allocations import check_variance_weight


class CoalitionArguments(QCriticArguments, total=False):
    """Arguments of :class:`CORAPPO` that define the cooperative game, whatever concept divides the advantage."""

    baseline: str
    baseline_action: str
    n_baseline_samples: int
    grand_advantage: str
    shrink_credits: bool
    n_coalitions: int | None
    coalition_sampling: str | None
    include_extremes: bool


class Games(NamedTuple):
    """
    The cooperative games of a batch of samples, in units of the return. Inactive agents are not players: neither the scale of
    the programs nor what is logged may depend on them.

    :param values: What the given proper coalitions are worth, ``(batch, n_coalitions)``.
    :param coalitions: These coalitions.
    :param grand_value: What the credits sum to, ``(batch,)``, see ``grand_advantage``.
    :param baseline: The value b(s) that coalitions are compared with, less V(s), ``(batch,)``.
    :param player_mask: Boolean, which agents play, ``(batch, n_agents)``; None if all do.
    """

    values: th.Tensor
    coalitions: CoalitionSample
    grand_value: th.Tensor
    baseline: th.Tensor
    player_mask: th.Tensor | None

    def players(self) -> th.Tensor:
        """
        :return: 1 for agents that play, 0 for the others, ``(batch, n_agents)``.
        """
        if self.player_mask is None:
            return self.grand_value.new_ones(len(self.grand_value), self.coalitions.masks.shape[1])
        return self.player_mask.to(self.grand_value.dtype)

    def equal_split(self) -> th.Tensor:
        """
        :return: Equal shares of the grand value among the players, ``(batch, n_agents)``.
        """
        players = self.players()
        return self.grand_value[:, None] / players.sum(dim=1, keepdim=True).clamp(min=1.0) * players

    def largest_excess(self) -> th.Tensor:
        """
        :return: The largest excess at the equal split over the coalitions of some players and not of all, ``(batch,)``; minus
            infinity if there is none.
        """
        values, masks = self.values, self.coalitions.masks
        if self.player_mask is not None:
            values = values.masked_fill(~splits(masks, self.player_mask), -th.inf)
        return largest_excess(self.equal_split(), values, masks)


class CORAPPO(QCriticOnPolicyAlgorithm):
    """
    Coalitional Rational Advantage Decomposition (CORA) with Proximal Policy Optimization: a centralized Q-critic estimates
    what each coalition's sampled actions are worth while the other agents take baseline actions, and the team's advantage is
    divided among the agents by the epsilon-core of this game.

    For each sample, with state s, sampled joint action a and the policy's mode ā, coalition C is worth
    ``v(C) = Q(s, (a_C, ā_-C)) - b(s)`` (paper, equation 3), and the credits x solve (paper, equation 6)

    ``min eps + w/n sum_i (x_i - A/n)^2,  sum_{i in C} x_i >= v(C) - eps for all C,  sum_i x_i = A``.

    The effect of the weight w depends on the size of the values, see ``credit_scale``: with less than 0.1 over this size the
    solution is the least core, with more than 100 over it nearly the equal split. Credits that sum to A are multiplied by the
    number of agents before the update, so that their mean over agents is the advantage that MAPPO gives each agent.

    The defaults are the paper's Algorithm 2, except for changes that help the critics. Its Algorithm 1 is ``baseline="q",
    grand_advantage="q"``. In tasks with many local optima, Algorithm 1 with ``center_advantage=False`` and
    ``eta=LateSchedule(0.0, 1.0, begin=0.7)`` escapes many of them: at first the policy learns only from actions that are
    better than the mode, so that the mode improves while exploration stays wide, and exploration is reduced in the end.

    Paper: https://arxiv.org/abs/2506.04265

    :param credit: The solution concept that divides the advantage, by its name in ``sb3_cora.credit.CONCEPTS``.
    :param baseline: The value that a coalition is compared with: ``"v"``, the state's value V(s) (paper, Algorithm 2, for
        continuous tasks), or ``"q"``, the value Q(s, ā) of the baseline actions (Algorithm 1, for discrete tasks).
    :param baseline_action: The action ā of agents outside a coalition: ``"mode"``, the policy's most likely action (paper,
        remark 4.1), or ``"expectation"``, with which Q is averaged over ``n_baseline_samples`` actions of the policy.
    :param n_baseline_samples: Number of actions sampled for ``baseline_action="expectation"``.
    :param grand_advantage: What the credits sum to: ``"gae"``, the sampled advantage, or ``"q"``, the value v(N) of the
        grand coalition (paper, equation 3).
    :param variance_weight: Weight w of the variance of the credits, in units of one over the scaled values; for
        ``credit="core_l1"`` that of their mean absolute deviation, without unit.
    :param epsilon_bound: Whether the eps of the programs stops at 0 (``"nonnegative"``) or may be negative (``"free"``).
    :param credit_scale: The scale by which values are divided in the program (credits are multiplied by it afterwards):
        ``"batch"``, the standard deviation of the grand coalition's advantage over the rollout; ``"sample"``, each sample's
        largest excess at the equal split, or, if eps is free, the range of these; ``"paper"``, no scaling.
    :param shrink_credits: Whether to draw credits toward the team's advantage, which MAPPO gives everyone, as far as the
        Q-critics do not know what actions do: what credits differ by from it is multiplied by the critics' reliability, the
        running mean of ``train/q_explained_variance`` (from 0 to 1). For tasks in which critics explain little, such as those
        of multi-agent MuJoCo, where what they err by costs more than what they know is worth.
    :param n_coalitions: Number of proper coalitions drawn for each rollout. If None, all of them up to the concept's
        ``max_agents_exact``, and with more agents 254 or twice the number of agents, whichever is larger.
    :param coalition_sampling: How they are drawn, one of ``"uniform"``, ``"shapley_kernel"`` and ``"permutations"``, see
        ``sb3_cora.credit.draw_coalitions``; the concept's ``sampling`` if None. Each coalition is drawn with its complement if
        the concept needs it (``complements``), if eps is free, and with ``"permutations"``.
    :param include_extremes: Whether every agent on its own and everyone but one agent are always among the drawn coalitions.
        If the concept needs them (``extremes``), they are in any case.
    :param solver: Solver of the programs, ``"active_set"``, the batched one, or ``"cvxpylayers"``, the reference.
    :param solver_kwargs: Arguments of the solver's constructor, such as ``dict(backend="moreau")`` for ``"cvxpylayers"``.
    :param seed: Seed for the pseudo random generators, coalition sampling included.
    """

    def __init__(
        self,
        policy: str | type[CooperativeActorQCriticPolicy],
        env: JointEnvLike,
        *args: Any,
        credit: str = "core",
        baseline: str = "v",
        baseline_action: str = "mode",
        n_baseline_samples: int = 8,
        grand_advantage: str = "gae",
        variance_weight: float = 0.1,
        epsilon_bound: str = "nonnegative",
        credit_scale: str = "batch",
        shrink_credits: bool = False,
        n_coalitions: int | None = None,
        coalition_sampling: str | None = None,
        include_extremes: bool = False,
        solver: str = "active_set",
        solver_kwargs: dict[str, Any] | None = None,
        **kwargs: Unpack[QCriticArguments],
    ):
        self.credit = credit
        self.baseline = baseline
        self.baseline_action = baseline_action
        self.n_baseline_samples = n_baseline_samples
        self.grand_advantage = grand_advantage
        self.variance_weight = variance_weight
        self.epsilon_bound = epsilon_bound
        self.credit_scale = credit_scale
        self.shrink_credits = shrink_credits
        self.n_coalitions = n_coalitions
        self.coalition_sampling = coalition_sampling
        self.include_extremes = include_extremes
        self.solver = solver
        self.solver_kwargs = {} if solver_kwargs is None else solver_kwargs
        super().__init__(policy, env, *args, **kwargs)

    def _check_hyperparameters(self) -> None:
        super()._check_hyperparameters()
        for name, choices in {
            "credit": tuple(CONCEPTS),
            "baseline": ("v", "q"),
            "baseline_action": ("mode", "expectation"),
            "grand_advantage": ("gae", "q"),
            "epsilon_bound": ("nonnegative", "free"),
            "credit_scale": ("batch", "sample", "paper"),
            "coalition_sampling": (None, *SAMPLINGS),
            "solver": tuple(SOLVERS),
        }.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown, expected one of {list(choices)}.")
        # Made here to raise now, instead of after the first rollout, if its package is missing.
        make_solver(self.solver, **self.solver_kwargs)
        check_count("n_baseline_samples", self.n_baseline_samples)
        if self.n_coalitions is not None:
            check_count("n_coalitions", self.n_coalitions)
        check_variance_weight(self.variance_weight)
        # Drawn here to raise now, too, from a generator that nothing else uses.
        self._coalitions(th.Generator())

    def _coalitions(self, generator: th.Generator, concepts: Sequence[str] | None = None) -> CoalitionSample:
        """
        :param generator: Source of randomness.
        :param concepts: The solution concepts that take them, ``(credit,)`` if None.
        :return: The coalitions of a rollout.
        :raises ValueError: If ``n_coalitions`` is more than there are, or less than a concept needs.
        """
        return shared_needs([CONCEPTS[name] for name in concepts or (self.credit,)]).draw(
            self.n_agents,
            self.n_coalitions,
            self.coalition_sampling,  # type: ignore[arg-type]
            generator,
            # With unbalanced coalitions a free eps has no least value.
            paired=self.epsilon_bound == "free",
            include_extremes=self.include_extremes,
        )

    @th.no_grad()
    def games(self, rollout: Rollout, concepts: Sequence[str] | None = None) -> Games:
        """
        The cooperative game of each sample (paper, equation 3).

        :param rollout: The flattened rollout.
        :param concepts: The solution concepts that will divide the games, ``(credit,)`` if None. They have a say in which
            coalitions are drawn, if not all are taken.
        :return: The games.
        """
        policy = self.policy
        state = rollout.observation.state
        actions = self._action_features(rollout.observation, rollout.actions)
        baseline_actions = self._baseline_actions(rollout)
        # PyTorch's global generator, which ``seed`` seeds and from which actions are sampled as well.
        coalitions = self._coalitions(th.default_generator, concepts).to(self.device)

        if self.baseline == "q":
            baseline = th.stack([policy.q_critic.estimate(state, drawn) for drawn in baseline_actions]).mean(dim=0)
        else:
            # The critics estimate Q(s, a) - V(s), so V(s) is already subtracted.
            baseline = th.zeros_like(rollout.advantages[:, 0])
        q_function = policy.q_critic.bind(state)
        values = coalition_values(q_function, actions, baseline_actions, coalitions.masks) - baseline[:, None]
        grand_value = self.value_of_all(rollout, baseline) if self.grand_advantage == "q" else rollout.advantages[:, 0]
        agent_mask = rollout.observation.agent_mask
        return Games(values, coalitions, grand_value, baseline, None if agent_mask is None else agent_mask > 0.5)

    @th.no_grad()
    def value_of_all(self, rollout: Rollout, baseline: th.Tensor) -> th.Tensor:
        """
        :param rollout: The flattened rollout.
        :param baseline: See ``Games``.
        :return: What the Q-critics say that all agents together are worth, ``v(N) = Q(s, a) - b(s)``, ``(batch,)``.
        """
        actions = self._action_features(rollout.observation, rollout.actions)
        return self.policy.q_critic.estimate(rollout.observation.state, actions) - baseline

    def divide(self, games: Games, concept: str) -> Credits:
        """
        Divide the grand value of each game by a solution concept, with this model's settings (paper, equation 6).

        :param games: The games.
        :param concept: Its name in ``sb3_cora.credit.CONCEPTS``.
        :return: The credits. Those of an efficient concept sum to the grand value.
        """
        problem: dict[str, Any] = dict(
            values=games.values,
            masks=games.coalitions,
            grand_value=games.grand_value,
            concept=concept,
            variance_weight=self.variance_weight,
            epsilon_bound=self.epsilon_bound,
            scale=self._credit_scale(games),
            solver=make_solver(self.solver, **self.solver_kwargs),
            player_mask=games.player_mask,
        )
        try:
            return allocate(**problem)
        except ConvergenceError as error:
            # Only warn, because the best credits found are nearly optimal, and an error would end the training.
            warnings.warn(f"{error} Training continues with these.", stacklevel=2)
            return allocate(**problem, check=False)

    @th.no_grad()
    def _allocate_credits(self, rollout: Rollout) -> th.Tensor:
        """
        Compute the cooperative game of each sample and divide its advantage (paper, equations 3 and 6).

        :param rollout: The rollout, ``(n_steps, n_envs, ...)``.
        :return: Credits ``(n_steps, n_envs, n_agents)``. Those of an efficient concept are multiplied by the number of
            (active) agents, so that their mean is the advantage.
        """
        shape = rollout.log_prob.shape
        rollout = rollout.flatten()
        games = self.games(rollout)
        allocated = self.divide(games, self.credit)
        credits = allocated.credits

        self.logger.record("credit/epsilon", allocated.epsilon.mean().item())
        self.logger.record("credit/core_violation", allocated.epsilon.clamp(min=0.0).mean().item())
        self.logger.record("credit/solver_residual", allocated.gap.max().item())
        self.logger.record("credit/unconverged", (~allocated.converged).float().mean().item())

        if CONCEPTS[self.credit].efficient:
            credits = credits * games.players().sum(dim=1, keepdim=True).clamp(min=1.0)
        if self.shrink_credits:
            self.logger.record("credit/reliability", self.q_reliability)
            credits = (games.grand_value[:, None] * games.players()).lerp(credits, self.q_reliability)
        self.logger.record("credit/spread", relative_spread(credits, games.grand_value, rollout.observation.agent_mask))
        return credits.reshape(shape)

    @property
    def keeps_modes(self) -> bool:  # type: ignore[override]
        return self.baseline_action == "mode"

    def _baseline_actions(self, rollout: Rollout) -> th.Tensor:
        """
        :param rollout: The flattened rollout.
        :return: Actions of agents outside a coalition, as inputs of the Q-critics, ``(n_draws, batch, n_agents, action_dim)``.
            The mode counts as a single draw.
        """
        if rollout.modes is not None:
            draws = rollout.modes[None]
        else:
            draws = self.policy.distribution(rollout.observation).sample_n(self.n_baseline_samples)
        return self._action_features(rollout.observation, draws)

    def _credit_scale(self, games: Games) -> th.Tensor | None:
        """
        :param games: The games.
        :return: The scale of the values, see ``credit_scale``; 1 where it would be 0. None for no scaling.
        """
        if self.credit_scale == "paper":
            return None
        if self.credit_scale == "batch":
            scale = games.grand_value.std(correction=0)
        else:
            scale = games.largest_excess()
            if self.epsilon_bound == "free":
                # A free eps takes in whatever the excesses have in common, so only their range counts.
                scale = scale + games._replace(values=-games.values, grand_value=-games.grand_value).largest_excess()
        return th.where(scale > 0, scale, 1.0)
