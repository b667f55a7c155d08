from typing import ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora.common.bootstrapping_vec_env import AgentRewardsVecEnv, BootstrappingVecEnv
from sb3_cora.common.buffers import AgentDictRolloutBuffer, AgentRolloutBuffer
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.ippo.policies import MlpPolicy, MultiInputPolicy


class IPPO(CooperativeOnPolicyAlgorithm):
    """
    Independent Proximal Policy Optimization (IPPO): each agent learns as if it were alone, with a value function of its
    own observation and advantages of its own rewards, ``info["agent_rewards"]``, or of the team's if the environment has none.
    If observations have an ``"agent_mask"``, an agent's returns end when it becomes inactive, whatever rewards follow.

    Paper: https://arxiv.org/abs/2011.09533

    Callbacks find the agents' rewards ``(n_envs, n_agents)`` in ``locals["rewards"]``.

    :param normalize_advantage: Whether to normalize the advantages in each minibatch, for each agent separately.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    def _default_rollout_buffer_class(self) -> type[AgentRolloutBuffer]:
        return AgentDictRolloutBuffer if isinstance(self.observation_space, spaces.Dict) else AgentRolloutBuffer

    def _bootstrapping_vec_env(self, env: VecEnv) -> BootstrappingVecEnv:
        return AgentRewardsVecEnv(env, self.policy, self.keeps_modes)

    def _normalize_credits(self, credits: th.Tensor, agent_mask: th.Tensor | None) -> th.Tensor:
        normalize = super()._normalize_credits
        masks = [None] * self.n_agents if agent_mask is None else agent_mask.split(1, dim=1)
        return th.cat([normalize(own, mask) for own, mask in zip(credits.split(1, dim=1), masks, strict=True)], dim=1)
