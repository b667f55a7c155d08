"""
Search for hyperparameters with two processes that share a study. Needs ``pip install "sb3-cora[zoo]"``.

    python examples/tune_on_two_processes.py
    python examples/tune_on_two_processes.py --quick

Both run the same command, and the study ends with exactly ``--max-total-trials`` trials. More of them may be started at any
time, on other machines too if the journal file is on a file system that they share.
"""

import argparse
import subprocess
import sys


def main() -> None:
    """Start two workers, and wait for both."""
    parser = argparse.ArgumentParser(description="Search for hyperparameters with two processes")
    parser.add_argument("--quick", action="store_true", help="two trials of few steps")
    args = parser.parse_args()
    n_trials, n_timesteps, n_evaluations = ("2", "256", "1") if args.quick else ("20", "40000", "10")

    command = [sys.executable, "-m", "sb3_cora.zoo.train", "--algo", "cora_ppo", "--env", "climbing", "-optimize"]
    command += ["--max-total-trials", n_trials, "-n", n_timesteps, "--n-evaluations", n_evaluations]
    command += ["--storage", "journal:tuning.log", "--study-name", "climbing-cora"]
    workers = [subprocess.Popen(command) for _ in range(2)]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        sys.exit("A worker failed, see above.")
    print("The best trial is in logs/cora_ppo/study_climbing-cora/best.yml")


if __name__ == "__main__":
    main()
