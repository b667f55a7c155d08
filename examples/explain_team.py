"""
What a trained team is credited with, step by step, by two solution concepts that divide the same games.

    python examples/explain_team.py
    python examples/explain_team.py --quick

``python -m sb3_cora.zoo.explain`` makes a video and a sheet of the same numbers.
"""

import argparse
import csv

from sb3_cora import CORAPPO, make_joint_vec_env
from sb3_cora.cora_ppo import explain


def main() -> None:
    """Train a team, and write what each of an episode's steps is worth to whom."""
    parser = argparse.ArgumentParser(description="Explain a trained team")
    parser.add_argument("--quick", action="store_true", help="train for a single rollout")
    args = parser.parse_args()

    game = {"n_agents": 3, "game_seed": 1}
    env = make_joint_vec_env("multi_peak", n_envs=64, seed=0, env_kwargs=game)
    model = CORAPPO("MlpPolicy", env, n_steps=10, batch_size=64, baseline="q", grand_advantage="q", seed=0)
    # Not to the end: once all take the most likely actions, every coalition is worth the same
    model.learn(640 if args.quick else 20_000)

    explanation = explain(model, make_joint_vec_env("multi_peak", seed=1, env_kwargs=game), concepts=["core", "shapley"])
    for step in range(explanation.n_steps):
        print(f"step {step}: reward {explanation.rewards[step]:6.2f}, advantage {explanation.advantages[step]:5.2f}", end="")
        for concept, credits in explanation.credits.items():
            print(f", {concept}", *(f"{credit:5.2f}" for credit in credits[step]), end="")
        print()

    columns = explanation.columns()
    with open("credits.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(zip(*columns.values(), strict=True))
    print(f"credits.csv: {len(columns)} columns, the values of {len(explanation.coalitions)} coalitions among them")


if __name__ == "__main__":
    main()
