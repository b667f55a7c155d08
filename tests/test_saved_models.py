"""Models that earlier versions have saved, which act as they did and go on learning, and files that are no such models."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_cora import CORAPPO, HAPPO, MAPPO, __version__, make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.training_state.files import NAME
from sb3_cora.common.vec_normalize import JointVecNormalize
from sb3_cora.zoo.evaluation import load_statistics
from tests.algorithms import ALGORITHMS, make_tiny
from tests.joint_games import NoisyTeam

# Of each algorithm a model of version 0.1.0, before constructors named only what they add, trained for 32 steps on climbing;
# and what it did and expected at five observations; and the state of a training of CORAPPO, before models told their version
FOLDER = Path(__file__).resolve().parent / "saved_models"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_saved_model_acts_as_it_did_and_goes_on(algorithm: type[CooperativeOnPolicyAlgorithm]) -> None:
    env = make_joint_vec_env("climbing", n_envs=2, seed=0)
    model = algorithm.load(FOLDER / algorithm.__name__, env=env)
    shape = (5, *model.observation_space.shape)
    observations = np.linspace(-1, 1, num=int(np.prod(shape)), dtype=np.float32).reshape(shape)
    expected = EXPECTED[algorithm.__name__]
    np.testing.assert_array_equal(model.predict(observations, deterministic=True)[0], expected["actions"])
    values = model.policy.predict_values(model.policy.obs_to_tensor(observations)[0])
    np.testing.assert_allclose(values.detach(), expected["values"], rtol=1e-5, atol=1e-5)
    assert model.learn(16, reset_num_timesteps=False).num_timesteps == 48


def test_a_saved_state_goes_on() -> None:
    # Of the middle of a training of 64 steps, and what the old code came to; last digits depend on the versions of packages
    env = JointVecNormalize(make_joint_vec_env("climbing", n_envs=2, seed=0))
    model = CORAPPO.resume(FOLDER / "training_state_32_steps.bin", env, device="cpu")
    with pytest.warns(UserWarning, match="missing is .*TrainingStateCallback"):
        model.learn(model.timesteps_left, reset_num_timesteps=False)
    assert model.num_timesteps == 64
    shape = (5, *model.observation_space.shape)
    observations = np.linspace(-1, 1, num=int(np.prod(shape)), dtype=np.float32).reshape(shape)
    values = model.policy.predict_values(model.policy.obs_to_tensor(observations)[0])
    np.testing.assert_allclose(values.detach(), EXPECTED["training_state_32_steps"]["values"], rtol=1e-4, atol=1e-5)


def with_attributes(source: Path, target: Path, **changes: object) -> None:
    """Copy a model, with other attributes."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            copy.writestr(name, json.dumps({**json.loads(content), **changes}) if name == "data" else content)


def flipped(content: bytes) -> bytes:
    """Change a byte of the weights, which are stored as they are."""
    place = content.index(b"policy.pth") + 2000
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a MAPPO"""
    path = tmp_path_factory.mktemp("saved") / "model.zip"
    make_tiny(MAPPO, NoisyTeam()).save(path)
    return path


def foreign(path: Path) -> None:
    """Save a model of Stable-Baselines3."""
    PPO("MlpPolicy", NoisyTeam(), n_steps=16, batch_size=8).save(path)


def archive(path: Path) -> None:
    """Write a zip archive of something else."""
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("notes.txt", "data")


# By what is said: what writes the file, given its path and that of a model
NO_MODELS: dict[str, Callable[[Path, Path], object]] = {
    "is empty: a model was not saved to its end": lambda path, _: path.touch(),
    "is truncated or damaged": lambda path, model: path.write_bytes(model.read_bytes()[:-1000]),
    "is damaged, its part policy.pth": lambda path, model: path.write_bytes(flipped(model.read_bytes())),
    "is no model, which is a zip archive": lambda path, _: path.write_text("weights: none"),
    "is a zip archive without data and policy.pth, so no model": lambda path, _: archive(path),
    "is the state of a training and no model: go on from it with resume": lambda path, _: path.write_bytes(NAME + b"1"),
    "is a model of another package, with a policy of stable_baselines3.common.policies": lambda path, _: foreign(path),
    f"saved by sb3_cora 99.1, which is newer than the {__version__} that is installed": lambda path, model: with_attributes(
        model, path, sb3_cora_version="99.1"
    ),
}


@pytest.mark.parametrize("said", NO_MODELS)
def test_a_file_that_cannot_be_loaded_says_what_it_is(said: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    NO_MODELS[said](path, model)
    # With and without suffix, as Stable-Baselines3 takes them
    for given in (path, path.with_suffix("")):
        with pytest.raises(ValueError, match=said) as error:
            MAPPO.load(given)
        assert "other" in str(error.value) and "\n" not in str(error.value)
    with path.open("rb") as file, pytest.raises(ValueError, match=said):
        MAPPO.load(file)


def test_a_model_says_its_version(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="saved by MAPPO, and HAPPO cannot load it"):
        HAPPO.load(model)
    # As long as its first two numbers are not higher, a version can read what another has written
    numbers = [*__version__.split(".")[:2], "99"]
    with_attributes(model, tmp_path / "later.zip", sb3_cora_version=".".join(numbers))
    loaded = MAPPO.load(tmp_path / "later")
    assert loaded.sb3_cora_version == __version__
    with (tmp_path / "later.zip").open("rb") as file:
        assert MAPPO.load(file).n_steps == loaded.n_steps


def test_normalization_that_cannot_be_loaded_says_what_it_is(tmp_path: Path) -> None:
    env = make_joint_vec_env("climbing", n_envs=2)
    path = tmp_path / "vecnormalize.pkl"
    VecNormalize(env).save(str(path))
    whole = path.read_bytes()
    assert load_statistics(path, env).num_envs == 2
    contents = {
        "is truncated, 0 bytes long": b"",
        f"is truncated, {len(whole) - 9} bytes long": whole[:-9],
        "is no normalization, which VecNormalize": b"mean: 0",
        "holds a dict and is no normalization": pickle.dumps({}),
        "holds what this version of the code does not know": whole.replace(b"VecNormalize", b"VecNormalise"),
    }
    for said, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            load_statistics(path, env)
