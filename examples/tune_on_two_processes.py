"""
Tuning on two processes
=======================

Two processes share a study of hyperparameters. Needs ``pip install "sb3-cora[zoo]"``. ::

    python examples/tune_on_two_processes.py
    python examples/tune_on_two_processes.py --quick

Both run the same command, and the study ends with exactly ``--max-total-trials`` trials. More of them may be started at any
time, on other machines too if the journal file is on a file system that they share.
"""

import subprocess
import sys

# Only to see that everything works: two trials of few steps
QUICK = "--quick" in sys.argv
n_trials, n_timesteps, n_evaluations = ("2", "256", "1") if QUICK else ("20", "40000", "10")

command = [sys.executable, "-m", "sb3_cora.zoo.train", "--algo", "cora_ppo", "--env", "climbing", "-optimize"]
command += ["--max-total-trials", n_trials, "-n", n_timesteps, "--n-evaluations", n_evaluations]
command += ["--storage", "journal:tuning.log", "--study-name", "climbing-cora"]
workers = [subprocess.Popen(command) for _ in range(2)]

# %%
# The best trial is written as an entry of a configuration.

codes = [worker.wait() for worker in workers]
if any(codes):
    raise RuntimeError("A worker failed, see what it printed.")
print("The best trial is in logs/cora_ppo/study_climbing-cora/best.yml")
