"""
Load a trained model and evaluate it, with rl_zoo3's folders and flags.

    python -m sb3_cora.zoo.enjoy --algo cora_ppo --env give_way
    python -m sb3_cora.zoo.enjoy --algo cora_ppo --env give_way --exp-id 3 --load-best --stochastic
    python -m sb3_cora.zoo.enjoy --algo cora_ppo --env give_way --load-last-checkpoint -n 1000

Unlike rl_zoo3's script it opens no window: it plays many episodes at once and prints their mean.
"""

from sb3_cora.zoo.evaluation import Evaluation, EvaluationSize, evaluate, play
from sb3_cora.zoo.mistakes import OneLineParser, at_work, check_numbers, refusals
from sb3_cora.zoo.saved_run import add_arguments, load_run


@refusals()
def main() -> Evaluation:
    """
    Evaluate the model named by the flags, and print its returns.

    :return: The episodes' returns and lengths.
    """
    parser = OneLineParser(description="Evaluate a trained model")
    add_arguments(parser, n_envs=0)
    parser.add_argument("--eval-episodes", default=0, type=int, help="number of episodes (0: as the end of a training plays)")
    parser.add_argument("-n", "--n-timesteps", type=int, help="number of steps of each environment, instead of episodes")
    parser.add_argument("--no-render", action="store_true", help="for those who know rl_zoo3: there is no window in any case")
    parser.add_argument("--deterministic", action="store_true", help="for those who know rl_zoo3: that is the default")
    parser.add_argument("--verbose", default=1, type=int, help="0: the mean only, 1: every episode")
    args = parser.parse_args()

    check_numbers(args, {"eval_episodes": 0, "n_timesteps": 1})
    model, env, _ = load_run(args)
    with at_work():
        if args.n_timesteps is None:
            n_episodes = args.eval_episodes or EvaluationSize.of_env(args.env.gym_id).n_final_episodes
            evaluation = evaluate(model, env, n_episodes, deterministic=not args.stochastic)
        else:
            evaluation = play(model, env, args.n_timesteps, deterministic=not args.stochastic)
    env.close()
    if len(evaluation.returns) == 0:
        print(f"No episode has ended within {args.n_timesteps} steps: raise -n.")
        return evaluation
    if args.verbose > 0:
        for episode_return, length in zip(*evaluation, strict=True):
            print(f"Episode return {episode_return:.2f}, length {length}")
    print(f"Evaluation: {evaluation}")
    return evaluation


if __name__ == "__main__":
    main()
