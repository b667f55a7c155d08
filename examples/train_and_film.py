"""
Train and film a team
=====================

Two agents learn to give way to each other in a corridor, and are filmed. Needs ``pip install "sb3-cora[vmas,zoo]"``. ::

    python examples/train_and_film.py            # the zoo's settings, 1.9 million steps
    python examples/train_and_film.py --quick
"""

import sys

from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecVideoRecorder

from sb3_cora import CORAPPO, make_joint_vec_env
from sb3_cora.common.vec_normalize import JointVecNormalize
from sb3_cora.zoo.display import virtual_display

# Only to see that everything works: train for a single rollout, and film few steps
QUICK = "--quick" in sys.argv
n_envs, n_steps, n_filmed = (8, 30, 10) if QUICK else (64, 300, 300)

# %%
# The team is trained in 64 environments, which are stepped as one batch. A rollout is a whole episode of each. Only noise that
# lasts finds the way out of the niche in which one agent has to wait, so the noise of successive steps is correlated.

env = JointVecNormalize(make_joint_vec_env("give_way", n_envs=n_envs, seed=0), norm_reward=False)
model = CORAPPO(
    "MlpPolicy",
    env,
    n_steps=n_steps,
    batch_size=n_envs * n_steps // 8,
    n_epochs=8,
    q_n_epochs=4,
    learning_rate=LinearSchedule(5e-4, 0.0, 1.0),
    noise_correlation=0.95,
    policy_kwargs=dict(log_std_init=-1.0, squash_mean=True),
    seed=0,
    verbose=1,
)
model.learn(n_envs * n_steps if QUICK else 1_920_000)

# %%
# As in Stable-Baselines3, a model is saved without the statistics that normalize its observations.

model.save("give_way")
env.save("give_way_statistics.pkl")

# %%
# It plays in an environment of its own, with the statistics of the training.

played = JointVecNormalize.load("give_way_statistics.pkl", make_joint_vec_env("give_way", seed=1, max_steps=n_filmed))
played.training = played.norm_reward = False
mean, deviation = evaluate_policy(model, played, n_eval_episodes=1 if QUICK else 20)
print(f"Return: {mean:.2f} +- {deviation:.2f}")

# %%
# The simulator renders in a window. On a machine without a display, Xvfb simulates one (``apt-get install xvfb``).

with virtual_display():
    recorder = VecVideoRecorder(played, ".", lambda step: step == 0, video_length=n_filmed, name_prefix="give_way")
    observations = recorder.reset()
    for _ in range(n_filmed):
        actions = model.predict(observations, deterministic=True)[0]  # type: ignore[arg-type]
        observations = recorder.step(actions)[0]
    recorder.close()
print(f"Film: {recorder.video_path}")
