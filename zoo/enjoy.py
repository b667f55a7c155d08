"""
Load a trained model and evaluate it, by rl_zoo3's folders and flags.

    python zoo/enjoy.py --algo cora_ppo --env give_way
    python zoo/enjoy.py --algo cora_ppo --env give_way --exp-id 3 --load-best --stochastic

Unlike rl_zoo3's script it opens no window: many episodes are played at once, and their mean is printed.
"""

import argparse

from evaluation import evaluate
from saved_run import add_arguments, load_run


def main() -> None:
    """Evaluate the model that the flags name, and print its returns."""
    parser = argparse.ArgumentParser(description="Evaluate a trained model")
    add_arguments(parser, n_envs=100)
    parser.add_argument("--eval-episodes", default=100, type=int, help="number of episodes")
    parser.add_argument("--verbose", default=1, type=int, help="0: the mean only, 1: every episode")
    args = parser.parse_args()

    model, env, _ = load_run(args)
    evaluation = evaluate(model, env, args.eval_episodes, deterministic=not args.stochastic)
    env.close()
    if args.verbose > 0:
        for episode_return, length in zip(*evaluation, strict=True):
            print(f"Episode return {episode_return:.2f}, length {length}")
    print(f"Evaluation: {evaluation}")


if __name__ == "__main__":
    main()
