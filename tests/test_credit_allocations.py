"""Solution concepts: games solved by hand, exact properties, and what ``allocate`` accepts and refuses."""

import itertools
import math

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from sb3_cora.credit import (
    CONCEPTS,
    SAMPLINGS,
    SOLVERS,
    ActiveSetSolver,
    CoalitionSample,
    all_coalitions,
    allocate,
    coalitions_along,
    draw_coalitions,
    largest_excess,
)

PROGRAMMES = ("core", "least_core", "core_l1")
# Concepts that treat a game and the same game plus a sum of the members' own worths alike
COVARIANT = ("nucleolus", "shapley", "banzhaf", "difference", "singleton")
BOUNDS = ("nonnegative", "free")

# Each example is three games, which are solved several times; benchmarks/fuzz has them by the hundred thousand
few = settings(max_examples=10)


def game(n_agents: int, worth) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """A batch of one game, given by a function from the set of members to a number."""
    masks = all_coalitions(n_agents)
    members = [frozenset(mask.nonzero()[:, 0].tolist()) for mask in masks]
    values = th.tensor([[float(worth(coalition)) for coalition in members]], dtype=th.float64)
    return values, masks, th.tensor([float(worth(frozenset(range(n_agents))))], dtype=th.float64)


@st.composite
def batches(draw, n_samples: int = 3) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Games of two to five agents with values that range from nothing to a thousand, ties and zeros among them."""
    masks = all_coalitions(draw(st.integers(2, 5)))
    numbers = st.floats(-1000, 1000).map(lambda number: round(number, 6))
    values = draw(arrays(np.float64, (n_samples, len(masks)), elements=numbers))
    grand_value = draw(arrays(np.float64, n_samples, elements=numbers))
    return th.from_numpy(values), masks, th.from_numpy(grand_value)


def size(values: th.Tensor, grand_value: th.Tensor) -> float:
    return 1 + max(values.abs().max().item(), grand_value.abs().max().item())


# Games solved by hand


@pytest.mark.parametrize("variance_weight", [0.0, 0.1, 1.0, 10.0])
def test_paper_example_1(variance_weight):
    """Both agents would lose alone and win together: equal shares, and everyone is content."""
    result = allocate(*game(2, lambda c: 5 if len(c) == 2 else -5), variance_weight=variance_weight)
    assert result.credits.tolist() == [[2.5, 2.5]] and result.epsilon.tolist() == [0.0]


@pytest.mark.parametrize(
    "variance_weight, credits, epsilon",
    [(0.0, (2.5, -7.5), 2.5), (0.1, (2.5, -7.5), 2.5), (0.5, (-1.5, -3.5), 6.5), (1.0, (-2.0, -3.0), 7.0)],
)
def test_paper_example_2(variance_weight, credits, epsilon):
    """Agent 1 would have won alone; the team lost for agent 2."""
    result = allocate(*game(2, lambda c: 5 if c == {0} else -5), variance_weight=variance_weight)
    assert result.credits[0].tolist() == pytest.approx(credits)
    assert result.epsilon.item() == pytest.approx(epsilon)


@pytest.mark.parametrize("concept", [*PROGRAMMES, "nucleolus", "shapley", "equal"])
def test_paper_three_agents(concept):
    """Nothing is won but by all three. A plain linear program may give everything to the first agent."""
    result = allocate(*game(3, lambda c: len(c) == 3), concept)
    assert result.credits[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert result.epsilon.item() == pytest.approx(0)


@pytest.mark.parametrize(
    "concept, credits",
    [
        ("least_core", (1, 0, 0)),
        ("nucleolus", (1, 0, 0)),
        ("shapley", (2 / 3, 1 / 6, 1 / 6)),
        ("banzhaf", (3 / 4, 1 / 4, 1 / 4)),
        ("difference", (1, 0, 0)),
        ("singleton", (0, 0, 0)),
        ("equal", (1 / 3, 1 / 3, 1 / 3)),
        ("shared", (1, 1, 1)),
    ],
)
def test_gloves(concept, credits):
    """One left glove, two right ones; a pair is worth 1."""
    result = allocate(*game(3, lambda c: min(len(c & {0}), len(c & {1, 2}))), concept)
    assert result.credits[0].tolist() == pytest.approx(credits, abs=1e-9)


@pytest.mark.parametrize("concept", [*PROGRAMMES, "nucleolus", "shapley"])
def test_majority(concept):
    """Any two of three win 1: the core is empty, and each pair lacks a third."""
    result = allocate(*game(3, lambda c: len(c) >= 2), concept)
    assert result.credits[0].tolist() == pytest.approx([1 / 3] * 3)
    assert result.epsilon.item() == pytest.approx(1 / 3)


def test_airport_shapley():
    """Runways as long as the longest plane needs: each stretch is shared by the planes that use it."""
    lengths = (1.0, 2.0, 4.0, 8.0)
    result = allocate(*game(4, lambda c: max((lengths[plane] for plane in c), default=0.0)), "shapley")
    assert result.credits[0].tolist() == pytest.approx([1 / 4, 1 / 4 + 1 / 3, 1 / 4 + 1 / 3 + 2 / 2, 1 / 4 + 1 / 3 + 1 + 4])


def test_weighted_majority():
    """Of votes 2, 1, 1, 1 three win: the nucleolus of a homogeneous game is its weights (Peleg 1968)."""
    votes = (2, 1, 1, 1)
    result = allocate(*game(4, lambda c: sum(votes[agent] for agent in c) >= 3), "nucleolus")
    assert result.credits[0].tolist() == pytest.approx([2 / 5, 1 / 5, 1 / 5, 1 / 5])


@pytest.mark.parametrize(
    "estate, shares",
    [
        (100, (100 / 3, 100 / 3, 100 / 3)),
        (200, (50, 75, 75)),
        (300, (50, 100, 150)),
        (400, (50, 125, 225)),
    ],
)
def test_bankruptcy_nucleolus(estate, shares):
    """Claims of 100, 200 and 300 against an estate, as the Talmud divides it (Aumann and Maschler 1985)."""
    claims = (100, 200, 300)

    def worth(members: frozenset[int]) -> float:
        return max(0, estate - sum(claim for creditor, claim in enumerate(claims) if creditor not in members))

    result = allocate(*game(3, worth), "nucleolus")
    assert result.credits[0].tolist() == pytest.approx(shares) and result.converged.all()


def test_airport_nucleolus():
    """Costs of runways 1, 3 and 6 long: everyone pays half of the first, and so on (Littlechild 1974)."""
    result = allocate(*game(3, lambda c: -max((1.0, 3.0, 6.0)[plane] for plane in c)), "nucleolus")
    assert result.credits[0].tolist() == pytest.approx([-0.5, -1.25, -4.25])


def test_free_epsilon_says_how_much_everyone_can_spare():
    """Two agents worth 0 alone and 1 together: at the equal split each is half above what it could have alone."""
    result = allocate(*game(2, lambda c: len(c) == 2), "least_core", epsilon_bound="free")
    assert result.credits[0].tolist() == [0.5, 0.5] and result.epsilon.item() == pytest.approx(-0.5)


# Exact properties


@pytest.mark.parametrize("concept", [name for name in CONCEPTS if CONCEPTS[name].efficient])
@few
@given(batch=batches())
def test_efficiency(concept, batch):
    values, masks, grand_value = batch
    excess = (allocate(values, masks, grand_value, concept).credits.sum(dim=1) - grand_value).abs()
    assert excess.max() <= 1e-9 * size(values, grand_value)


@pytest.mark.parametrize("concept", [name for name in CONCEPTS if not CONCEPTS[name].efficient])
def test_concepts_that_are_not_efficient(concept):
    values, masks, grand_value = game(3, lambda c: len(c) >= 2)
    assert allocate(values, masks, grand_value, concept).credits.sum().item() != pytest.approx(1)


@pytest.mark.parametrize("concept", CONCEPTS)
@few
@given(batch=batches())
def test_epsilon_is_what_the_worst_off_coalition_lacks(concept, batch):
    values, masks, grand_value = batch
    for epsilon_bound in BOUNDS:
        result = allocate(values, masks, grand_value, concept, epsilon_bound=epsilon_bound)
        lacking = largest_excess(result.credits, values, masks)
        expected = lacking.clamp(min=0) if epsilon_bound == "nonnegative" else lacking
        th.testing.assert_close(result.epsilon, expected, rtol=0, atol=1e-9 * size(values, grand_value))


@pytest.mark.parametrize("concept", CONCEPTS)
@few
@given(batch=batches(), seed=st.integers(0, 2**32))
def test_renaming_agents_renames_credits(concept, batch, seed):
    values, masks, grand_value = batch
    order = th.randperm(masks.shape[1], generator=th.Generator().manual_seed(seed))
    credits = allocate(values, masks, grand_value, concept).credits
    renamed = allocate(values, masks[:, order], grand_value, concept).credits
    th.testing.assert_close(renamed, credits[:, order], rtol=0, atol=1e-6 * size(values, grand_value))


@pytest.mark.parametrize("concept", CONCEPTS)
@few
@given(batch=batches(), factor=st.floats(1e-6, 1e6))
def test_scaling(concept, batch, factor):
    """In other units, and with the weight in the inverse ones, credits are the same."""
    values, masks, grand_value = batch
    credits = allocate(values, masks, grand_value, concept, variance_weight=0.3).credits
    # The linearized variance is in the units of the values already
    weight = 0.3 if concept == "core_l1" else 0.3 / factor
    scaled = allocate(factor * values, masks, factor * grand_value, concept, variance_weight=weight)
    th.testing.assert_close(scaled.credits / factor, credits, rtol=0, atol=1e-6 * size(values, grand_value))
    by_scale = allocate(factor * values, masks, factor * grand_value, concept, variance_weight=0.3, scale=factor)
    th.testing.assert_close(by_scale.credits, scaled.credits, rtol=0, atol=1e-6 * factor * size(values, grand_value))


@pytest.mark.parametrize("concept", [*PROGRAMMES, *COVARIANT, "equal"])
@few
@given(batch=batches(), constant=st.floats(-100, 100))
def test_a_constant_for_every_member(concept, batch, constant):
    values, masks, grand_value = batch
    result = allocate(values, masks, grand_value, concept)
    shifted = allocate(values + constant * masks.sum(dim=1), masks, grand_value + constant * masks.shape[1], concept)
    tolerance = 1e-6 * (100 + size(values, grand_value))
    th.testing.assert_close(shifted.credits, result.credits + constant, rtol=0, atol=tolerance)
    th.testing.assert_close(shifted.epsilon, result.epsilon, rtol=0, atol=tolerance)


@pytest.mark.parametrize("concept", COVARIANT)
@few
@given(batch=batches(), data=st.data())
def test_a_sum_of_own_worths_goes_to_whom_it_belongs(concept, batch, data):
    values, masks, grand_value = batch
    own = th.tensor(data.draw(st.lists(st.integers(-100, 100), min_size=masks.shape[1], max_size=masks.shape[1])))
    credits = allocate(values, masks, grand_value, concept).credits
    more = allocate(values + masks.double() @ own.double(), masks, grand_value + own.sum(), concept).credits
    th.testing.assert_close(more, credits + own, rtol=0, atol=1e-6 * (100 + size(values, grand_value)))


@pytest.mark.parametrize("concept", COVARIANT)
@few
@given(st.data())
def test_dummies_get_what_they_bring(concept, data):
    """An agent that adds the same to every coalition. The nucleolus promises it in superadditive games, such as squares."""
    n_agents = data.draw(st.integers(3, 5))
    worths = data.draw(st.lists(st.integers(0, 9), min_size=n_agents - 1, max_size=n_agents - 1))
    own = float(data.draw(st.integers(-9, 9)))

    def worth(members: frozenset[int]) -> float:
        return own * (n_agents - 1 in members) + sum(worths[agent] for agent in members if agent < n_agents - 1) ** 2

    credits = allocate(*game(n_agents, worth), concept).credits
    assert credits[0, -1].item() == pytest.approx(own, abs=1e-6)


@few
@given(batch=batches())
def test_no_excess_of_the_nucleolus_can_be_lowered_before_a_larger_one(batch):
    """Kohlberg 1971: for every level, a transfer that lowers no excess at or above it leaves all of these as they are."""
    values, masks, grand_value = batch
    result = allocate(values, masks, grand_value, "nucleolus", epsilon_bound="free")
    assert result.converged.all()
    members = masks.double().numpy()
    tolerance = 1e-6 * size(values, grand_value)
    for excesses in (values - result.credits @ masks.double().T).numpy():
        for level in np.unique(excesses.round(5)):
            high = members[excesses >= level - tolerance]
            # The best transfer d, with d(C) >= 0 for all of these, gains nothing in total
            program = linprog(
                -high.sum(axis=0),
                A_ub=-high,
                b_ub=np.zeros(len(high)),
                A_eq=np.ones((1, masks.shape[1])),
                b_eq=[0.0],
                bounds=[(-1, 1)] * masks.shape[1],
            )
            assert program.fun > -1e-7


@pytest.mark.parametrize("n_agents", [3, 6, 8])
def test_the_nucleolus_is_in_the_least_core(n_agents):
    generator = th.Generator().manual_seed(0)
    masks = all_coalitions(n_agents)
    values = th.randn(200, len(masks), generator=generator, dtype=th.float64)
    grand_value = th.randn(200, generator=generator, dtype=th.float64)
    result = allocate(values, masks, grand_value, "nucleolus", epsilon_bound="free")
    least = allocate(values, masks, grand_value, "least_core", epsilon_bound="free")
    assert result.converged.all() and result.gap.max() < 1e-9
    th.testing.assert_close(result.epsilon, least.epsilon, rtol=0, atol=1e-9)


def test_nucleolus_of_many_agents_on_sampled_coalitions():
    """Its excesses, sorted, come before those of any other division, which a least core's must not undercut."""
    masks = draw_coalitions(20, 254, generator=th.Generator().manual_seed(0), paired=True).masks
    values = th.randn(10, 254, generator=th.Generator().manual_seed(1), dtype=th.float64)
    grand_value = th.ones(10, dtype=th.float64)
    result = allocate(values, masks, grand_value, "nucleolus")
    assert result.converged.all()
    th.testing.assert_close(result.credits.sum(dim=1), grand_value)
    least = allocate(values, masks, grand_value, "least_core", epsilon_bound="free")

    def sorted_excesses(credits: th.Tensor) -> th.Tensor:
        return (values - credits @ masks.double().T).sort(dim=1, descending=True).values

    differences = sorted_excesses(result.credits) - sorted_excesses(least.credits)
    first = (differences.abs() > 1e-7).double().argmax(dim=1)
    assert (differences[th.arange(10), first] <= 1e-7).all() and (differences < -1e-3).any()


@pytest.mark.parametrize("missing", [1, 5])
def test_nucleolus_needs_complements(missing):
    values, masks, grand_value = game(4, len)
    kept = th.arange(14) != missing
    with pytest.raises(ValueError, match="'nucleolus' needs the complement of every coalition, and some of the 13"):
        allocate(values[:, kept], masks[kept], grand_value, "nucleolus")
    with pytest.raises(ValueError, match=r"'nucleolus' needs double precision, got torch\.float32"):
        allocate(values, masks, grand_value, "nucleolus", solver=ActiveSetSolver(dtype=th.float32))


@few
@given(batch=batches(), variance_weight=st.floats(1e-3, 10))
def test_credits_stay_within_the_cap(batch, variance_weight):
    values, masks, grand_value = batch
    n_agents = masks.shape[1]
    credits = allocate(values, masks, grand_value, variance_weight=variance_weight).credits
    furthest = (credits - grand_value[:, None] / n_agents).abs().max()
    assert furthest <= (n_agents - 1) / (2 * variance_weight) * (1 + 1e-6) + 1e-6


def test_two_agents_reach_the_cap():
    credits = allocate(*game(2, lambda c: 100 if c == {0} else 0), variance_weight=0.3).credits
    assert credits[0].tolist() == pytest.approx([1 / 0.6, -1 / 0.6])


@pytest.mark.parametrize("concept", PROGRAMMES)
@few
@given(batch=batches())
def test_individual_bounds(concept, batch):
    """Coalitions of one and of all but one bound each credit from both sides."""
    values, masks, grand_value = batch
    result = allocate(values, masks, grand_value, concept)
    alone = allocate(values, masks, grand_value, "singleton").credits
    missed = allocate(values, masks, grand_value, "difference").credits
    tolerance = 1e-8 * size(values, grand_value)
    assert (result.credits >= alone - result.epsilon[:, None] - tolerance).all()
    assert (result.credits <= missed + result.epsilon[:, None] + tolerance).all()


@pytest.mark.parametrize("concept", PROGRAMMES)
@few
@given(batch=batches())
def test_equal_shares_where_nobody_wants_more(concept, batch):
    values, masks, grand_value = batch
    excess = (values - grand_value[:, None] * masks.sum(dim=1) / masks.shape[1]).amax(dim=1, keepdim=True)
    result = allocate(values - excess.clamp(min=0) * masks.sum(dim=1), masks, grand_value, concept)
    shares = (grand_value / masks.shape[1])[:, None].expand_as(result.credits)
    th.testing.assert_close(result.credits, shares, rtol=0, atol=1e-9 * size(values, grand_value))
    assert result.epsilon.max() <= 1e-9 * size(values, grand_value)


def test_convex_games_leave_nobody_short():
    """Where joining a larger coalition always pays more, the core is not empty."""
    generator = th.Generator().manual_seed(0)
    masks = all_coalitions(5)
    worths = th.rand(200, 5, generator=generator, dtype=th.float64)
    values, grand_value = (worths @ masks.double().T).square(), worths.sum(dim=1).square()
    assert allocate(values, masks, grand_value, "least_core").epsilon.max() < 1e-9


@pytest.mark.parametrize("concept", PROGRAMMES)
def test_more_coalitions_never_lower_the_objective(concept):
    generator = th.Generator().manual_seed(0)
    masks = all_coalitions(5)[th.randperm(30, generator=generator)]
    values = th.randn(200, 30, generator=generator, dtype=th.float64)
    grand_value = th.randn(200, generator=generator, dtype=th.float64)
    weight = 0.0 if concept == "least_core" else 0.5
    previous = th.full((200,), -math.inf, dtype=th.float64)
    for n_coalitions in (1, 4, 10, 20, 30):
        result = allocate(values[:, :n_coalitions], masks[:n_coalitions], grand_value, concept, variance_weight=weight)
        deviations = result.credits - grand_value[:, None] / 5
        spread = deviations.abs() if concept == "core_l1" else deviations.square()
        objective = result.epsilon + weight * spread.mean(dim=1)
        assert (objective >= previous - 1e-9).all()
        previous = objective


def test_sampled_coalitions_bind_the_others():
    """With M sampled coalitions, at most n / (M + 1) of all coalitions are expected to be left short of epsilon."""
    generator = th.Generator().manual_seed(0)
    n_agents, n_sampled = 8, 40
    masks = all_coalitions(n_agents)
    violated = []
    for _ in range(15):
        values = th.randn(50, len(masks), generator=generator, dtype=th.float64)
        grand_value = th.randn(50, generator=generator, dtype=th.float64)
        rows = th.randperm(len(masks), generator=generator)[:n_sampled]
        result = allocate(values[:, rows], masks[rows], grand_value, "least_core")
        lacking = values - result.credits @ masks.double().T
        violated.append((lacking > result.epsilon[:, None] + 1e-9).double().mean())
    assert 0 < th.stack(violated).mean() <= n_agents / (n_sampled + 1)


def test_shapley_by_permutations():
    generator = th.Generator().manual_seed(0)
    masks = all_coalitions(4)
    values = th.randn(1, 14, generator=generator, dtype=th.float64)
    worth = {frozenset(): 0.0, frozenset(range(4)): 0.7}
    worth |= {frozenset(m.nonzero()[:, 0].tolist()): v for m, v in zip(masks, values[0].tolist(), strict=True)}
    expected = np.zeros(4)
    for order in itertools.permutations(range(4)):
        for place, agent in enumerate(order):
            expected[agent] += (worth[frozenset(order[: place + 1])] - worth[frozenset(order[:place])]) / 24
    credits = allocate(values, masks, th.tensor([0.7], dtype=th.float64), "shapley").credits
    assert credits[0].tolist() == pytest.approx(expected.tolist())


def seeded_games(n_games: int, masks: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Games with large sums of own worths and some synergy, as advantages are."""
    generator = th.Generator().manual_seed(0)
    own = th.randn(n_games, masks.shape[1], generator=generator, dtype=th.float64)
    everyone = th.cat([masks, th.ones(1, masks.shape[1], dtype=th.bool)]).double()
    values = own @ everyone.T + 0.3 * (own @ everyone.T).square()
    values = values + 0.3 * th.randn(values.shape, generator=generator, dtype=th.float64)
    return values[:, :-1], values[:, -1]


def rows_of(masks: th.Tensor, sampled: th.Tensor) -> th.Tensor:
    """Where each sampled coalition stands among all, which come in binary order."""
    return (sampled * 2 ** th.arange(masks.shape[1])).sum(dim=1) - 1


@pytest.mark.parametrize("concept", ["shapley", "banzhaf"])
@pytest.mark.parametrize(
    "sampling, n_coalitions, paired, include_extremes",
    [
        # How often each coalition comes up, for all ways of drawing, is in test_credit_sampling.py
        ("uniform", 12, False, False),
        ("shapley_kernel", 20, True, True),
        ("permutations", 8, False, False),
    ],
)
def test_estimates_are_unbiased(concept, sampling, n_coalitions, paired, include_extremes):
    """The mean of many estimates is the exact value, to their standard error; those who left get nothing from any."""
    masks, generator = all_coalitions(5), th.Generator().manual_seed(1)
    # Four games that nobody has left, four without agent 3, and four without agents 1 and 4
    players = th.ones(12, 5, dtype=th.bool)
    players[4:8, 3] = players[8:, 1] = players[8:, 4] = False
    values, grand_value = seeded_games(4, masks)
    values, grand_value = values.repeat(3, 1), grand_value.repeat(3)
    # Agents that take no part change no value
    represented = (masks & players[:, None]).long() @ 2 ** th.arange(5)
    values = th.cat([th.zeros(12, 1), values, grand_value[:, None]], dim=1).gather(1, represented)
    everyone = represented == (players.long() @ 2 ** th.arange(5))[:, None]
    values = th.where(everyone, grand_value[:, None], values)
    exact = allocate(values, masks, grand_value, concept, player_mask=players).credits
    estimates = []
    for _ in range(200):
        sample = draw_coalitions(5, n_coalitions, sampling, generator, paired=paired, include_extremes=include_extremes)
        result = allocate(values[:, rows_of(masks, sample.masks)], sample, grand_value, concept, player_mask=players)
        estimates.append(result.credits)
    stacked = th.stack(estimates)
    error = stacked.std(dim=0) / len(estimates) ** 0.5
    assert ((stacked.mean(dim=0) - exact).abs() <= 4.5 * error + 1e-9).all()
    assert not stacked[:, ~players].any()
    if concept == "shapley":
        th.testing.assert_close(stacked.sum(dim=2), grand_value.expand(len(stacked), -1))


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_sampled_credits_approach_the_full_ones(concept, sampling):
    n_agents = 7
    masks = all_coalitions(n_agents)
    values, grand_value = seeded_games(6, masks)
    exact = allocate(values, masks, grand_value, concept).credits
    extremes_needed = concept in ("difference", "singleton")
    if extremes_needed and sampling == "permutations":
        pytest.skip("made of coalitions that a few orders may not meet")
    errors = []
    # The last are all there are, or nearly so: one draw is like the other
    for n_coalitions, n_draws in ((24, 3), (120, 3), (3000 if sampling == "permutations" else 126, 1)):
        generator = th.Generator().manual_seed(0)
        total = 0.0
        for _ in range(n_draws):
            sample = draw_coalitions(
                n_agents, n_coalitions, sampling, generator, paired=True, include_extremes=extremes_needed
            )
            credits = allocate(values[:, rows_of(masks, sample.masks)], sample, grand_value, concept).credits
            total += (credits - exact).abs().mean().item()
        errors.append(total / n_draws)
    if concept in ("equal", "shared", "difference", "singleton"):
        assert max(errors) < 1e-12
    else:
        assert errors[2] < errors[1] < errors[0]
        assert errors[2] < (0.3 * errors[0] if sampling == "permutations" else 1e-8)


@pytest.mark.parametrize("expected_counts", [th.ones(2), None])
def test_along_one_order_everyone_gets_what_they_add(expected_counts):
    """Agent 2 comes first, then 0, then 1; where 0 is gone, 1 adds the rest."""
    sample = CoalitionSample(coalitions_along(th.tensor([[2, 0, 1]])), expected_counts, th.tensor([[2, 0, 1]]))
    values, grand_value = th.tensor([[1.0, 5.0]] * 3), th.tensor([7.0] * 3)
    players = th.tensor([[True, True, True], [False, True, True], [True, False, False]])
    credits = allocate(values, sample, grand_value, "shapley", player_mask=players).credits
    assert credits.tolist() == [[4.0, 2.0, 1.0], [0.0, 6.0, 1.0], [7.0, 0.0, 0.0]]


def test_a_sample_of_sums_of_own_worths_is_divided_exactly_along_orders():
    sample = draw_coalitions(30, 29, "permutations", th.Generator().manual_seed(0))
    own = th.randn(5, 30, generator=th.Generator().manual_seed(1), dtype=th.float64)
    credits = allocate(own @ sample.masks.double().T, sample, own.sum(dim=1), "shapley").credits
    th.testing.assert_close(credits, own)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_repeated_coalitions_do_not_count_twice(concept):
    masks = all_coalitions(4)
    values, grand_value = seeded_games(20, masks)
    once = allocate(values, masks, grand_value, concept).credits
    twice = allocate(values.repeat(1, 2), masks.repeat(2, 1), grand_value, concept).credits
    th.testing.assert_close(twice, once, rtol=0, atol=1e-9)


# Batches, players and numbers


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("epsilon_bound", BOUNDS)
def test_players_play_the_game_of_those_present(concept, epsilon_bound):
    """Agents 1 and 3 are gone; what is left is the three agents' own game."""
    generator = th.Generator().manual_seed(0)
    players = th.tensor([True, False, True, False, True])
    masks = all_coalitions(5)
    values = th.randn(20, len(masks), generator=generator, dtype=th.float64)
    grand_value = th.randn(20, generator=generator, dtype=th.float64)
    result = allocate(values, masks, grand_value, concept, epsilon_bound=epsilon_bound, player_mask=players.expand(20, 5))
    present = (~masks[:, ~players]).all(dim=1) & (masks[:, players].sum(dim=1) < 3)
    expected = allocate(values[:, present], masks[present][:, players], grand_value, concept, epsilon_bound=epsilon_bound)
    assert not result.credits[:, ~players].any()
    th.testing.assert_close(result.credits[:, players], expected.credits, rtol=0, atol=1e-10)
    th.testing.assert_close(result.epsilon, expected.epsilon, rtol=0, atol=1e-10)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_teams_of_every_size_in_one_batch(concept):
    generator = th.Generator().manual_seed(0)
    masks = all_coalitions(3)
    values = th.randn(8, 6, generator=generator, dtype=th.float64)
    grand_value = th.randn(8, generator=generator, dtype=th.float64)
    players = th.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    result = allocate(values, masks, grand_value, concept, player_mask=players)
    assert result.converged.all() and result.credits.isfinite().all()
    assert not result.credits[players == 0].any()
    assert not result.credits[0].any() and result.epsilon[0] == 0
    for lone in (1, 2, 4):
        assert result.credits[lone].sum() == grand_value[lone]
    everyone = allocate(values, masks, grand_value, concept)
    th.testing.assert_close(result.credits[7], everyone.credits[7], rtol=0, atol=1e-12)
    if CONCEPTS[concept].efficient:
        th.testing.assert_close(result.credits[1:].sum(dim=1), grand_value[1:])


@pytest.mark.parametrize("concept", CONCEPTS)
def test_one_agent_gets_everything(concept):
    grand_value = th.tensor([3.0, -1.0])
    result = allocate(th.zeros(2, 0), all_coalitions(1), grand_value, concept)
    assert result.credits.tolist() == [[3.0], [-1.0]] and result.epsilon.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("concept", [*PROGRAMMES, "nucleolus", "equal"])
def test_no_coalition_no_demand(concept):
    result = allocate(th.zeros(1, 0), th.zeros(0, 4, dtype=th.bool), th.tensor([2.0]), concept)
    assert result.credits.tolist() == [[0.5] * 4] and result.epsilon.tolist() == [0.0]


@pytest.mark.parametrize("concept", CONCEPTS)
def test_empty_batch(concept):
    result = allocate(th.zeros(0, 6), all_coalitions(3), th.zeros(0), concept)
    assert result.credits.shape == (0, 3) and result.epsilon.shape == (0,)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_the_dtype_of_the_values_comes_back(concept, dtype):
    generator = th.Generator().manual_seed(0)
    values = th.randn(50, 14, generator=generator)
    grand_value = th.randn(50, generator=generator)
    result = allocate(values.to(dtype), all_coalitions(4), grand_value.to(dtype), concept)
    assert {result.credits.dtype, result.epsilon.dtype, result.gap.dtype} == {dtype}
    exact = allocate(values.double(), all_coalitions(4), grand_value.double(), concept)
    th.testing.assert_close(result.credits.double(), exact.credits, rtol=1e-6, atol=1e-6)


def test_no_gradient_flows():
    values = th.randn(2, 14, requires_grad=True)
    assert not allocate(values, all_coalitions(4), values.sum(dim=1)).credits.requires_grad


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["values", "grand_value"])
def test_numbers_that_are_not_finite(concept, number, where):
    """An error that names them, or zero credits and a flag; the other samples never notice."""
    generator = th.Generator().manual_seed(0)
    masks = all_coalitions(4)
    values, grand_value = th.randn(30, 14, generator=generator), th.randn(30, generator=generator)
    clean = allocate(values, masks, grand_value, concept)
    if where == "values":
        values[17, 3] = number
        named = "1 of 14 coalition values"
    else:
        grand_value[17] = number
        named = f"grand_value={number}"
    with pytest.raises(ValueError, match=f"1 of 30 samples .* first is sample 17: .*{named}"):
        allocate(values, masks, grand_value, concept)
    result = allocate(values, masks, grand_value, concept, check=False)
    others = th.arange(30) != 17
    assert result.credits[17].tolist() == [0.0] * 4 and not result.converged[17] and result.converged[others].all()
    assert result.credits[others].equal(clean.credits[others])


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("magnitude", [1e-300, 1e-12, 1e12, 1e300])
def test_any_magnitude(concept, magnitude):
    generator = th.Generator().manual_seed(0)
    masks = all_coalitions(4)
    values = th.randn(100, 14, generator=generator, dtype=th.float64)
    grand_value = th.randn(100, generator=generator, dtype=th.float64)
    expected = allocate(values, masks, grand_value, concept, scale=0.7).credits
    result = allocate(magnitude * values, masks, magnitude * grand_value, concept, scale=0.7 * magnitude)
    th.testing.assert_close(result.credits / magnitude, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("epsilon_bound", BOUNDS)
@pytest.mark.parametrize("n_agents", [2, 3, 6, 8])
def test_degenerate_games(concept, epsilon_bound, n_agents):
    """Nothing worth anything, everything worth the same, one coalition that dwarfs the others, and a debt that all share."""
    masks = all_coalitions(n_agents)
    values = th.zeros(5, len(masks), dtype=th.float64)
    values[1], values[2, 0], values[3, -1] = 3.0, 1e12, -1e12
    grand_value = th.tensor([0.0, 3.0, 1.0, 1.0, -1e12], dtype=th.float64)
    result = allocate(values, masks, grand_value, concept, epsilon_bound=epsilon_bound)
    assert result.converged.all() and all(part.isfinite().all() for part in result)
    if CONCEPTS[concept].efficient:
        largest = th.tensor([1.0, 3.0, 1e12, 1e12, 1e12], dtype=th.float64)
        assert ((result.credits.sum(dim=1) - grand_value).abs() <= 1e-9 * largest).all()
    if concept not in ("singleton", "difference"):
        # Agents that nothing tells apart are given the same
        assert (result.credits[[0, 1, 4]].std(dim=1) <= 1e-9 * th.tensor([1.0, 3.0, 1e12])).all()


def test_one_scale_for_each_sample():
    generator = th.Generator().manual_seed(0)
    masks = all_coalitions(3)
    values = th.randn(5, 6, generator=generator, dtype=th.float64)
    grand_value = th.randn(5, generator=generator, dtype=th.float64)
    scale = th.tensor([0.1, 1.0, 2.0, 30.0, 400.0])
    together = allocate(values, masks, grand_value, variance_weight=2.0, scale=scale).credits
    for sample in range(5):
        one = slice(sample, sample + 1)
        weight = 2.0 / scale[sample].item()
        alone = allocate(values[one], masks, grand_value[one], variance_weight=weight).credits
        th.testing.assert_close(together[one], alone, rtol=0, atol=1e-7)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_impossible_scales(scale):
    values, masks, grand_value = game(3, len)
    with pytest.raises(ValueError, match=r"scale must be positive and finite, got .* for sample 0"):
        allocate(values, masks, grand_value, scale=scale)
    result = allocate(values, masks, grand_value, scale=scale, check=False)
    assert not result.converged.any() and not result.credits.any()


# Refusals


def test_unknown_names_list_the_known_ones():
    values, masks, grand_value = game(3, len)
    with pytest.raises(ValueError, match="concept='nash' is unknown") as error:
        allocate(values, masks, grand_value, "nash")
    assert all(repr(concept) in str(error.value) for concept in CONCEPTS)
    with pytest.raises(ValueError, match="solver='simplex' is unknown") as error:
        allocate(values, masks, grand_value, solver="simplex")
    assert all(repr(solver) in str(error.value) for solver in SOLVERS)
    with pytest.raises(ValueError, match="epsilon_bound='positive' is unknown, expected 'nonnegative' or 'free'"):
        allocate(values, masks, grand_value, epsilon_bound="positive")


@pytest.mark.parametrize("variance_weight", [-0.1, math.nan])
def test_impossible_weights(variance_weight):
    with pytest.raises(ValueError, match="variance_weight must not be negative, got"):
        allocate(*game(3, len), variance_weight=variance_weight)


def test_coalitions_that_are_not_proper():
    values, masks, grand_value = game(3, len)
    masks[2] = True
    with pytest.raises(ValueError, match=r"masks\[2\] is the grand coalition"):
        allocate(values, masks, grand_value)
    masks[1] = False
    with pytest.raises(ValueError, match=r"masks\[1\] is empty"):
        allocate(values, masks, grand_value)


def test_shapes_that_do_not_belong_together():
    values, masks, grand_value = game(3, len)
    with pytest.raises(ValueError, match="masks must be boolean"):
        allocate(values, masks.float(), grand_value)
    with pytest.raises(ValueError, match=r"n_coalitions=6\), got torch.float64 \(1, 5\)"):
        allocate(values[:, :5], masks, grand_value)
    with pytest.raises(ValueError, match="floating point"):
        allocate(values.long(), masks, grand_value)
    with pytest.raises(ValueError, match=r"grand_value must be \(batch=1,\), got \(1, 1\)"):
        allocate(values, masks, grand_value[:, None])
    with pytest.raises(ValueError, match=r"player_mask must be \(batch=1, n_agents=3\), got \(3,\)"):
        allocate(values, masks, grand_value, player_mask=th.ones(3, dtype=th.bool))


@pytest.mark.parametrize("concept", ["shapley", "banzhaf"])
def test_exact_marginals_need_every_coalition(concept):
    values, masks, grand_value = game(3, len)
    with pytest.raises(ValueError, match=f"concept='{concept}' needs all 6 proper coalitions of 3 agents, got 5"):
        allocate(values[:, 1:], masks[1:], grand_value, concept)


@pytest.mark.parametrize("concept, n_members", [("singleton", 1), ("difference", 3)])
def test_missing_coalitions_are_named(concept, n_members):
    values, masks, grand_value = game(4, len)
    kept = ~((masks.sum(dim=1) == n_members) & masks[:, 1] & masks[:, 1:].sum(dim=1).ge(n_members - 1))
    with pytest.raises(ValueError, match=f"concept='{concept}' needs 4 coalitions of which . are not given"):
        allocate(values[:, kept], masks[kept], grand_value, concept)


@pytest.mark.parametrize("concept", PROGRAMMES)
def test_free_epsilon_needs_balanced_coalitions(concept):
    """Where credits can be moved so that all coalitions at hand gain, a free epsilon falls without end."""
    values, masks, grand_value = game(4, len)
    holding_agent_0 = masks[:, 0]
    with pytest.raises(ValueError, match="needs balanced coalitions, and the 7 given ones are not"):
        allocate(values[:, holding_agent_0], masks[holding_agent_0], grand_value, concept, epsilon_bound="free")
    singletons = masks.sum(dim=1) == 1
    allocate(values[:, singletons], masks[singletons], grand_value, concept, epsilon_bound="free")


def test_many_agents_on_sampled_coalitions():
    masks = draw_coalitions(50, 60, generator=th.Generator().manual_seed(0)).masks
    values = th.randn(20, 60, generator=th.Generator().manual_seed(1))
    result = allocate(values, masks, th.ones(20))
    assert result.converged.all()
    th.testing.assert_close(result.credits.sum(dim=1), th.ones(20))
