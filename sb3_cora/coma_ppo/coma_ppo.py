from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from sb3_cora.coma_ppo.policies import MlpPolicy, MultiInputPolicy
from sb3_cora.common.buffers import JointRolloutBuffer
from sb3_cora.common.diagnostics import relative_spread
from sb3_cora.common.distributions import JointCategorical
from sb3_cora.common.policies import CooperativeActorQCriticPolicy
from sb3_cora.common.q_critic_algorithm import QCriticOnPolicyAlgorithm
from sb3_cora.common.type_aliases import JointEnvLike
from sb3_cora.credit import coalition_values


class COMAPPO(QCriticOnPolicyAlgorithm):
    """
    Counterfactual Multi-Agent policy gradients (COMA) with Proximal Policy Optimization: an agent is credited with what
    its action is worth beside an action of its policy, the others acting as they did,
    ``A_i = Q(s, a) - sum_a' pi_i(a'|o_i) Q(s, (a_-i, a'))``.

    Paper: https://arxiv.org/abs/1705.08926 (equation 4)

    The credits do not sum to the team's advantage and do not use it: with one agent this is PPO with the advantage
    ``Q(s, a) - E Q(s, .)`` in place of GAE. Unlike the paper's, the critics take joint actions as input and are trained
    with the targets of ``q_target``.

    :param policy: The policy model to use (``"MlpPolicy"``, for Box and Dict joint observations alike)
    :param env: The environment to learn from: a joint environment, a ``VecEnv`` of them, a PettingZoo
        ``ParallelEnv``, a VMAS ``Environment`` or a registered id
    :param learning_rate: The learning rate, it can be a function of the current progress remaining (from 1 to 0)
    :param n_steps: The number of steps to run for each environment per update
    :param batch_size: Minibatch size, in team steps (each holds one sample of every agent)
    :param n_epochs: Number of epochs when optimizing the surrogate loss
    :param gamma: Discount factor
    :param gae_lambda: Factor for trade-off of bias vs variance for Generalized Advantage Estimator
    :param clip_range: Clipping parameter, it can be a function of the current progress remaining (from 1 to 0)
    :param clip_range_vf: Clipping parameter for the value function, in units of the return (of the network's output
        with ``normalize_values``), a number or a function of the current progress remaining; None (default) for no
        clipping
    :param normalize_advantage: Whether to normalize the credits in each minibatch, over samples and agents together
    :param ent_coef: Entropy coefficient for the loss calculation, it can be a function of the current progress remaining
    :param vf_coef: Value function coefficient for the loss calculation
    :param max_grad_norm: The maximum value for the gradient clipping, of actors and value function together, and of
        the Q-critics
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE) instead of action noise exploration
        (continuous actions only)
    :param sde_sample_freq: Sample a new noise function every n steps when using gSDE (-1: only at the beginning of the
        rollout)
    :param share_parameters: Whether the agents share one actor, which is then told the agent's index
    :param vf_learning_rate: Learning rate of the value function, a number or a function of the current progress
        remaining; that of the policy if None
    :param normalize_values: Whether the critics learn what is normalized by its running mean and standard deviation, as in
        MAPPO; without it, and with one agent, the value function is that of Stable-Baselines3's ``PPO``
    :param huber_delta: Where the loss of the critics turns from squared to linear, in units of the return (of its
        standard deviation with ``normalize_values``); None (default) for squared throughout
    :param pessimistic_vf_clip: Whether ``clip_range_vf`` takes the larger of the clipped and the unclipped error, as MAPPO
        and HARL do, and not the clipped one
    :param separate_grad_norms: Whether the gradient of each network (each agent's actor, the value function) is clipped by
        its own norm, as MAPPO and HARL do, and the norms are logged. An agent's is that of its own loss, the mean over its own
        samples, whether agents are updated together or one after another
    :param center_advantage: Whether normalization subtracts the mean of the credits. If not, it only divides by their root
        mean square: a credit keeps its sign, and with ``eta=0`` what is learned is what beats the baseline, and not what
        beats the average of the minibatch
    :param eta: What is left of a negative credit, from 0 (nothing: optimism) to 1 (default, all of it), a number or a
        function of the current progress remaining
    :param optimism: Whether credits are shrunk ``"after_normalization"``, so that what is eliminated remains so, as the paper
        of ``OptimisticMAPPO`` says; or ``"before_normalization"``, as in its authors' code, where subtracting the mean makes
        those shrunk to zero negative again
    :param noise_correlation: How alike the exploration noise of successive steps is, its autocorrelation from 0 (default,
        independent) to below 1; 0.95 lasts for some 20 steps. For continuous actions whose effect takes many steps
    :param n_policy_samples: Number of actions drawn from each agent's policy to estimate the expectation, with continuous
        actions; with discrete ones it is exact
    :param q_target: What the Q-critics learn: ``"td0"``, r + gamma V(s'), or ``"lambda"``, the GAE return,
        which carries the exploration noise of later steps
    :param n_critics: Number of Q-critics, of which the minimum is taken
    :param q_learning_rate: Learning rate of the Q-critics, a number or a function of the current progress remaining; that of
        the policy if None. Credits say nothing before the critics know what actions do, so they learn faster than the policy
    :param q_n_epochs: Number of epochs when training the Q-critics, those of the policy if None
    :param rollout_buffer_class: Rollout buffer class to use, chosen by the observation space if None
    :param rollout_buffer_kwargs: Keyword arguments to pass to the rollout buffer on creation
    :param target_kl: Stop the epochs once the approximate KL divergence exceeds 1.5 times this, None for no limit
    :param stats_window_size: Number of episodes over which the reported statistics are averaged
    :param tensorboard_log: The log location for tensorboard (if None, no logging)
    :param policy_kwargs: Additional arguments to be passed to the policy on creation
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: Seed for the pseudo random generators
    :param device: Device (cpu, cuda, ...) on which the code should be run
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    :raises ValueError: If a setting is unknown or out of its range
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    def __init__(
        self,
        policy: str | type[CooperativeActorQCriticPolicy],
        env: JointEnvLike,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        share_parameters: bool = False,
        vf_learning_rate: float | Schedule | None = None,
        normalize_values: bool = True,
        huber_delta: float | None = None,
        pessimistic_vf_clip: bool = False,
        separate_grad_norms: bool = False,
        center_advantage: bool = True,
        eta: float | Schedule = 1.0,
        optimism: str = "after_normalization",
        noise_correlation: float = 0.0,
        n_policy_samples: int = 8,
        q_target: str = "td0",
        n_critics: int = 2,
        q_learning_rate: float | Schedule | None = 3e-3,
        q_n_epochs: int | None = None,
        rollout_buffer_class: type[JointRolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        self.n_policy_samples = n_policy_samples
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            share_parameters=share_parameters,
            vf_learning_rate=vf_learning_rate,
            normalize_values=normalize_values,
            huber_delta=huber_delta,
            pessimistic_vf_clip=pessimistic_vf_clip,
            separate_grad_norms=separate_grad_norms,
            center_advantage=center_advantage,
            eta=eta,
            optimism=optimism,
            noise_correlation=noise_correlation,
            q_target=q_target,
            n_critics=n_critics,
            q_learning_rate=q_learning_rate,
            q_n_epochs=q_n_epochs,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.n_policy_samples < 1:
            raise ValueError(f"n_policy_samples must be at least 1, got {self.n_policy_samples}.")

    @th.no_grad()
    def _allocate_credits(self) -> np.ndarray:
        """
        :return: Credits ``(n_steps, n_envs, n_agents)``
        """
        policy = self.policy
        rollout = self._rollout()
        state = rollout.observation.state
        q_function = policy.q_critic.bind(state)
        # Everyone but the agent that plays the alternative; with one agent that is no coalition, but the sum is the same
        others = ~th.eye(self.n_agents, dtype=th.bool, device=self.device)
        distribution = policy.distribution(rollout.observation)
        if isinstance(distribution, JointCategorical):
            probabilities = distribution.probabilities().unbind(dim=2)
            counterfactuals = th.zeros_like(probabilities[0])
            for action, probability in enumerate(probabilities):
                alternative = self._action_features(rollout.observation, th.full_like(probability, action, dtype=th.long))
                counterfactuals += probability * coalition_values(q_function, rollout.actions, alternative[None], others)
        else:
            draws = [
                self._action_features(rollout.observation, drawn) for drawn in distribution.sample_n(self.n_policy_samples)
            ]
            counterfactuals = coalition_values(q_function, rollout.actions, th.stack(draws), others)
        values = policy.q_critic(state, rollout.actions).amin(dim=0)
        credits = values[:, None] - counterfactuals
        self.logger.record("credit/spread", relative_spread(credits, rollout.advantages, rollout.observation.agent_mask))
        return credits.cpu().numpy().reshape(*self.rollout_buffer.advantages.shape, -1)
