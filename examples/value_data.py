"""
Credits without reinforcement learning: what each of six owners of data is worth to a model that is trained on all their data.

    python examples/value_data.py

A coalition of owners is worth how much its data lower the test error of a linear regression. One owner has noisy labels, and
two have the same data.
"""

import torch as th

from sb3_cora.credit import all_coalitions, allocate

N_OWNERS = 6


def test_error(inputs: th.Tensor, targets: th.Tensor, test_inputs: th.Tensor, test_targets: th.Tensor) -> float:
    """
    :param inputs: To train on, ``(n_samples, n_features)``.
    :param targets: To train on, ``(n_samples,)``.
    :param test_inputs: To test on.
    :param test_targets: To test on.
    :return: The mean squared error of ridge regression.
    """
    gram = inputs.T @ inputs + th.eye(inputs.shape[1])
    weights = th.linalg.solve(gram, inputs.T @ targets)
    return (test_inputs @ weights - test_targets).square().mean().item()


def main() -> None:
    """Divide the value of all data among their owners by several concepts."""
    th.manual_seed(0)
    truth = th.randn(5)

    def observe(n_samples: int, noise: float) -> tuple[th.Tensor, th.Tensor]:
        inputs = th.randn(n_samples, 5)
        return inputs, inputs @ truth + noise * th.randn(n_samples)

    data = [observe(4, noise=0.1) for _ in range(N_OWNERS)]
    data[4] = data[3]
    data[5] = observe(4, noise=5.0)
    test_data = observe(1000, noise=0.1)

    def worth(members: th.Tensor) -> float:
        taken = [data[owner] for owner in members.nonzero().flatten().tolist()]
        inputs, targets = (th.cat(parts) for parts in zip(*taken, strict=True))
        return test_data[1].square().mean().item() - test_error(inputs, targets, *test_data)

    masks = all_coalitions(N_OWNERS)
    values = th.tensor([[worth(members) for members in masks]], dtype=th.float64)
    everything = th.tensor([worth(th.ones(N_OWNERS, dtype=th.bool))], dtype=th.float64)
    print(f"All data together: {everything.item():.2f}. Owners 3 and 4 have the same data, the labels of 5 are noisy.")
    for concept in ("shapley", "least_core", "nucleolus", "difference", "singleton"):
        allocated = allocate(values, masks, everything, concept)
        credits = "  ".join(f"{credit:6.2f}" for credit in allocated.credits[0].tolist())
        print(f"{concept:10}  {credits}    largest excess {allocated.epsilon.item():.2f}")


if __name__ == "__main__":
    main()
