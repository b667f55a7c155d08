"""Trained models in the loop of a suite's own API."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_cora.common.joint_env import JointSpaces
from sb3_cora.common.on_policy_algorithm import CooperativeOnPolicyAlgorithm


class SuitePolicy:
    """
    Base of classes that act in a suite's own API. A subclass converts the suite's observations to joint ones, and joint
    actions to those of the suite.

    Each agent acts on its own observation. The state, which only critics use, is not needed.

    :param model: The trained model.
    :param observation_space: The joint observations of the suite's environment, ``Box(n_agents, obs_dim)``.
    :param action_space: Its joint actions.
    :param vec_normalize: The normalization that the model was trained with, by default that of the model's environment.
    :raises TypeError: If the model is of no algorithm of this package.
    :raises ValueError: If the model cannot act in the environment.
    """

    def __init__(
        self,
        model: CooperativeOnPolicyAlgorithm,
        observation_space: spaces.Box,
        action_space: spaces.Box | spaces.MultiDiscrete,
        vec_normalize: VecNormalize | None,
    ) -> None:
        if not isinstance(model, CooperativeOnPolicyAlgorithm):
            raise TypeError(
                f"The model is {model!r}, but only the algorithms of sb3_cora have a policy for each agent. One policy for "
                "the whole team acts on joint observations: use it with sb3_cora.make_joint_vec_env(env)."
            )
        joint = JointSpaces.from_spaces(model.observation_space, model.action_space)
        if (joint.n_agents, joint.obs_dim) != observation_space.shape or model.action_space != action_space:
            raise ValueError(
                f"The model was trained on {joint.n_agents} agents that observe {joint.obs_dim} numbers each and act in "
                f"{model.action_space}, but in this environment observations are of shape {observation_space.shape} and "
                f"actions in {action_space}. Give the environment the arguments and the wrappers of the training, and replace "
                "wrappers of the VecEnv that change observations (VecFrameStack) by wrappers of the suite."
            )
        self.model = model
        self.joint_spaces = joint
        self.vec_normalize = model.get_vec_normalize_env() if vec_normalize is None else vec_normalize

    def _predict(self, parts: dict[str, np.ndarray], deterministic: bool) -> np.ndarray:
        """
        :param parts: The joint observation, ``(..., n_agents, obs_dim)``, as ``"observation"``, and the masks if there are
            any.
        :param deterministic: Whether to take the most likely actions instead of sampling.
        :return: The joint actions, ``(..., n_agents, act_dim)`` or ``(..., n_agents)``.
        """
        space = self.model.observation_space
        observation: Any = parts["observation"]
        if isinstance(space, spaces.Dict):
            joint = self.joint_spaces
            # Missing parts do not affect actions: zeros for the state, ones for masks.
            shapes = {"state": (joint.state_dim,), "agent_mask": (joint.n_agents,), "action_mask": joint.action_mask.shape}
            observation = {
                key: parts[key] if key in parts else np.full((*observation.shape[:-2], *shapes[key]), float(key != "state"))
                for key in space.spaces
            }
        if self.vec_normalize is not None:
            observation = self.vec_normalize.normalize_obs(observation)
        actions, _ = self.model.predict(observation, deterministic=deterministic)
        return actions
