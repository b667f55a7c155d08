"""PPO for joint environments, from which each algorithm is derived by a constructor and a hook."""

import inspect
import io
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypedDict, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance
from stable_baselines3.common.vec_env import VecEnv

from sb3_cora.common.arguments import FullSignature, full_docstring, full_signature
from sb3_cora.common.bootstrapping_vec_env import BootstrappingVecEnv, check_finite
from sb3_cora.common.buffers import JointDictRolloutBuffer, JointRolloutBuffer
from sb3_cora.common.counts import check_count
from sb3_cora.common.critics import AgentValueCritic
from sb3_cora.common.env_util import as_joint_vec_env
from sb3_cora.common.joint_env import JointSpaces
from sb3_cora.common.losses import agent_mean, clipped_surrogate, normalize_credits, shrink_negative, value_errors
from sb3_cora.common.networks import ALL_AGENTS, clip_grad_norm_of_members_
from sb3_cora.common.policies import CooperativeActorCriticPolicy
from sb3_cora.common.rollout import PolicySamples, Rollout, shuffled_minibatches, take
from sb3_cora.common.saved_models import check_model
from sb3_cora.common.training_state.files import read_latest_state
from sb3_cora.common.training_state.training import ResumeCallback, savers_in, set_model_state
from sb3_cora.common.type_aliases import JointEnvLike
from sb3_cora.version import __version__

SelfCooperativeAlgorithm = TypeVar("SelfCooperativeAlgorithm", bound="CooperativeOnPolicyAlgorithm")


class Turn(NamedTuple):
    """
    One turn in the sequence of updates: the agents that are updated together.

    :param agents: The agents.
    :param with_value_function: Whether the value function is updated in the same epochs.
    :param factor: Factor of their credits at each sample of the rollout, ``(n_samples, 1)``; None for 1.
    """

    agents: slice
    with_value_function: bool = True
    factor: th.Tensor | None = None


def algorithm_name(algorithm: type) -> str:
    """
    :param algorithm: Class of a model.
    :return: Name of the algorithm of this package that it is, or from which it is derived outside of the package.
    """
    return next(parent.__name__ for parent in algorithm.__mro__ if parent.__module__.startswith("sb3_cora."))


class OnPolicyArguments(TypedDict, total=False):
    """Arguments of :class:`CooperativeOnPolicyAlgorithm`, for the constructors of algorithms that pass them on."""

    learning_rate: float | Schedule
    n_steps: int
    batch_size: int
    n_epochs: int
    gamma: float
    gae_lambda: float
    clip_range: float | Schedule
    clip_range_vf: float | Schedule | None
    normalize_advantage: bool
    ent_coef: float | Schedule
    vf_coef: float
    max_grad_norm: float
    use_sde: bool
    sde_sample_freq: int
    share_parameters: bool
    vf_learning_rate: float | Schedule | None
    normalize_values: bool
    huber_delta: float | None
    pessimistic_vf_clip: bool
    separate_grad_norms: bool
    center_advantage: bool
    optimism: str
    noise_correlation: float
    rollout_buffer_class: type[JointRolloutBuffer] | None
    rollout_buffer_kwargs: dict[str, Any] | None
    target_kl: float | None
    stats_window_size: int
    tensorboard_log: str | None
    policy_kwargs: dict[str, Any] | None
    verbose: int
    seed: int | None
    device: th.device | str
    _init_setup_model: bool


class OnPolicyArgumentsWithEta(OnPolicyArguments, total=False):
    """The same with ``eta``, for algorithms that have no default of their own for it."""

    eta: float | Schedule


class CooperativeOnPolicyAlgorithm(OnPolicyAlgorithm):
    """
    Proximal Policy Optimization for a team: a clipped surrogate for each agent with credits of its own, one value
    function for the team. With one agent and ``normalize_values=False`` it equals Stable-Baselines3's ``PPO``.

    Algorithms override ``_allocate_credits`` and, if they have Q-critics, ``_update_critics``. ``_turns`` is the order in
    which agents are updated.

    :param policy: The policy model to use (``"MlpPolicy"``, for Box and Dict joint observations alike).
    :param env: The environment to learn from: a joint environment, a ``VecEnv`` of them, a PettingZoo
        ``ParallelEnv``, a VMAS ``Environment`` or a registered id.
    :param learning_rate: The learning rate, it can be a function of the current progress remaining (from 1 to 0).
    :param n_steps: The number of steps to run for each environment per update.
    :param batch_size: Minibatch size, in team steps (each holds one sample of every agent).
    :param n_epochs: Number of epochs when optimizing the surrogate loss.
    :param gamma: Discount factor.
    :param gae_lambda: Factor for trade-off of bias vs variance for Generalized Advantage Estimator.
    :param clip_range: Clipping parameter, it can be a function of the current progress remaining (from 1 to 0).
    :param clip_range_vf: Clipping parameter for the value function, in units of the return (of the network's output
        with ``normalize_values``), a number or a function of the current progress remaining; None (default) for no
        clipping.
    :param normalize_advantage: Whether to normalize the credits in each minibatch, over samples and agents together.
    :param ent_coef: Entropy coefficient for the loss calculation, it can be a function of the current progress remaining.
    :param vf_coef: Value function coefficient for the loss calculation.
    :param max_grad_norm: The maximum value for the gradient clipping, of actors and value function together.
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE) instead of action noise exploration
        (continuous actions only).
    :param sde_sample_freq: Sample a new noise function every n steps when using gSDE (-1: only at the beginning of the
        rollout).
    :param share_parameters: Whether the agents share one actor, which is then given the agent's index as well.
    :param vf_learning_rate: Learning rate of the value function, it can be a function of the current progress remaining; that
        of the policy if None.
    :param normalize_values: Whether the critics learn targets normalized by their running mean and standard deviation, as in
        MAPPO. Without it, and with one agent, the value function is that of Stable-Baselines3's ``PPO``.
    :param huber_delta: Error beyond which the loss of the critics is linear instead of squared, in units of the return (of its
        standard deviation with ``normalize_values``); None (default) for squared errors throughout.
    :param pessimistic_vf_clip: Whether to take, with ``clip_range_vf``, the larger of the clipped and the unclipped error, as
        in MAPPO and HARL, instead of the clipped one.
    :param separate_grad_norms: Whether to clip the gradient of each network (each agent's actor, the value function) by its
        own norm, as in MAPPO and HARL, and to log the norms. The norm of an agent's gradient is that of its own loss, the mean
        over its own samples, whether agents are updated together or in turns.
    :param center_advantage: Whether normalization subtracts the mean of the credits. If not, it only divides by their root
        mean square, so that credits keep their signs. With ``eta=0`` the policy then learns from actions that are better than
        the baseline, instead of better than the mean of the minibatch.
    :param eta: Factor of negative credits, from 0 (optimism: drop them) to 1 (default: keep them), it can be a function of
        the current progress remaining.
    :param optimism: Whether negative credits are scaled by ``eta`` ``"after_normalization"``, as described in the paper of
        ``OptimisticMAPPO``; or ``"before_normalization"``, as in its authors' code, where subtracting the mean makes dropped
        credits negative again.
    :param noise_correlation: Correlation of the exploration noise of successive steps, from 0 (default, independent) to below
        1; with 0.95 noise persists for about 20 steps. For continuous actions whose effects take many steps.
    :param rollout_buffer_class: Rollout buffer class to use, chosen by the observation space if None.
    :param rollout_buffer_kwargs: Keyword arguments to pass to the rollout buffer on creation.
    :param target_kl: Stop the epochs once the approximate KL divergence exceeds 1.5 times this value, None for no limit.
    :param stats_window_size: Number of episodes over which the reported statistics are averaged.
    :param tensorboard_log: The log location for tensorboard (if None, no logging).
    :param policy_kwargs: Additional arguments to be passed to the policy on creation.
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages.
    :param seed: Seed for the pseudo random generators.
    :param device: Device (cpu, cuda, ...) on which the code should be run.
    :param _init_setup_model: Whether or not to build the network at the creation of the instance.
    :raises ValueError: If a hyperparameter is unknown or out of its range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": CooperativeActorCriticPolicy,
        "MultiInputPolicy": CooperativeActorCriticPolicy,
    }
    policy: CooperativeActorCriticPolicy  # type: ignore[assignment]
    rollout_buffer: JointRolloutBuffer
    # Whether rollouts keep the most likely actions, in ``Rollout.modes``.
    keeps_modes = False
    __signature__ = FullSignature()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = full_docstring(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> "CooperativeOnPolicyAlgorithm":
        # Copies are made without arguments.
        if args or kwargs:
            try:
                cls.__signature__.bind(*args, **kwargs)
            except TypeError as error:
                # Constructors pass arguments on, so Python would name the class that refuses them instead of the one called.
                raise TypeError(f"{cls.__name__}.__init__() {error}") from None
        return super().__new__(cls)

    def __init__(
        self,
        policy: str | type[CooperativeActorCriticPolicy],
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
        *,
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
        if isinstance(policy, str):
            # Resolved here, because the base class refuses the name "MlpPolicy" for Dict observations.
            policy = self._policy_from_alias(policy)
        if isinstance(env, str):
            # The base class would make a single environment of it, even if environments are stepped as one batch.
            env = as_joint_vec_env(env)
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,  # type: ignore[arg-type]
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.MultiDiscrete),
        )
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.share_parameters = share_parameters
        self.vf_learning_rate = vf_learning_rate
        self.normalize_values = normalize_values
        self.huber_delta = huber_delta
        self.pessimistic_vf_clip = pessimistic_vf_clip
        self.separate_grad_norms = separate_grad_norms
        self.center_advantage = center_advantage
        self.eta = eta
        self.optimism = optimism
        self.noise_correlation = noise_correlation
        self.target_kl = target_kl
        # Saved with the model, so that no other algorithm loads it.
        self.algorithm = algorithm_name(type(self))
        # Rollouts since training began, and after how many of them the log is written; None: never.
        self._n_iterations = 0
        self._log_interval: int | None = 1
        # Whether the last rollout has been collected and learned from: only then can the state of the training be saved.
        self._between_rollouts = False
        # The state that the next call of ``learn`` goes on from, and the callback of the last call.
        self._resumed_state: dict[str, Any] | None = None
        self._root_callback: BaseCallback | None = None

        if _init_setup_model:
            self._setup_model()
            self._warn_of_truncated_minibatches()

    @classmethod
    def _policy_from_alias(cls, policy: str) -> type[CooperativeActorCriticPolicy]:
        if policy not in cls.policy_aliases:
            raise ValueError(f"Policy {policy!r} unknown, expected one of {sorted(cls.policy_aliases)} or a policy class.")
        return cls.policy_aliases[policy]  # type: ignore[return-value]

    @staticmethod
    def _wrap_env(env: JointEnvLike, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return as_joint_vec_env(env, verbose, monitor_wrapper)

    def _check_hyperparameters(self) -> None:
        """
        :raises ValueError: If a hyperparameter is out of its range, or a number of steps or samples is not an integer.
        """
        for name in ("n_steps", "n_epochs", "batch_size"):
            check_count(name, getattr(self, name))
        if isinstance(self.clip_range_vf, float | int) and not self.clip_range_vf > 0:
            raise ValueError(f"clip_range_vf must be positive, not {self.clip_range_vf}; pass None to deactivate vf clipping.")
        if self.huber_delta is not None and not self.huber_delta > 0:
            raise ValueError(f"huber_delta must be positive, not {self.huber_delta}; pass None for squared errors.")
        if self.pessimistic_vf_clip and self.clip_range_vf is None:
            raise ValueError(
                "pessimistic_vf_clip=True says how values are clipped, but clip_range_vf=None: set it, for example to 0.2."
            )
        if isinstance(self.eta, float | int) and not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {self.eta}: 0 drops negative credits, 1 keeps them.")
        orders = ("after_normalization", "before_normalization")
        if self.optimism not in orders:
            raise ValueError(f"optimism={self.optimism!r} is unknown, expected one of {list(orders)}.")
        buffer_class = self._default_rollout_buffer_class()
        if self.rollout_buffer_class is not None and not issubclass(self.rollout_buffer_class, buffer_class):
            raise ValueError(
                f"rollout_buffer_class={self.rollout_buffer_class.__name__} does not hold what {type(self).__name__} collects "
                f"here: log-probabilities and advantages of every agent. Derive it from {buffer_class.__module__}."
                f"{buffer_class.__name__}, or leave it out."
            )
        if self.normalize_advantage and min(self.batch_size, self.n_envs * self.n_steps) < 2:
            raise ValueError(
                f"Normalizing advantages takes at least 2 samples per minibatch, but batch_size={self.batch_size} and "
                f"n_steps * n_envs = {self.n_steps} * {self.n_envs}. "
                "Increase them, or pass normalize_advantage=False."
            )

    def _warn_of_truncated_minibatches(self) -> None:
        n_samples = self.n_envs * self.n_steps
        if n_samples % self.batch_size > 0:
            warnings.warn(
                f"The rollout of n_steps * n_envs = {self.n_steps} * {self.n_envs} = {n_samples} samples is no multiple "
                f"of batch_size={self.batch_size}: each epoch ends with a truncated minibatch of "
                f"{n_samples % self.batch_size} samples.",
                stacklevel=3,
            )

    def _policy_hyperparameters(self) -> dict[str, Any]:
        """Constructor arguments of the algorithm that are passed to the policy. Those in ``policy_kwargs`` override them."""
        return dict(share_parameters=self.share_parameters, noise_correlation=self.noise_correlation)

    def _check_saved_algorithm(self) -> None:
        """
        :raises ValueError: If the model was saved by another algorithm.
        :raises TypeError: If the policy is that of another algorithm.
        """
        own = algorithm_name(type(self))
        if self.algorithm != own:
            raise ValueError(
                f"The model was saved by {self.algorithm}, and {own} cannot load it: load it with {self.algorithm}.load(...), "
                f"or start a new {own}."
            )
        # Files of Stable-Baselines3, and older ones of this package, do not name the algorithm; the policy may tell it.
        known = tuple(self.policy_aliases.values())
        if not issubclass(self.policy_class, known):
            raise TypeError(
                f"{own} cannot use the policy {self.policy_class.__module__}.{self.policy_class.__qualname__}, it needs a "
                f'{known[0].__qualname__}: give "MlpPolicy". A saved model with this policy is of another algorithm: load it '
                "with the class that saved it."
            )

    def _check_policy_kwargs(self) -> None:
        """
        :raises TypeError: If the policy takes no argument of such a name.
        """
        parameters = full_signature(self.policy_class.__mro__).parameters.values()
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        # Without those that the algorithm gives.
        names = {parameter.name for parameter in parameters if parameter.kind not in variadic}
        names -= {"observation_space", "action_space", "lr_schedule", "use_sde"}
        unknown = [name for name in self.policy_kwargs or {} if name not in names]
        if unknown:
            raise TypeError(
                f"policy_kwargs has {unknown[0]!r}, which {self.policy_class.__name__} does not take: it takes "
                f"{', '.join(sorted(names))}."
            )

    def _setup_model(self) -> None:
        self._check_saved_algorithm()
        # Not that of the file: from now on it is a model of this version. Saved with it, see ``check_model``.
        self.sb3_cora_version = __version__
        # Not in the constructor, so that arguments of ``load`` are checked as well.
        self._check_hyperparameters()
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = self._default_rollout_buffer_class()
        self._check_policy_kwargs()
        # Only while the policy is built, because saved models must hold the user's own policy_kwargs.
        given = self.policy_kwargs
        self.policy_kwargs = {**self._policy_hyperparameters(), **given}
        try:
            super()._setup_model()
        finally:
            self.policy_kwargs = given
        # As in Stable-Baselines3's PPO, numbers become schedules. Users may replace these between updates, so each update
        # calls the current attribute.
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)
        if self.vf_learning_rate is not None:
            self.vf_learning_rate = FloatSchedule(self.vf_learning_rate)
            self._value_function_groups()  # Raises now if the optimizer has none.

    def _default_rollout_buffer_class(self) -> type[JointRolloutBuffer]:
        return JointDictRolloutBuffer if isinstance(self.observation_space, spaces.Dict) else JointRolloutBuffer

    @property
    def n_agents(self) -> int:
        """Number of agents, derived from the spaces."""
        return JointSpaces.from_spaces(self.observation_space, self.action_space).n_agents

    def _excluded_save_params(self) -> list[str]:
        passing = ["_rollout_env", "_between_rollouts", "_resumed_state", "_root_callback"]
        return [*super()._excluded_save_params(), *passing]

    def __getstate__(self) -> dict[str, Any]:
        # For copies: what belongs to the last call of ``learn``, and refers to its frames and modules.
        return {**vars(self), "_root_callback": None, "_rollout_env": None}

    def _scheduled(self, schedule: float | Schedule) -> float:
        """
        :param schedule: A number, or a function of the current progress remaining (from 1 to 0).
        :return: Its value for the current update.
        """
        return FloatSchedule(schedule)(self._current_progress_remaining)

    def _value_function_groups(self) -> list[dict[str, Any]]:
        """
        :return: The parameter groups of the optimizer that hold parameters of the value function alone.
        :raises ValueError: If there is no such group.
        """
        own = {id(parameter) for parameter in self.policy.value_critic.parameters()}
        optimizer = self.policy.optimizer
        groups = [group for group in optimizer.param_groups if own.issuperset(map(id, group["params"]))]
        if len(groups) == 0:
            raise ValueError(
                f"vf_learning_rate is given, but no parameter group of the policy's optimizer ({type(optimizer).__name__} of "
                f"{type(self.policy).__name__}) holds the value function alone. Give policy.value_critic.parameters() a group "
                "of their own, or leave vf_learning_rate out."
            )
        return groups

    def learn(
        self: SelfCooperativeAlgorithm,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfCooperativeAlgorithm:
        """
        Return a trained model.

        :param total_timesteps: The total number of team steps to train on (one step of one environment, all agents).
        :param callback: Callback(s) called at every step with state of the algorithm.
        :param log_interval: The number of rollouts before logging.
        :param tb_log_name: The name of the run for tensorboard logging, the name of the class if None.
        :param reset_num_timesteps: Whether or not to reset the current timestep number (used in logging).
        :param progress_bar: Display a progress bar using tqdm and rich.
        :return: The trained model.
        :raises ValueError: If a resumed training is told to count its timesteps anew.
        """
        if self._resumed_state is not None and reset_num_timesteps:
            raise ValueError(
                "The training was resumed, but reset_num_timesteps=True would begin it anew: call "
                "learn(model.timesteps_left, ..., reset_num_timesteps=False). To begin anew from its weights, load a saved "
                "model."
            )
        self._log_interval = log_interval
        self._between_rollouts = False
        return super().learn(
            int(total_timesteps),
            callback,
            # Stable-Baselines3 counts the rollouts of each call, see ``dump_logs``.
            None if log_interval is None else 1,
            type(self).__name__ if tb_log_name is None else tb_log_name,
            reset_num_timesteps,
            progress_bar,
        )

    @classmethod
    def load(
        cls: type[SelfCooperativeAlgorithm],
        path: str | Path | io.BufferedIOBase,
        env: JointEnvLike | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> SelfCooperativeAlgorithm:
        """
        Load the model from a zip-file. Its tensors and numbers are read as such, but policy class, spaces, schedules and other
        objects are unpickled, which can run any code: load only files that you trust.

        :param path: Path to the file (or a file-like) where to load the agent from.
        :param env: The new environment to run the loaded model on (can be None if you only need prediction from a trained
            model) has priority over any saved environment.
        :param args: Further arguments of Stable-Baselines3's ``load`` by position.
        :param kwargs: Further arguments of Stable-Baselines3's ``load``, such as ``device``, and attributes of the model to
            change.
        :return: New model instance with loaded parameters.
        :raises ValueError: If the file is truncated, damaged, no model, or that of another algorithm or a newer version.
        """
        check_model(path, cls.__name__)
        return super().load(path, env, *args, **kwargs)  # type: ignore[arg-type]

    @classmethod
    def resume(
        cls: type[SelfCooperativeAlgorithm], path: str | Path, env: JointEnvLike, device: th.device | str = "auto"
    ) -> SelfCooperativeAlgorithm:
        """
        Go on with a training whose state was saved by ``TrainingStateCallback``. The next call of ``learn``, with the same
        callbacks as before and ``reset_num_timesteps=False``, continues exactly: after ``learn(model.timesteps_left, ...)``
        everything is as after a training without interruption, except for the time that is logged.

        The state is that of the end of a rollout, so training from there repeats what came later and was lost. If the
        environments did not give their state, which is warned of, new episodes begin instead.

        :param path: The file of the state, or the folder of ``TrainingStateCallback``, of which the latest undamaged state is
            taken. The file is unpickled, which can run any code: give only files that you trust.
        :param env: The environment, made and wrapped as at the start of the training.
        :param device: Device on which the code should be run.
        :return: The model.
        :raises FileNotFoundError: If there is no state.
        :raises ValueError: If the file is no state or damaged, or the environment is not as the training's.
        """
        state = read_latest_state(Path(path))
        model = cls.load(io.BytesIO(state["model"]), env=as_joint_vec_env(env), device=device, force_reset=False)
        set_model_state(model, state)
        model._resumed_state = state
        return model

    @property
    def timesteps_left(self) -> int:
        """Number of team steps that the last call of ``learn`` has not done yet, or of a resumed one."""
        return max(self._total_timesteps - self.num_timesteps, 0)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        total_timesteps, root = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self._n_iterations = 0
        self._root_callback = root
        if self._resumed_state is None:
            return total_timesteps, root
        # The last of the callbacks that are told of the start of the training.
        resume = ResumeCallback(self._resumed_state, root)
        resume.init_callback(self)
        self._resumed_state = None
        both = CallbackList([root, resume])
        both.model = self
        return total_timesteps, both

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write log.

        :param iteration: Number of rollouts in this call of ``learn``; 0 to write in any case. What counts and is written is
            the number since the training began, which goes on in a resumed one.
        """
        if iteration > 0:
            iteration = self._n_iterations
            if self._log_interval is None or iteration % self._log_interval > 0:
                return
        super().dump_logs(iteration)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # Schedules expect a progress from 1 to 0, but if the total is not a multiple of a rollout's size, the last rollout
        # ends beyond it. A linear learning rate would become negative there, and the update undo the previous ones.
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: JointRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        assert self._last_obs is not None, "No previous observation was provided"
        check_finite("observation", self._last_obs)
        if self._root_callback is not None:
            for saver in savers_in(self._root_callback):
                saver.before_rollout(self._root_callback)
        self._between_rollouts = False
        self._rollout_env = self._bootstrapping_vec_env(env)
        try:
            is_complete = super().collect_rollouts(self._rollout_env, callback, rollout_buffer, n_rollout_steps)
        finally:
            self._rollout_env.restore_infos()
        self._n_iterations += is_complete
        return is_complete

    def _bootstrapping_vec_env(self, env: VecEnv) -> BootstrappingVecEnv:
        return BootstrappingVecEnv(env, self.policy, self.keeps_modes)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        super()._update_info_buffer(infos, dones)
        # At this point callbacks have seen the step, and ``collect_rollouts`` has not yet computed the values of terminal
        # observations, which it does for one environment after another instead of in a batch.
        self._rollout_env.add_terminal_values(self.gamma)

    def _rollout(self) -> Rollout:
        """
        :return: The collected rollout, as tensors on the device, ``(n_steps, n_envs, ...)``.
        """
        return self.rollout_of(self.rollout_buffer, self._rollout_env.modes)

    def rollout_of(self, buffer: JointRolloutBuffer, modes: list[th.Tensor]) -> Rollout:
        """
        :param buffer: A full buffer, whose returns have been computed.
        :param modes: The most likely actions of each step; not used unless ``keeps_modes``.
        :return: What the buffer holds, as tensors on the device, ``(n_steps, n_envs, ...)``.
        """
        policy = self.policy

        def tensor(array: np.ndarray) -> th.Tensor:
            return th.as_tensor(array, device=self.device)

        def of_values(array: np.ndarray) -> th.Tensor:
            return tensor(array).reshape(buffer.buffer_size, buffer.n_envs, -1)

        observations: np.ndarray | dict[str, np.ndarray] = buffer.observations
        if isinstance(observations, dict):
            observation = policy.split_observation({name: tensor(part) for name, part in observations.items()})
        else:
            observation = policy.split_observation(tensor(observations))
        return Rollout(
            observation,
            policy.shape_actions(tensor(buffer.actions)),
            tensor(buffer.log_probs),
            th.stack(modes) if self.keeps_modes else None,
            *map(of_values, (buffer.values, buffer.returns, buffer.td_errors, buffer.advantages, buffer.counted)),
        )

    def _update_critics(self, rollout: Rollout) -> None:
        """
        Train the Q-critics, if the algorithm has any.

        :param rollout: The rollout, ``(n_steps, n_envs, ...)``.
        """

    def _allocate_credits(self, rollout: Rollout) -> th.Tensor:
        """
        Divide the team's advantages among the agents. This hook distinguishes the algorithms.

        :param rollout: The rollout, ``(n_steps, n_envs, ...)``.
        :return: Credits ``(n_steps, n_envs, n_agents)``, in units of the return. By default every agent gets the team's
            advantage, or its own if each agent has one.
        """
        return rollout.advantages.expand(-1, -1, self.n_agents)

    def train(self) -> None:
        """
        Update policy using the currently gathered rollout buffer.
        """
        rollout = self._rollout()
        self._update_critics(rollout)
        credits = self._allocate_credits(rollout)
        # Switch to train mode (this affects batch norm / dropout). Not before: credits are of the policy that has acted.
        self.policy.set_training_mode(True)
        self._update_policy(rollout.flatten(), credits.flatten(end_dim=1))
        self._between_rollouts = True

    def _turns(self, rollout: Rollout) -> Iterator[Turn]:
        """
        The turns in which agents are updated. Code after a ``yield`` runs once the epochs of that turn are over.

        :param rollout: The flattened rollout.
        :return: By default a single turn of all agents.
        """
        yield Turn(ALL_AGENTS)

    def _normalize_credits(self, credits: th.Tensor, agent_mask: th.Tensor | None) -> th.Tensor:
        """
        :param credits: Credits of a minibatch, ``(batch, n_agents)``.
        :param agent_mask: Of shape ``(batch, n_agents)``, 1 for active agents, or None if all are active.
        :return: The credits to use in the surrogate objective, ``(batch, n_agents)``.
        """
        eta = self._scheduled(self.eta)
        if self.optimism == "before_normalization":
            credits = shrink_negative(credits, eta)
        if self.normalize_advantage:
            credits = normalize_credits(credits, agent_mask, self.center_advantage)
        return shrink_negative(credits, eta) if self.optimism == "after_normalization" else credits

    def _update_policy(self, rollout: Rollout, credits: th.Tensor) -> None:
        """
        Epochs of minibatch updates of actors and value function (Schulman et al. 2017, equation 9, for each agent).

        :param rollout: The flattened rollout.
        :param credits: Of shape ``(n_samples, n_agents)``, in units of the return.
        """
        self._update_learning_rate(self.policy.optimizer)
        if self.vf_learning_rate is not None:
            vf_learning_rate = self._scheduled(self.vf_learning_rate)
            for group in self._value_function_groups():
                group["lr"] = vf_learning_rate
            self.logger.record("train/vf_learning_rate", vf_learning_rate)
        clip_range = self._scheduled(self.clip_range)
        clip_range_vf = None if self.clip_range_vf is None else self._scheduled(self.clip_range_vf)
        buffer = self.rollout_buffer
        values, returns = (part[rollout.counted].cpu().numpy() for part in (rollout.values, rollout.returns))
        explained_var = explained_variance(values, returns) if len(values) > 0 else np.nan
        if self.normalize_values:
            rollout = self._update_value_statistics(rollout)
        policy_samples = PolicySamples(
            rollout.observation, rollout.actions, rollout.log_prob, rollout.values, rollout.returns, credits
        )

        metrics: defaultdict[str, list[th.Tensor]] = defaultdict(list)
        for turn in self._turns(rollout):
            for epoch in range(self.n_epochs):
                # Logged for the last epoch, as in Stable-Baselines3.
                kl_divergences: list[th.Tensor] = []
                for samples in shuffled_minibatches(buffer.buffer_size, buffer.n_envs, self.batch_size):
                    samples = samples.to(self.device)
                    batch = take(policy_samples, samples)
                    # Over all agents, because the sizes of the agents' credits relative to one another matter.
                    normalized = self._normalize_credits(batch.credits, batch.observation.agent_mask)
                    if turn.factor is not None:
                        normalized = normalized * turn.factor[samples]
                    batch = batch._replace(credits=normalized)
                    kl_divergences.append(self._update_minibatch(batch, turn, clip_range, clip_range_vf, metrics))
                    if self._exceeds_target_kl(kl_divergences[-1]):
                        break
                # Counts the epochs of each agent, however many turns they take.
                self._n_updates += turn.with_value_function
                if self._exceeds_target_kl(kl_divergences[-1]):
                    if self.verbose >= 1:
                        print(f"Early stopping at epoch {epoch} due to reaching max kl: {kl_divergences[-1].item():.2f}")
                    break
            metrics["approx_kl"] += kl_divergences

        for name, history in metrics.items():
            self.logger.record(f"train/{name}", (history[-1] if name == "loss" else th.stack(history).mean()).item())
        self.logger.record("train/explained_variance", explained_var)
        if not self.policy.joint_spaces.discrete:
            std = self.policy.agent_log_std(ALL_AGENTS).exp().movedim(-1, 1)
            # Those of padded dimensions are never trained.
            std = std.expand(self.n_agents, *std.shape[1:])[self.policy.dimensions]
            self.logger.record("train/std", std.mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def _update_value_statistics(self, rollout: Rollout) -> Rollout:
        """
        Update the statistics that normalize the value function with the rollout's returns. The values predicted during the
        rollout are recomputed from the same outputs of the network under the new statistics, as in MAPPO and HARL, so that
        value clipping measures how far the network has moved, not the statistics.

        :param rollout: The flattened rollout.
        :return: The rollout with the new values.
        """
        normalizer = self.policy.value_critic.normalizer
        outputs = normalizer.normalize(rollout.values)
        normalizer.update(rollout.returns, rollout.counted)
        values = normalizer(outputs)
        # In the buffer too, in case ``train`` is called again on the same rollout.
        self.rollout_buffer.values = values.cpu().numpy().reshape(self.rollout_buffer.values.shape)
        return rollout._replace(values=values)

    def _exceeds_target_kl(self, approx_kl: th.Tensor) -> bool:
        return self.target_kl is not None and approx_kl.item() > 1.5 * self.target_kl

    def _update_minibatch(
        self,
        batch: PolicySamples,
        turn: Turn,
        clip_range: float,
        clip_range_vf: float | None,
        metrics: dict[str, list[th.Tensor]],
    ) -> th.Tensor:
        """
        One step of the optimizer, unless the KL divergence exceeds its target.

        :param batch: The minibatch, with normalized credits.
        :param turn: The turn.
        :param clip_range: Clipping parameter of the surrogate objective.
        :param clip_range_vf: Clipping parameter of the value function, None for no clipping.
        :param metrics: Lists of metrics by name, to which those of this step are appended.
        :return: Approximate KL divergence of the policies of the rollout from the current ones, in nats.
        """
        policy = self.policy
        agents = turn.agents
        observation = batch.observation
        distribution = policy.distribution(observation, agents)
        agent_mask = None if observation.agent_mask is None else observation.agent_mask[:, agents]

        log_ratio = distribution.log_prob(batch.actions[:, agents]) - batch.log_prob[:, agents]
        ratio = log_ratio.exp()
        policy_loss = -agent_mean(clipped_surrogate(batch.credits[:, agents], ratio, clip_range), agent_mask)
        entropy_loss = -agent_mean(distribution.entropy(), agent_mask)
        loss = policy_loss + self._scheduled(self.ent_coef) * entropy_loss
        if turn.with_value_function:
            errors = value_errors(
                policy.values(observation),
                batch.values,
                batch.returns,
                policy.value_critic.normalizer.std,
                clip_range_vf,
                self.pessimistic_vf_clip,
                self.huber_delta,
            )
            # Agents' own values count while the agent is active, the team's value always counts.
            is_own = isinstance(policy.value_critic, AgentValueCritic)
            value_loss = agent_mean(errors, observation.agent_mask if is_own else None)
            loss = loss + self.vf_coef * value_loss
            metrics["value_loss"].append(value_loss.detach())

        with th.no_grad():
            # Low-variance estimator of the KL divergence, http://joschu.net/blog/kl-approx.html
            approx_kl = agent_mean(ratio - 1 - log_ratio, agent_mask)
            clip_fraction = agent_mean(((ratio - 1).abs() > clip_range).float(), agent_mask)
        # Kept as tensors until they are logged, because each conversion to a number waits for the device.
        metrics["policy_gradient_loss"].append(policy_loss.detach())
        metrics["entropy_loss"].append(entropy_loss.detach())
        metrics["clip_fraction"].append(clip_fraction)
        metrics["loss"].append(loss.detach())

        if not self._exceeds_target_kl(approx_kl):
            policy.optimizer.zero_grad()
            # Not so if all that the turn's loss depends on is frozen.
            if loss.requires_grad:
                loss.backward()
            self._clip_gradients(agents, observation.agent_mask, metrics)
            policy.optimizer.step()
        return approx_kl

    def _clip_gradients(self, agents: slice, agent_mask: th.Tensor | None, metrics: dict[str, list[th.Tensor]]) -> None:
        """
        :param agents: The agents whose losses are part of the loss.
        :param agent_mask: Of shape ``(batch, n_agents)``, 1 for active agents, or None if all are active.
        :param metrics: Lists of metrics by name, to which the norms are appended.
        """
        # Those of the optimizer, because the policy also has Q-critics, with an optimizer of their own.
        parameters = [parameter for group in self.policy.optimizer.param_groups for parameter in group["params"]]
        if not self.separate_grad_norms:
            th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
            return
        # The loss is a mean over active agents. These are the weights of the agents' own losses in it.
        parts = th.zeros(self.n_agents, device=self.device)
        parts[agents] = 1.0 if agent_mask is None else agent_mask[:, agents].sum(dim=0)
        parts /= parts.sum().clamp(min=1.0)
        policy = self.policy
        for name, stack in (("actor", policy.actor_stack()), ("critic", policy.value_critic_stack())):
            # A network shared by all agents has the gradient of the whole mean.
            network_parts = parts.reshape(stack.n_members, -1).sum(dim=1)
            norms = clip_grad_norm_of_members_(stack, self.max_grad_norm, network_parts)
            # Without any gradient or active agent there are no norms to log.
            if active_norms := norms[network_parts[: len(norms)] > 0].unbind():
                metrics[f"{name}_grad_norm"] += active_norms
            clipped = {id(parameter) for parameter in stack.parameters()}
            parameters = [parameter for parameter in parameters if id(parameter) not in clipped]
        # Further parameters that a custom policy may have.
        th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
