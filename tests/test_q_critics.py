"""What Q-critics know by default."""

import pytest

from sb3_cora import CORAPPO
from sb3_cora.common.rollout import Rollout
from sb3_cora.envs.batched_game import GameVecEnv
from sb3_cora.envs.registration import GAMES


@pytest.mark.parametrize("game", sorted(GAMES))
def test_critics_know_what_actions_do_in_every_game(game: str) -> None:
    """Credits say nothing before: by default, within 20 rollouts, of which the first that shows it ends the test."""
    # Of fifty agents at the bar they explain 0.07 by then
    env = GameVecEnv(game, num_envs=16, **({"n_agents": 5} if game in ("gaussian_squeeze", "bar_problem") else {}))
    # Whole episodes
    n_steps = {1: 8, 10: 40, 25: 50}[env.game.n_steps]
    model = CORAPPO("MlpPolicy", env, n_steps=n_steps, batch_size=n_steps * 16 // 4, learning_rate=1e-3, seed=0, device="cpu")
    explained: list[float] = []
    update = model._update_critics

    def look(rollout: Rollout) -> None:
        update(rollout)
        explained.append(model.logger.name_to_value["train/q_explained_variance"])

    model._update_critics = look  # type: ignore[method-assign]
    model.learn(20 * n_steps * 16, callback=lambda *_: not explained or not explained[-1] > 0.5)
    assert explained[-1] > 0.5, explained
