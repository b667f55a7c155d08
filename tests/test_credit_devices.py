"""
Devices other than the CPU, without one. PyTorch's fake tensors have shapes, types and a device but no values: an operation
that mixes devices is an error on them as it is on a real one, and so is one that would make the host wait for a value.
"""

import pytest
import torch as th
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_cora.credit import ActiveSetSolver, all_coalitions, allocate, coalition_values, draw_coalitions
from sb3_cora.credit.solvers import active_set
from tests.test_credit_games import TwinCritic

# Of the accelerators that PyTorch knows, the one that fake tensors can stand on in any build of it
DEVICE = th.device("lazy:0")


@pytest.fixture
def accelerator():
    with FakeTensorMode():
        yield DEVICE


class NoReadBack(TorchDispatchMode):
    """Raises at operations whose result the host waits for on an accelerator."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.WAITS:
            raise RuntimeError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("concept", ["core", "least_core", "core_l1", "equal", "shared"])
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("n_agents", [2, 4])
def test_allocate_stays_on_the_device(concept, dtype, n_agents, accelerator, monkeypatch):
    # Pivots are alike, because nothing can branch on values that are not there; every other one is followed by a refresh
    monkeypatch.setattr(active_set, "PIVOTS_PER_REFRESH", 2)
    masks = all_coalitions(n_agents, accelerator)
    values, grand_value = (th.empty(shape, dtype=dtype, device=accelerator) for shape in ((50, len(masks)), (50,)))
    result = allocate(values, masks, grand_value, concept, solver=ActiveSetSolver(max_pivots=3, dtype=dtype), check=False)
    assert {part.device for part in result} == {accelerator} and result.credits.dtype == dtype


@pytest.mark.parametrize("concept", ["shapley", "banzhaf"])
@pytest.mark.parametrize("sampling", ["uniform", "permutations"])
@pytest.mark.parametrize("absent", [False, True])
def test_estimates_stay_on_the_device(concept, sampling, absent):
    drawn = draw_coalitions(6, 20, sampling, th.Generator().manual_seed(0))
    with FakeTensorMode(allow_non_fake_inputs=True):
        sample = drawn.to(DEVICE)
        values, grand_value = th.empty(50, 20, device=DEVICE), th.empty(50, device=DEVICE)
        players = th.empty(50, 6, dtype=th.bool, device=DEVICE) if absent else None
        result = allocate(values, sample, grand_value, concept, player_mask=players, check=False)
        assert {part.device for part in result} == {DEVICE}


def test_what_fake_tensors_notice(accelerator):
    with pytest.raises(Exception, match=r"aten\._local_scalar_dense"):
        bool(th.zeros(3, device=accelerator).any())
    with pytest.raises(Exception, match="at least two devices"):
        th.zeros(3, 2, device=accelerator) @ th.zeros(2, 3)


@pytest.mark.parametrize("nonnegative_epsilon", [True, False])
@pytest.mark.parametrize("deviation_weight", [0.0, 0.3])
@pytest.mark.parametrize("n_agents", [2, 5])
def test_the_solver_never_waits(nonnegative_epsilon, deviation_weight, n_agents, monkeypatch):
    """What runs on an accelerator, run here with values: nothing is read back, and the credits are those of the other way."""
    masks = all_coalitions(n_agents)
    excesses = th.randn(50, len(masks), dtype=th.float64, generator=th.Generator().manual_seed(0))
    weight = th.full((50,), 0.1, dtype=th.float64)
    programs = (excesses, masks, weight, nonnegative_epsilon, deviation_weight)
    expected = ActiveSetSolver()._attempt(*programs)

    def in_place(problem, excesses, factor, projection=None):
        return active_set._pivot_in_place(problem, *active_set._start(problem, excesses, factor, projection))

    monkeypatch.setattr(active_set, "minimize", in_place)
    with NoReadBack():
        solution = ActiveSetSolver()._attempt(*programs)
    assert solution.converged.all() and solution.gap.max() < 1e-9
    th.testing.assert_close(solution.deviations, expected.deviations, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["plain", "factored"])
@pytest.mark.parametrize("n_draws", [0, 3])
def test_coalition_values_stay_on_the_device(form, n_draws):
    with FakeTensorMode(allow_non_fake_inputs=True):
        actions = th.empty(23, 4, 3, device=DEVICE)
        critic = TwinCritic(th.empty(23, 5), 4, 3)
        for name, part in vars(critic).items():
            if isinstance(part, th.Tensor):
                setattr(critic, name, part.to(DEVICE))
        q_fn = critic if form == "factored" else critic.joint_values
        baseline_actions = th.empty((n_draws, *actions.shape), device=DEVICE) if n_draws else actions
        values = coalition_values(q_fn, actions, baseline_actions, all_coalitions(4, DEVICE))
        assert values.shape == (23, 14) and values.device == DEVICE
