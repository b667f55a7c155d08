"""An algorithm of sb3_cora, as a user would train it."""

import sys

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

import sb3_cora
from benchmarks.throughput.turns import Turns
from benchmarks.throughput.workload import Work
from benchmarks.tools.timing import Stopwatch, timed
from sb3_cora.common.env_util import make_joint_vec_env

# Methods of an algorithm, and what their time is spent on
SECTIONS = {
    "collect_rollouts": "collection",
    "_update_critics": "critics",
    "_allocate_credits": "credits",
    "_update_policy": "policy",
}


class TakeTurns(BaseCallback):
    """
    Collects and trains only when it is the algorithm's turn.

    :param turns: The algorithm's turns
    :param stopwatch: The algorithm's stopwatch
    """

    def __init__(self, turns: Turns, stopwatch: Stopwatch) -> None:
        super().__init__()
        self.turns = turns
        self.stopwatch = stopwatch

    def _on_rollout_start(self) -> None:
        # A section, because the time of the others is no part of the collection that this is called in
        with self.stopwatch.section("waiting"):
            if self.turns.taken:
                wall, processor = self.turns.elapsed()
                # The stopwatch counts wall-clock seconds: others on the core lengthen all sections alike
                self.turns.end({name: seconds * processor / wall for name, seconds in self.stopwatch.seconds.items()})
                self.stopwatch.reset()
            self.turns.begin()

    def _on_step(self) -> bool:
        return True


def run(algorithm: str, work: Work) -> None:
    """
    :param algorithm: Name of a class of sb3_cora
    :param work: What to do
    """
    th.set_num_threads(1)
    env = make_joint_vec_env(f"vmas/{work.scenario}", work.n_envs, work.seed, max_steps=work.max_steps)
    model = getattr(sb3_cora, algorithm)(
        "MlpPolicy",
        env,
        n_steps=work.n_steps,
        batch_size=work.batch_size,
        n_epochs=work.n_epochs,
        policy_kwargs={"net_arch": work.net_arch},
        seed=work.seed,
        device="cpu",
    )
    stopwatch = Stopwatch()
    for method, section in SECTIONS.items():
        setattr(model, method, timed(getattr(model, method), stopwatch, section))
    env.step_wait = timed(env.step_wait, stopwatch, "environment")  # type: ignore[method-assign]
    # Until there is no further turn
    model.learn(sys.maxsize, callback=TakeTurns(Turns(), stopwatch))


if __name__ == "__main__":
    run(sys.argv[1], Work.from_json(sys.argv[2]))
