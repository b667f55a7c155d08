from typing import Any

from typing_extensions import Unpack

from sb3_cora.common.policies import CooperativeActorQCriticPolicy
from sb3_cora.common.type_aliases import JointEnvLike
from sb3_cora.cora_ppo import CORAPPO
from sb3_cora.cora_ppo.cora_ppo import CoalitionArguments


class ShapleyPPO(CORAPPO):
    """
    ``CORAPPO`` in which the advantage is divided by the Shapley value of the same game: an agent's credit is what it adds to a
    coalition's value when it joins, as a mean over all orders in which agents may join.

    Paper: https://arxiv.org/abs/1907.05707 (the Shapley value of a Q-function; here with the critics and baseline actions of
    ``CORAPPO``, so that only the concept differs)
    """

    def __init__(
        self,
        policy: str | type[CooperativeActorQCriticPolicy],
        env: JointEnvLike,
        *args: Any,
        **kwargs: Unpack[CoalitionArguments],
    ):
        # Arguments of the core's programs have no effect on the Shapley value, so the constructor does not take them.
        super().__init__(policy, env, *args, credit="shapley", **kwargs)
