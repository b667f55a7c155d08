"""
Load a trained model and record a video of it, with rl_zoo3's folders and flags.

    python -m sb3_cora.zoo.record_video --algo cora_ppo --env give_way -n 300
    python -m sb3_cora.zoo.record_video --algo mappo --env climbing --load-best --format gif

No display is needed: if there is none and the environment renders in a window, Xvfb simulates one (``apt-get install xvfb``).
By default the file is in ``videos/`` in the folder of the run; ``-o`` names another folder.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from moviepy import VideoFileClip
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecVideoRecorder

from sb3_cora.zoo.display import virtual_display
from sb3_cora.zoo.mistakes import OneLineParser, check_numbers, refusals
from sb3_cora.zoo.saved_run import add_arguments, load_run


def record(model: BaseAlgorithm, env: VecEnv, folder: Path, name: str, n_steps: int, deterministic: bool) -> Path:
    """
    Record a model for a number of steps, from the beginning of an episode, over several episodes if they are shorter.

    :param model: The trained model.
    :param env: Its environments. If there are several, they are shown side by side.
    :param folder: Folder of the video.
    :param name: Prefix of the file's name.
    :param n_steps: Number of steps.
    :param deterministic: Whether to take the most likely actions instead of sampling.
    :return: The mp4 file.
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
    :param video: An mp4 file.
    :param folder: Folder of the gif file.
    :return: The gif file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / video.with_suffix(".gif").name
    with VideoFileClip(str(video)) as clip:
        clip.write_gif(str(path), logger=None)
    return path


@refusals()
def main() -> None:
    """Record the model named by the flags."""
    parser = OneLineParser(description="Record a video of a trained model")
    add_arguments(parser, n_envs=1)
    parser.add_argument("-n", "--n-timesteps", default=1000, type=int, help="number of steps")
    parser.add_argument("-o", "--output-folder", type=Path, help="folder of the video")
    parser.add_argument("--format", default="mp4", choices=("mp4", "gif"), help="kind of file")
    args = parser.parse_args()

    check_numbers(args, {"n_timesteps": 1})
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
