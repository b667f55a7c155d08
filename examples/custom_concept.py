"""
A concept of your own
=====================

A solution concept of one's own divides a game, and then the advantages of a training. ::

    python examples/custom_concept.py
    python examples/custom_concept.py --quick
"""

import sys

import torch as th
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_cora import CORAPPO, make_joint_vec_env
from sb3_cora.credit import CONCEPTS, Concept, all_coalitions, allocate, difference

# Only to see that everything works: train for a single rollout
QUICK = "--quick" in sys.argv

# %%
# A concept is a function of the values of coalitions, and an entry of ``CONCEPTS`` that says what is true of it: here, that
# credits sum to the grand value, and that it takes the values of everyone but one agent.


def separable_contributions(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """Egalitarian non-separable contribution: what the team would lose without an agent, and equal parts of the rest."""
    lost = difference(values, masks, grand_value)
    return lost + ((grand_value - lost.sum(dim=1)) / masks.shape[1])[:, None]


CONCEPTS["ensc"] = Concept(separable_contributions, efficient=True, extremes=True)

# %%
# It stands beside those of the package, here in a game of three agents that is worth 3.

masks = all_coalitions(3)  # {0}, {1}, {0, 1}, {2}, {0, 2}, {1, 2}
values = th.tensor([[2.0, 0.0, 8.0, -6.0, -1.0, -2.0]])
for concept in ("ensc", "core", "shapley"):
    credits = allocate(values, masks, th.tensor([3.0]), concept).credits[0].tolist()
    print(f"{concept}: {[round(credit, 2) for credit in credits]}")

# %%
# And a training can use it. Any module that makes such an entry serves; on the command line
# ``--gym-packages <module> -params credit:ensc``.

env = make_joint_vec_env("climbing", n_envs=16, seed=0)
model = CORAPPO("MlpPolicy", env, credit="ensc", n_steps=25, batch_size=100, seed=0)
model.learn(400 if QUICK else 40_000)
print(f"Return in climbing: {evaluate_policy(model, env, n_eval_episodes=16)[0]:.1f}")
