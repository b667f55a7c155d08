"""IPPO on agents that have nothing to do with each other is one PPO for each of them."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_cora import IPPO
from sb3_cora.common.rollout import Rollout
from sb3_cora.common.vec_normalize import JointVecNormalize
from tests.algorithms import make_tiny
from tests.joint_games import MaskedTeam, NoisyTeam

N_AGENTS = 3


class Independent(NoisyTeam):
    """Each agent is paid for its own action only."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, _ = super().step(action)
        rewards = np.sin(3.0 * action[:, 0]) + np.arange(N_AGENTS) * action[:, 1]
        return observation, float(rewards.mean()), terminated, truncated, {"agent_rewards": rewards}


class Alone(gym.Env):
    """What one agent of ``Independent`` sees: only for the spaces, its steps are those of the team's rollout."""

    observation_space = spaces.Box(-10.0, 10.0, (NoisyTeam.obs_dim,))
    action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(NoisyTeam.obs_dim, np.float32), {}


@th.no_grad()
def copy_agent(model: IPPO, agent: int, ppo: PPO) -> None:
    """Give PPO the networks of one agent."""
    pairs = [
        (model.policy.actor.latent_net, ppo.policy.mlp_extractor.policy_net),
        (model.policy.value_critic.latent_net, ppo.policy.mlp_extractor.value_net),
    ]
    layers = [(ours, theirs) for net, other in pairs for ours, theirs in zip(net, other, strict=True)]
    layers.append((model.policy.actor.output_net, ppo.policy.action_net))
    layers.append((model.policy.value_critic.output_net, ppo.policy.value_net))
    for ours, theirs in layers:
        if isinstance(theirs, th.nn.Linear):
            theirs.weight.copy_(ours.weight[agent].T)
            theirs.bias.copy_(ours.bias[agent, 0])
    ppo.policy.log_std.copy_(model.policy.log_std[agent])


def test_independent_agents_are_separate_ppos() -> None:
    # The loss is a mean over agents, so the agents' gradients are a third of PPO's: Adam does not see it but for its eps
    arguments: dict[str, Any] = {
        "n_steps": 64,
        "batch_size": 32,
        "n_epochs": 3,
        "seed": 0,
        "gamma": 0.9,
        "max_grad_norm": 1e9,
        "policy_kwargs": {"optimizer_kwargs": {"eps": 1e-12}},
        "device": "cpu",
    }
    model = IPPO("MlpPolicy", make_vec_env(Independent, n_envs=2, seed=0), normalize_values=False, **arguments)
    ppos = [PPO("MlpPolicy", make_vec_env(Alone, n_envs=2), **arguments) for _ in range(N_AGENTS)]
    for agent, ppo in enumerate(ppos):
        copy_agent(model, agent, ppo)
        ppo.set_logger(Logger(folder=None, output_formats=[]))

    steps: list[dict[str, Any]] = []

    def record(local_variables: dict[str, Any], global_variables: dict[str, Any]) -> bool:
        names = ("actions", "rewards", "dones", "infos", "new_obs", "values", "log_probs")
        own = local_variables["self"]
        steps.append(
            {name: local_variables[name] for name in names} | {"obs": own._last_obs, "starts": own._last_episode_starts}
        )
        steps[-1]["rewards"] = np.array(local_variables["rewards"])
        return True

    for iteration in range(3):
        steps.clear()
        np.random.seed(iteration)
        model.learn(128, callback=record, reset_num_timesteps=False)
        assert any(info["TimeLimit.truncated"] for step in steps for info in step["infos"])
        for agent, ppo in enumerate(ppos):
            buffer = ppo.rollout_buffer
            buffer.reset()
            for step in steps:
                rewards = step["rewards"][:, agent].copy()
                expected = [info["agent_rewards"][agent] for info in step["infos"]]
                np.testing.assert_allclose(rewards, expected, rtol=1e-6)
                with th.no_grad():
                    observations = th.as_tensor(step["obs"][:, agent])
                    actions = th.as_tensor(step["actions"][:, agent])
                    values, log_prob, _ = ppo.policy.evaluate_actions(observations, actions)
                    for index, info in enumerate(step["infos"]):
                        if step["dones"][index] and info["TimeLimit.truncated"]:
                            terminal = th.as_tensor(info["terminal_observation"][None, agent])
                            rewards[index] += 0.9 * ppo.policy.predict_values(terminal).item()
                np.testing.assert_allclose(values[:, 0], step["values"][:, agent], rtol=1e-5, atol=1e-6)
                buffer.add(step["obs"][:, agent], step["actions"][:, agent], rewards, step["starts"], values, log_prob)
            with th.no_grad():
                last_values = ppo.policy.predict_values(th.as_tensor(steps[-1]["new_obs"][:, agent]))
            buffer.compute_returns_and_advantage(last_values, steps[-1]["dones"])
            np.random.seed(iteration)
            ppo.train()

    for agent, ppo in enumerate(ppos):
        expected = PPO("MlpPolicy", ppo.env, **arguments)
        copy_agent(model, agent, expected)
        for ours, theirs in zip(expected.policy.parameters(), ppo.policy.parameters(), strict=True):
            th.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_without_rewards_of_their_own_agents_are_paid_the_teams() -> None:
    model = make_tiny(IPPO, make_vec_env(NoisyTeam, 2, seed=0))
    model.learn(32)
    rewards = model.rollout_buffer.rewards
    assert rewards.shape == (16, 2, 3)
    # But for what the time limit adds, which is each agent's own value
    paid_alike = (rewards == rewards[:, :, :1]).all(axis=2)
    assert paid_alike.sum() >= 24


def test_normalized_rewards_need_statistics_of_the_agents() -> None:
    env = make_vec_env(Independent, 2, seed=0)
    with pytest.raises(ValueError, match=r"normalizes the team's reward but not the agents'.*JointVecNormalize"):
        make_tiny(IPPO, VecNormalize(env)).learn(32)
    make_tiny(IPPO, VecNormalize(env, norm_reward=False)).learn(32)
    normalized = JointVecNormalize(make_vec_env(Independent, 2, seed=0))
    model = make_tiny(IPPO, normalized, n_steps=256)
    model.learn(512)
    # Agents 1 and 2 are paid differently, hence divided by numbers of their own
    assert len(np.unique(normalized.agent_ret_rms.var)) == N_AGENTS


def test_agents_that_share_a_critic() -> None:
    model = make_tiny(IPPO, make_vec_env(Independent, 2, seed=0), share_parameters=True, normalize_values=True)
    assert model.policy.value_critic.output_net.weight.shape == (1, 64, 1)
    model.learn(32)
    assert model.policy.value_critic.normalizer.mean.shape == (N_AGENTS,)


GAMMA, WORTH = 0.9, 2.0


class Mortal(gym.Env):
    """
    Five steps to a time limit: agent 0 dies after the second, agent 1 lives on, agent 2 is dead in the second and third.

    The living are paid so that their returns are ``WORTH`` from wherever they are, their death being an end and the time
    limit none; the dead are paid 100.

    :param own_rewards: Whether the agents have rewards of their own; the team's is their sum
    """

    alive = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 1, 1], [0, 1, 1]], dtype=np.int8)
    observation_space = spaces.Dict(observation=spaces.Box(0.0, 5.0, (3, 1)), agent_mask=spaces.MultiBinary(3))
    action_space = spaces.Box(-1.0, 1.0, (3, 1))

    def __init__(self, own_rewards: bool = True):
        self.own_rewards = own_rewards

    def _observation(self) -> dict[str, np.ndarray]:
        return {"observation": np.full((3, 1), self.time, np.float32), "agent_mask": self.alive[self.time]}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        now, then = self.alive[self.time : self.time + 2]
        self.time += 1
        rewards = np.where(now, np.where(then, (1 - GAMMA) * WORTH, WORTH), 100.0)
        info = {"agent_rewards": rewards} if self.own_rewards else {}
        return self._observation(), float(rewards.sum()), False, self.time == 5, info


def collected(own_rewards: bool, gae_lambda: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Who was alive in a rollout ``(16, 2, 3)``, and the rest of it, with values of ``WORTH`` for all the living."""
    env = make_vec_env(Mortal, 2, env_kwargs={"own_rewards": own_rewards})
    model = make_tiny(IPPO, env, gamma=GAMMA, gae_lambda=gae_lambda)
    with th.no_grad():
        model.policy.value_critic.output_net.weight.zero_()
        model.policy.value_critic.output_net.bias.fill_(WORTH)
    told: dict[str, np.ndarray] = {}

    def kept(rollout: Rollout) -> th.Tensor:
        buffer = model.rollout_buffer
        told.update({name: getattr(buffer, name).copy() for name in ("rewards", "returns", "advantages", "td_errors")})
        told["alive"] = buffer.observations["agent_mask"] > 0.5
        return rollout.advantages

    model._allocate_credits = kept
    model.learn(32)
    return told["alive"], told


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_an_agents_future_ends_with_its_death(gae_lambda: float) -> None:
    alive, told = collected(own_rewards=True, gae_lambda=gae_lambda)
    assert alive.any(axis=(0, 1)).all() and not alive.all()
    # Rewards and values agree, so that no way of weighing one against the other makes a difference
    np.testing.assert_allclose(told["returns"][alive], WORTH, rtol=1e-5)
    for name in ("advantages", "td_errors"):
        np.testing.assert_allclose(told[name][alive], 0.0, atol=1e-5)
    assert not told["rewards"][~alive].any()


@pytest.mark.parametrize("gae_lambda", [0.0, 1.0])
def test_the_dead_have_no_part_in_the_teams_reward(gae_lambda: float) -> None:
    alive, told = collected(own_rewards=False, gae_lambda=gae_lambda)
    assert not told["rewards"][~alive].any()
    # Agent 0 in the second step of each episode: what the team gets for the step, and nothing thereafter
    last = np.arange(16) % 5 == 1
    np.testing.assert_allclose(told["returns"][last, :, 0], (1 - GAMMA) * WORTH + WORTH + 100.0, rtol=1e-5)


@pytest.mark.parametrize("dead", [(), (1,), (0, 1, 2)], ids=["one dies", "and one is dead throughout", "nobody lives"])
def test_statistics_are_those_of_the_living(dead: tuple[int, ...]) -> None:
    env = make_vec_env(MaskedTeam, 2, seed=0, env_kwargs={"dead": dead})
    model = make_tiny(IPPO, env, normalize_values=True)
    returns, alive, values = [], [], []
    allocate = model._allocate_credits

    def keep_values(rollout: Rollout) -> th.Tensor:
        # The update restates them in its new statistics
        values.append(rollout.values.numpy().copy())
        return allocate(rollout)

    model._allocate_credits = keep_values  # type: ignore[method-assign]
    for _ in range(2):
        model.learn(32, reset_num_timesteps=False)
        returns.append(model.rollout_buffer.returns)
        alive.append(model.rollout_buffer.observations["agent_mask"] > 0.5)
    normalizer = model.policy.value_critic.normalizer
    for agent in range(3):
        own = np.concatenate(returns)[..., agent][np.concatenate(alive)[..., agent]]
        assert len(own) == (0 if agent in dead else 64) or (agent == 0 and 0 < len(own) < 64)
        np.testing.assert_allclose(normalizer.mean[agent], own.mean() if len(own) else 0.0, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(normalizer.std[agent], own.std() if len(own) else 1.0, rtol=1e-4)
        assert normalizer.count[agent] == len(own)
    last = model.rollout_buffer
    errors = last.returns[alive[-1]] - values[-1][alive[-1]]
    explained = 1 - errors.var() / last.returns[alive[-1]].var() if len(errors) else np.nan
    np.testing.assert_allclose(model.logger.name_to_value["train/explained_variance"], explained, rtol=1e-4, atol=1e-5)
