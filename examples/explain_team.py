"""
Explain a trained team
======================

What a trained team is credited with, step by step, by two solution concepts that divide the same games. ::

    python examples/explain_team.py
    python examples/explain_team.py --quick
"""

import csv
import sys

from sb3_cora import CORAPPO, make_joint_vec_env
from sb3_cora.cora_ppo import explain

# Only to see that everything works: train for a single rollout
QUICK = "--quick" in sys.argv

# %%
# Only what beats the most likely actions is learned (``eta=0``), so that agents go on to explore: once all take the most
# likely actions, every coalition is worth the same.

game = {"n_agents": 3, "game_seed": 1}
env = make_joint_vec_env("multi_peak", n_envs=64, seed=0, env_kwargs=game)
model = CORAPPO(
    "MlpPolicy",
    env,
    n_steps=10,
    batch_size=64,
    baseline="q",
    grand_advantage="q",
    center_advantage=False,
    eta=0.0,
    seed=0,
)
model.learn(640 if QUICK else 20_000)

# %%
# ``explain`` plays an episode, and computes what the training would have computed of its steps.

explanation = explain(model, make_joint_vec_env("multi_peak", seed=1, env_kwargs=game), concepts=["core", "shapley"])
for step in range(explanation.n_steps):
    print(f"step {step}: reward {explanation.rewards[step]:6.2f}, advantage {explanation.advantages[step]:5.2f}", end="")
    for concept, credits in explanation.credits.items():
        print(f", {concept}", *(f"{credit:5.2f}" for credit in credits[step]), end="")
    print()

# %%
# All numbers, the values of the coalitions too, are columns of a table. ``python -m sb3_cora.zoo.explain`` makes a video and a
# sheet of the same numbers.

columns = explanation.columns()
with open("credits.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
print(f"credits.csv: {len(columns)} columns, the values of {len(explanation.coalitions)} coalitions among them")
