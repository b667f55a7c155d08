"""The running statistics that normalize what critics predict."""

import torch as th
from torch import nn


class ReturnNormalizer(nn.Module):
    """
    Running mean and standard deviation of returns, so that a network can predict numbers of order one: its outputs are
    multiplied by ``std`` and shifted by ``mean``, and its loss is computed in units of ``std``. Before the first update it is
    the identity.

    All returns seen so far have the same weight. The value normalization of MAPPO, https://arxiv.org/abs/2103.01955, forgets
    old ones, but so slowly that this makes no difference within a training. The statistics are saved with the networks.

    :param n_values: Number of values predicted, each with statistics of its own.
    """

    # Prevents a division by zero if returns are constant.
    MIN_STD = 1e-4

    mean: th.Tensor
    std: th.Tensor
    count: th.Tensor

    def __init__(self, n_values: int = 1):
        super().__init__()
        self.register_buffer("mean", th.zeros(n_values))
        self.register_buffer("std", th.ones(n_values))
        self.register_buffer("count", th.zeros(n_values))

    def forward(self, outputs: th.Tensor) -> th.Tensor:
        """
        :param outputs: Outputs of a network, ``(batch, n_values)``.
        :return: The returns that they stand for, of the same shape.
        """
        return th.addcmul(self.mean, outputs, self.std)

    def normalize(self, returns: th.Tensor) -> th.Tensor:
        """
        :param returns: Of shape ``(batch, n_values)``.
        :return: The outputs of a network that stand for them, of the same shape.
        """
        return (returns - self.mean) / self.std

    @th.no_grad()
    def update(self, returns: th.Tensor, counted: th.Tensor | None = None) -> None:
        """
        Merge the moments of new returns into the running ones (Chan et al., parallel variance).

        :param returns: Of shape ``(batch, n_values)``.
        :param counted: Boolean ``(batch, n_values)``, False for returns to leave out; None if all count.
        """
        weights = th.ones_like(returns) if counted is None else counted.to(returns.dtype)
        n_new = weights.sum(dim=0)
        total = self.count + n_new
        # Before anything has been counted, mean and standard deviation stay as they are.
        divisor = total.clamp(min=1.0)
        mean = (returns * weights).sum(dim=0) / n_new.clamp(min=1.0)
        difference = mean - self.mean
        sum_of_squares = ((returns - mean).square() * weights).sum(dim=0)
        sum_of_squares += self.std.square() * self.count + difference.square() * self.count * n_new / divisor
        self.mean += difference * n_new / divisor
        self.std.copy_(th.where(total > 0, (sum_of_squares / divisor).sqrt().clamp(min=self.MIN_STD), self.std))
        self.count.copy_(total)
