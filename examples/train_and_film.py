"""
Train two agents to give way to each other in a corridor, and film them. Needs ``pip install "sb3-cora[vmas,zoo]"``.

    python examples/train_and_film.py            # the zoo's settings, 1.9 million steps
    python examples/train_and_film.py --quick
"""

import argparse

from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecVideoRecorder

from sb3_cora import CORAPPO, make_joint_vec_env
from sb3_cora.common.vec_normalize import JointVecNormalize
from sb3_cora.zoo.display import virtual_display


def main() -> None:
    """Train, save, evaluate and film."""
    parser = argparse.ArgumentParser(description="Train and film give_way")
    parser.add_argument("--quick", action="store_true", help="train for a single rollout, and film few steps")
    args = parser.parse_args()
    n_envs, n_steps, n_filmed = (8, 30, 10) if args.quick else (64, 300, 300)

    env = JointVecNormalize(make_joint_vec_env("give_way", n_envs=n_envs, seed=0), norm_reward=False)
    model = CORAPPO(
        "MlpPolicy",
        env,
        n_steps=n_steps,
        batch_size=n_envs * n_steps // 8,
        n_epochs=8,
        q_n_epochs=4,
        learning_rate=LinearSchedule(5e-4, 0.0, 1.0),
        # Only noise that lasts finds the way out of the niche
        noise_correlation=0.95,
        policy_kwargs=dict(log_std_init=-1.0, squash_mean=True),
        seed=0,
        verbose=1,
    )
    model.learn(n_envs * n_steps if args.quick else 1_920_000)
    model.save("give_way")
    env.save("give_way_statistics.pkl")

    made = make_joint_vec_env("give_way", seed=1, max_steps=n_filmed)
    played = JointVecNormalize.load("give_way_statistics.pkl", made)
    played.training = played.norm_reward = False
    mean, deviation = evaluate_policy(model, played, n_eval_episodes=1 if args.quick else 20)
    print(f"Return: {mean:.2f} +- {deviation:.2f}")

    # The simulator renders in a window: on a machine without a display, Xvfb simulates one
    with virtual_display():
        recorder = VecVideoRecorder(played, ".", lambda step: step == 0, video_length=n_filmed, name_prefix="give_way")
        observations = recorder.reset()
        for _ in range(n_filmed):
            actions, _ = model.predict(observations, deterministic=True)  # type: ignore[arg-type]
            observations, *_ = recorder.step(actions)
        recorder.close()
    print(f"Film: {recorder.video_path}")


if __name__ == "__main__":
    main()
