"""The environment alone, which bounds every trainer: ``vmas.make_env`` stepped with actions sampled beforehand."""

import sys

import torch as th
import vmas

from benchmarks.throughput.turns import Turns
from benchmarks.throughput.workload import Work


def run(work: Work) -> None:
    """
    :param work: What to do; there are no updates
    """
    th.set_num_threads(1)
    environment = vmas.make_env(
        work.scenario, num_envs=work.n_envs, max_steps=work.max_steps, seed=work.seed, terminated_truncated=True
    )
    environment.reset()
    generator = th.Generator().manual_seed(work.seed)
    n_actions = environment.agents[0].action_size
    actions = [
        [(2 * th.rand(work.n_envs, n_actions, generator=generator) - 1) * agent.u_range for agent in environment.agents]
        for _ in range(work.n_steps)
    ]
    turns = Turns()
    while True:
        turns.begin()
        for joint_action in actions:
            _, _, terminated, truncated, _ = environment.step(joint_action)
            # The episodes of a batch end together, with but rare exceptions
            if bool((terminated | truncated).all()):
                environment.reset()
        turns.end({"environment": turns.elapsed()[1]})


if __name__ == "__main__":
    run(Work.from_json(sys.argv[1]))
