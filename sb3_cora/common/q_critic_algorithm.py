"""Base of the algorithms with centralized Q-critics, which trains the critics on each rollout."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate
from typing_extensions import Unpack

from sb3_cora.common.counts import check_count
from sb3_cora.common.diagnostics import diagnostic_sample, explained_variance_within_states
from sb3_cora.common.losses import regression_errors
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm, OnPolicyArgumentsWithEta
from sb3_cora.common.policies import CooperativeActorQCriticPolicy
from sb3_cora.common.rollout import JointObservation, Rollout
from sb3_cora.common.type_aliases import JointEnvLike

# How much of the critics' reliability stays from one rollout to the next: that of a single rollout moves by a tenth and more.
RELIABILITY_DECAY = 0.8


class QCriticArguments(OnPolicyArgumentsWithEta, total=False):
    """Arguments of :class:`QCriticOnPolicyAlgorithm`, for the constructors of algorithms that pass them on."""

    q_target: str
    n_critics: int
    q_aggregation: str
    q_learning_rate: float | Schedule | None
    q_n_epochs: int | None


class QCriticOnPolicyAlgorithm(CooperativeOnPolicyAlgorithm):
    """
    Adds centralized Q-critics, trained on each rollout before the credits are computed with them.

    They learn the part of the return that the value function does not explain, ``Q(s, a) - V(s)``. In most tasks returns
    depend far more on the state than on a single action, whose effect would be lost in the error of a critic of the whole
    return.

    :param max_grad_norm: The maximum value for the gradient clipping, of actors and value function together, and of
        the Q-critics.
    :param q_target: Target of the Q-critics: ``"td0"``, r + gamma V(s') (CORA, equation 1), or ``"lambda"``, the GAE return,
        which includes the exploration noise of later steps.
    :param n_critics: Number of Q-critics.
    :param q_aggregation: What their estimate is: their ``"min"``, the usual remedy against overestimation, or their
        ``"mean"``.
    :param q_learning_rate: Learning rate of the Q-critics, it can be a function of the current progress remaining; that of the
        policy if None. By default it is higher than that of the policy, because credits carry no information before the
        critics know the effects of actions.
    :param q_n_epochs: Number of epochs when training the Q-critics, that of the policy if None.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": CooperativeActorQCriticPolicy,
        "MultiInputPolicy": CooperativeActorQCriticPolicy,
    }
    policy: CooperativeActorQCriticPolicy

    def __init__(
        self,
        policy: str | type[CooperativeActorQCriticPolicy],
        env: JointEnvLike,
        *args: Any,
        q_target: str = "td0",
        n_critics: int = 2,
        q_aggregation: str = "min",
        q_learning_rate: float | Schedule | None = 3e-3,
        q_n_epochs: int | None = None,
        **kwargs: Unpack[OnPolicyArgumentsWithEta],
    ):
        self.q_target = q_target
        self.n_critics = n_critics
        self.q_aggregation = q_aggregation
        self.q_learning_rate = q_learning_rate
        self.q_n_epochs = q_n_epochs
        #: How much of the effects of actions the critics explain: a running mean of ``train/q_explained_variance`` over
        #: rollouts, each counted as a number from 0 to 1.
        self.q_reliability = 0.0
        super().__init__(policy, env, *args, **kwargs)

    def _check_hyperparameters(self) -> None:
        super()._check_hyperparameters()
        if self.q_target not in ("td0", "lambda"):
            raise ValueError(f"q_target={self.q_target!r} is unknown, expected one of ['td0', 'lambda'].")
        if self.q_n_epochs is not None:
            check_count("q_n_epochs", self.q_n_epochs)

    def _policy_hyperparameters(self) -> dict[str, Any]:
        own = {"n_critics": self.n_critics, "q_aggregation": self.q_aggregation}
        return super()._policy_hyperparameters() | own

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.q_learning_rate is not None:
            self.q_learning_rate = FloatSchedule(self.q_learning_rate)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer", "policy.q_optimizer"], []

    def _q_targets(self, rollout: Rollout) -> th.Tensor:
        """
        :param rollout: The rollout, with any axes of samples.
        :return: The targets of the Q-critics less V(s), of the shape of the axes of samples.
        """
        # Not differences from ``rollout.values``, which are in the latest statistics when a rollout is trained on again.
        return (rollout.td_errors if self.q_target == "td0" else rollout.advantages).squeeze(-1)

    def _action_features(self, observation: JointObservation, actions: th.Tensor) -> th.Tensor:
        """
        :param observation: Parts of a batch of joint observations.
        :param actions: Of shape ``(..., batch, n_agents, action_dim)``, or integers ``(..., batch, n_agents)`` if discrete.
        :return: The joint actions as inputs of the Q-critics, ``(..., batch, n_agents, action_dim)``.
        """
        features = self.policy.action_features(actions)
        # Sampled actions of inactive agents are not executed, so they would be noise to the Q-critics.
        return features if observation.agent_mask is None else features * observation.agent_mask[..., None]

    @th.no_grad()
    def _q_explained_variance(self, states: th.Tensor, actions: th.Tensor, targets: th.Tensor) -> float:
        """
        :param states: States of samples that the Q-critics have not been trained on, ``(batch, state_dim)``.
        :param actions: Joint actions as inputs of the Q-critics, ``(batch, n_agents, action_dim)``.
        :param targets: The targets of the Q-critics, ``(batch,)``.
        :return: How much of the effects of actions on the targets the Q-critics explain, see
            ``explained_variance_within_states``.
        """
        taken = diagnostic_sample(len(targets)).to(self.device)
        states = states[taken]
        estimates = self.policy.q_critic.estimate(states, actions[taken])
        return explained_variance_within_states(states, estimates, targets[taken])

    def _update_critics(self, rollout: Rollout) -> None:
        """
        Fit each Q-critic to the targets (CORA, equation 1), in minibatches.

        :param rollout: The rollout, ``(n_steps, n_envs, ...)``.
        """
        policy = self.policy
        rollout = rollout.flatten()
        states = rollout.observation.state
        actions = self._action_features(rollout.observation, rollout.actions)
        q_targets = self._q_targets(rollout)
        learning_rate = self._scheduled(self.lr_schedule if self.q_learning_rate is None else self.q_learning_rate)
        update_learning_rate(policy.q_optimizer, learning_rate)
        if self.q_learning_rate is not None:
            self.logger.record("train/q_learning_rate", learning_rate)
        parameters = list(policy.q_critic.parameters())
        # Before the critics are trained on the rollout, because in sample they would explain its noise as well.
        explained = self._q_explained_variance(states, actions, q_targets)
        self.logger.record("train/q_explained_variance", explained)
        if not np.isnan(explained):
            self.q_reliability += (1 - RELIABILITY_DECAY) * (np.clip(explained, 0.0, 1.0).item() - self.q_reliability)

        critic = policy.q_critic
        if self.normalize_values:
            critic.normalizer.update(q_targets[:, None])
        # In the units of the networks' outputs, and shuffled by one copy an epoch: done for each minibatch, both would take
        # longer than the arithmetic of a small one.
        targets = critic.normalizer.normalize(q_targets[:, None])
        losses = []
        for _ in range(self.n_epochs if self.q_n_epochs is None else self.q_n_epochs):
            order = th.randperm(len(targets))
            shuffled = [part[order].split(self.batch_size) for part in (states, actions, targets)]
            for batch_states, batch_actions, batch_targets in zip(*shuffled, strict=True):
                differences = batch_targets - critic.outputs(batch_states, batch_actions)
                # The mean over samples and the sum over critics, so that a critic's gradient does not depend on their number
                # (until it is clipped, which is done for all critics together).
                loss = regression_errors(differences, self.huber_delta).mean() * policy.n_critics
                losses.append(loss.detach())
                policy.q_optimizer.zero_grad()
                if loss.requires_grad:
                    loss.backward()
                th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                policy.q_optimizer.step()
        self.logger.record("train/q_loss", th.stack(losses).mean().item() / policy.n_critics)
