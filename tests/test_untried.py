"""The benchmark of critics and credits against the table of a known game: what it takes for the truth is the truth."""

import pytest
import torch as th

from benchmarks.untried.known_game import InformedCORAPPO, critic_of, table_critic
from benchmarks.untried.probe import CONCEPTS, Probe, ProbedCORAPPO
from sb3_cora import CORAPPO
from sb3_cora.common.rollout import Rollout
from sb3_cora.envs.batched_game import GameVecEnv
from sb3_cora.envs.matrix_game import MultiPeakGame

GAME = MultiPeakGame(n_agents=3, n_actions=3, n_steps=5)
SETTINGS = {"n_steps": 10, "batch_size": 20, "n_epochs": 1, "seed": 0, "baseline": "q", "grand_advantage": "q"}


class KnowsItsTargets(CORAPPO):
    """Is asked for its critics' targets."""

    def _allocate_credits(self, rollout: Rollout) -> th.Tensor:
        flat = rollout.flatten()
        truth = table_critic(GAME, flat, self.gamma)
        actions = self._action_features(flat.observation, flat.actions)
        th.testing.assert_close(truth.estimate(flat.observation.state, actions), self._q_targets(flat), rtol=1e-5, atol=1e-4)
        bound = truth.bind(flat.observation.state)(actions[3:7, None], slice(3, 7))
        th.testing.assert_close(bound[:, 0], truth.estimate(flat.observation.state, actions)[3:7])
        self.n_compared = getattr(self, "n_compared", 0) + 1
        return super()._allocate_credits(rollout)


class KnowsTheTable(ProbedCORAPPO):
    """Is compared with the table while it has the table in place of its critics."""

    def _allocate_credits(self, rollout: Rollout) -> th.Tensor:
        with critic_of(self, table_critic(GAME, rollout.flatten(), self.gamma)):
            return super()._allocate_credits(rollout)


def test_the_table_holds_the_targets_of_the_critics() -> None:
    model = KnowsItsTargets("MlpPolicy", GameVecEnv(GAME, 4), **SETTINGS).learn(80)
    assert model.n_compared == 2


def test_who_knows_the_table_is_without_error() -> None:
    model = KnowsTheTable("MlpPolicy", GameVecEnv(GAME, 4), **SETTINGS)
    model.probe = probe = Probe("peaks", 0, GAME, interval=1)
    model.learn(80)
    assert probe.visits.sum() == 80 and (probe.visits.sum(dim=1) == 16).all()
    assert {row.timesteps for row in probe.critic_rows} == {40, 80}
    assert sum(row.share for row in probe.critic_rows) == pytest.approx(2)
    assert sum(row.asked for row in probe.critic_rows) == pytest.approx(2)
    assert max(row.error for row in probe.critic_rows) < 1e-5
    assert {row.concept for row in probe.credit_rows} == set(CONCEPTS)
    assert all(row.error == 0.0 and row.right_sign == 1.0 for row in probe.credit_rows)


def test_who_does_not_know_it_errs() -> None:
    model = ProbedCORAPPO("MlpPolicy", GameVecEnv(GAME, 4), **SETTINGS)
    model.probe = probe = Probe("peaks", 0, GAME, interval=2)
    model.learn(80)
    assert {row.timesteps for row in probe.credit_rows} == {80}
    assert all(row.error > 0.1 for row in probe.credit_rows + probe.critic_rows)


def test_true_credits_train() -> None:
    InformedCORAPPO.game = GAME
    model = InformedCORAPPO("MlpPolicy", GameVecEnv(GAME, 4), **SETTINGS)
    critic = model.policy.q_critic
    model.learn(80)
    assert model.policy.q_critic is critic and model._n_updates == 2
