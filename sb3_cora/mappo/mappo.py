from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm


class MAPPO(CooperativeOnPolicyAlgorithm):
    """
    Multi-Agent Proximal Policy Optimization (MAPPO): every agent is credited with the team's advantage.

    Paper: https://arxiv.org/abs/2103.01955

    It adds nothing to ``CooperativeOnPolicyAlgorithm`` and has no Q-critic.
    """
