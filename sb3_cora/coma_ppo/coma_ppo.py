from typing import Any

import torch as th
from typing_extensions import Unpack

from sb3_cora.common.counts import check_count
from sb3_cora.common.diagnostics import relative_spread
from sb3_cora.common.distributions import JointCategorical
from sb3_cora.common.policies import CooperativeActorQCriticPolicy
from sb3_cora.common.q_critic_algorithm import QCriticArguments, QCriticOnPolicyAlgorithm
from sb3_cora.common.rollout import Rollout
from sb3_cora.common.type_aliases import JointEnvLike
from sb3_cora.credit import coalition_values


class COMAPPO(QCriticOnPolicyAlgorithm):
    """
    Counterfactual Multi-Agent policy gradients (COMA) with Proximal Policy Optimization: an agent's credit is the value of the
    joint action less its expectation over the agent's own policy, with the actions of the others fixed,
    ``A_i = Q(s, a) - sum_a' pi_i(a'|o_i) Q(s, (a_-i, a'))``.

    Paper: https://arxiv.org/abs/1705.08926 (equation 4)

    The credits do not use the team's advantage and do not sum to it: with one agent this is PPO with the advantage
    ``Q(s, a) - E Q(s, .)`` in place of GAE. Unlike in the paper, the critics take joint actions as input and are trained with
    the targets of ``q_target``.

    :param n_policy_samples: Number of actions sampled from each agent's policy to estimate the expectation of continuous
        actions. With discrete actions it is exact.
    """

    def __init__(
        self,
        policy: str | type[CooperativeActorQCriticPolicy],
        env: JointEnvLike,
        *args: Any,
        n_policy_samples: int = 8,
        **kwargs: Unpack[QCriticArguments],
    ):
        self.n_policy_samples = n_policy_samples
        super().__init__(policy, env, *args, **kwargs)

    def _check_hyperparameters(self) -> None:
        super()._check_hyperparameters()
        check_count("n_policy_samples", self.n_policy_samples)

    @th.no_grad()
    def _allocate_credits(self, rollout: Rollout) -> th.Tensor:
        """
        :param rollout: The rollout, ``(n_steps, n_envs, ...)``.
        :return: Credits ``(n_steps, n_envs, n_agents)``.
        """
        policy = self.policy
        shape = rollout.log_prob.shape
        rollout = rollout.flatten()
        state = rollout.observation.state
        actions = self._action_features(rollout.observation, rollout.actions)
        q_function = policy.q_critic.bind(state)
        # All agents but the one that takes another action. With one agent this coalition is empty, for which it works too.
        others = ~th.eye(self.n_agents, dtype=th.bool, device=self.device)
        distribution = policy.distribution(rollout.observation)
        if isinstance(distribution, JointCategorical):
            probabilities = distribution.probabilities().unbind(dim=2)
            counterfactuals = th.zeros_like(probabilities[0])
            for action, probability in enumerate(probabilities):
                alternative = self._action_features(rollout.observation, th.full_like(probability, action, dtype=th.long))
                counterfactuals += probability * coalition_values(q_function, actions, alternative[None], others)
        else:
            draws = self._action_features(rollout.observation, distribution.sample_n(self.n_policy_samples))
            counterfactuals = coalition_values(q_function, actions, draws, others)
        values = policy.q_critic.estimate(state, actions)
        credits = values[:, None] - counterfactuals
        self.logger.record("credit/spread", relative_spread(credits, rollout.advantages[:, 0], rollout.observation.agent_mask))
        return credits.reshape(shape)
