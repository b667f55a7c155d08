"""A few of the cases that benchmarks/fuzz has by the hundred thousand, and the defects that it has found."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import envs, games
from sb3_cora.credit import CONCEPTS, SOLVERS, CoalitionSample, all_coalitions, allocate


@settings(max_examples=150)
@given(call=st.integers(10**6, 10**9))
def test_games_at_random_are_answered_or_refused(call: int) -> None:
    assert [found for found in games.play(1, call) if found.outcome == "defect"] == []


def test_a_wrong_answer_is_found() -> None:
    """The certificates of the fuzz refuse what is not quite the solution."""
    generator = th.Generator().manual_seed(0)
    masks = all_coalitions(4)
    arguments = {
        "values": th.randn(1, 14, generator=generator, dtype=th.float64) + 1,
        "masks": masks,
        "grand_value": th.ones(1, dtype=th.float64),
        "variance_weight": 0.3,
        "epsilon_bound": "nonnegative",
        "scale": None,
    }
    for concept in CONCEPTS:
        arguments["concept"] = concept
        result = allocate(**arguments)
        assert games._worst_violation(result, arguments, 0, True) < 1e-9
        moved = result.credits + th.tensor([1e-3, -1e-3, 0.0, 0.0])
        lacking = (arguments["values"] - moved @ masks.double().T).amax(dim=1).clamp(min=0)
        wrong = result._replace(credits=moved, epsilon=lacking)
        assert games._worst_violation(wrong, arguments, 0, True) > 1e-6, concept


@pytest.mark.parametrize("case", [0, 1, 4])
def test_environments_at_random_are_trained_on_or_refused(case: int) -> None:
    assert [found for found in envs.play(2, case) if found.outcome == "defect"] == []


GAME: dict[str, Any] = {"values": th.ones(1, 6), "masks": all_coalitions(3), "grand_value": th.ones(1)}


@pytest.mark.parametrize(
    ("argument", "value", "error", "said"),
    [
        ("values", [[1.0] * 6], TypeError, "values must be a torch.Tensor, got list"),
        ("values", th.ones(1, 6).to_sparse(), TypeError, "values must be a dense tensor"),
        ("values", th.ones(1, 6, device="meta"), TypeError, "values must be a dense tensor, got torch.strided on meta"),
        ("values", th.ones(1, 6, dtype=th.complex64), TypeError, "values must be real"),
        ("masks", None, TypeError, "masks must be a torch.Tensor, got NoneType"),
        ("masks", CoalitionSample(all_coalitions(3), th.ones(5)), ValueError, r"expected_counts .* \(n_coalitions=6,\)"),
        ("masks", CoalitionSample(all_coalitions(3), th.zeros(6)), ValueError, "expected_counts .* must be positive, got 0.0"),
        (
            "masks",
            CoalitionSample(all_coalitions(3), th.ones(6), th.zeros(2, 3)),
            ValueError,
            r"orders of the sample given as masks must be \(n_orders, n_agents=3\)",
        ),
        ("grand_value", 1.0, TypeError, "grand_value must be a torch.Tensor, got float"),
        ("player_mask", [[True] * 3], TypeError, "player_mask must be a torch.Tensor, got list"),
        ("concept", {"core"}, ValueError, r"concept=\{'core'\} is unknown"),
        ("epsilon_bound", ["free"], ValueError, r"epsilon_bound=\['free'\] is unknown"),
        ("solver", {}, ValueError, r"solver=\{\} is unknown"),
        ("variance_weight", "0.1", TypeError, "variance_weight must be a number, got '0.1'"),
        ("variance_weight", None, TypeError, "variance_weight must be a number, got None"),
        ("variance_weight", math.inf, ValueError, "variance_weight must be finite, got inf; concept='equal'"),
        ("scale", "batch", TypeError, "scale must be a number or a tensor of one for each game, got 'batch'"),
        ("scale", 1j, TypeError, "scale must be a number or a tensor"),
        ("scale", th.ones(3), ValueError, r"scale must be one number or \(batch=1,\), got \(3,\)"),
    ],
)
def test_what_is_no_argument_is_named(argument: str, value: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        allocate(**{**GAME, argument: value})


@pytest.mark.parametrize("concept", ["core", "least_core", "core_l1", "nucleolus"])
@pytest.mark.parametrize("epsilon_bound", ["nonnegative", "free"])
def test_rounding_errors_of_a_game_of_nothing_have_no_unit(concept: str, epsilon_bound: Any) -> None:
    """Credits of 1e-13 in units of `scale` were not small where the game's own unit is far smaller."""
    rng = np.random.default_rng(0)
    masks = all_coalitions(4)[th.from_numpy(rng.permutation(14))]
    nothing = th.zeros(1, dtype=th.float64)
    result = allocate(th.zeros(1, 14, dtype=th.float64), masks, nothing, concept, epsilon_bound=epsilon_bound, scale=1e187)
    assert not result.credits.any() and not result.epsilon.any() and result.converged.all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_games_at_all(solver: str) -> None:
    if solver == "cvxpylayers":
        pytest.importorskip("cvxpylayers")
    result = allocate(th.zeros(0, 14), all_coalitions(4), th.zeros(0), "core", solver=solver)
    assert result.credits.shape == (0, 4) and result.epsilon.shape == (0,)
