"""Of environments whose agents are not one team."""

import warnings
from collections.abc import Sequence


def warn_of_opposed_teams(names: Sequence[str], opposed: Sequence[bool], team_reward: str) -> None:
    """
    Tell what a team's reward means where the agents are not one team.

    :param names: The agents
    :param opposed: Which of them play against the others, one flag an agent
    :param team_reward: How the agents' rewards become the team's
    """
    adversaries = [name for name, flag in zip(names, opposed, strict=True) if flag]
    others = [name for name, flag in zip(names, opposed, strict=True) if not flag]
    if adversaries and others:
        warnings.warn(
            f"The agents are opposed teams, {', '.join(adversaries)} against {', '.join(others)}, and are trained as one: the "
            f"team's reward is the {team_reward} over both sides, where what one wins the other loses, so neither learns to "
            "win. Use an environment whose agents are one team, or let a script play one side. IPPO alone trains each agent "
            "on its own reward, against others that learn as well.",
            stacklevel=2,
        )
