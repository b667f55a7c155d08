"""
A cheetah whose two legs are two agents. Needs ``pip install "sb3-cora[mujoco]"``.

    python examples/train_robot.py            # 1 million steps
    python examples/train_robot.py --quick
"""

import argparse

from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora import HAPPO, make_joint_vec_env
from sb3_cora.common.vec_normalize import JointVecNormalize


def main() -> None:
    """Train HAPPO, and evaluate it on the rewards as they are."""
    parser = argparse.ArgumentParser(description="Train a team on a robot of MuJoCo")
    parser.add_argument("--quick", action="store_true", help="train for a single rollout, with short episodes")
    args = parser.parse_args()
    max_steps = 50 if args.quick else 1000

    def make(n_envs: int, seed: int) -> VecEnv:
        return make_joint_vec_env(
            "mujoco/HalfCheetah-2x3", n_envs=n_envs, seed=seed, observation="full_state_id", max_steps=max_steps
        )

    env = JointVecNormalize(make(n_envs=10, seed=0), share_statistics=True)
    model = HAPPO(
        "MlpPolicy",
        env,
        n_steps=20 if args.quick else 200,
        batch_size=200 if args.quick else 2000,
        n_epochs=5,
        learning_rate=5e-4,
        policy_kwargs=dict(normalize_features=True, output_gain=0.01),
        seed=0,
        verbose=1,
    )
    model.learn(200 if args.quick else 1_000_000)
    model.save("half_cheetah")
    env.save("half_cheetah_statistics.pkl")

    played = JointVecNormalize.load("half_cheetah_statistics.pkl", make(n_envs=1, seed=1))
    played.training = played.norm_reward = False
    mean, deviation = evaluate_policy(model, played, n_eval_episodes=2 if args.quick else 20)
    print(f"Return: {mean:.0f} +- {deviation:.0f}")


if __name__ == "__main__":
    main()
