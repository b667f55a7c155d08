"""
Load a trained model and record it playing, by rl_zoo3's folders and flags.

    python -m sb3_cora.zoo.record_video --algo cora_ppo --env give_way -n 300
    python -m sb3_cora.zoo.record_video --algo mappo --env climbing --load-best --format gif

No display is needed: where there is none and the environment draws in a window, Xvfb simulates one (``apt-get install xvfb``).
The file lies under ``videos/`` in the folder of the run, unless ``-o`` names another folder.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from moviepy import VideoFileClip
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecVideoRecorder

from sb3_cora.zoo.display import virtual_display
from sb3_cora.zoo.saved_run import add_arguments, load_run


def record(model: BaseAlgorithm, env: VecEnv, folder: Path, name: str, n_steps: int, deterministic: bool) -> Path:
    """
    Record a model from the beginning of an episode on, over as many episodes as the steps hold.

    :param model: the trained model
    :param env: its environments, of which several are shown side by side where they are drawn one by one
    :param folder: where the video goes
    :param name: its file begins with that
    :param n_steps: number of steps
    :param deterministic: whether to take the likeliest actions instead of sampling
    :return: the mp4 file
    """
    recorder = VecVideoRecorder(env, str(folder), lambda step: step == 0, video_length=n_steps, name_prefix=name)
    observations = recorder.reset()
    for _ in range(n_steps):
        actions, _ = model.predict(observations, deterministic=deterministic)  # type: ignore[arg-type]
        observations, _, _, _ = recorder.step(actions)
    recorder.close()
    return Path(recorder.video_path)


def write_gif(video: Path, folder: Path) -> Path:
    """
    :param video: an mp4 file
    :param folder: where to write it as a gif
    :return: the gif file
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / video.with_suffix(".gif").name
    with VideoFileClip(str(video)) as clip:
        clip.write_gif(str(path), logger=None)
    return path


def main() -> None:
    """Record the model that the flags name."""
    parser = argparse.ArgumentParser(description="Record a video of a trained model")
    add_arguments(parser, n_envs=1)
    parser.add_argument("-n", "--n-timesteps", default=1000, type=int, help="number of steps")
    parser.add_argument("-o", "--output-folder", type=Path, help="folder of the video")
    parser.add_argument("--format", default="mp4", choices=("mp4", "gif"), help="kind of file")
    args = parser.parse_args()

    with virtual_display():
        model, env, run_folder = load_run(args, render_mode="rgb_array")
        folder = args.output_folder or run_folder / "videos"
        with TemporaryDirectory() as scratch:
            mp4_folder = folder if args.format == "mp4" else Path(scratch)
            name = f"{args.algo}-{args.env}"
            video = record(model, env, mp4_folder, name, args.n_timesteps, deterministic=not args.stochastic)
            if args.format == "gif":
                video = write_gif(video, folder)
    print(f"Video: {video}")


if __name__ == "__main__":
    main()
