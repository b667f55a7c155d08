"""
Robots of MuJoCo
================

The two legs of a cheetah are two agents. Needs ``pip install "sb3-cora[mujoco]"``. ::

    python examples/train_robot.py            # 1 million steps
    python examples/train_robot.py --quick
"""

import sys

from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora import HAPPO, make_joint_vec_env
from sb3_cora.common.vec_normalize import JointVecNormalize

# Only to see that everything works: train for a single rollout, with short episodes
QUICK = "--quick" in sys.argv

# %%
# Every agent observes the full state and its own number, as in HARL; by default it observes its neighborhood.


def make(n_envs: int, seed: int) -> VecEnv:
    """
    :param n_envs: Number of environments.
    :param seed: Their seed.
    :return: The cheetahs.
    """
    max_steps = 50 if QUICK else 1000
    return make_joint_vec_env(
        "mujoco/HalfCheetah-2x3", n_envs=n_envs, seed=seed, observation="full_state_id", max_steps=max_steps
    )


# %%
# HAPPO updates one leg after the other.

env = JointVecNormalize(make(n_envs=10, seed=0), share_statistics=True)
model = HAPPO(
    "MlpPolicy",
    env,
    n_steps=20 if QUICK else 200,
    batch_size=200 if QUICK else 2000,
    n_epochs=5,
    learning_rate=5e-4,
    policy_kwargs=dict(normalize_features=True, output_gain=0.01),
    seed=0,
    verbose=1,
)
model.learn(200 if QUICK else 1_000_000)
model.save("half_cheetah")
env.save("half_cheetah_statistics.pkl")

# %%
# It is evaluated on the rewards as they are.

played = JointVecNormalize.load("half_cheetah_statistics.pkl", make(n_envs=1, seed=1))
played.training = played.norm_reward = False
mean, deviation = evaluate_policy(model, played, n_eval_episodes=2 if QUICK else 20)
print(f"Return: {mean:.0f} +- {deviation:.0f}")
