"""A warning for environments whose agents are not one team."""

import warnings
from collections.abc import Sequence


def warn_of_opposed_teams(names: Sequence[str], opposed: Sequence[bool], team_reward: str) -> None:
    """
    Warn if the agents play against each other, which makes the team's reward meaningless.

    :param names: The agents' names.
    :param opposed: Whether an agent plays against those for which this is false, one flag per agent.
    :param team_reward: How the agents' rewards become the team's, ``"mean"`` or ``"sum"``.
    """
    adversaries = [name for name, flag in zip(names, opposed, strict=True) if flag]
    others = [name for name, flag in zip(names, opposed, strict=True) if not flag]
    if adversaries and others:
        warnings.warn(
            f"The agents are opposed teams, {', '.join(adversaries)} against {', '.join(others)}, and are trained as one: the "
            f"team's reward is the {team_reward} over both sides. What one side wins the other loses, so neither learns to "
            "win. Use an environment whose agents are one team, or let a scripted policy play one side. Only IPPO trains each "
            "agent on its own reward, against others that learn as well.",
            stacklevel=2,
        )
