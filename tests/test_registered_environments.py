"""Every registered id: in the docs, trained on, and the same again from the same seed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora.common.env_util import make_joint_vec_env, registered_ids
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from tests.algorithms import ALGORITHMS, LEARNERS, assert_trained, make_tiny, weights

PAGE = Path(__file__).resolve().parent.parent / "docs" / "environments.md"

pytestmark = [
    # vel_control warns of its own controller
    pytest.mark.filterwarnings("ignore:Force limits not specified"),
    # Some of VMAS's scenarios are games between two teams: each is trained on here, as a user may who has read the warning
    pytest.mark.filterwarnings("ignore:The agents are opposed teams"),
]

# What an id cannot do without
NEEDED: dict[str, dict[str, Any]] = {"pettingzoo": {"env": "mpe2.simple_spread_v3:parallel_env"}}
SLOW_IDS = {"vmas/road_traffic", "vmas/sampling"}
# A drawing and no task: its agents observe zeros and are paid zero
NOTHING_TO_LEARN = {"vmas/pollock"}

# One of each suite, and of its games with choices and without
SAMPLE_IDS = {"climbing", "differential", "give_way", "mpe2/simple_speaker_listener", "mujoco/HalfCheetah-2x3"}


def with_marks(env_id: str, *arguments: Any) -> Any:
    return pytest.param(*arguments, env_id, marks=[pytest.mark.slow] if env_id in SLOW_IDS else [])


over_ids = pytest.mark.parametrize("env_id", [with_marks(env_id) for env_id in registered_ids()])


def make(env_id: str, seed: int = 0) -> VecEnv:
    return make_joint_vec_env(env_id, n_envs=2, seed=seed, **NEEDED.get(env_id, {}))


def test_the_docs_list_what_is_registered() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## Those that are there")[2].partition("\n## ")[0]
    first_cells = {line.split("|")[1].strip().strip("`") for line in table.splitlines() if line.startswith("| `")}
    families = {cell.partition("<")[0] for cell in first_cells if "<" in cell}
    single = first_cells - {cell for cell in first_cells if "<" in cell}
    ids = registered_ids()
    assert single == {env_id for env_id in ids if "/" not in env_id}
    assert families == {env_id.partition("/")[0] + "/" for env_id in ids if "/" in env_id}


@pytest.mark.parametrize("env_id", registered_ids())
def test_an_argument_that_the_environment_does_not_know_is_refused(env_id: str) -> None:
    with pytest.raises(TypeError, match="misspelt"):
        make_joint_vec_env(env_id, n_envs=2, misspelt=1, **NEEDED.get(env_id, {}))


@pytest.mark.parametrize(
    ("algorithm", "env_id"),
    [
        with_marks(env_id, algorithm)
        for index, env_id in enumerate(registered_ids())
        # Elsewhere in turns: what an id hands out does not depend on who learns from it
        for algorithm in (LEARNERS if env_id in SAMPLE_IDS else [ALGORITHMS[index % len(ALGORITHMS)]])
    ],
)
def test_two_iterations(algorithm: type[CooperativeOnPolicyAlgorithm], env_id: str) -> None:
    env = make(env_id)
    model = make_tiny(algorithm, env, n_steps=4, batch_size=4, n_epochs=1)
    before = weights(model)
    model.learn(16)
    if env_id in NOTHING_TO_LEARN:
        assert all(parameter.isfinite().all() for parameter in weights(model).values())
    else:
        assert_trained(before, model)
    env.close()


@over_ids
def test_equal_seeds_give_equal_rollouts(env_id: str) -> None:
    def play() -> list[Any]:
        env = make(env_id, seed=3)
        env.action_space.seed(0)
        observations, rewards = [env.reset()], []
        for _ in range(3):
            observation, reward, _, infos = env.step(np.stack([env.action_space.sample() for _ in range(2)]))
            observations.append(observation)
            # The team's, and those that IPPO learns from
            rewards += [reward, *(info["agent_rewards"] for info in infos)]
        env.close()
        return [observations, rewards]

    # Bit for bit: NumPy's comparison without tolerance, through dicts and lists
    np.testing.assert_equal(play(), play())
