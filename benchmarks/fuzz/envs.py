"""
Joint environments at random through ``check_joint_env`` and two iterations of every algorithm: Box and MultiDiscrete actions,
agents with unequal observations and actions, states, masks in both kinds of space, deaths, terminations and time limits, own
rewards, numbers of any size. In a part of them one thing is wrong.

A sound environment has to pass and to be trained with finite parameters. A faulty one is trained likewise, or refused in a
sentence.
"""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_cora
from benchmarks.fuzz.outcomes import Outcome
from sb3_cora.common.env_checker import check_joint_env
from sb3_cora.common.joint_env import joint_action_space, joint_observation_space
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm

ALGORITHMS: dict[str, type[CooperativeOnPolicyAlgorithm]] = {
    name: export
    for name, export in sorted(vars(sb3_cora).items())
    if isinstance(export, type) and issubclass(export, CooperativeOnPolicyAlgorithm)
}

FAULTS = (
    *("observation space without agents", "observation space of no size", "unknown key", "no observation"),
    *("state of two axes", "mask of wrong shape", "mask of wrong space", "mask beside Box actions"),
    *(
        "one agent's action space",
        "actions of another number of agents",
        "nested actions",
        "unbounded actions",
        "actions from 1",
    ),
    *("observation of NaN", "observation of infinity", "observation of wrong shape", "observation of wrong type"),
    *("observation of None", "missing key", "reward of NaN", "reward of infinity", "reward of an array", "reward of None"),
    *("flag of an array", "agent rewards of wrong shape", "agent rewards of NaN", "nobody may act", "mask of twos"),
    *("huge rewards", "everyone dead", "four values"),
)


class Form(NamedTuple):
    """
    What a random environment is like.

    :param obs_dims: Length of each agent's observation.
    :param act_dims: Length of each agent's action, or its number of choices.
    :param discrete: Whether actions are choices.
    :param state_dim: Length of the state, 0 for none.
    :param action_mask: ``"MultiBinary"``, ``"Box"``, or empty for no such mask.
    :param agent_mask: Likewise.
    :param agent_rewards: Whether the agents have rewards of their own.
    :param death_rate: Probability that an agent dies in a step.
    :param length: Steps of an episode at most.
    :param end: How it ends: ``"terminated"``, ``"truncated"``, or ``"either"``.
    :param size: Of rewards and observations.
    :param fault: What is wrong, empty for nothing.
    """

    obs_dims: tuple[int, ...]
    act_dims: tuple[int, ...]
    discrete: bool
    state_dim: int
    action_mask: str
    agent_mask: str
    agent_rewards: bool
    death_rate: float
    length: int
    end: str
    size: float
    fault: str


def random_form(rng: np.random.Generator) -> Form:
    """
    :param rng: Source of randomness.
    :return: A form, with a fault in four of ten.
    """
    n_agents = int(rng.integers(1, 5))
    discrete = bool(rng.random() < 0.5)
    equal = rng.random() < 0.5

    def dims(low: int, high: int) -> tuple[int, ...]:
        drawn = rng.integers(low, high, size=n_agents)
        return tuple(int(number) for number in (drawn[:1].repeat(n_agents) if equal else drawn))

    masks = ("", "MultiBinary", "Box")
    return Form(
        obs_dims=dims(1, 5),
        act_dims=dims(1, 5) if discrete else dims(1, 4),
        discrete=discrete,
        state_dim=int(rng.choice([0, 0, 3])),
        action_mask=str(rng.choice(masks)) if discrete else "",
        agent_mask=str(rng.choice(masks)),
        agent_rewards=bool(rng.random() < 0.5),
        death_rate=float(rng.choice([0.0, 0.1, 0.5])),
        length=int(rng.integers(1, 9)),
        end=str(rng.choice(["terminated", "truncated", "either"])),
        size=float(rng.choice([0.0, 1e-6, 1.0, 1e3])),
        fault=str(rng.choice(FAULTS)) if rng.random() < 0.4 else "",
    )


class RandomTeam(gym.Env):
    """
    :param form: What it is like.
    """

    def __init__(self, form: Form):
        self.form = form
        self.n_agents = len(form.obs_dims)
        own = [spaces.Box(-10 * max(1.0, form.size), 10 * max(1.0, form.size), (dim,)) for dim in form.obs_dims]
        joint = joint_observation_space(own)
        self.real = joint.high > 0
        self.action_space: spaces.Space = joint_action_space(
            [spaces.Discrete(dim) if form.discrete else spaces.Box(-1.0, 1.0, (dim,)) for dim in form.act_dims]
        )
        self.exists = np.arange(max(form.act_dims)) < np.array(form.act_dims)[:, None]
        parts: dict[str, spaces.Space] = {"observation": joint}
        if form.state_dim:
            parts["state"] = spaces.Box(-10.0, 10.0, (form.state_dim,))
        for key, kind, shape in (
            ("action_mask", form.action_mask, self.exists.shape),
            ("agent_mask", form.agent_mask, (self.n_agents,)),
        ):
            if kind:
                parts[key] = spaces.MultiBinary(shape) if kind == "MultiBinary" else spaces.Box(0.0, 1.0, shape)
        self.parts = parts
        self.observation_space: spaces.Space = spaces.Dict(parts) if len(parts) > 1 else joint
        self._spoil_spaces()

    def _spoil_spaces(self) -> None:
        joint, fault = self.parts["observation"], self.form.fault
        assert isinstance(joint, spaces.Box)
        changed = {
            "observation space without agents": spaces.Box(-1.0, 1.0, (3,)),
            "observation space of no size": spaces.Box(-1.0, 1.0, (self.n_agents, 0)),
            "unknown key": spaces.Dict({**self.parts, "message": joint}),
            "no observation": spaces.Dict({"state": spaces.Box(-1.0, 1.0, (3,))}),
            "state of two axes": spaces.Dict({**self.parts, "state": spaces.Box(-1.0, 1.0, (3, 3))}),
            "mask of wrong shape": spaces.Dict({**self.parts, "agent_mask": spaces.MultiBinary(self.n_agents + 1)}),
            "mask of wrong space": spaces.Dict({**self.parts, "agent_mask": spaces.MultiDiscrete([2] * self.n_agents)}),
        }
        self.observation_space = changed.get(fault, self.observation_space)
        if fault == "mask beside Box actions":
            self.action_space = spaces.Box(-1.0, 1.0, (self.n_agents, 2))
            self.observation_space = spaces.Dict({**self.parts, "action_mask": spaces.MultiBinary((self.n_agents, 2))})
        spoiled: dict[str, spaces.Space] = {
            "one agent's action space": spaces.Discrete(3),
            "actions of another number of agents": spaces.MultiDiscrete([2] * (self.n_agents + 1)),
            "nested actions": spaces.Tuple([spaces.Discrete(2)] * self.n_agents),
            "unbounded actions": spaces.Box(-np.inf, np.inf, (self.n_agents, 2)),
            "actions from 1": spaces.MultiDiscrete([2] * self.n_agents, start=[1] * self.n_agents),
        }
        self.action_space = spoiled.get(fault, self.action_space)

    def _observation(self) -> Any:
        form = self.form
        numbers = np.clip(self.np_random.standard_normal(self.real.shape), -9, 9) * form.size * self.real
        observation: dict[str, Any] = {"observation": numbers.astype(np.float32)}
        if "state" in self.parts:
            observation["state"] = np.clip(self.np_random.standard_normal(form.state_dim), -9, 9).astype(np.float32)
        if "action_mask" in self.parts:
            allowed = self.np_random.random(self.exists.shape) < 0.5
            allowed[np.arange(self.n_agents), self.steps % self.exists.sum(axis=1)] = True
            self.allowed = allowed & self.exists
            if form.fault == "nobody may act":
                self.allowed[:] = False
            observation["action_mask"] = self.allowed.astype(self.parts["action_mask"].dtype)
        if "agent_mask" in self.parts:
            alive = self.alive & (form.fault != "everyone dead")
            observation["agent_mask"] = alive.astype(self.parts["agent_mask"].dtype)
            if form.fault == "mask of twos":
                observation["agent_mask"] = observation["agent_mask"] * 2
        if self.steps == 2:
            self._spoil_observation(observation)
        if form.fault == "observation of None" and self.steps == 2:
            return None
        return observation if isinstance(self.observation_space, spaces.Dict) else observation["observation"]

    def _spoil_observation(self, observation: dict[str, Any]) -> None:
        fault, numbers = self.form.fault, observation["observation"]
        if fault == "observation of NaN":
            numbers[0, 0] = np.nan
        elif fault == "observation of infinity":
            numbers[0, 0] = np.inf
        elif fault == "observation of wrong shape":
            observation["observation"] = np.zeros((self.n_agents + 1, numbers.shape[1]), np.float32)
        elif fault == "observation of wrong type":
            observation["observation"] = [["far"] * numbers.shape[1]] * self.n_agents
        elif fault == "missing key" and isinstance(self.observation_space, spaces.Dict):
            del observation[list(observation)[-1]]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.alive = np.ones(self.n_agents, dtype=bool)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> Any:
        form = self.form
        if form.action_mask and not form.fault:
            active = self.alive if form.agent_mask else np.ones(self.n_agents, dtype=bool)
            if not self.allowed[np.arange(self.n_agents), action][active].all():
                raise AssertionError("an action that the mask does not allow was taken")
        self.steps += 1
        if form.agent_mask:
            # One survives, because a team of the dead has come to its end.
            self.alive &= self.np_random.random(self.n_agents) >= form.death_rate
            self.alive[0] = True
        own = self.np_random.standard_normal(self.n_agents) * form.size
        if form.fault == "huge rewards":
            own *= 1e37
        reward: Any = float(own.mean())
        over = self.steps >= form.length
        terminated = over and (form.end == "terminated" or (form.end == "either" and bool(self.np_random.random() < 0.5)))
        truncated: Any = over and not terminated
        info: dict[str, Any] = {"agent_rewards": own.astype(np.float32)} if form.agent_rewards else {}
        observation = self._observation()
        if self.steps >= 2 or form.length < 3:
            rewards = {
                "reward of NaN": np.nan,
                "reward of infinity": np.inf,
                "reward of an array": own,
                "reward of None": None,
            }
            reward = rewards.get(form.fault, reward)
            if form.fault == "flag of an array":
                truncated = np.array([truncated] * self.n_agents)
            elif form.fault == "agent rewards of wrong shape":
                info["agent_rewards"] = np.ones(self.n_agents + 1)
            elif form.fault == "agent rewards of NaN":
                info["agent_rewards"] = np.full(self.n_agents, np.nan)
            elif form.fault == "four values":
                return observation, reward, over, info
        return observation, reward, terminated, truncated, info


def _is_a_sentence(error: Exception) -> bool:
    """
    :param error: A refusal.
    :return: Whether it says something to somebody who does not read code.
    """
    return isinstance(error, ValueError | TypeError | AssertionError) and len(str(error).split()) >= 6


def _train(algorithm: type[CooperativeOnPolicyAlgorithm], form: Form, n_envs: int) -> None:
    """
    :param algorithm: Class of the model.
    :param form: Of its environments.
    :param n_envs: How many there are.
    :raises FloatingPointError: If a parameter is not finite in the end.
    """
    env = DummyVecEnv([lambda: RandomTeam(form)] * n_envs)
    policy_kwargs: dict[str, Any] = {"net_arch": [8]}
    model = algorithm("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu", policy_kwargs=policy_kwargs)
    model.learn(2 * 8 * n_envs)
    bad = [name for name, parameter in model.policy.named_parameters() if not th.isfinite(parameter).all()]
    if bad:
        raise FloatingPointError(f"{bad} are not finite")


def play(seed: int, case: int) -> Iterator[Outcome]:
    """
    Check an environment, and train every algorithm on it.

    :param seed: Of the fuzz.
    :param case: Number of the environment, which alone determines it together with the seed.
    :return: What check and trainings have come to.
    """
    rng = np.random.default_rng([seed, case, 1])
    form = random_form(rng)
    n_envs = int(rng.integers(1, 3))

    with warnings.catch_warnings():
        # What is allowed but unusual
        warnings.simplefilter("ignore")
        checked = _error_of(lambda: check_joint_env(RandomTeam(form), warn=False))
        yield _judged(checked, "check", form, case)
        for name, algorithm in ALGORITHMS.items():
            error = _error_of(partial(_train, algorithm, form, n_envs))
            if form.fault and error is not None and not _is_a_sentence(error) and checked is not None:
                # Stable-Baselines3's VecEnv breaks on it, and the check, which has the remedy, says what of.
                yield Outcome("refusal", f"check before training: {form.fault}", 1)
            else:
                yield _judged(error, name, form, case)


def _judged(error: Exception | None, what: str, form: Form, case: int) -> Outcome:
    if error is None:
        return Outcome("answer", what, 1)
    if not form.fault or not _is_a_sentence(error):
        return Outcome("defect", f"env {case}, {what}, {form}: {type(error).__name__}: {error}", 1)
    return Outcome("refusal", f"{'check' if what == 'check' else 'training'}: {form.fault}", 1)


def _error_of(action: Any) -> Exception | None:
    try:
        action()
    except Exception as error:
        return error
    return None
