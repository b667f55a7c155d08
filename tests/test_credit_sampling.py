"""Coalitions drawn at random: which are possible, how likely each is, and how many it takes."""

import math

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_cora.credit import (
    SAMPLINGS,
    all_coalitions,
    allocate,
    coalitions_along,
    draw_coalitions,
    extremes,
    n_proper_coalitions,
    required_coalitions,
)
from sb3_cora.credit.coalitions import first_occurrences, is_closed_under_complement

DIFFERENT = ("uniform", "shapley_kernel")


def seeded(seed: int) -> th.Generator:
    return th.Generator().manual_seed(seed)


@given(
    n_agents=st.integers(2, 40),
    n_coalitions=st.integers(2, 120),
    sampling=st.sampled_from(DIFFERENT),
    paired=st.booleans(),
    include_extremes=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_samples_are_what_was_asked_for(n_agents, n_coalitions, sampling, paired, include_extremes, seed):
    least = len(extremes(n_agents)) if include_extremes else 2
    n_coalitions = min(max(least, n_coalitions - n_coalitions % 2), n_proper_coalitions(n_agents))
    sample = draw_coalitions(n_agents, n_coalitions, sampling, seeded(seed), paired=paired, include_extremes=include_extremes)
    size = sample.masks.sum(dim=1)
    assert sample.masks.shape == (n_coalitions, n_agents) and sample.masks.dtype == th.bool and sample.orders is None
    assert ((size > 0) & (size < n_agents)).all() and len(first_occurrences(sample.masks)) == n_coalitions
    assert sample.expected_counts.shape == (n_coalitions,)
    assert ((sample.expected_counts > 0) & (sample.expected_counts <= 1)).all()
    if paired:
        assert is_closed_under_complement(sample.masks)
    if include_extremes:
        assert sample.masks[:least].equal(extremes(n_agents)) and sample.expected_counts[:least].eq(1).all()


@pytest.mark.parametrize("sampling", DIFFERENT)
@pytest.mark.parametrize("n_agents", [2, 3, 5])
def test_to_draw_all_is_to_list_them(sampling, n_agents):
    for paired in (False, True):
        sample = draw_coalitions(n_agents, 2**n_agents - 2, sampling, seeded(0), paired=paired)
        assert sorted(sample.masks.tolist()) == sorted(all_coalitions(n_agents).tolist())
        th.testing.assert_close(sample.expected_counts, th.ones(2**n_agents - 2, dtype=th.float64))


@pytest.mark.parametrize(
    "sampling, n_coalitions, paired, include_extremes",
    [
        ("uniform", 8, False, False),
        ("uniform", 20, False, False),
        ("uniform", 8, True, False),
        ("uniform", 14, False, True),
        ("uniform", 14, True, True),
        ("shapley_kernel", 7, False, False),
        ("shapley_kernel", 24, False, False),
        ("shapley_kernel", 14, True, False),
        ("shapley_kernel", 16, True, True),
        ("permutations", 8, False, False),
        ("permutations", 8, True, False),
    ],
)
def test_expected_counts_are_expected(sampling, n_coalitions, paired, include_extremes):
    """Counted in inverse proportion to its expected count, every coalition comes up once on average, and every size does."""
    generator, codes, samples = seeded(0), 2 ** th.arange(5), []
    # The samplers tell coalitions apart by their size. Of these there are few, so the means over a size's five or ten
    # coalitions betray what the means of the coalitions are too noisy for
    for _ in range(800):
        sample = draw_coalitions(5, n_coalitions, sampling, generator, paired=paired, include_extremes=include_extremes)
        drawn = th.zeros(32, dtype=th.float64)
        samples.append(drawn.index_add_(0, (sample.masks * codes).sum(dim=1), 1 / sample.expected_counts))
    counts = th.stack(samples)
    assert not counts[:, [0, 31]].any()
    members = all_coalitions(5).sum(dim=1)
    by_size = th.stack([counts[:, 1:31][:, members == size].mean(dim=1) for size in range(1, 5)], dim=1)
    for means in (counts[:, 1:31], by_size):
        error = means.std(dim=0) / len(samples) ** 0.5
        assert ((means.mean(dim=0) - 1).abs() <= 4.5 * error + 1e-9).all()


def test_sizes_follow_the_shapley_kernel():
    """Sizes one and nineteen of twenty are drawn in proportion to 1 / 19, until all of them are there."""
    sample = draw_coalitions(20, 100, "shapley_kernel", seeded(0))
    weights = th.tensor([1 / (size * (20 - size)) for size in range(1, 20)])
    wanted = 100 * weights / weights.sum()
    found = sample.masks.sum(dim=1).bincount(minlength=20)[1:]
    assert ((found - wanted).abs() < 1).all()
    full = draw_coalitions(20, 400, "shapley_kernel", seeded(0)).masks.sum(dim=1).bincount(minlength=20)
    assert full[1] == full[19] == 20


def test_orders_and_the_coalitions_met_along_them():
    assert coalitions_along(th.tensor([[2, 0, 1]])).tolist() == [[False, False, True], [True, False, True]]
    sample = draw_coalitions(6, 23, "permutations", seeded(0))
    assert sample.orders.shape == (4, 6) and sample.orders.sort(dim=1).values.equal(th.arange(6).expand(4, 6))
    assert sample.masks.equal(coalitions_along(sample.orders))
    mirrored = draw_coalitions(6, 23, "permutations", seeded(0), paired=True)
    assert mirrored.orders[0].equal(mirrored.orders[1].flip(0)) and is_closed_under_complement(mirrored.masks)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_equal_seeds_give_equal_samples(sampling):
    first, again, other = (draw_coalitions(9, 40, sampling, seeded(seed)) for seed in (1, 1, 2))
    assert first.masks.equal(again.masks) and first.expected_counts.equal(again.expected_counts)
    assert not first.masks.equal(other.masks)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"sampling": "sobol"}, r"sampling='sobol' is unknown, expected one of \['uniform'"),
        ({"n_coalitions": 63}, r"n_coalitions=63 is out of range: 6 agents .*\[1, 62\]"),
        ({"n_coalitions": 0, "sampling": "shapley_kernel"}, r"n_coalitions=0 is out of range"),
        ({"n_coalitions": 7, "paired": True}, "n_coalitions=7 is odd"),
        ({"n_coalitions": 11, "include_extremes": True}, "n_coalitions=11 is too small: .* alone are 12 coalitions of 6"),
        ({"n_coalitions": 4, "sampling": "permutations"}, "n_coalitions=4 is too small: one order of 6 agents meets 5"),
        (
            {"n_coalitions": 9, "sampling": "permutations", "paired": True},
            "n_coalitions=9 is too small: an order and its reverse of 6 agents meets 10",
        ),
        (
            {"sampling": "permutations", "include_extremes": True},
            'include_extremes=True does not go with sampling="permutations"',
        ),
    ],
)
def test_impossible_samples_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        draw_coalitions(6, **{"n_coalitions": 20, **arguments})


@pytest.mark.parametrize("n_agents", [1, 2, 5, 10, 50])
@pytest.mark.parametrize("delta", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("Delta", [1e-6, 0.05, 0.5])
def test_required_coalitions_are_enough(n_agents, delta, Delta):
    """Against the exact bound for programs of n unknowns, summed term by term."""
    n_coalitions = required_coalitions(n_agents, delta, Delta)
    assert n_coalitions == math.ceil((n_agents + math.log(1 / Delta)) / delta**2)
    tail = sum(
        math.exp(
            math.lgamma(n_coalitions + 1)
            - math.lgamma(supported + 1)
            - math.lgamma(n_coalitions - supported + 1)
            + supported * math.log(delta)
            + (n_coalitions - supported) * math.log1p(-delta)
        )
        for supported in range(min(n_agents, n_coalitions + 1))
    )
    assert tail <= Delta


def test_required_coalitions_keep_their_promise():
    """Games of eight agents: the share of coalitions left short stays below delta, far more often than promised."""
    n_agents, delta, Delta = 8, 0.3, 0.05
    n_coalitions = required_coalitions(n_agents, delta, Delta)
    assert n_coalitions == 123
    masks, generator = all_coalitions(n_agents), seeded(0)
    failures = 0
    for _ in range(40):
        values = th.randn(1, len(masks), dtype=th.float64, generator=generator)
        drawn = th.randint(len(masks), (n_coalitions,), generator=generator)
        result = allocate(values[:, drawn], masks[drawn], th.zeros(1, dtype=th.float64), "least_core")
        short = values - result.credits @ masks.double().T > result.epsilon[:, None] + 1e-9
        failures += short.double().mean().item() > delta
    assert failures <= 2


@pytest.mark.parametrize("arguments", [(0, 0.1, 0.1), (5, 0.0, 0.1), (5, 1.0, 0.1), (5, 0.1, 0.0), (5, 0.1, math.nan)])
def test_required_coalitions_of_nonsense(arguments):
    with pytest.raises(ValueError, match="must"):
        required_coalitions(*arguments)
