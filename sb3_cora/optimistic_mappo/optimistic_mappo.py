from typing import Any

from stable_baselines3.common.type_aliases import Schedule
from typing_extensions import Unpack

from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm, OnPolicyArguments
from sb3_cora.common.policies import CooperativeActorCriticPolicy
from sb3_cora.common.type_aliases import JointEnvLike


class OptimisticMAPPO(CooperativeOnPolicyAlgorithm):
    """
    Optimistic Multi-Agent Policy Gradient with MAPPO: negative advantages are shrunk to ``eta`` times themselves (a leaky
    ReLU), since a bad return may be the fault of the others' exploration.

    Paper: https://arxiv.org/abs/2311.01953

    :param eta: What is left of a negative credit, from 0 (default, nothing) to 1 (all of it: this is MAPPO), a number or a
        function of the current progress remaining
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
