"""Models that earlier versions have saved: they load, act as they did, and go on learning."""

import json
from pathlib import Path

import numpy as np
import pytest

from sb3_cora import make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from tests.algorithms import ALGORITHMS

# Of each algorithm a model of version 0.1.0, before constructors named only what they add, trained for 32 steps on climbing;
# and what it did and expected at five observations
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
