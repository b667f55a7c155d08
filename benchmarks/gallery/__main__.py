"""
Films of trained teams, and the page of the documentation that shows them.

    python -m benchmarks.gallery
    python -m benchmarks.gallery navigation multi_peak -f logs/gallery

The teams are those of ``teams.yml``. Those without a trained model in the log folder are trained first, as ``zoo/train.py``
does. Each is evaluated and filmed. The films, and ``gallery.csv`` with
what was measured, go to ``docs/gallery/``; ``docs/gallery.md`` shows all that are there. No display is needed, see
``record_video``.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from sb3_cora.cora_ppo.explanation import explain
from sb3_cora.zoo import tables
from sb3_cora.zoo.display import virtual_display
from sb3_cora.zoo.evaluation import EvaluationSize, evaluate
from sb3_cora.zoo.explanation_plots import StepFigure, trimmed
from sb3_cora.zoo.saved_run import add_arguments, load_run
from sb3_cora.zoo.train import main as train

TEAMS = Path(__file__).with_name("teams.yml")
ALGO = "cora_ppo"
DOCS = Path(__file__).resolve().parents[2] / "docs"
QUICK_TRAINING = "-n 64 --eval-freq -1 --save-freq -1 --final-eval-episodes -1 -params n_envs:2 n_steps:32 batch_size:32"
N_QUICK_STEPS = 4
WIDTH, FIGURE_WIDTH = 360, 800
"""Of the films, and of those with figures, in pixels."""


class Row(NamedTuple):
    """
    What was measured of a team.

    :param team: Its name in ``teams.yml``.
    :param timesteps: Steps of all environments together that it was trained for.
    :param n_episodes: Number of episodes of its evaluation, with the most likely actions.
    :param mean_return: Their mean return, the team's and not discounted.
    :param std_return: Their standard deviation.
    """

    team: str
    timesteps: int
    n_episodes: int
    mean_return: float
    std_return: float


def read_teams() -> dict[str, dict[str, Any]]:
    """
    :return: The content of ``teams.yml``.
    """
    return yaml.safe_load(TEAMS.read_text(encoding="utf-8"))


def run_arguments(env_id: str, folder: Path, *flags: object) -> argparse.Namespace:
    """
    :param env_id: Id of an environment.
    :param folder: The log folder.
    :param flags: Further flags.
    :return: What names the latest run in the folder.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser, n_envs=1)
    return parser.parse_args(["--algo", ALGO, "--env", env_id, "-f", str(folder), *map(str, flags)])


def train_missing(team: dict[str, Any], folder: Path, quick: bool) -> None:
    """
    :param team: A team.
    :param folder: The log folder, where it is trained if it has no trained model.
    :param quick: Whether to train for a rollout.
    """
    name = run_arguments(team["env"], folder).env
    if any((folder / ALGO).glob(f"{name}_*/{name}.zip")):
        return
    flags = f"{team['train']} {QUICK_TRAINING if quick else ''}"
    sys.argv = ["train.py", "--algo", ALGO, "--env", team["env"], "-f", str(folder), *shlex.split(flags)]
    # What rl_zoo3 keeps as the command of the run
    sys.orig_argv = [sys.executable, *sys.argv]
    train()


def measure(name: str, team: dict[str, Any], folder: Path) -> Row:
    """
    :param name: Name of a team.
    :param team: The team.
    :param folder: The log folder.
    :return: What it earns, evaluated as at the end of its training, with other seeds.
    """
    model, env, _ = load_run(run_arguments(team["env"], folder, "--n-envs", 0, "--seed", 1000))
    n_episodes = EvaluationSize.of_env(team["env"]).n_final_episodes
    returns = evaluate(model, env, n_episodes, deterministic=True).returns
    env.close()
    return Row(name, model.num_timesteps, n_episodes, float(returns.mean()), float(returns.std()))


def film(team: dict[str, Any], folder: Path, n_steps: int) -> list[np.ndarray]:
    """
    :param team: A team.
    :param folder: The log folder.
    :param n_steps: Number of steps to play.
    :return: Pictures of the beginning of an episode, with the most likely actions.
    """
    env_kwargs = {"render_mode": "rgb_array", **team.get("env_kwargs", {})}
    model, env, _ = load_run(run_arguments(team["env"], folder), **env_kwargs)
    observations = env.reset()
    pictures = []
    for step in range(n_steps):
        if step % team["film"]["every"] == 0:
            picture = env.render()
            assert picture is not None
            pictures.append(picture)
        observations = env.step(model.predict(observations, deterministic=True)[0])[0]  # type: ignore[arg-type]
    env.close()
    return trimmed(pictures)


def film_credits(team: dict[str, Any], folder: Path, n_steps: int, quick: bool) -> list[np.ndarray]:
    """
    :param team: A team.
    :param folder: The log folder.
    :param n_steps: Number of steps to play.
    :param quick: Whether there is no checkpoint.
    :return: Figures of the credits in an episode, with sampled actions.
    """
    flags = () if quick else ("--load-checkpoint", team["credits"]["checkpoint"])
    model, env, _ = load_run(run_arguments(team["env"], folder, *flags), norm_reward=True, render_mode="rgb_array")
    explanation = explain(model, env, concepts=team["credits"]["concepts"], max_steps=n_steps, pictures="after")
    env.close()
    figure = StepFigure(explanation._replace(pictures=trimmed(explanation.pictures)), f"{ALGO} on {team['env']}")
    return [figure.picture(step) for step in range(explanation.n_steps)]


def write_film(pictures: Iterable[np.ndarray], path: Path, width: int, fps: float) -> None:
    """
    :param pictures: Each ``(height, width, 3)``.
    :param path: The file, an animated WebP.
    :param width: To which they are reduced.
    :param fps: Pictures a second.
    """
    images = [Image.fromarray(picture) for picture in pictures]
    width = min(width, images[0].width)
    size = width, round(images[0].height * width / images[0].width)
    first, *others = [image.resize(size, Image.Resampling.LANCZOS) for image in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=60)


def page(teams: dict[str, dict[str, Any]], rows: Sequence[Row]) -> str:
    """
    :param teams: All teams.
    :param rows: What was measured of those that have been filmed.
    :return: The page that shows them.
    """
    parts = [
        "# Gallery\n",
        "Teams trained by `CORAPPO`. One command makes the films and this page, and first trains what has not been trained, "
        "with the settings of `hyperparams/cora_ppo.yml` and `benchmarks/gallery/teams.yml`:\n",
        "```bash\npython -m benchmarks.gallery\n```\n",
        "Returns are those of one seed, with the most likely actions. [Results](results.md) has several seeds and methods.\n",
    ]
    measured = {row.team: row for row in rows}
    for name, team in teams.items():
        if name in measured:
            row = measured[name]
            parts += [
                f"## {team['title']}\n",
                f"![{team['title']}: a film of the team](gallery/{name}.webp)\n",
                f"`{team['env']}`, {row.timesteps:,} steps of training, return {row.mean_return:.2f} ± {row.std_return:.2f} "
                f"in {row.n_episodes} episodes.\n",
                f"{team['text'].strip()}\n",
            ]
    return "\n".join(parts)


def show(name: str, teams: dict[str, dict[str, Any]], folder: Path, output: Path, quick: bool) -> None:
    """
    Train a team if need be, evaluate and film it, and write the page anew.

    :param name: Name of the team.
    :param teams: All teams.
    :param folder: The log folder.
    :param output: Folder of the page.
    :param quick: Whether to train for a rollout and film few steps.
    """
    team = teams[name]
    n_steps = N_QUICK_STEPS if quick else team["film"]["n_steps"]
    with virtual_display():
        train_missing(team, folder, quick)
        row = measure(name, team, folder)
        if "credits" in team:
            pictures, width = film_credits(team, folder, n_steps, quick), FIGURE_WIDTH
        else:
            pictures, width = film(team, folder, n_steps), WIDTH
    path = output / "gallery" / f"{name}.webp"
    write_film(pictures, path, width, team["film"]["fps"])
    table = path.with_name("gallery.csv")
    rows = {row.team: row for row in [*tables.read(Row, table), row]}
    tables.write([rows[known] for known in teams if known in rows], table)
    (output / "gallery.md").write_text(page(teams, tables.read(Row, table)), encoding="utf-8")
    print(f"{path}: {len(pictures)} pictures, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Train, evaluate and film the teams, and write the page."""
    teams = read_teams()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teams", nargs="*", metavar="team", help=f"which to film anew (default: all of {', '.join(teams)})")
    parser.add_argument("-f", "--folder", type=Path, default="logs", help="log folder (default: logs)")
    parser.add_argument("--output", type=Path, default=DOCS, help="where gallery.md and gallery/ go (default: docs)")
    parser.add_argument("--quick", action="store_true", help="train for a rollout, and film few steps: a test")
    args = parser.parse_args()
    unknown = set(args.teams) - set(teams)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))} not among the teams {', '.join(teams)}")

    names = args.teams or list(teams)
    if len(names) > 1:
        flags = ["-f", str(args.folder), "--output", str(args.output), *(["--quick"] if args.quick else [])]
        for name in names:
            # A process each, because VMAS and MuJoCo cannot both open windows in one
            subprocess.run([sys.executable, "-m", "benchmarks.gallery", name, *flags], check=True)
    else:
        show(names[0], teams, args.folder, args.output, args.quick)


if __name__ == "__main__":
    main()
