"""Every setting of CORAPPO trains, and its credits are those its documentation promises."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import FloatSchedule

from sb3_cora import CORAPPO, MAPPO
from sb3_cora.common.rollout import Rollout
from sb3_cora.credit import CONCEPTS, SAMPLINGS, SOLVERS, allocate
from sb3_cora.credit.solvers import ActiveSetSolver
from tests.algorithms import TINY, assert_trained, make_tiny, weights
from tests.joint_games import MaskedTeam, MatrixGame, NoisyTeam
from tests.one_agent import OneAgent

# cvxpylayers 1.2 hands torch tensors to numpy in a way that numpy 2 is about to refuse
ignore_cvxpylayers = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CHOICES = {
    "credit": CONCEPTS,
    "baseline": ("v", "q"),
    "grand_advantage": ("gae", "q"),
    "q_target": ("td0", "lambda"),
    "credit_scale": ("batch", "sample", "paper"),
    "n_coalitions": (None, 1, 3, 6),
    "coalition_sampling": (None, *SAMPLINGS),
    "include_extremes": (False, True),
    "shrink_credits": (False, True),
    "epsilon_bound": ("nonnegative", "free"),
    "baseline_action": ("mode", "expectation"),
    "variance_weight": (0.0, 1e-3, 100.0),
    "solver": tuple(SOLVERS),
    "n_critics": (1, 3),
    "q_aggregation": ("min", "mean"),
    "share_parameters": (False, True),
    "q_learning_rate": (1e-2,),
    "q_n_epochs": (1, 5),
    "normalize_advantage": (False, True),
}


class Observed(CORAPPO):
    """Keeps what the last rollout's credits were made of, each ``(n_steps, n_envs, ...)``."""

    def _allocate_credits(self, rollout: Rollout) -> th.Tensor:
        self.advantages = self.rollout_buffer.advantages.copy()
        with th.no_grad():
            flat = rollout.flatten()
            observation = flat.observation
            taken = self._action_features(observation, flat.actions)
            mode = self._action_features(observation, self.policy.distribution(observation).mode())

            def q(actions: th.Tensor) -> np.ndarray:
                return self.policy.q_values(observation, actions).numpy().reshape(self.advantages.shape)

            self.q_values, self.q_baseline = q(taken), q(mode)
            # With its own action and everyone else's mode
            agents = th.eye(self.n_agents, dtype=th.bool)[:, None, :, None]
            self.q_singletons = np.stack([q(th.where(agent, taken, mode)) for agent in agents], axis=-1)
            self.q_leave_one_out = np.stack([q(th.where(agent, mode, taken)) for agent in agents], axis=-1)
        self.values = self.rollout_buffer.values.copy()
        credits = super()._allocate_credits(rollout)
        self.credits = credits.numpy()
        return credits


def train(discrete: bool = False, total_timesteps: int = 32, **settings: Any) -> Observed:
    """A trained model on a team of three."""
    env = make_vec_env(NoisyTeam, n_envs=2, seed=0, env_kwargs={"discrete": discrete})
    model = Observed("MlpPolicy", env, **{**TINY, **settings})
    before = weights(model)
    model.learn(total_timesteps)
    assert_trained(before, model)
    return model


@ignore_cvxpylayers
@pytest.mark.parametrize(
    ("name", "value", "discrete"),
    # The kinds of actions in turns, beginning with the other one for the next setting; baseline actions are of a kind
    [
        (name, value, bool(discrete % 2))
        for setting, (name, values) in enumerate(CHOICES.items())
        for index, value in enumerate(values)
        for discrete in ((0, 1) if name == "baseline_action" else (setting + index,))
    ],
)
def test_every_setting_trains(name: str, value: Any, discrete: bool) -> None:
    if value == "cvxpylayers":
        pytest.importorskip("cvxpylayers")
    # The solver of least use to a user is also the slowest
    n_steps = 4 if value == "cvxpylayers" else 8
    model = train(discrete, 2 * n_steps, **{name: value, "n_steps": n_steps, "batch_size": n_steps})
    kept = getattr(model, name)
    assert (kept(1.0) if isinstance(kept, FloatSchedule) else kept) == value
    assert np.isfinite(model.credits).all() and model.credits.shape == (*model.advantages.shape, 3)


@pytest.mark.parametrize("n_agents, n_actions", [(3, 4), (20, 2)])
@pytest.mark.parametrize("credit", CONCEPTS)
def test_every_credit_trains_on_matrix_games(credit: str, n_agents: int, n_actions: int) -> None:
    payoffs = np.random.default_rng(0).uniform(-1, 1, (n_actions,) * n_agents)
    model = make_tiny(CORAPPO, MatrixGame(payoffs), credit=credit)
    before = weights(model)
    assert_trained(before, model.learn(16))
    logged = model.logger.name_to_value
    assert logged["credit/unconverged"] == 0 and np.isfinite(logged["credit/epsilon"])


# Of some dead there is test_credits_of_the_dead_are_zero in test_masks.py
@pytest.mark.parametrize(
    "settings",
    [*({"credit": credit} for credit in CONCEPTS), {"credit": "shapley", "coalition_sampling": "permutations"}],
    ids=lambda settings: "-".join(settings.values()),
)
def test_every_credit_lets_all_the_dead_leave_the_game(settings: dict[str, Any]) -> None:
    model = make_tiny(Observed, MaskedTeam(dead=(0, 1, 2)), **settings)
    model.learn(16)
    assert model.credits.shape == (16, 1, 3) and not model.credits.any()


def learn_and_measure(model: CORAPPO, measure: Callable[[Rollout], None]) -> None:
    """
    :param model: Learns from one rollout
    :param measure: Called with the rollout before its credits are allocated
    """
    allocate_credits = model._allocate_credits

    def measure_and_allocate(rollout: Rollout) -> th.Tensor:
        measure(rollout)
        return allocate_credits(rollout)

    model._allocate_credits = measure_and_allocate  # type: ignore[method-assign]
    model.learn(model.n_steps * model.n_envs)


def test_expected_baseline_actions() -> None:
    """With many draws, values of coalitions are expectations over the others' policies, here summed over all their actions."""
    env = MatrixGame(np.random.default_rng(0).uniform(-1, 1, (2, 3)))
    model = make_tiny(CORAPPO, env, credit="singleton", baseline_action="expectation", n_baseline_samples=2500)

    @th.no_grad()
    def measure(rollout: Rollout) -> None:
        found = CORAPPO._allocate_credits(model, rollout).reshape(16, 2)
        rollout = rollout.flatten()
        taken = model._action_features(rollout.observation, rollout.actions)
        probs = model.policy.distribution(rollout.observation).distribution.probs
        for agent, other in ((0, 1), (1, 0)):
            of_each = []
            for action in range(3):
                joint = taken.clone()
                joint[:, other] = th.eye(3)[action]
                of_each.append(model.policy.q_critic(rollout.observation.state, joint).amin(dim=0))
            expected = (probs[:, other] * th.stack(of_each, dim=1)).sum(dim=1)
            spread = th.stack(of_each, dim=1).std(dim=1)
            # What is drawn from three numbers deviates by half their range at most, and they themselves by no less
            assert ((found[:, agent] - expected).abs() < 5 * spread / 50).all() and spread.min() > 0

    learn_and_measure(model, measure)


def test_draws_of_a_state_dependent_policy_are_independent() -> None:
    model = make_tiny(CORAPPO, NoisyTeam(), use_sde=True, baseline_action="expectation")
    model.learn(16)
    draws = model._baseline_actions(model._rollout().flatten())
    assert draws.shape == (8, 16, 3, 2) and draws.std(dim=0).min() > 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_sampled_shapley_credits_are_unbiased(sampling: str) -> None:
    """Over many draws of coalitions, the credits of one rollout average to the exact ones."""
    env = make_vec_env(NoisyTeam, n_envs=2, seed=0)
    model = make_tiny(CORAPPO, env, credit="shapley")

    def measure(rollout: Rollout) -> None:
        exact = CORAPPO._allocate_credits(model, rollout).numpy()
        model.n_coalitions, model.coalition_sampling = 4, sampling
        drawn = np.stack([CORAPPO._allocate_credits(model, rollout).numpy() for _ in range(80)])
        error = drawn.std(axis=0) / np.sqrt(len(drawn))
        assert (np.abs(drawn.mean(axis=0) - exact) <= 5 * error + 1e-5).all() and error.max() > 1e-3

    learn_and_measure(model, measure)


def test_coalitions_are_drawn_anew_for_each_rollout() -> None:
    model = train(n_coalitions=3)
    drawn = [model._coalitions(th.default_generator).masks for _ in range(8)]
    assert not all(masks.equal(drawn[0]) for masks in drawn)


def test_unconverged_samples_do_not_end_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(ActiveSetSolver):
        def __init__(self) -> None:
            super().__init__(max_pivots=1)

    monkeypatch.setitem(SOLVERS, "active_set", Impatient)
    with pytest.warns(UserWarning, match="credit programs did not converge.*Training continues"):
        model = train()
    assert 0 < model.logger.name_to_value["credit/unconverged"] <= 1 and np.isfinite(model.credits).all()


def test_arguments_of_the_solver() -> None:
    pytest.importorskip("moreau")
    settings = {"n_steps": 4, "batch_size": 4, "total_timesteps": 8, "variance_weight": 1.0}
    moreau = train(solver="cvxpylayers", solver_kwargs={"backend": "moreau"}, **settings)
    np.testing.assert_allclose(moreau.credits, train(**settings).credits, atol=1e-4)


@pytest.mark.parametrize("grand_advantage", ["gae", "q"])
@pytest.mark.parametrize("baseline", ["v", "q"])
@pytest.mark.parametrize("credit", [name for name in CONCEPTS if CONCEPTS[name].efficient])
def test_efficient_credits_sum_to_the_grand_advantage(credit: str, baseline: str, grand_advantage: str) -> None:
    model = train(credit=credit, baseline=baseline, grand_advantage=grand_advantage)
    grand = model.advantages
    if grand_advantage == "q":
        grand = model.q_values - (model.values if baseline == "v" else model.q_baseline)
    # Multiplied by the number of agents, so that their mean is what MAPPO gives to each
    np.testing.assert_allclose(model.credits.sum(axis=2), 3 * grand, rtol=1e-4, atol=1e-4)
    assert (credit == "equal") == np.allclose(model.credits, grand[..., None], atol=1e-5)


@pytest.mark.parametrize("baseline", ["v", "q"])
def test_inefficient_credits(baseline: str) -> None:
    settings = {"baseline": baseline, "grand_advantage": "q"}
    model = train(credit="singleton", **settings)
    reference = model.values if baseline == "v" else model.q_baseline
    np.testing.assert_allclose(model.credits, model.q_singletons - reference[..., None], atol=1e-5)
    model = train(credit="difference", **settings)
    np.testing.assert_allclose(model.credits, model.q_values[..., None] - model.q_leave_one_out, atol=1e-5)
    model = train(credit="shared")
    np.testing.assert_allclose(model.credits, np.repeat(model.advantages[..., None], 3, axis=2), atol=1e-6)


def test_rationality_of_core_credits() -> None:
    # With a weight near 0 the credits leave no coalition of one or two short of more than eps, the same for all samples
    # in units of the largest excess: here simply no more than any other division of the same sum would
    model = train(credit="least_core", credit_scale="paper", total_timesteps=32)
    credits = model.credits / 3
    wanted = np.concatenate((model.q_singletons, model.q_leave_one_out), axis=2) - model.values[..., None]
    given = np.concatenate((credits, credits.sum(axis=2, keepdims=True) - credits), axis=2)
    largest = (wanted - given).max(axis=2).clip(min=0)
    random = np.random.default_rng(0)
    for _ in range(50):
        transfer = random.normal(size=credits.shape, scale=10 ** random.uniform(-3, 0))
        other = credits + transfer - transfer.mean(axis=2, keepdims=True)
        given = np.concatenate((other, other.sum(axis=2, keepdims=True) - other), axis=2)
        assert ((wanted - given).max(axis=2).clip(min=0) >= largest - 1e-5).all()
    assert largest.max() > 0


@ignore_cvxpylayers
@pytest.mark.parametrize("variance_weight", [0.1, 1.0])
def test_solvers_give_the_same_credits(variance_weight: float) -> None:
    pytest.importorskip("cvxpylayers")
    settings = {"variance_weight": variance_weight, "n_steps": 8, "total_timesteps": 16}
    ours, reference = (train(solver=solver, **settings).credits for solver in ("active_set", "cvxpylayers"))
    # The interior point is exact in the objective to 1e-12, hence in the credits to about its square root, in units of the
    # largest excess. Where the optimum is flat that is 2e-5
    assert ours.std(axis=2).max() > 2e-2
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-4)


@pytest.mark.parametrize("credit", ["core", "difference"])
def test_shrinking_leads_from_mappo_to_the_full_credits(credit: str) -> None:
    full = train(credit=credit)
    model = train(credit=credit, shrink_credits=True)
    # The first rollout's explained variance is part of the mean, which starts at 0
    explained = full.logger.name_to_value["train/q_explained_variance"]
    assert model.q_reliability == pytest.approx(0.2 * min(max(explained, 0.0), 1.0))
    for reliability in (0.0, 0.3, 1.0):
        model.q_reliability = reliability
        shrunk = model._allocate_credits(model._rollout()).numpy()
        expected = model.advantages[..., None] * (1 - reliability) + full.credits * reliability
        np.testing.assert_allclose(shrunk, expected, atol=1e-5)
    assert np.ptp(full.credits, axis=2).max() > 1e-2


def test_the_reliability_of_the_critics_is_a_running_mean(tmp_path: Path) -> None:
    class Known(CORAPPO):
        explained = iter((0.5, np.nan, 2.0, -3.0))

        def _q_explained_variance(self, *_: Any) -> float:
            return next(self.explained)

    model = make_tiny(Known, NoisyTeam())
    for mean in (0.1, 0.1, 0.28, 0.224):
        model.learn(model.n_steps, reset_num_timesteps=False)
        assert model.q_reliability == pytest.approx(mean)
    model.save(tmp_path / "model")
    assert Known.load(tmp_path / "model").q_reliability == model.q_reliability


def test_a_large_weight_gives_equal_credits_and_a_small_one_the_least_core() -> None:
    equal, core = (train(variance_weight=weight) for weight in (1e6, 0.0))
    np.testing.assert_allclose(equal.credits, np.repeat(equal.advantages[..., None], 3, axis=2), atol=1e-4)
    np.testing.assert_allclose(core.credits, train(credit="least_core").credits, atol=1e-5)
    assert np.abs(core.credits - core.advantages[..., None]).max() > 1e-2


def test_credit_scale_is_the_unit_of_the_weight() -> None:
    raw = train(credit_scale="paper", variance_weight=0.5)
    # "batch" divides by the deviation of the advantages, so this weight is the same in raw units
    scaled = train(credit_scale="batch", variance_weight=0.5 * raw.advantages.std())
    np.testing.assert_allclose(scaled.credits, raw.credits, atol=1e-5)


@pytest.mark.parametrize("epsilon_bound", ["nonnegative", "free"])
def test_the_scale_of_a_sample_is_the_size_of_its_excesses(epsilon_bound: str) -> None:
    model = train(credit_scale="sample", epsilon_bound=epsilon_bound, variance_weight=0.5)
    rollout = model._rollout().flatten()
    games = model.games(rollout)
    masks = games.coalitions.masks
    excesses = games.values - games.grand_value[:, None] / 3 * masks.sum(dim=1)
    scale = excesses.amax(dim=1) - (excesses.amin(dim=1) if epsilon_bound == "free" else 0.0)
    scale = th.where(scale > 0, scale, 1.0)
    expected = allocate(
        games.values, masks, games.grand_value, "core", variance_weight=0.5, epsilon_bound=epsilon_bound, scale=scale
    )
    found = model.divide(games, "core").credits
    th.testing.assert_close(found, expected.credits, rtol=1e-4, atol=1e-6)
    if epsilon_bound == "free":
        # What all coalitions have in common is left to eps, however the largest excess compares with 0
        for largest in (-1.0, 1e-3, 1.0):
            moved = games._replace(values=games.values + (largest - excesses.amax(dim=1))[:, None])
            th.testing.assert_close(model.divide(moved, "core").credits, found, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("discrete", [False, True], ids=["Box", "MultiDiscrete"])
def test_equal_credits_are_mappo(discrete: bool) -> None:
    class SeedEachRollout(BaseCallback):
        """Q-critics draw random numbers of their own."""

        def _on_rollout_start(self) -> None:
            th.manual_seed(self.num_timesteps)

        def _on_step(self) -> bool:
            return True

    def run(algorithm: type[CORAPPO | MAPPO], start: dict[str, th.Tensor], **settings: Any) -> dict[str, th.Tensor]:
        env = make_vec_env(NoisyTeam, n_envs=2, seed=0, env_kwargs={"discrete": discrete})
        model = make_tiny(algorithm, env, **settings)
        model.policy.load_state_dict(start, strict=False)
        return weights(model.learn(96, callback=SeedEachRollout()))

    start = weights(make_tiny(MAPPO, NoisyTeam(discrete=discrete)))
    mappo = run(MAPPO, start)
    for credit in ("equal", "shared"):
        cora = run(CORAPPO, start, credit=credit)
        for name, parameter in mappo.items():
            # n * (A / n) differs from A by rounding
            th.testing.assert_close(cora[name], parameter, rtol=0, atol=1e-6)
            assert not th.equal(parameter, start[name])


def test_q_targets() -> None:
    # The rewards of one-step episodes are all there is to learn, for one-step and lambda targets alike
    for q_target in ("td0", "lambda"):
        model = make_tiny(CORAPPO, MatrixGame(np.array([[1.0, 2.0], [3.0, 5.0]])), q_target=q_target, normalize_values=False)
        model.learn(16)
        q_targets = model._q_targets(model._rollout()).numpy().ravel()
        actions = model.rollout_buffer.actions.reshape(-1, 2).astype(int)
        # Beside the values, which are learned apart from the Q-critics
        rewards = model.env.envs[0].unwrapped.payoffs[tuple(actions.T)]
        np.testing.assert_allclose(q_targets + model.rollout_buffer.values.ravel(), rewards, rtol=1e-6)


def test_one_agent_gets_the_whole_advantage() -> None:
    env = OneAgent(gym.make("Pendulum-v1"))
    for credit in CONCEPTS:
        model = Observed("MlpPolicy", env, n_steps=16, batch_size=8, n_epochs=2, seed=0, credit=credit)
        model.learn(16)
        np.testing.assert_allclose(model.credits[..., 0], model.advantages, rtol=1e-6)
