"""
A PettingZoo task of your own
=============================

Three algorithms are compared on a task of one's own. Needs ``pip install "sb3-cora[pettingzoo]"``. ::

    python examples/own_pettingzoo_task.py
    python examples/own_pettingzoo_task.py --quick
"""

import sys
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_cora import CORAPPO, IPPO, MAPPO, check_joint_env, make_joint_vec_env

# Only to see that everything works: one seed, and few steps
QUICK = "--quick" in sys.argv
n_seeds, n_timesteps = (1, 512) if QUICK else (3, 20_000)

# %%
# Agents on a line should meet. The task is a ``ParallelEnv`` as for any other library.


class Rendezvous(ParallelEnv):
    """
    Agents on a line should meet. Each observes the way to the middle of all, and is paid for how near the team is.

    :param n_agents: Number of agents.
    :param max_steps: Length of an episode.
    """

    metadata = {"name": "rendezvous_v0", "is_parallelizable": True}  # noqa: RUF012  (PettingZoo reads it off the class)

    def __init__(self, n_agents: int = 3, max_steps: int = 20) -> None:
        self.possible_agents = [f"walker_{number}" for number in range(n_agents)]
        self.agents: list[str] = []
        self.max_steps = max_steps
        self.random = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Box:
        return spaces.Box(-10.0, 10.0, (1,))

    def action_space(self, agent: str) -> spaces.Discrete:
        # Left, stay, right
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.time = 0
        self.positions = self.random.uniform(-5.0, 5.0, len(self.agents))
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        self.time += 1
        self.positions += 0.5 * (np.array([actions[agent] for agent in self.agents]) - 1)
        reward = -float(self.positions.std())
        observations, agents = self._observations(), self.agents
        over = self.time >= self.max_steps
        if over:
            self.agents = []

        def everybody(value: Any) -> dict[str, Any]:
            return dict.fromkeys(agents, value)

        return observations, everybody(reward), everybody(False), everybody(over), {agent: {} for agent in agents}

    def _observations(self) -> dict[str, np.ndarray]:
        ways = np.clip(self.positions.mean() - self.positions, -10.0, 10.0).astype(np.float32)
        return dict(zip(self.agents, ways[:, None], strict=True))


# %%
# ``check_joint_env`` tells what is wrong with a task before anything is trained on it. Then each algorithm is trained with
# several seeds, and evaluated from other starts than those of the training, which are the same ones for all algorithms. All
# this is done by the script that is started, and not where the task is imported from it.

if __name__ == "__main__":
    check_joint_env(make_joint_vec_env(Rendezvous))
    for algorithm in (CORAPPO, MAPPO, IPPO):
        returns = []
        for seed in range(n_seeds):
            env = make_joint_vec_env(Rendezvous, n_envs=4, seed=seed)
            model = algorithm("MlpPolicy", env, n_steps=128, batch_size=128, seed=seed).learn(n_timesteps)
            mean, _ = evaluate_policy(model, make_joint_vec_env(Rendezvous, seed=1000), n_eval_episodes=20)
            returns.append(mean)
        print(f"{algorithm.__name__}: return of {n_seeds} seeds {np.mean(returns):.2f}, each {np.round(returns, 2)}")
