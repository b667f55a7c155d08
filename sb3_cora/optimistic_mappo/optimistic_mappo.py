from typing import Any

from stable_baselines3.common.type_aliases import Schedule
from typing_extensions import Unpack

from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm, OnPolicyArguments
from sb3_cora.common.policies import CooperativeActorCriticPolicy
from sb3_cora.common.type_aliases import JointEnvLike


class OptimisticMAPPO(CooperativeOnPolicyAlgorithm):
    """
    Optimistic Multi-Agent Policy Gradient with MAPPO: negative advantages are multiplied by ``eta`` (a leaky ReLU), since a
    bad return may be due to the exploration of the other agents.

    Paper: https://arxiv.org/abs/2311.01953

    :param eta: Factor of negative credits, from 0 (default: drop them) to 1 (keep them, which is MAPPO), it can be a function
        of the current progress remaining.
    """

    def __init__(
        self,
        policy: str | type[CooperativeActorCriticPolicy],
        env: JointEnvLike,
        *args: Any,
        eta: float | Schedule = 0.0,
        **kwargs: Unpack[OnPolicyArguments],
    ):
        super().__init__(policy, env, *args, eta=eta, **kwargs)
