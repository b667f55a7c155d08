"""Explanations show the numbers of the training, and the command makes files of them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch as th
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_cora import CORAPPO, ShapleyPPO, make_joint_vec_env
from sb3_cora.cora_ppo import explain
from sb3_cora.credit import CONCEPTS
from sb3_cora.zoo.explanation_plots import StepFigure, plot_sheet, trimmed
from tests.algorithms import ALGORITHMS, ALGORITHMS_WITH_GAME, make_tiny
from tests.joint_games import MaskedTeam, MatrixGame, NoisyTeam, TargetGame
from tests.processes import run_zoo
from tests.test_record_video import needs_xvfb


class Collected(CORAPPO):
    """Keeps the credits and advantages of the rollout, and learns nothing from it."""

    def train(self) -> None:
        rollout = self._rollout()
        self.credits = self._allocate_credits(rollout)[:, 0].numpy()
        self.grand_values = self.games(rollout.flatten()).grand_value.numpy()
        self.active = rollout.observation.agent_mask
        self.starts = self.rollout_buffer.episode_starts[:, 0]


class TableCritic(nn.Module):
    """
    A Q-critic of two agents that knows the table.

    :param table: ``(k_1, k_2)``
    """

    def __init__(self, table: th.Tensor):
        super().__init__()
        self.table = table

    def values(self, actions: th.Tensor) -> th.Tensor:
        first, second = (actions[..., agent, : self.table.shape[agent]] for agent in range(2))
        return th.einsum("ij,...i,...j->...", self.table, first, second)

    def estimate(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return self.values(actions)

    def bind(self, states: th.Tensor) -> Any:
        return lambda actions, samples: self.values(actions)


@pytest.mark.parametrize(
    ("env_class", "settings"),
    [
        (NoisyTeam, {"credit": "core"}),
        (NoisyTeam, {"credit": "shapley", "baseline": "q", "grand_advantage": "q"}),
        (NoisyTeam, {"credit": "difference"}),
        (NoisyTeam, {"use_sde": True}),
        (MaskedTeam, {"credit": "nucleolus", "epsilon_bound": "free"}),
        (MaskedTeam, {"baseline": "q"}),
    ],
)
def test_the_numbers_are_those_of_the_training(env_class: type, settings: dict[str, Any]) -> None:
    # The scale of a batch is that of all episodes of the rollout
    model = make_tiny(Collected, env_class(), credit_scale="sample", **settings)
    model.env.seed(5)
    set_random_seed(3)
    model.learn(1)
    assert isinstance(model, Collected)
    env = make_joint_vec_env(env_class, seed=5)
    set_random_seed(3)
    explanation = explain(model, env)
    length = explanation.n_steps
    assert model.starts[length] == 1 and not model.starts[1:length].any()
    np.testing.assert_allclose(explanation.advantages, model.grand_values[:length], rtol=1e-5, atol=1e-6)
    credits = explanation.credits[model.credit]
    if CONCEPTS[model.credit].efficient:
        credits = credits * explanation.active.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(credits, model.credits[:length], rtol=1e-4, atol=1e-5)
    if model.active is not None:
        assert (explanation.active == (model.active[:length, 0].numpy() > 0.5)).all()
        assert not explanation.credits[model.credit][~explanation.active].any()


def test_draws_are_those_of_the_training_too() -> None:
    """Sampled coalitions and baseline actions, where the rollout is the episode to its end."""
    settings: dict[str, Any] = {"baseline_action": "expectation", "n_coalitions": 4, "credit": "least_core"}
    env = make_joint_vec_env("multi_peak", n_envs=1)
    model = make_tiny(Collected, env, n_steps=10, batch_size=5, **settings)
    set_random_seed(1)
    model.learn(1)
    set_random_seed(1)
    explanation = explain(model, env)
    assert isinstance(model, Collected)
    assert explanation.n_steps == 10 and len(explanation.coalitions) == 5
    assert explanation.credits["least_core"] * 3 == pytest.approx(model.credits, rel=1e-4, abs=1e-5)


def test_values_of_a_known_table() -> None:
    table = th.tensor([[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]])
    env = make_joint_vec_env("climbing", n_envs=1)
    model = make_tiny(CORAPPO, env, baseline="q", grand_advantage="q", variance_weight=0.0)
    model.policy.q_critic = TableCritic(table)
    (row, column), _ = model.predict(env.reset()[0], deterministic=True)
    explanation = explain(model, env, concepts=["core", "shapley"])
    q = table.numpy()
    assert explanation.coalitions == [(0,), (1,), (0, 1)]
    modes = [model.predict(observation, deterministic=True)[0] for observation in env_observations(25)]
    assert (modes[0] == (row, column)).all()
    for values, advantage, (first, second), (row, column), core, shapley in zip(
        explanation.values,
        explanation.advantages,
        explanation.actions,
        modes,
        *explanation.credits.values(),
        strict=True,
    ):
        expected = np.array([q[first, column], q[row, second], q[first, second]]) - q[row, column]
        assert values == pytest.approx(expected)
        assert advantage == pytest.approx(expected[2])
        # For two agents: half of what all are worth beyond what the two are worth on their own
        assert shapley == pytest.approx(expected[:2] + (expected[2] - expected[:2].sum()) / 2, abs=1e-4)
        missing = expected[:2].sum() - expected[2]
        if missing >= 0:
            assert core == pytest.approx(shapley, abs=1e-4)
        else:
            assert (core >= expected[:2] - 1e-4).all()
    np.testing.assert_allclose(explanation.rewards, [q[tuple(action)] for action in explanation.actions])


def env_observations(n_steps: int) -> np.ndarray:
    """What the two agents of a game see in each step, ``(n_steps, 2, n_steps)``"""
    return np.repeat(np.eye(n_steps, dtype=np.float32)[:, None], 2, axis=1)


def test_concepts_divide_the_same_games() -> None:
    model = make_tiny(ShapleyPPO, NoisyTeam())
    env = make_joint_vec_env(NoisyTeam, seed=0)
    concepts = list(CONCEPTS)
    explanation = explain(model, env, concepts=concepts)
    assert explanation.concepts == concepts
    assert len(explanation.coalitions) == 7
    for concept, credits in explanation.credits.items():
        total = credits.sum(axis=1)
        if CONCEPTS[concept].efficient:
            np.testing.assert_allclose(total, explanation.advantages, atol=1e-5)
        excess = (explanation.values - explanation.shares(concept))[:, :-1].max(axis=1)
        np.testing.assert_allclose(explanation.epsilons[concept], excess.clip(min=0.0), atol=1e-5)
    # The least core has the least epsilon
    for concept in (name for name in concepts if CONCEPTS[name].efficient):
        assert (explanation.epsilons["least_core"] <= explanation.epsilons[concept] + 1e-5).all()
    columns = explanation.columns()
    of_concept = np.array(columns["concept"])
    for name in ("v{0}", "v{0,2}", "v{0,1,2}", "advantage", "reward"):
        parts = [np.array(columns[name])[of_concept == concept] for concept in concepts]
        assert all((part == parts[0]).all() for part in parts)


def test_many_agents_have_sampled_coalitions() -> None:
    model = make_tiny(ShapleyPPO, NoisyTeam(n_agents=12))
    env = make_joint_vec_env(lambda: NoisyTeam(n_agents=12), seed=0)
    alone = explain(model, env, max_steps=2)
    # Those that random orders of arrival meet, each once
    assert len(alone.coalitions) <= 255 and alone.coalitions[-1] == tuple(range(12))
    together = explain(model, env, concepts=["shapley", "difference", "nucleolus", "core"], max_steps=2)
    assert {(agent,) for agent in range(12)} <= set(together.coalitions)
    for concept in ("shapley", "nucleolus", "core"):
        np.testing.assert_allclose(together.credits[concept].sum(axis=1), together.advantages, atol=1e-5)
    assert together.values.shape == (together.n_steps, len(together.coalitions))


def test_rewards_are_shown_in_their_own_units() -> None:
    env = VecNormalize(make_joint_vec_env(NoisyTeam, seed=0), norm_reward=True)
    model = make_tiny(CORAPPO, env)
    model.learn(1)
    count, seen = env.obs_rms.count, []
    step = env.venv.step_wait

    def watched() -> Any:
        result = step()
        seen.append(float(result[1][0]))
        return result

    env.venv.step_wait = watched
    explanation = explain(model, env)
    assert env.obs_rms.count == count and env.training
    assert explanation.rewards.tolist() == seen


def test_the_likeliest_actions_are_all_worth_the_same() -> None:
    env = make_joint_vec_env("climbing", n_envs=1)
    model = make_tiny(CORAPPO, env, baseline="q", grand_advantage="q")
    explanation = explain(model, env, deterministic=True, max_steps=3)
    assert explanation.n_steps == 3
    np.testing.assert_allclose(explanation.values, 0.0, atol=1e-5)


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in ALGORITHMS_WITH_GAME])
def test_other_algorithms_are_refused(algorithm: Any) -> None:
    model = make_tiny(algorithm, NoisyTeam())
    with pytest.raises(ValueError, match=f"{algorithm.__name__} has no coalition values.*Explain a model of CORAPPO"):
        explain(model, NoisyTeam())


def test_wrong_arguments_are_refused() -> None:
    model = make_tiny(CORAPPO, NoisyTeam())
    with pytest.raises(ValueError, match="must name some of"):
        explain(model, NoisyTeam(), concepts="kernel")
    with pytest.raises(ValueError, match="pictures='during' is unknown"):
        explain(model, NoisyTeam(), pictures="during")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_steps=0 must be at least 1"):
        explain(model, NoisyTeam(), max_steps=0)
    with pytest.raises(ValueError, match="one environment, got 2"):
        explain(model, DummyVecEnv([NoisyTeam, NoisyTeam]))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        explain(model, NoisyTeam(n_agents=4))
    with pytest.raises(ValueError, match='render_mode="rgb_array"'):
        explain(model, make_joint_vec_env(TargetGame, env_kwargs={"targets": [[0.0]]}), pictures="before")


def test_table_and_pictures_of_an_episode_without_scene(tmp_path: Path) -> None:
    model = make_tiny(CORAPPO, MatrixGame(np.zeros((2,) * 9)))
    explanation = explain(model, MatrixGame(np.zeros((2,) * 9)), concepts=["core", "equal"])
    core, equal = pd.DataFrame(explanation.columns()).to_dict("records")
    assert list(core)[:7] == ["step", "concept", "reward", "advantage", "epsilon", "credit_0", "credit_1"]
    assert (core["step"], core["concept"], equal["concept"]) == (0, "core", "equal")
    assert len(core) == 5 + 9 + 254 + 1
    assert equal["credit_8"] == pytest.approx(explanation.advantages[0] / 9, rel=1e-5)
    assert core["v{0,1,2,3,4,5,6,7,8}"] == pytest.approx(explanation.values[0, -1], rel=1e-5)
    plot_sheet(explanation, tmp_path / "sheet.png", "nine agents")
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    assert StepFigure(explanation, "nine agents").picture(0).shape == (720, 1280, 3)


def test_a_few_of_many_coalitions_have_lines(tmp_path: Path) -> None:
    model = make_tiny(CORAPPO, NoisyTeam(n_agents=12), n_coalitions=2, coalition_sampling="shapley_kernel")
    for seed in range(5):
        set_random_seed(seed)
        plot_sheet(explain(model, NoisyTeam(n_agents=12), concepts="core", max_steps=2), tmp_path / "sheet.png", "a few")


def test_margins_are_trimmed() -> None:
    pictures = np.full((2, 80, 120, 3), 255, dtype=np.uint8)
    pictures[0, 40, 50] = pictures[1, 45, 70] = 0
    first, second = trimmed(list(pictures))
    assert first.shape == second.shape == (6 + 2 * 2, 21 + 2 * 3, 3)
    assert first[2, 3].tolist() == [0, 0, 0]
    assert trimmed([]) == []


# imageio leaves the pipes to ffmpeg, which it reads a video through, to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("env_id", "kind", "flags"),
    [
        ("penalty", "gif", ("--concept", "core", "shapley", "-n", "3")),
        pytest.param("give_way", "mp4", ("--env-kwargs", "max_steps:4"), marks=needs_xvfb),
    ],
)
def test_the_command_explains_a_saved_model(
    env_id: str, kind: str, flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imageio = pytest.importorskip("imageio.v3")
    monkeypatch.delenv("DISPLAY", raising=False)
    run_folder = tmp_path / "logs" / "cora_ppo" / f"{env_id}_1"
    run_folder.mkdir(parents=True)
    make_tiny(CORAPPO, env_id).save(run_folder / f"{env_id}.zip")
    run = run_zoo("explain.py", "--algo", "cora_ppo", "--env", env_id, "--format", kind, *flags, folder=tmp_path)
    files = {path.suffix: path for path in (run_folder / "explanation").iterdir()}
    assert set(files) == {".csv", ".png", f".{kind}"}
    assert all(str(path.relative_to(tmp_path)) in run.stdout for path in files.values())
    n_steps = 3 if env_id == "penalty" else 4
    with files[".csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == n_steps * (2 if env_id == "penalty" else 1)
    for row in rows:
        assert float(row["credit_0"]) + float(row["credit_1"]) == pytest.approx(float(row["advantage"]), abs=1e-4)
    sheet = imageio.imread(files[".png"])
    assert sheet.shape[0] > 800 and sheet[..., :3].std() > 10
    frames = list(imageio.imiter(files[f".{kind}"], plugin="FFMPEG" if kind == "mp4" else "pillow"))
    assert len(frames) == n_steps and frames[0].shape[:2] == (720, 1280)
    # The scene, left and above of everything else
    assert frames[0][100:480, 40:440, :3].std() > 1


def test_the_command_explains_what_cannot_be_rendered(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text('import gymnasium\n\ngymnasium.register("plain", "tests.joint_games:NoisyTeam")\n')
    run_folder = tmp_path / "logs" / "cora_ppo" / "plain_1"
    run_folder.mkdir(parents=True)
    make_tiny(CORAPPO, NoisyTeam()).save(run_folder / "plain.zip")
    flags = ("--algo", "cora_ppo", "--env", "plain", "--gym-packages", "plain", "--format", "none", "-o", "files")
    run_zoo("explain.py", *flags, folder=tmp_path)
    assert {path.name for path in (tmp_path / "files").iterdir()} == {"cora_ppo-plain.csv", "cora_ppo-plain.png"}


def test_the_command_refuses_other_algorithms(tmp_path: Path) -> None:
    run = run_zoo("explain.py", "--algo", "mappo", "--env", "climbing", folder=tmp_path, check=False)
    assert run.returncode != 0 and "MAPPO has no coalition values" in run.stderr
