"""A rollout as tensors, from which critics, credits and policies are updated."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch as th

SelfParts = TypeVar("SelfParts", bound=tuple)


def apply_to_tensors(parts: SelfParts, function: Callable[[th.Tensor], th.Tensor]) -> SelfParts:
    """
    :param parts: A ``NamedTuple`` of tensors, other such tuples and None.
    :param function: A function that is applied to each tensor.
    :return: The same tuple with the results.
    """

    def applied(part: Any) -> Any:
        if part is None:
            return None
        return function(part) if isinstance(part, th.Tensor) else apply_to_tensors(part, function)

    return type(parts)(*map(applied, parts))


class JointObservation(NamedTuple):
    """
    The parts of a joint observation, float32 tensors, with any axes of samples in place of ``batch``.

    :param observation: What each agent sees, ``(batch, n_agents, obs_dim)``.
    :param own_state: The environment's own state, ``(batch, state_dim)``; None if it has none.
    :param action_mask: Of shape ``(batch, n_agents, n_actions)``, 1 for actions that are allowed; None if all are.
    :param agent_mask: Of shape ``(batch, n_agents)``, 1 for active agents; None if all are active.
    """

    observation: th.Tensor
    own_state: th.Tensor | None
    action_mask: th.Tensor | None
    agent_mask: th.Tensor | None

    @property
    def state(self) -> th.Tensor:
        """The input of centralized critics, ``(batch, state_dim)``: the state, or all observations if there is none."""
        return self.observation.flatten(start_dim=-2) if self.own_state is None else self.own_state


class Rollout(NamedTuple):
    """
    The rollout of a team, as tensors on the device. Their first axes are ``(n_steps, n_envs)``, or after ``flatten`` one axis
    of samples. ``n_values`` is 1 if there is one value function for the team, ``n_agents`` if each agent has its own.

    :param observation: The joint observations.
    :param actions: The joint actions, ``(..., n_agents, action_dim)``, or integers ``(..., n_agents)`` if discrete.
    :param log_prob: Their log-probabilities in nats, ``(..., n_agents)``.
    :param modes: The most likely actions, in the shape of ``actions``; None if the algorithm does not ask for them.
    :param values: V(s), ``(..., n_values)``.
    :param returns: Lambda-returns, ``(..., n_values)``.
    :param td_errors: Temporal-difference errors r + gamma V(s') - V(s), ``(..., n_values)``.
    :param advantages: Generalized advantage estimates, ``(..., n_values)``.
    :param counted: Boolean, which returns count in statistics, ``(..., n_values)``.
    """

    observation: JointObservation
    actions: th.Tensor
    log_prob: th.Tensor
    modes: th.Tensor | None
    values: th.Tensor
    returns: th.Tensor
    td_errors: th.Tensor
    advantages: th.Tensor
    counted: th.Tensor

    def flatten(self) -> "Rollout":
        """
        :return: The rollout as one batch, which begins with the first step of every environment.
        """
        return apply_to_tensors(self, lambda part: part.flatten(end_dim=1))


class PolicySamples(NamedTuple):
    """
    The parts of a flattened rollout from which actors and value function are updated, so that minibatches copy nothing else.
    Except for the credits, they are those of ``Rollout``.

    :param credits: Of shape ``(batch, n_agents)``, in units of the return.
    """

    observation: JointObservation
    actions: th.Tensor
    log_prob: th.Tensor
    values: th.Tensor
    returns: th.Tensor
    credits: th.Tensor


def take(parts: SelfParts, samples: th.Tensor | slice) -> SelfParts:
    """
    :param parts: A ``NamedTuple`` of tensors with one axis of samples.
    :param samples: The samples to select.
    :return: The tuple with these samples.
    """
    return apply_to_tensors(parts, lambda part: part[samples])


def shuffled_minibatches(n_steps: int, n_envs: int, batch_size: int) -> Iterator[th.Tensor]:
    """
    :param n_steps: Number of steps of a rollout.
    :param n_envs: Number of environments.
    :param batch_size: Number of samples in a minibatch.
    :return: Positions of the samples of each minibatch in the flattened rollout, ``(batch_size,)``, fewer in the last.
    """
    # The same order as in Stable-Baselines3, which counts samples environment by environment.
    shuffled = np.random.permutation(n_steps * n_envs)  # noqa: NPY002
    yield from th.from_numpy(shuffled % n_steps * n_envs + shuffled // n_steps).split(batch_size)
