from collections.abc import Iterator
from typing import ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm, Turn
from sb3_cora.common.rollout import Rollout, take
from sb3_cora.happo.policies import MlpPolicy, MultiInputPolicy


class HAPPO(CooperativeOnPolicyAlgorithm):
    """
    Heterogeneous-Agent Proximal Policy Optimization (HAPPO): agents are updated one after another in random order, and an
    agent's advantage is multiplied by the likelihood ratios of the agents updated before it, so that it accounts for their new
    policies.

    Paper: https://arxiv.org/abs/2109.11251

    The value function is updated together with the first agent. Advantages are normalized before they are multiplied.

    :param n_epochs: Number of epochs for each agent when optimizing the surrogate loss.
    :param share_parameters: Whether the agents share one actor, which is then given the agent's index as well. This is
        possible, as in HARL, but each update then changes the others' policies too, without the guarantee of monotonic
        improvement.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    def _turns(self, rollout: Rollout) -> Iterator[Turn]:
        factor = th.ones(len(rollout.log_prob), 1, device=self.device)
        for position, agent in enumerate(th.randperm(self.n_agents).tolist()):
            agents = slice(agent, agent + 1)
            yield Turn(agents, with_value_function=position == 0, factor=factor)
            factor = factor * self._likelihood_ratio(rollout, agents)

    @th.no_grad()
    def _likelihood_ratio(self, rollout: Rollout, agents: slice) -> th.Tensor:
        """
        :param rollout: The flattened rollout.
        :param agents: A single agent.
        :return: Likelihood of the agent's actions in the rollout under its current policy over that under the policy that took
            them, ``(n_samples, 1)``; 1 where the agent is inactive.
        """
        ratios = []
        for start in range(0, len(rollout.log_prob), self.batch_size):
            batch = take(rollout, slice(start, start + self.batch_size))
            observation = batch.observation
            log_ratio = self.policy.distribution(observation, agents).log_prob(batch.actions[:, agents])
            log_ratio -= batch.log_prob[:, agents]
            if observation.agent_mask is not None:
                log_ratio = log_ratio * observation.agent_mask[:, agents]
            ratios.append(log_ratio.exp())
        return th.cat(ratios)
