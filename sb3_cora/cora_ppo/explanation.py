"""What a trained model makes of an episode: the game of each step, and how solution concepts divide its advantage."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import check_for_correct_spaces, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_cora.common.bootstrapping_vec_env import BootstrappingVecEnv
from sb3_cora.common.env_util import as_joint_vec_env
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.rollout import Rollout
from sb3_cora.common.type_aliases import JointEnvLike
from sb3_cora.cora_ppo.cora_ppo import CORAPPO
from sb3_cora.credit import CONCEPTS

Pictures = Literal["before", "after"]


class Explanation(NamedTuple):
    """
    The numbers of an episode, one entry for each step. All but ``rewards`` are in units of the return as the model was trained
    on it: of the reward, or of the normalized one with ``VecNormalize(norm_reward=True)``.

    :param rewards: The team's reward in the units of the environment, ``(n_steps,)``.
    :param advantages: What the credits are shares of, ``(n_steps,)``: the model's ``grand_advantage``.
    :param coalitions: The members of each coalition, in the order of ``values``. The last one is all agents.
    :param values: What the Q-critics say that each coalition is worth, ``(n_steps, n_coalitions)``. With
        ``grand_advantage="gae"`` that of all agents differs from the advantage.
    :param credits: By concept, the credit of each agent, ``(n_steps, n_agents)``. Those of an efficient concept sum to the
        advantage. The training multiplies these by the number of active agents.
    :param epsilons: By concept, the largest amount by which a coalition is worth more than the sum of its members' credits,
        ``(n_steps,)``; not below 0 unless the model has ``epsilon_bound="free"``.
    :param active: Boolean, which agents are active, ``(n_steps, n_agents)``. The others have no credits.
    :param actions: The joint actions as the environment executed them, ``(n_steps, n_agents, action_dim)``, or integers
        ``(n_steps, n_agents)`` if discrete.
    :param pictures: Of the scene in each step, ``(height, width, 3)`` of uint8; empty if there are none.
    """

    rewards: np.ndarray
    advantages: np.ndarray
    coalitions: list[tuple[int, ...]]
    values: np.ndarray
    credits: dict[str, np.ndarray]
    epsilons: dict[str, np.ndarray]
    active: np.ndarray
    actions: np.ndarray
    pictures: list[np.ndarray]

    @property
    def n_steps(self) -> int:
        """Number of steps."""
        return len(self.rewards)

    @property
    def n_agents(self) -> int:
        """Number of agents."""
        return self.active.shape[1]

    @property
    def concepts(self) -> list[str]:
        """Names of the solution concepts."""
        return list(self.credits)

    def shares(self, concept: str) -> np.ndarray:
        """
        :param concept: A solution concept of the explanation.
        :return: The sum of the members' credits of each coalition, ``(n_steps, n_coalitions)``. A coalition is content if this
            is at least its value.
        """
        members = np.array([[agent in coalition for agent in range(self.n_agents)] for coalition in self.coalitions])
        return self.credits[concept] @ members.T

    def columns(self) -> dict[str, list[Any]]:
        """
        :return: A table by its columns, with a row for each step and concept: ``step``, ``concept``, ``reward``,
            ``advantage``, ``epsilon``, ``credit_0``, ... and the value of each coalition by its name, such as ``v{0,1}``.
            ``pandas.DataFrame`` takes it.
        """
        n_concepts = len(self.concepts)

        def repeated(of_steps: np.ndarray) -> list[Any]:
            return np.repeat(of_steps, n_concepts).tolist()

        def interleaved(of_concepts: list[np.ndarray]) -> list[Any]:
            return np.stack(of_concepts, axis=1).ravel().tolist()

        columns: dict[str, list[Any]] = {
            "step": repeated(np.arange(self.n_steps)),
            "concept": self.concepts * self.n_steps,
            "reward": repeated(self.rewards),
            "advantage": repeated(self.advantages),
            "epsilon": interleaved(list(self.epsilons.values())),
        }
        for agent in range(self.n_agents):
            columns[f"credit_{agent}"] = interleaved([credits[:, agent] for credits in self.credits.values()])
        for coalition, values in zip(self.coalitions, self.values.T, strict=True):
            columns[coalition_name(coalition)] = repeated(values)
        return columns


class Episode(NamedTuple):
    """
    An episode, or its first steps.

    :param rollout: It as the algorithm takes it, ``(n_steps, 1, ...)``.
    :param rewards: The team's rewards in the units of the environment, ``(n_steps,)``.
    :param actions: The joint actions as executed, ``(n_steps, n_agents, ...)``.
    :param pictures: Of the scene in each step; empty if there are none.
    """

    rollout: Rollout
    rewards: np.ndarray
    actions: np.ndarray
    pictures: list[np.ndarray]


def coalition_name(members: Sequence[int]) -> str:
    """
    :param members: The members of a coalition.
    :return: The name of its value, such as ``v{0,1}``.
    """
    return f"v{{{','.join(map(str, members))}}}"


def check_explainable(algorithm: type[BaseAlgorithm]) -> None:
    """
    :param algorithm: Class of a model.
    :raises ValueError: If its credits are not those of a cooperative game.
    """
    if not issubclass(algorithm, CORAPPO):
        raise ValueError(
            f"{algorithm.__name__} has no coalition values to show: it plays no cooperative game with Q-critics. Explain a "
            "model of CORAPPO or ShapleyPPO."
        )


@th.no_grad()
def explain(
    model: BaseAlgorithm,
    env: JointEnvLike,
    *,
    concepts: str | Sequence[str] | None = None,
    max_steps: int | None = 1000,
    deterministic: bool = False,
    pictures: Pictures | None = None,
) -> Explanation:
    """
    Play an episode, and compute for each step what the training would: coalition values, advantage and credits, by the same
    functions. All concepts divide the same games.

    As in a rollout of the training, with ``credit_scale="batch"`` the scale of the programs is the standard deviation of the
    advantage over the steps, here those of the episode.

    :param model: A model of ``CORAPPO`` or of an algorithm derived from it, such as ``ShapleyPPO``.
    :param env: The environment to play, a single one: anything that the model could be trained on. If the training normalized
        observations or rewards, in a ``VecNormalize`` with the same statistics, which are not updated.
    :param concepts: Names of solution concepts in ``sb3_cora.credit.CONCEPTS``, one or several, by default the model's own.
    :param max_steps: Number of steps after which to stop if the episode has not ended; None for no limit.
    :param deterministic: Whether to take the most likely actions. By default they are sampled, as in the training: with the
        most likely ones nobody deviates from the baseline action ``"mode"``, and all coalitions are worth the same.
    :param pictures: Whether to render each step ``"before"`` or ``"after"`` it is taken. None for no pictures. After the last
        step most environments show the first of the next episode; the games of sb3_cora still show the step.
    :return: The numbers.
    :raises ValueError: If the model plays no cooperative game, the environment has other spaces or is several, or a concept or
        ``pictures`` is unknown.
    """
    check_explainable(type(model))
    assert isinstance(model, CORAPPO)
    if isinstance(concepts, str):
        concepts = [concepts]
    concepts = [model.credit] if concepts is None else list(dict.fromkeys(concepts))
    unknown = [name for name in concepts if name not in CONCEPTS]
    if unknown or not concepts:
        raise ValueError(f"concepts={concepts!r} must name some of {list(CONCEPTS)}.")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps={max_steps} must be at least 1, or None for no limit.")
    vec_env = as_joint_vec_env(env, n_envs=1)
    if vec_env.num_envs != 1:
        raise ValueError(f"explain plays one environment, got {vec_env.num_envs}: make env with n_envs=1.")
    if pictures is not None and pictures not in get_args(Pictures):
        raise ValueError(f"pictures={pictures!r} is unknown, expected one of {list(get_args(Pictures))}, or None for none.")
    if pictures is not None and vec_env.render_mode != "rgb_array":
        raise ValueError(
            f'Pictures need an environment with render_mode="rgb_array", got {vec_env.render_mode!r}: make it with '
            'make_joint_vec_env(..., render_mode="rgb_array").'
        )
    check_for_correct_spaces(vec_env, model.observation_space, model.action_space)

    with _frozen_statistics(vec_env):
        episode = play_episode(model, vec_env, max_steps, deterministic, pictures)
    rollout = episode.rollout.flatten()
    games = model.games(rollout, concepts)
    divided = {name: model.divide(games, name) for name in concepts}
    # Sorted by size, then by members. Orders of arrival meet some coalitions repeatedly.
    members = [tuple(mask.nonzero()[:, 0].tolist()) for mask in games.coalitions.masks]
    first = {coalition: row for row, coalition in reversed(list(enumerate(members)))}
    ordered = sorted(first, key=lambda coalition: (len(coalition), coalition))
    values = games.values[:, [first[coalition] for coalition in ordered]]
    values = th.cat([values, model.value_of_all(rollout, games.baseline)[:, None]], dim=1)
    return Explanation(
        rewards=episode.rewards,
        advantages=games.grand_value.cpu().numpy(),
        coalitions=[*ordered, tuple(range(model.n_agents))],
        values=values.cpu().numpy(),
        credits={name: credits.credits.cpu().numpy() for name, credits in divided.items()},
        epsilons={name: credits.epsilon.cpu().numpy() for name, credits in divided.items()},
        active=games.players().cpu().numpy() > 0,
        actions=episode.actions,
        pictures=episode.pictures,
    )


@th.no_grad()
def play_episode(
    model: CooperativeOnPolicyAlgorithm, env: VecEnv, max_steps: int | None, deterministic: bool, pictures: Pictures | None
) -> Episode:
    """
    Play an episode as ``collect_rollouts`` of Stable-Baselines3 plays, which collects a number of steps instead.

    :param model: The model. It is not changed, except that exploration noise correlated in time goes on.
    :param env: One environment.
    :param max_steps: Number of steps after which to stop if the episode has not ended; None for no limit.
    :param deterministic: Whether to take the most likely actions instead of sampling.
    :param pictures: Whether to render each step ``"before"`` or ``"after"`` it is taken. None for no pictures.
    :return: The episode.
    """
    policy = model.policy
    policy.set_training_mode(False)
    recorder = BootstrappingVecEnv(env, policy, model.keeps_modes)
    transitions: list[tuple[Any, ...]] = []
    rewards: list[float] = []
    executed: list[np.ndarray] = []
    shown: list[np.ndarray | None] = []

    observation: Any = recorder.reset()
    starts, dones = np.ones(1, dtype=bool), np.zeros(1, dtype=bool)
    while not dones[0] and len(transitions) != max_steps:
        if model.use_sde and (starts[0] or (model.sde_sample_freq > 0 and len(transitions) % model.sde_sample_freq == 0)):
            policy.reset_noise(1)
        actions, value, log_prob = policy(obs_as_tensor(observation, model.device), deterministic)
        actions = actions.cpu().numpy()
        executed.append(actions)
        if isinstance(model.action_space, spaces.Box):
            executed[-1] = np.clip(actions, model.action_space.low, model.action_space.high)
        if pictures == "before":
            shown += env.get_images()
        # What is kept is copied, because an environment may write into the arrays that it has returned.
        observation = deepcopy(observation)
        next_observation, reward, dones, _ = recorder.step(executed[-1])
        if pictures == "after":
            shown += env.get_images()
        rewards.append(float(_in_own_units(reward, env)[0]))
        recorder.add_terminal_values(model.gamma)
        transitions.append((observation, actions, recorder.rewards.copy(), starts, value, log_prob))
        observation, starts = next_observation, dones.copy()

    assert model.rollout_buffer_class is not None
    buffer: Any = model.rollout_buffer_class(
        len(transitions),
        model.observation_space,
        model.action_space,
        device=model.device,
        gamma=model.gamma,
        gae_lambda=model.gae_lambda,
        n_envs=1,
        **model.rollout_buffer_kwargs,
    )
    for transition in transitions:
        buffer.add(*transition)
    buffer.compute_returns_and_advantage(policy.predict_values(obs_as_tensor(observation, model.device)), dones)
    return Episode(
        model.rollout_of(buffer, recorder.modes),
        np.array(rewards),
        np.concatenate(executed),
        [picture for picture in shown if picture is not None],
    )


@contextmanager
def _frozen_statistics(env: VecEnv) -> Iterator[None]:
    """
    :param env: Environments.
    :return: A context in which their ``VecNormalize``, if they have one, does not update its statistics.
    """
    normalize = unwrap_vec_normalize(env)
    training = normalize is not None and normalize.training
    if normalize is not None:
        normalize.training = False
    try:
        yield
    finally:
        if normalize is not None:
            normalize.training = training


def _in_own_units(rewards: np.ndarray, env: VecEnv) -> np.ndarray:
    """
    :param rewards: What the last step returned, ``(n_envs,)``.
    :param env: The environments.
    :return: The rewards before any normalization.
    """
    normalize = unwrap_vec_normalize(env)
    return rewards if normalize is None else normalize.get_original_reward()
