"""What the algorithms with centralised Q-critics share: the critics' training on the rollout."""

from collections import deque
from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate

from sb3_cora.common.diagnostics import diagnostic_sample, explained_variance_within_states
from sb3_cora.common.losses import regression_errors
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm
from sb3_cora.common.policies import CooperativeActorQCriticPolicy, JointObservation


class RolloutTensors(NamedTuple):
    """
    A rollout as one batch of ``n_steps * n_envs`` samples: joint observations, joint actions as the Q-critics see them
    ``(batch, n_agents, action_dim)``, and the team's values, advantages and Q-targets ``(batch,)``.
    """

    observation: JointObservation
    actions: th.Tensor
    values: th.Tensor
    advantages: th.Tensor
    q_targets: th.Tensor


class Transitions(NamedTuple):
    """
    What Q-critics learn from: states ``(batch, state_dim)``, joint actions ``(batch, n_agents, action_dim)``, the team's
    rewards ``(batch,)``, the states that follow, and 1 where an episode ends with the step ``(batch,)``, else 0.
    """

    states: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    next_states: th.Tensor
    ends: th.Tensor


def shuffled_minibatches(n_samples: int, batch_size: int, n_minibatches: int) -> Iterator[th.Tensor]:
    """
    :param n_samples: Number of samples
    :param batch_size: Size of a minibatch
    :param n_minibatches: Number of minibatches
    :return: Indices of the samples of each, epoch after epoch in an order of its own
    """
    epochs = (th.randperm(n_samples).split(batch_size) for _ in repeat(None))
    return islice(chain.from_iterable(epochs), n_minibatches)


class QCriticOnPolicyAlgorithm(CooperativeOnPolicyAlgorithm):
    """
    Adds centralised Q-critics, trained on each rollout before the credits are computed with them.

    They learn what the value function leaves open, ``Q(s, a) - V(s)``: in most tasks returns depend far more on the state
    than on a single action, whose part would be lost in the error of a critic of the whole.

    :param args: Arguments of ``CooperativeOnPolicyAlgorithm`` by position
    :param q_target: What the Q-critics learn: ``"td0"``, r + gamma V(s') (CORA paper, equation 1), or ``"lambda"``, the
        GAE return, which carries the exploration noise of later steps
    :param n_critics: Number of Q-critics, of which the minimum is taken
    :param q_learning_rate: Learning rate of the Q-critics, a number or a function of the current progress remaining; that of
        the policy if None. Credits say nothing before the critics know what actions do, so they learn faster than the policy
    :param q_n_epochs: Number of epochs when training the Q-critics, those of the policy if None
    :param q_n_rollouts: From how many of the latest rollouts the Q-critics learn
    :param kwargs: Arguments of ``CooperativeOnPolicyAlgorithm`` by name
    :raises ValueError: If a setting is unknown or out of its range
    """

    policy: CooperativeActorQCriticPolicy

    def __init__(
        self,
        *args: Any,
        q_target: str = "td0",
        n_critics: int = 2,
        q_learning_rate: float | Schedule | None = 3e-3,
        q_n_epochs: int | None = None,
        q_n_rollouts: int = 1,
        **kwargs: Any,
    ):
        self.q_target = q_target
        self.n_critics = n_critics
        self.q_learning_rate = q_learning_rate
        self.q_n_epochs = q_n_epochs
        self.q_n_rollouts = q_n_rollouts
        # Of the rollouts before the current one, the oldest first
        self.past_transitions: deque[Transitions] = deque()
        super().__init__(*args, **kwargs)

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.q_target not in ("td0", "lambda"):
            raise ValueError(f"q_target={self.q_target!r} is unknown, expected one of ['td0', 'lambda'].")
        if self.n_critics < 1:
            raise ValueError(f"n_critics must be at least 1 (2 for twin critics), got {self.n_critics}.")
        if self.q_n_epochs is not None and self.q_n_epochs < 1:
            raise ValueError(f"q_n_epochs must be at least 1, got {self.q_n_epochs}; pass None to use n_epochs.")
        if self.q_n_rollouts < 1:
            raise ValueError(f"q_n_rollouts must be at least 1, the current rollout alone, got {self.q_n_rollouts}.")
        if self.q_n_rollouts > 1 and self.q_target != "td0":
            raise ValueError(
                f"q_n_rollouts={self.q_n_rollouts} takes q_target='td0', which holds whatever policy has acted, but "
                f"q_target={self.q_target!r}: the returns of past rollouts are those of past policies."
            )

    def _policy_settings(self) -> dict[str, Any]:
        return dict(super()._policy_settings(), n_critics=self.n_critics)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.q_learning_rate is not None:
            self.q_learning_rate = FloatSchedule(self.q_learning_rate)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "past_transitions"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "policy.q_optimizer"], []

    def _rollout(self) -> RolloutTensors:
        """The rollout as one batch, time-major, while the buffer is still ``(n_steps, n_envs, ...)``."""
        buffer = self.rollout_buffer

        def flatten(array: np.ndarray) -> th.Tensor:
            return th.as_tensor(array.reshape(-1, *array.shape[2:]), device=self.device)

        observations: np.ndarray | dict[str, np.ndarray] = buffer.observations
        if isinstance(observations, dict):
            flat_observations: PyTorchObs = {name: flatten(array) for name, array in observations.items()}
        else:
            flat_observations = flatten(observations)
        observation = self.policy.split_observation(flat_observations)
        return RolloutTensors(
            observation,
            self._action_features(observation, self.policy.shape_actions(flatten(buffer.actions))),
            flatten(buffer.values),
            flatten(buffer.advantages),
            flatten((buffer.td0_targets if self.q_target == "td0" else buffer.returns) - buffer.values),
        )

    def _action_features(self, observation: JointObservation, actions: th.Tensor) -> th.Tensor:
        """
        :param observation: Parts of a batch of joint observations
        :param actions: ``(batch, n_agents, action_dim)``, or integers ``(batch, n_agents)`` if discrete
        :return: The joint actions as the Q-critics see them, ``(batch, n_agents, action_dim)``
        """
        features = self.policy.action_features(actions)
        # What a dead agent's network says is not executed: to the Q-critics it would be noise
        return features if observation.agent_mask is None else features * observation.agent_mask[:, :, None]

    @th.no_grad()
    def _q_explained_variance(self, rollout: RolloutTensors) -> float:
        """
        :param rollout: The rollout, which the Q-critics have not been trained on
        :return: How much of what actions do to the targets the Q-critics explain, see ``explained_variance_within_states``
        """
        taken = diagnostic_sample(len(rollout.q_targets)).to(self.device)
        state = rollout.observation.state[taken]
        estimates = self.policy.q_critic(state, rollout.actions[taken]).amin(dim=0)
        return explained_variance_within_states(state, estimates, rollout.q_targets[taken])

    def _update_critics(self) -> None:
        """Regress each Q-critic on the targets (paper, equation 1), in minibatches of their own."""
        policy = self.policy
        rollout = self._rollout()
        learning_rate = self._scheduled(self.lr_schedule if self.q_learning_rate is None else self.q_learning_rate)
        update_learning_rate(policy.q_optimizer, learning_rate)
        parameters = list(policy.q_critic.parameters())
        # Before they are trained on the rollout: in sample, critics explain the noise as well
        self.logger.record("train/q_explained_variance", self._q_explained_variance(rollout))

        if self.normalize_values:
            policy.q_critic.normalizer.update(rollout.q_targets[:, None])
        scale = policy.q_critic.normalizer.std

        states, actions, q_targets = self._with_past_rollouts(rollout)
        n_epochs = self.n_epochs if self.q_n_epochs is None else self.q_n_epochs
        # As many as the current rollout alone would take
        n_minibatches = n_epochs * -(-len(rollout.q_targets) // self.batch_size)
        losses = []
        for indices in shuffled_minibatches(len(q_targets), self.batch_size, n_minibatches):
            estimates = policy.q_critic(states[indices], actions[indices])
            # The mean over samples, the sum over critics: another critic must not shrink a critic's step
            targets = q_targets[indices].expand_as(estimates)
            loss = regression_errors(estimates, targets, scale, self.huber_delta).mean() * policy.n_critics
            losses.append(loss.item())
            policy.q_optimizer.zero_grad()
            loss.backward()
            th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
            policy.q_optimizer.step()
        self.logger.record("train/q_loss", np.mean(losses) / policy.n_critics)

    def _with_past_rollouts(self, rollout: RolloutTensors) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        What there is to learn from, and the current rollout among the past ones from now on.

        :param rollout: The current rollout
        :return: States ``(n_samples, state_dim)``, joint actions ``(n_samples, n_agents, action_dim)`` and targets
            ``(n_samples,)`` of the latest rollouts, with the values of today's value function
        """
        samples = [(rollout.observation.state, rollout.actions, rollout.q_targets)]
        if self.q_n_rollouts == 1:
            return samples[0]
        with th.no_grad():
            for past in self.past_transitions:
                values, next_values = (self.policy.value_critic(state)[:, 0] for state in (past.states, past.next_states))
                targets = past.rewards + self.gamma * (1.0 - past.ends) * next_values - values
                samples.append((past.states, past.actions, targets))
        self.past_transitions.append(self._transitions(rollout))
        while len(self.past_transitions) >= self.q_n_rollouts:
            self.past_transitions.popleft()
        states, actions, targets = (th.cat(parts) for parts in zip(*samples, strict=True))
        return states, actions, targets

    def _transitions(self, rollout: RolloutTensors) -> Transitions:
        """
        :param rollout: The current rollout
        :return: What of it stays true when policy and value function change, but for the values that time limits have added
            to rewards
        """
        buffer = self.rollout_buffer
        assert self._last_obs is not None and self._last_episode_starts is not None, "after a rollout"
        last_observation, _ = self.policy.obs_to_tensor(self._last_obs)
        last_state = self.policy.split_observation(last_observation).state
        states = rollout.observation.state
        ends = np.concatenate((buffer.episode_starts[1:], self._last_episode_starts[None].astype(np.float32)))
        return Transitions(
            states,
            rollout.actions,
            th.as_tensor(buffer.rewards.flatten(), device=self.device),
            th.cat((states[buffer.n_envs :], last_state)),
            th.as_tensor(ends.flatten(), device=self.device),
        )
