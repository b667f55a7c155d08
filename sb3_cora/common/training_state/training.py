"""All that a training is, between two of its rollouts."""

import io
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_cora.common.training_state.callbacks import callback_states, callbacks_in, set_callback_states
from sb3_cora.common.training_state.environments import environment_state, set_environment_state
from sb3_cora.common.training_state.files import state_files, state_path, write_state
from sb3_cora.common.training_state.random_states import random_states, set_random_states

if TYPE_CHECKING:
    from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm

# Where a logger keeps what it has been given and not written yet.
PENDING_LOG = ("name_to_value", "name_to_count", "name_to_excluded")


def training_state(model: "CooperativeOnPolicyAlgorithm", root: BaseCallback) -> dict[str, Any]:
    """
    :param model: A model between two rollouts.
    :param root: The callback of its training.
    :return: The state of the training, which can be pickled. The rollout buffer is not in it, because it holds nothing that a
        later rollout needs.
    """
    assert model.env is not None
    file = io.BytesIO()
    model.save(file)
    return {
        # Networks, optimizers, hyperparameters, schedules, counters and the last observations, in Stable-Baselines3's format.
        "model": file.getvalue(),
        "algorithm": model.algorithm,
        "num_timesteps": model.num_timesteps,
        "buffers": _unsaved_buffers(model.policy),
        "counters": {"num_timesteps_at_start": model._num_timesteps_at_start, "n_iterations": model._n_iterations},
        "elapsed": time.time_ns() - model.start_time,
        "log": {name: dict(getattr(model.logger, name)) for name in PENDING_LOG},
        "callbacks": callback_states(root),
        "environment": environment_state(model.env),
        # The last, because what comes before might draw.
        "random": random_states(),
    }


def set_model_state(model: "CooperativeOnPolicyAlgorithm", state: dict[str, Any]) -> None:
    """
    Give a model what Stable-Baselines3's file of it lacks, and the environment its state.

    :param model: The model of this file, with an environment.
    :param state: The result of ``training_state``.
    :raises ValueError: If there are more or fewer environments than those saved, or in other wrappers.
    """
    assert model.env is not None
    for name, buffer in state["buffers"].items():
        owner, _, own_name = name.rpartition(".")
        model.policy.get_submodule(owner)._buffers[own_name] = buffer.to(model.device)
    if not set_environment_state(model.env, state["environment"], "environment"):
        # The next call of learn then resets it.
        model._last_obs = None


def _unsaved_buffers(policy: th.nn.Module) -> dict[str, th.Tensor]:
    """The buffers that are not in the policy's ``state_dict``, such as exploration noise, by name."""
    saved = policy.state_dict()
    return {name: buffer.cpu() for name, buffer in policy.named_buffers() if name not in saved}


class ResumeCallback(BaseCallback):
    """
    Gives a training the rest of its state once ``learn`` has set up everything and before the first rollout: what setting up
    changes or draws.

    :param state: The result of ``training_state``.
    :param root: The callback of the training.
    """

    def __init__(self, state: dict[str, Any], root: BaseCallback) -> None:
        super().__init__()
        self.state = state
        self.root = root

    def _on_training_start(self) -> None:
        model: Any = self.model
        set_callback_states(self.root, self.state["callbacks"])
        for name, values in self.state["log"].items():
            getattr(model.logger, name).update(values)
        model._num_timesteps_at_start = self.state["counters"]["num_timesteps_at_start"]
        model._n_iterations = self.state["counters"]["n_iterations"]
        model.start_time = time.time_ns() - self.state["elapsed"]
        set_random_states(self.state["random"])

    def _on_step(self) -> bool:
        return True


class TrainingStateCallback(BaseCallback):
    """
    Saves the state of a training, from which ``resume`` goes on as if the training had never been interrupted: with the same
    weights, to the last bit, as without an interruption.

    The model itself is in it, with optimizers, schedules and counters; statistics of normalization; all random states; the
    environments in their wrappers; the other callbacks; and what is logged later. It is saved between rollouts, the only
    moment at which it is complete, and at the end of ``learn``, in a file that is written whole or not at all.

    .. code-block:: python

        model.learn(1_000_000, callback=[TrainingStateCallback("states", every_seconds=300), other_callback])

        # In another process, after the first one was killed:
        model = MAPPO.resume("states", env)
        model.learn(model.timesteps_left, callback=[TrainingStateCallback("states", every_seconds=300), other_callback],
                    reset_num_timesteps=False)

    The state is exact on the same machine, with the same versions of all packages and the same number of threads.
    TensorBoard's files cannot be taken back, so they show twice what was logged between the last save and the interruption.

    :param path: Folder of the files, ``training_state_<n>_steps.bin``. They hold pickled objects, which can run any code when
        they are read: resume only from files that you trust.
    :param save_freq: Save at the end of the first rollout after this many calls of ``env.step()``, as in
        ``CheckpointCallback``; ``None`` for no such limit.
    :param every_seconds: Save at the end of the first rollout, and of the first after each of this many seconds; ``None`` for
        no such limit. 0 saves after each rollout.
    :param keep: How many of the latest files to keep.
    :param verbose: Verbosity level: 2 to print each save.
    :raises ValueError: If neither limit is given, or a number is out of its range. When a training from the beginning starts:
        if the folder holds states of another one.
    """

    def __init__(
        self,
        path: str | Path,
        save_freq: int | None = None,
        every_seconds: float | None = None,
        keep: int = 3,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if save_freq is None and every_seconds is None:
            raise ValueError("TrainingStateCallback is told neither save_freq nor every_seconds: give one of them, or both.")
        if save_freq is not None and save_freq < 1:
            raise ValueError(f"save_freq={save_freq}, expected at least 1 call of env.step(), or None.")
        if every_seconds is not None and not every_seconds >= 0:
            raise ValueError(f"every_seconds={every_seconds}, expected at least 0, or None.")
        if keep < 1:
            raise ValueError(f"keep={keep}, expected at least 1 file.")
        self.path = Path(path)
        self.save_freq = save_freq
        self.every_seconds = every_seconds
        self.keep = keep
        self._last_calls = 0
        self._last_time = -math.inf
        self._first_timesteps = 0
        # Whether the training shall end as soon as its state is saved.
        self.ends = False
        self._saved_at = -1

    def get_state(self) -> dict[str, Any]:
        """:return: What of this callback goes on in a resumed training."""
        return {"n_calls": self.n_calls, "last_calls": self._last_calls}

    def set_state(self, state: dict[str, Any]) -> None:
        """:param state: The result of ``get_state``."""
        self.n_calls, self._last_calls = state["n_calls"], state["last_calls"]

    def end(self) -> None:
        """Save the state before the next rollout, and raise ``KeyboardInterrupt`` then. For handlers of signals."""
        self.ends = True

    def _on_training_start(self) -> None:
        self._first_timesteps = self.model.num_timesteps
        self._saved_at = -1
        others = [file for file in state_files(self.path) if file != state_path(self.path, 0)]
        if self._first_timesteps == 0 and others:
            raise ValueError(
                f"{self.path} holds states of another training, the latest in {others[0].name}, which those of a training "
                "that begins would replace. Go on with it by resume(...), or give another folder, or delete this one."
            )

    def _on_step(self) -> bool:
        return True

    def before_rollout(self, root: BaseCallback) -> None:
        """
        Called by the model between two rollouts.

        :param root: The callback of the training.
        :raises KeyboardInterrupt: If the training shall end.
        """
        if self.model.num_timesteps == self._first_timesteps and not self.ends:
            return
        calls, now = self.n_calls - self._last_calls, time.monotonic()
        is_due = self.save_freq is not None and calls >= self.save_freq
        is_late = self.every_seconds is not None and now - self._last_time >= self.every_seconds
        if is_due or is_late or self.ends:
            self.save(root)
        if self.ends:
            raise KeyboardInterrupt

    def save(self, root: BaseCallback) -> None:
        """
        Save the state now. The model must be between two rollouts.

        :param root: The callback of the training.
        :raises OSError: If it cannot be written. The states before are then still there.
        """
        model: Any = self.model
        self._last_calls, self._last_time, self._saved_at = self.n_calls, time.monotonic(), model.num_timesteps
        state = {**training_state(model, root), **self.more_state()}
        path = state_path(self.path, model.num_timesteps)
        write_state(path, state)
        if self.verbose >= 2:
            print(f"Saving the training's state to {path}")
        # Those of a training that was resumed from an older state go as well: it does not lead to them for certain.
        files = state_files(self.path)
        position = files.index(path)
        for file in (*files[:position], *files[position + self.keep :]):
            file.unlink(missing_ok=True)

    def more_state(self) -> dict[str, Any]:
        """:return: What a subclass adds to the state."""
        return {}

    def _on_training_end(self) -> None:
        model: Any = self.model
        # Not if a callback or an error has ended the training within a rollout.
        if model._between_rollouts and self._saved_at < model.num_timesteps:
            self.save(model._root_callback)


def savers_in(root: BaseCallback) -> list[TrainingStateCallback]:
    """
    :param root: The callback of a training.
    :return: Those in it that save the training's state.
    """
    return [callback for callback in callbacks_in(root) if isinstance(callback, TrainingStateCallback)]
