"""
Credits without reinforcement learning
======================================

What is each of six owners of data worth to a model that is trained on all their data? ::

    python examples/value_data.py
"""

import torch as th

from sb3_cora.credit import all_coalitions, allocate

# %%
# One owner has noisy labels, and two have the same data.

N_OWNERS = 6
th.manual_seed(0)
truth = th.randn(5)


def observe(n_samples: int, noise: float) -> tuple[th.Tensor, th.Tensor]:
    """
    :param n_samples: Number of samples.
    :param noise: Standard deviation of the targets' noise.
    :return: Inputs ``(n_samples, 5)``, and their targets ``(n_samples,)``.
    """
    inputs = th.randn(n_samples, 5)
    return inputs, inputs @ truth + noise * th.randn(n_samples)


data = [observe(4, noise=0.1) for _ in range(N_OWNERS)]
data[4] = data[3]
data[5] = observe(4, noise=5.0)
test_inputs, test_targets = observe(1000, noise=0.1)

# %%
# A coalition of owners is worth how much its data lower the test error of a linear regression.


def worth(members: th.Tensor) -> float:
    """
    :param members: Whether each owner is in the coalition, ``(N_OWNERS,)``.
    :return: By how much ridge regression on the data of its members beats the prediction 0.
    """
    taken = [data[owner] for owner in members.nonzero().flatten().tolist()]
    inputs, targets = (th.cat(parts) for parts in zip(*taken, strict=True))
    weights = th.linalg.solve(inputs.T @ inputs + th.eye(5), inputs.T @ targets)
    return (test_targets.square().mean() - (test_inputs @ weights - test_targets).square().mean()).item()


masks = all_coalitions(N_OWNERS)
values = th.tensor([[worth(members) for members in masks]], dtype=th.float64)
everything = th.tensor([worth(th.ones(N_OWNERS, dtype=th.bool))], dtype=th.float64)
print(f"All data together: {everything.item():.2f}")

# %%
# Each concept divides this among the owners. Owners 3 and 4 have the same data, the labels of 5 are noisy.

for concept in ("shapley", "least_core", "nucleolus", "difference", "singleton"):
    allocated = allocate(values, masks, everything, concept)
    credits = "  ".join(f"{credit:6.2f}" for credit in allocated.credits[0].tolist())
    print(f"{concept:10}  {credits}    largest excess {allocated.epsilon.item():.2f}")
