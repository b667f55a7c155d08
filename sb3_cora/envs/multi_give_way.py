"""VMAS's multi_give_way, in which agents may also start elsewhere and see each other."""

from typing import Any

import torch as th
from vmas.scenarios.multi_give_way import Scenario
from vmas.simulator.core import Agent, World

DIRECTIONS = ((-1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, -1.0))
"""Of the corridors, seen from the crossing."""
GAP = 0.02
"""Between agents that start elsewhere, in the units of positions."""


class MultiGiveWay(Scenario):
    """
    The scenario of VMAS, which it is with the arguments' defaults.

    Of four agents at a crossing one has to leave the way to its goal until the others have passed, and from the usual start
    nothing is gained before many steps in one direction. Agents that start elsewhere learn what the last of these steps gain
    (exploring starts: Sutton and Barto, "Reinforcement Learning", section 5.3). Whether the way is free, agents can only guess
    unless they see each other.
    """

    exploring_starts: float
    observe_others: bool

    def make_world(self, batch_dim: int, device: th.device, **kwargs: Any) -> World:
        """
        :param batch_dim: Number of worlds.
        :param device: Device of the worlds.
        :param kwargs: Those of VMAS's scenario; ``exploring_starts`` (float), the share of the episodes in which each agent
            starts at its usual place, at its goal or anywhere in the corridors, by chance; and ``observe_others`` (bool),
            whether agents observe where the others are, relative to themselves.
        :return: The worlds.
        :raises ValueError: If ``exploring_starts`` is no share.
        """
        self.exploring_starts = kwargs.pop("exploring_starts", 0.0)
        self.observe_others = kwargs.pop("observe_others", False)
        if not 0 <= self.exploring_starts <= 1:
            raise ValueError(f"exploring_starts={self.exploring_starts!r} is no share of the episodes: give 0 to 1.")
        return super().make_world(batch_dim, device, **kwargs)

    def reset_world_at(self, env_index: int | None = None) -> None:
        """
        Start new episodes.

        :param env_index: The world that is reset, all if ``None``.
        """
        super().reset_world_at(env_index)
        # Nothing is drawn where nothing is explored, so that the random stream is that of VMAS's scenario
        if self.exploring_starts > 0:
            device = self.world.device
            worlds = (
                th.arange(self.world.batch_dim, device=device) if env_index is None else th.tensor([env_index], device=device)
            )
            self._explore(worlds[th.rand(len(worlds), device=device) < self.exploring_starts])

    def _explore(self, worlds: th.Tensor) -> None:
        """
        Move the agents to random places.

        :param worlds: Indices of the worlds.
        """
        places = self._draw_places(worlds)
        for agent, place in zip(self.world.agents, places.unbind(1), strict=True):
            positions = agent.state.pos.clone()
            positions[worlds] = place
            agent.set_pos(positions, batch_index=None)
            distances = th.linalg.vector_norm(positions - agent.goal.state.pos, dim=1)
            # What rewards are measured from
            agent.shaping[worlds] = (self.pos_shaping_factor * distances)[worlds]

    def _draw_places(self, worlds: th.Tensor) -> th.Tensor:
        """
        :param worlds: Indices of the worlds.
        :return: Places of the agents at which none touches another, ``(len(worlds), n_agents, 2)``: each agent's usual start,
            its goal, or anywhere in the corridors.
        """
        starts, goals = (
            th.stack([entity.state.pos[worlds] for entity in entities], dim=1)
            for entities in (self.world.agents, [agent.goal for agent in self.world.agents])
        )
        device = starts.device
        directions = th.tensor(DIRECTIONS, device=device)
        longest = self.scenario_length / 2 - self.goal_dist_from_wall
        places = th.zeros_like(starts)
        touching = th.ones(len(worlds), dtype=th.bool, device=device)
        while touching.any():
            shape = (int(touching.sum()), self.n_agents)
            anywhere = directions[th.randint(4, shape, device=device)] * longest * th.rand(*shape, 1, device=device)
            kind = th.randint(3, (*shape, 1), device=device)
            places[touching] = th.where(kind == 0, starts[touching], th.where(kind == 1, goals[touching], anywhere))
            distances = th.cdist(places, places) + th.diag(th.full((self.n_agents,), th.inf, device=device))
            touching = distances.flatten(1).min(dim=1).values < 2 * self.agent_radius + GAP
        return places

    def observation(self, agent: Agent) -> th.Tensor:
        """
        :param agent: An agent.
        :return: What it observes, ``(n_worlds, 7)``, or with the others ``(n_worlds, 13)``.
        """
        parts = [super().observation(agent)]
        if self.observe_others:
            parts += [other.state.pos - agent.state.pos for other in self.world.agents if other is not agent]
        return th.cat(parts, dim=1)
