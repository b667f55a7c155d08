"""Equal seeds give equal weights, to the last bit, whatever else lives in the process."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_cora import CORAPPO, MAPPO, make_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from tests.algorithms import ALGORITHMS_WITH_GAME, LEARNERS, actor_weights, assert_same_weights, make_tiny, weights
from tests.joint_games import MaskedTeam, NoisyTeam

Algorithm = type[CooperativeOnPolicyAlgorithm]

over_learners = pytest.mark.parametrize("algorithm", LEARNERS)


def train(algorithm: Algorithm, env_class: type = NoisyTeam, seed: int = 0, **settings: Any) -> dict[str, th.Tensor]:
    """Weights after two iterations; the seed reaches the environment through the algorithm alone."""
    env_kwargs = {"discrete": True} if settings.pop("discrete", False) else {}
    env = VecNormalize(make_vec_env(env_class, n_envs=2, env_kwargs=env_kwargs), norm_obs=env_class is NoisyTeam)
    return weights(make_tiny(algorithm, env, seed=seed, **settings).learn(64))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"discrete": True},
        {"env_class": MaskedTeam},
        {"share_parameters": True},
    ],
    ids=["Box", "MultiDiscrete", "Dict", "one actor"],
)
@over_learners
def test_equal_seeds_equal_weights(algorithm: Algorithm, settings: dict[str, Any]) -> None:
    first = train(algorithm, **settings)
    # What another run leaves behind in the generators of the process must not matter
    np.random.seed(77)
    th.manual_seed(77)
    assert_same_weights(first, train(algorithm, **settings))


@over_learners
def test_other_seeds_other_weights(algorithm: Algorithm) -> None:
    first, second = train(algorithm, seed=0), train(algorithm, seed=1)
    assert not any(th.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("algorithm", ALGORITHMS_WITH_GAME)
def test_sampled_coalitions_follow_the_seed(algorithm: Algorithm) -> None:
    settings = {"n_coalitions": 2, "coalition_sampling": "uniform"}
    first = train(algorithm, **settings)
    assert_same_weights(first, train(algorithm, **settings))
    # The draw matters: with other coalitions the same rollouts give other credits
    everything = train(algorithm, n_coalitions=None)
    assert not th.equal(first["actor.output_net.weight"], everything["actor.output_net.weight"])


@over_learners
def test_without_a_seed_runs_differ(algorithm: Algorithm) -> None:
    env = make_vec_env(NoisyTeam, n_envs=2, seed=0)
    first, second = (actor_weights(make_tiny(algorithm, env, seed=None)) for _ in range(2))
    assert not th.equal(first["output_net.weight"], second["output_net.weight"])


# One that draws coalitions and random minibatches of its own while it learns, and one that does not
over_both_kinds = pytest.mark.parametrize("algorithm", [CORAPPO, MAPPO])


@over_both_kinds
def test_give_way_is_not_disturbed_by_an_evaluation(algorithm: Algorithm) -> None:
    def run(evaluated: bool) -> dict[str, th.Tensor]:
        # Episodes of 5 steps end within the rollout, so that resets draw from VMAS's random stream too
        model = make_tiny(algorithm, make_joint_vec_env("give_way", n_envs=4, max_steps=5), n_steps=8)
        callback = None
        if evaluated:
            env = make_joint_vec_env("give_way", n_envs=3, seed=9, max_steps=7)
            callback = EvalCallback(env, eval_freq=4, n_eval_episodes=3, verbose=0)
        return weights(model.learn(64, callback=callback))

    assert_same_weights(run(evaluated=False), run(evaluated=True))


@over_both_kinds
def test_two_models_in_one_process_do_not_share_their_environments(algorithm: Algorithm) -> None:
    # The process has one generator for actions, so interleaved trainings differ from separate ones, as in
    # Stable-Baselines3; the environments have generators of their own
    alone = make_joint_vec_env("give_way", n_envs=2, seed=3, max_steps=4)
    observations = [alone.reset()] + [alone.step(np.zeros((2, 2, 2), np.float32))[0] for _ in range(6)]
    beside = make_joint_vec_env("give_way", n_envs=2, seed=3, max_steps=4)
    model = make_tiny(algorithm, make_joint_vec_env("give_way", n_envs=3, seed=4, max_steps=3), n_steps=4, batch_size=12)
    np.testing.assert_array_equal(beside.reset(), observations[0])
    for expected in observations[1:]:
        model.learn(12, reset_num_timesteps=False)
        np.testing.assert_array_equal(beside.step(np.zeros((2, 2, 2), np.float32))[0], expected)
