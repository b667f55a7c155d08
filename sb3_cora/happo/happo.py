from collections.abc import Iterator
from typing import ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm, Turn
from sb3_cora.happo.policies import MlpPolicy, MultiInputPolicy


class HAPPO(CooperativeOnPolicyAlgorithm):
    """
    Heterogeneous-Agent Proximal Policy Optimization (HAPPO): agents are updated one after another in random order, and an
    agent's advantage is multiplied by the likelihood ratios of those updated before it, so that it improves on what they
    do now.

    Paper: https://arxiv.org/abs/2109.11251

    The arguments are those of ``CooperativeOnPolicyAlgorithm``. ``n_epochs`` are each agent's; the value function is
    updated along with the first. Advantages are normalized before they are multiplied. ``share_parameters`` is possible, as
    in HARL, but an update then moves the others' policies too, and the guarantee of monotonic improvement is lost.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    def _turns(self) -> Iterator[Turn]:
        buffer = self.rollout_buffer
        factor = th.ones(buffer.buffer_size * buffer.n_envs, 1, device=self.device)
        for position, agent in enumerate(th.randperm(self.n_agents).tolist()):
            agents = slice(agent, agent + 1)
            yield Turn(agents, with_value_function=position == 0, factor=factor)
            factor = factor * self._likelihood_ratio(agents)

    @th.no_grad()
    def _likelihood_ratio(self, agents: slice) -> th.Tensor:
        """
        :param agents: A single agent
        :return: How likely the agent's policy now makes its actions of the rollout, relative to the policy that took them:
            ``(n_samples, 1)``, 1 where the agent is dead
        """
        ratios = []
        for data in self.rollout_buffer.get_in_order(self.batch_size):
            observation = self.policy.split_observation(data.observations)
            actions = self.policy.shape_actions(data.actions)[:, agents]
            log_ratio = self.policy.distribution(observation, agents).log_prob(actions) - data.old_log_prob[:, agents]
            if observation.agent_mask is not None:
                log_ratio = log_ratio * observation.agent_mask[:, agents]
            ratios.append(log_ratio.exp())
        return th.cat(ratios)
