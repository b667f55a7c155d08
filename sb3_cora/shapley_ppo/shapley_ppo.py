from typing import Any

from typing_extensions import Unpack

from sb3_cora.common.policies import CooperativeActorQCriticPolicy
from sb3_cora.common.type_aliases import JointEnvLike
from sb3_cora.cora_ppo import CORAPPO
from sb3_cora.cora_ppo.cora_ppo import CoalitionArguments


class ShapleyPPO(CORAPPO):
    """
    ``CORAPPO`` whose advantage is divided by the Shapley value of the same game: an agent's credit is the mean, over the
    orders in which agents may join, of what the coalition's value gains by its joining.

    Paper: https://arxiv.org/abs/1907.05707 (Shapley value of a Q-function; here with CORA's critic and baseline actions,
    so that only the rule of division differs)
    """

    def __init__(
        self,
        policy: str | type[CooperativeActorQCriticPolicy],
        env: JointEnvLike,
        *args: Any,
        **kwargs: Unpack[CoalitionArguments],
    ):
        # What the programs of the core take says nothing here
        super().__init__(policy, env, *args, credit="shapley", **kwargs)
