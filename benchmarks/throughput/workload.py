"""The work that every contestant of the throughput benchmark does."""

import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Work:
    """
    One iteration: samples of one VMAS task, then epochs of minibatch updates on them.

    :param scenario: Name of the VMAS scenario, with VMAS's own settings of it
    :param max_steps: Steps of an episode
    :param n_envs: Number of environments
    :param n_samples: Team steps an iteration, over all environments
    :param batch_size: Minibatch size, in team steps
    :param n_epochs: Number of epochs
    :param net_arch: Width of each hidden layer, of every network
    :param seed: Seed of the environment and the weights
    """

    scenario: str
    max_steps: int
    n_envs: int
    n_samples: int = 4096
    batch_size: int = 512
    n_epochs: int = 10
    net_arch: list[int] = field(default_factory=lambda: [64, 64])
    seed: int = 0

    @property
    def n_steps(self) -> int:
        """Steps an iteration of each environment."""
        return self.n_samples // self.n_envs

    def to_json(self) -> str:
        """
        :return: The work as a command line argument
        """
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Work":
        """
        :param text: What ``to_json`` gave
        :return: The work
        """
        return cls(**json.loads(text))
