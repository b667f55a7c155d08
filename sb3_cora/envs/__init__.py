"""Environments of sb3_cora. Importing this package registers them with Gymnasium and imports no suite."""

from sb3_cora.envs.registration import register_envs, register_worlds

register_envs()

__all__ = ["register_envs", "register_worlds"]
