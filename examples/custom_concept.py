"""
A solution concept of one's own, alone and in a training.

    python examples/custom_concept.py
    python examples/custom_concept.py --quick

Any module that enters a concept in ``CONCEPTS`` serves; on the command line ``--gym-packages <module> -params credit:ensc``.
"""

import argparse

import torch as th
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_cora import CORAPPO, make_joint_vec_env
from sb3_cora.credit import CONCEPTS, Concept, all_coalitions, allocate, difference


def separable_contributions(values: th.Tensor, masks: th.Tensor, grand_value: th.Tensor) -> th.Tensor:
    """Egalitarian non-separable contribution: what the team would lose without an agent, and equal parts of the rest."""
    lost = difference(values, masks, grand_value)
    return lost + ((grand_value - lost.sum(dim=1)) / masks.shape[1])[:, None]


# Its credits sum to the grand value, and it takes the values of everyone but one agent
CONCEPTS["ensc"] = Concept(separable_contributions, efficient=True, extremes=True)


def main() -> None:
    """Divide a game by the concept, then train with it."""
    parser = argparse.ArgumentParser(description="A solution concept of one's own")
    parser.add_argument("--quick", action="store_true", help="train for a single rollout")
    args = parser.parse_args()

    masks = all_coalitions(3)  # {0}, {1}, {0, 1}, {2}, {0, 2}, {1, 2}
    values = th.tensor([[2.0, 0.0, 8.0, -6.0, -1.0, -2.0]])
    for concept in ("ensc", "core", "shapley"):
        credits = allocate(values, masks, th.tensor([3.0]), concept).credits[0].tolist()
        print(f"{concept}: {[round(credit, 2) for credit in credits]}")

    env = make_joint_vec_env("climbing", n_envs=16, seed=0)
    model = CORAPPO("MlpPolicy", env, credit="ensc", n_steps=25, batch_size=100, seed=0)
    model.learn(400 if args.quick else 40_000)
    print(f"Return in climbing: {evaluate_policy(model, env, n_eval_episodes=16)[0]:.1f}")


if __name__ == "__main__":
    main()
