"""Coalitions: enumerated, sampled, and seen by a part of the agents."""

import pytest
import torch as th

from sb3_cora.credit import all_coalitions, extremes, leave_one_out, singletons
from sb3_cora.credit.coalitions import LARGEST_ENUMERATION, is_closed_under_complement, restrict_coalitions


def seeded(seed: int) -> th.Generator:
    return th.Generator().manual_seed(seed)


@pytest.mark.parametrize("n_agents", [1, 2, 3, 7])
def test_all_coalitions_are_proper_and_different(n_agents):
    masks = all_coalitions(n_agents)
    assert masks.shape == (2**n_agents - 2, n_agents) and masks.dtype == th.bool
    assert len({tuple(mask) for mask in masks.tolist()}) == len(masks)
    assert ((masks.sum(dim=1) > 0) & (masks.sum(dim=1) < n_agents)).all()


def test_all_coalitions_of_two_agents_are_in_binary_order():
    assert all_coalitions(2).tolist() == [[True, False], [False, True]]


def test_too_many_coalitions_to_enumerate_are_refused():
    with pytest.raises(ValueError, match=r"draw_coalitions\(n_agents, n_coalitions\)"):
        all_coalitions(LARGEST_ENUMERATION + 1)


def test_singletons_and_their_complements():
    assert singletons(3).tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    assert leave_one_out(3).equal(~singletons(3))
    with pytest.raises(ValueError, match="2 agents or more"):
        singletons(1)


def test_extremes():
    assert extremes(2).equal(singletons(2))
    assert extremes(4).sum(dim=1).tolist() == [1] * 4 + [3] * 4 and len(extremes(4).unique(dim=0)) == 8


def test_closed_under_complement():
    assert is_closed_under_complement(all_coalitions(4)) and is_closed_under_complement(extremes(5))
    assert is_closed_under_complement(all_coalitions(3).repeat(2, 1))
    assert not is_closed_under_complement(singletons(3)) and not is_closed_under_complement(all_coalitions(3)[1:])


def test_restriction_to_some_agents():
    players = th.tensor([True, False, True, True])
    masks, rows = restrict_coalitions(all_coalitions(4), players)
    # Of the coalitions that differ in the absent agent alone, those without it stand for both
    assert sorted(masks.tolist()) == sorted(all_coalitions(3).tolist())
    assert not all_coalitions(4)[rows][:, 1].any()
    assert all_coalitions(4)[rows][:, players].equal(masks)


def test_restriction_strikes_out_absent_members():
    masks = th.tensor([[True, True, False], [False, True, True], [False, True, False]])
    restricted, rows = restrict_coalitions(masks, th.tensor([True, False, True]))
    assert {tuple(mask): row for mask, row in zip(restricted.tolist(), rows.tolist(), strict=True)} == {
        (True, False): 0,
        (False, True): 1,
    }


def test_restriction_to_all_agents_changes_nothing():
    masks, rows = restrict_coalitions(all_coalitions(4), th.ones(4, dtype=th.bool))
    assert masks.equal(all_coalitions(4)) and rows.tolist() == list(range(14))


def test_restriction_to_one_agent_leaves_no_coalition():
    masks, rows = restrict_coalitions(all_coalitions(3), th.tensor([False, True, False]))
    assert masks.shape == (0, 1) and rows.shape == (0,)
