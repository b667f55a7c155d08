"""VMAS's multi_give_way, in which agents may also start elsewhere and see the time."""

from typing import Any

import torch as th
from vmas.scenarios.multi_give_way import Scenario
from vmas.simulator.core import Agent, World

DIRECTIONS = th.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
"""Of the corridors, seen from the crossing."""
GAP = 0.02
"""Between agents that start elsewhere, in the units of positions."""
LATEST_START = 10.0
"""The latest time at which agents that start elsewhere begin, in seconds: half of an episode of 200 steps."""


class MultiGiveWay(Scenario):
    """
    The scenario of VMAS, which it is with the arguments' defaults.

    Of four agents at a crossing one has to leave the way to its goal until the others have passed, and from the usual start
    nothing is gained before many steps in one direction. Agents that start anywhere learn what the last of these steps gain
    (exploring starts: Sutton and Barto, "Reinforcement Learning", section 5.3). As agents do not see each other, it is the
    time that tells them whether the way is free (Pardo et al., 2018, https://arxiv.org/abs/1712.00378).
    """

    exploring_starts: float
    observe_time: bool
    # Seconds since the start of each world's episode, of shape ``(n_worlds, 1)``
    time: th.Tensor

    def make_world(self, batch_dim: int, device: th.device, **kwargs: Any) -> World:
        """
        :param batch_dim: Number of worlds.
        :param device: Device of the worlds.
        :param kwargs: Those of VMAS's scenario; ``exploring_starts`` (float), the share of the episodes in which agents start
            anywhere in the corridors, and the time anywhere in the first half; and ``observe_time`` (bool), whether every
            agent's observation ends with the seconds since the start.
        :return: The worlds.
        :raises ValueError: If ``exploring_starts`` is no share.
        """
        self.exploring_starts = kwargs.pop("exploring_starts", 0.0)
        self.observe_time = kwargs.pop("observe_time", False)
        if not 0 <= self.exploring_starts <= 1:
            raise ValueError(f"exploring_starts={self.exploring_starts!r} is no share of the episodes: give 0 to 1.")
        self.time = th.zeros(batch_dim, 1, device=device)
        return super().make_world(batch_dim, device, **kwargs)

    def reset_world_at(self, env_index: int | None = None) -> None:
        """
        Start new episodes.

        :param env_index: The world that is reset, all if ``None``.
        """
        super().reset_world_at(env_index)
        worlds = th.arange(self.world.batch_dim) if env_index is None else th.tensor([env_index])
        self.time[worlds] = 0.0
        # Nothing is drawn where nothing is explored, so that the random stream is that of VMAS's scenario
        if self.exploring_starts > 0:
            self._explore(worlds[th.rand(len(worlds)) < self.exploring_starts])

    def _explore(self, worlds: th.Tensor) -> None:
        """
        Move the agents to random places, and the time to a random one.

        :param worlds: Indices of the worlds.
        """
        places = self._draw_places(len(worlds)).to(self.world.device)
        for agent, place in zip(self.world.agents, places.unbind(1), strict=True):
            positions = agent.state.pos.clone()
            positions[worlds] = place
            agent.set_pos(positions, batch_index=None)
            distances = th.linalg.vector_norm(positions - agent.goal.state.pos, dim=1)
            # What rewards are measured from
            agent.shaping[worlds] = (self.pos_shaping_factor * distances)[worlds]
        self.time[worlds] = LATEST_START * th.rand(len(worlds), 1, device=self.world.device)

    def _draw_places(self, n_worlds: int) -> th.Tensor:
        """
        :param n_worlds: Number of worlds.
        :return: Places of the agents in the corridors at which none touches another, ``(n_worlds, n_agents, 2)``.
        """
        longest = self.scenario_length / 2 - self.goal_dist_from_wall
        places = th.zeros(n_worlds, self.n_agents, 2)
        touching = th.ones(n_worlds, dtype=th.bool)
        while touching.any():
            shape = (int(touching.sum()), self.n_agents)
            places[touching] = DIRECTIONS[th.randint(4, shape)] * longest * th.rand(*shape, 1)
            distances = th.cdist(places, places) + th.diag(th.full((self.n_agents,), th.inf))
            touching = distances.flatten(1).min(dim=1).values < 2 * self.agent_radius + GAP
        return places

    def post_step(self) -> None:
        """Let the time of one step pass."""
        self.time += self.world.dt

    def observation(self, agent: Agent) -> th.Tensor:
        """
        :param agent: An agent.
        :return: What it observes, ``(n_worlds, 7)``, or with the time ``(n_worlds, 8)``.
        """
        own = super().observation(agent)
        return th.cat([own, self.time], dim=1) if self.observe_time else own
