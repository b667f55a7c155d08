"""
Load a trained model, play an episode and show what each coalition was worth in it and what each agent was credited with.

    python -m sb3_cora.zoo.explain --algo cora_ppo --env give_way
    python -m sb3_cora.zoo.explain --algo cora_ppo --env multi_peak --concept core shapley nucleolus --format gif

Three files are written to ``explanation/`` in the folder of the run, or to that of ``-o``: a video of the steps, a PNG sheet
of the whole episode, and the numbers as CSV. Actions are sampled, as in the training: if all agents take the likeliest
actions, all coalitions are worth the same. No display is needed, see ``record_video``.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora.cora_ppo.explanation import Pictures, check_explainable, explain
from sb3_cora.envs.batched_game import BatchedGame
from sb3_cora.zoo.display import virtual_display
from sb3_cora.zoo.explanation_plots import plot_sheet, trimmed, write_video
from sb3_cora.zoo.mistakes import OneLineParser, check_numbers, refusals
from sb3_cora.zoo.saved_run import add_arguments, load_run


def load_rendering_run(args: argparse.Namespace) -> tuple[BaseAlgorithm, VecEnv, Path]:
    """
    :param args: The command line's flags.
    :return: What ``load_run`` returns, with an environment that renders if it can and ``--no-render`` is not given.
    """
    if not args.no_render:
        try:
            return load_run(args, norm_reward=True, render_mode="rgb_array")
        except (TypeError, ValueError) as error:
            # Environments without pictures do not know the argument.
            if "render_mode" not in str(error):
                raise
    return load_run(args, norm_reward=True)


def pictures_of(env: VecEnv) -> Pictures | None:
    """
    :param env: The environments.
    :return: When to render a step; None if the environments cannot be rendered.
    """
    if env.render_mode != "rgb_array":
        return None
    if env.has_attr("game") and isinstance(env.get_attr("game")[0], BatchedGame):
        # Games show the actions of the step that was played last.
        return "after"
    env.reset()
    try:
        rendered = env.get_images()
    except NotImplementedError:
        return None
    return None if rendered[0] is None else "before"


@refusals()
def main() -> None:
    """Explain an episode of the model named by the flags."""
    parser = OneLineParser(description="Show coalition values and credits in an episode of a trained model")
    add_arguments(parser, n_envs=1)
    parser.set_defaults(stochastic=True)
    parser.add_argument("--deterministic", dest="stochastic", action="store_false", help="take the likeliest actions")
    parser.add_argument("-n", "--n-timesteps", default=1000, type=int, help="number of steps after which to stop")
    parser.add_argument("-o", "--output-folder", type=Path, help="folder of the files")
    parser.add_argument("--concept", nargs="+", help="solution concepts to lay side by side (default: the model's own)")
    parser.add_argument("--format", default="mp4", choices=("mp4", "gif", "none"), help="kind of video")
    parser.add_argument("--fps", type=float, help="steps shown per second (default: 10, fewer for short episodes)")
    parser.add_argument("--no-render", action="store_true", help="without pictures of the scene")
    args = parser.parse_args()

    check_numbers(args, {"n_timesteps": 1})
    if args.fps is not None and not args.fps > 0:
        raise ValueError(f"--fps {args.fps} is out of range: give a positive number.")
    # Before anything is loaded
    check_explainable(ALGOS[args.algo])
    with virtual_display():
        model, env, run_folder = load_rendering_run(args)
        explanation = explain(
            model,
            env,
            concepts=args.concept,
            max_steps=args.n_timesteps,
            deterministic=not args.stochastic,
            pictures=None if args.no_render else pictures_of(env),
        )
        env.close()

    # Differences of values, which are as large as the return, in single precision
    rounding = 1e-6 * np.abs(explanation.rewards).sum()
    if explanation.n_agents > 1 and np.ptp(explanation.values, axis=1).max() <= rounding:
        print(
            "All coalitions are worth the same, because nobody deviates from the likeliest actions. Explain an earlier model, "
            "which explores more, with --load-checkpoint."
        )
    explanation = explanation._replace(pictures=trimmed(explanation.pictures))
    folder = args.output_folder or run_folder / "explanation"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{args.algo}-{args.env}"
    pd.DataFrame(explanation.columns()).to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    print(f"Numbers: {folder / name}.csv")
    title = f"{args.algo} on {args.env}"
    summary = f"length {explanation.n_steps}, return {explanation.rewards.sum():.2f}"
    plot_sheet(explanation, folder / f"{name}.png", f"{title}: {summary}")
    print(f"Sheet: {folder / name}.png")
    if args.format != "none":
        fps = args.fps or min(10.0, max(1.0, explanation.n_steps / 10))
        write_video(explanation, folder / f"{name}.{args.format}", title, fps)
        print(f"Video: {folder / name}.{args.format}")


if __name__ == "__main__":
    main()
