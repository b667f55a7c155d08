"""The core program in cvxpylayers, over every backend at hand, against the batched solver and linear programming."""

import math
import sys

import numpy as np
import pytest
import torch as th
from scipy.optimize import linprog

from benchmarks.credit.games import GAMES
from sb3_cora.credit import ActiveSetSolver, ConvergenceError, CvxpyLayersSolver, all_coalitions, allocate
from sb3_cora.credit.solvers import Solution, cvxpylayers

BOUNDS = ("nonnegative", "free")
CREDIT_ERRORS = {"diffcp": 1e-3, "moreau": 1e-4}
"""How far off credits may be, in games of values of size one."""


@pytest.fixture(params=CREDIT_ERRORS)
def backend(request: pytest.FixtureRequest) -> str:
    return installed(request.param)


def installed(backend: str) -> str:
    for module in cvxpylayers.BACKENDS[backend].modules:
        pytest.importorskip(module)
    return backend


def games(n_games: int, masks: th.Tensor, kind: str = "normal", seed: int = 0) -> tuple[th.Tensor, th.Tensor]:
    values, grand_value = GAMES[kind](np.random.default_rng(seed), n_games, masks.numpy())
    return th.from_numpy(values), th.from_numpy(grand_value)


def programs(n_programs: int, n_agents: int, epsilon_bound: str) -> tuple[th.Tensor, th.Tensor]:
    """Excesses of random games, scaled as ``CoreSolver`` is promised them, and the coalitions."""
    masks = all_coalitions(n_agents)
    generator = th.Generator().manual_seed(n_agents)
    excesses = th.randn(n_programs, len(masks), dtype=th.float64, generator=generator)
    lowest = excesses.amin(dim=1) if epsilon_bound == "free" else th.zeros(n_programs)
    size = excesses.amax(dim=1) - lowest
    return excesses / th.where(size > 0, size, 1)[:, None], masks


def objective(
    deviations: th.Tensor,
    excesses: th.Tensor,
    masks: th.Tensor,
    variance_weight: float,
    epsilon_bound: str,
    deviation_weight: float = 0.0,
) -> th.Tensor:
    epsilon = (excesses - deviations @ masks.double().T).amax(dim=1)
    if epsilon_bound == "nonnegative":
        epsilon = epsilon.clamp(min=0)
    spread = variance_weight * deviations.square() + deviation_weight * deviations.abs()
    return epsilon + spread.mean(dim=1)


def solve(
    solver: ActiveSetSolver | CvxpyLayersSolver,
    excesses: th.Tensor,
    masks: th.Tensor,
    variance_weight: float,
    epsilon_bound: str,
    deviation_weight: float = 0.0,
) -> Solution:
    return solver.solve(
        excesses,
        masks,
        excesses.new_full((len(excesses),), variance_weight),
        nonnegative_epsilon=epsilon_bound == "nonnegative",
        deviation_weight=deviation_weight,
    )


def without_variance(excesses: th.Tensor, masks: th.Tensor, epsilon_bound: str, deviation_weight: float) -> np.ndarray:
    """The program without its variance term, a linear one over ``(d, eps, t)`` with ``t >= |d|``: deviations of one game."""
    n_coalitions, n_agents = masks.shape
    members, agents = masks.numpy().astype(float), np.eye(n_agents)
    program = linprog(
        np.concatenate([np.zeros(n_agents), [1.0], np.full(n_agents, deviation_weight / n_agents)]),
        A_ub=np.block(
            [
                [-members, -np.ones((n_coalitions, 1)), np.zeros((n_coalitions, n_agents))],
                [agents, np.zeros((n_agents, 1)), -agents],
                [-agents, np.zeros((n_agents, 1)), -agents],
            ]
        ),
        b_ub=np.concatenate([-excesses.numpy(), np.zeros(2 * n_agents)]),
        A_eq=np.concatenate([np.ones(n_agents), np.zeros(n_agents + 1)])[None],
        b_eq=[0.0],
        bounds=[(None, None)] * n_agents + [(0 if epsilon_bound == "nonnegative" else None, None)] + [(0, None)] * n_agents,
    )
    assert program.success
    return program.x[:n_agents]


# cvxpylayers 1.2 hands torch tensors to numpy in a way that numpy 2 is about to refuse
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
class TestCvxpyLayers:
    @pytest.mark.parametrize("n_agents", [2, 3, 8])
    @pytest.mark.parametrize("variance_weight", [0.0, 0.1, 20.0])
    @pytest.mark.parametrize("epsilon_bound", BOUNDS)
    def test_same_credits(self, backend: str, n_agents: int, variance_weight: float, epsilon_bound: str) -> None:
        masks = all_coalitions(n_agents)
        values, grand_value = games(20 if n_agents < 8 else 5, masks)
        options = {"variance_weight": variance_weight, "epsilon_bound": epsilon_bound}
        ours = allocate(values, masks, grand_value, **options)
        theirs = allocate(values, masks, grand_value, solver=CvxpyLayersSolver(backend), **options)
        th.testing.assert_close(theirs.credits, ours.credits, rtol=0, atol=CREDIT_ERRORS[backend])
        th.testing.assert_close(theirs.epsilon, ours.epsilon, rtol=0, atol=1e-5)
        assert theirs.gap.max() < 1e-6 and theirs.converged.all()

    @pytest.mark.parametrize("kind", ["supermodular", "zero", "ties"])
    @pytest.mark.parametrize("epsilon_bound", BOUNDS)
    def test_same_credits_where_epsilon_has_a_bound_to_meet(self, backend: str, kind: str, epsilon_bound: str) -> None:
        """Free, epsilon is below zero in most supermodular games; a bound lost on the way to the backend would show."""
        masks = all_coalitions(4)
        values, grand_value = games(20, masks, kind)
        options = {"variance_weight": 0.1, "epsilon_bound": epsilon_bound}
        ours = allocate(values, masks, grand_value, **options)
        theirs = allocate(values, masks, grand_value, solver=CvxpyLayersSolver(backend), **options)
        th.testing.assert_close(theirs.credits, ours.credits, rtol=0, atol=CREDIT_ERRORS[backend])
        th.testing.assert_close(theirs.epsilon, ours.epsilon, rtol=0, atol=1e-5)
        assert epsilon_bound == "free" or theirs.epsilon.min() >= 0

    @pytest.mark.parametrize("n_agents", [2, 5])
    @pytest.mark.parametrize("deviation_weight", [0.2, 0.7, 3.0])
    @pytest.mark.parametrize("epsilon_bound", BOUNDS)
    def test_same_deviations_with_a_deviation_weight(
        self, backend: str, n_agents: int, deviation_weight: float, epsilon_bound: str
    ) -> None:
        excesses, masks = programs(20, n_agents, epsilon_bound)
        arguments = (excesses, masks, 0.3, epsilon_bound, deviation_weight)
        ours = solve(ActiveSetSolver(), *arguments)
        theirs = solve(CvxpyLayersSolver(backend), *arguments)
        th.testing.assert_close(theirs.deviations, ours.deviations, rtol=0, atol=1e-4)
        th.testing.assert_close(
            objective(theirs.deviations, *arguments), objective(ours.deviations, *arguments), rtol=0, atol=1e-8
        )
        assert theirs.converged.all() and theirs.gap.max() < 1e-8

    @pytest.mark.parametrize("n_agents", [2, 4])
    @pytest.mark.parametrize("deviation_weight", [0.0, 0.3, 1.5])
    @pytest.mark.parametrize("epsilon_bound", BOUNDS)
    def test_linear_programming_brackets_the_objective(
        self, backend: str, n_agents: int, deviation_weight: float, epsilon_bound: str
    ) -> None:
        """The minimum lies above that without the variance term, by no more than that one's solution has of variance."""
        variance_weight = 1e-3
        excesses, masks = programs(8, n_agents, epsilon_bound)
        solution = solve(CvxpyLayersSolver(backend), excesses, masks, variance_weight, epsilon_bound, deviation_weight)
        reached = objective(solution.deviations, excesses, masks, variance_weight, epsilon_bound, deviation_weight)
        linear = np.stack([without_variance(excess, masks, epsilon_bound, deviation_weight) for excess in excesses])
        lower, upper = (
            objective(th.from_numpy(linear), excesses, masks, weight, epsilon_bound, deviation_weight)
            for weight in (0.0, variance_weight)
        )
        assert (lower - 1e-7 < reached).all() and (reached < upper + 1e-7).all()
        assert solution.converged.all() and solution.gap.max() < 1e-7

    @pytest.mark.parametrize("variance_weight", [1e-4, 1e-3])
    def test_certificate_at_tiny_variance_weights(self, backend: str, variance_weight: float) -> None:
        """There, the bound magnifies what multipliers are off by thousands of times."""
        excesses, masks = programs(20, 5, "nonnegative")
        for deviation_weight in (0.0, 0.5):
            solution = solve(CvxpyLayersSolver(backend), excesses, masks, variance_weight, "nonnegative", deviation_weight)
            assert solution.converged.all() and -1e-12 < solution.gap.min() and solution.gap.max() < 1e-7

    def test_a_large_deviation_weight_gives_equal_shares(self, backend: str) -> None:
        """No coalition gains more than half of what the deviations sum to, so from ``n / 2`` on none is worth its price."""
        excesses, masks = programs(20, 4, "nonnegative")
        solution = solve(CvxpyLayersSolver(backend), excesses, masks, 0.1, "nonnegative", 2.5)
        assert solution.converged.all() and solution.deviations.abs().max() < 1e-5

    def test_a_second_call_is_as_good_as_the_first(self, backend: str) -> None:
        excesses, masks = programs(10, 3, "nonnegative")
        solver = CvxpyLayersSolver(backend)
        first, _, again = (solve(solver, excesses[:size], masks, 0.1, "nonnegative") for size in (10, 7, 10))
        assert th.equal(again.deviations, first.deviations)

    def test_values_of_minus_a_lot_switch_coalitions_off(self, backend: str) -> None:
        excesses, masks = programs(20, 4, "nonnegative")
        some = solve(CvxpyLayersSolver(backend), excesses[:, ::2], masks[::2], 0.1, "nonnegative")
        excesses[:, 1::2] = -1e30
        solution = solve(CvxpyLayersSolver(backend), excesses, masks, 0.1, "nonnegative")
        th.testing.assert_close(solution.deviations, some.deviations, rtol=0, atol=1e-5)
        assert solution.converged.all()

    def test_no_gradient_is_kept(self, backend: str) -> None:
        excesses, masks = programs(4, 3, "nonnegative")
        solution = solve(CvxpyLayersSolver(backend), excesses.requires_grad_(), masks, 0.1, "nonnegative")
        assert not solution.deviations.requires_grad and not solution.gap.requires_grad

    def test_samples_it_cannot_solve_are_flagged(self) -> None:
        """diffcp, which raises for the batch."""
        installed("diffcp")
        from diffcp import SolverError

        masks = all_coalitions(3)
        layer = cvxpylayers._core_layer(masks, True, 0.0, "diffcp", CvxpyLayersSolver().solver_args)
        forward = layer.forward

        def fragile(excesses: th.Tensor, variance_weight: th.Tensor) -> tuple[th.Tensor, ...]:
            if (excesses > 100).any():
                raise SolverError
            return forward(excesses, variance_weight)

        excesses = games(9, masks)[0]
        expected, _ = layer(excesses, th.ones(9, dtype=th.float64))
        excesses[4] = 1000
        layer.forward = fragile
        answer = cvxpylayers._solve_samples(layer, excesses, th.ones(9, dtype=th.float64), 3)
        assert answer.answered.tolist() == [sample != 4 for sample in range(9)]
        th.testing.assert_close(answer.deviations[answer.answered], expected[answer.answered])
        assert not answer.deviations[4].any() and not answer.multipliers[4].any()

    @pytest.mark.parametrize("epsilon_bound", BOUNDS)
    def test_samples_that_moreau_gives_up_on_are_flagged(self, epsilon_bound: str) -> None:
        """moreau raises nothing: it reports a status for each sample, here that of too few iterations for some."""
        excesses, masks = programs(50, 4, epsilon_bound)
        impatient = CvxpyLayersSolver(installed("moreau"), solver_args={"active_set_settings": {"iter_limit": 8}})
        solution = solve(impatient, excesses, masks, 0.1, epsilon_bound)
        solved = solution.converged
        assert 10 < solved.sum() < 40
        assert not solution.deviations[~solved].any() and solution.gap.isfinite().all()
        finished = solve(ActiveSetSolver(), excesses, masks, 0.1, epsilon_bound)
        th.testing.assert_close(solution.deviations[solved], finished.deviations[solved], rtol=0, atol=1e-5)

    def test_a_failure_is_an_error_by_default(self) -> None:
        impatient = CvxpyLayersSolver(installed("moreau"), solver_args={"active_set_settings": {"iter_limit": 1}})
        masks = all_coalitions(4)
        values, grand_value = games(5, masks)
        with pytest.raises(ConvergenceError, match="did not converge"):
            allocate(values, masks, grand_value, solver=impatient)
        assert not allocate(values, masks, grand_value, solver=impatient, check=False).converged.any()

    def test_what_is_not_finite_counts_as_given_up(self) -> None:
        layer = cvxpylayers._core_layer(all_coalitions(2), True, 0.0, installed("diffcp"), CvxpyLayersSolver().solver_args)
        layer.forward = lambda excesses, _: (excesses * math.nan, excesses)
        answer = cvxpylayers._solve_samples(layer, th.ones(3, 2, dtype=th.float64), th.ones(3, dtype=th.float64), 2)
        assert not answer.answered.any() and not answer.deviations.any() and not answer.multipliers.any()

    def test_options_are_added_to_the_default_ones(self) -> None:
        solver = CvxpyLayersSolver(installed("diffcp"), solver_args={"tol_feas": 1e-9, "max_iter": 7})
        assert solver.solver_args == {**cvxpylayers.BACKENDS["diffcp"].solver_args, "tol_feas": 1e-9, "max_iter": 7}
        assert "max_iter" not in cvxpylayers.BACKENDS["diffcp"].solver_args

    def test_the_interior_point_of_moreau(self) -> None:
        excesses, masks = programs(20, 4, "nonnegative")
        solver = CvxpyLayersSolver(installed("moreau"), solver_args={"solver": "ipm"})
        solution = solve(solver, excesses, masks, 0.1, "nonnegative", 0.5)
        expected = solve(CvxpyLayersSolver("moreau"), excesses, masks, 0.1, "nonnegative", 0.5)
        th.testing.assert_close(solution.deviations, expected.deviations, rtol=0, atol=1e-3)
        assert solution.converged.all()

    @pytest.mark.parametrize("name", ["cuclarabel", "mpax"])
    def test_backends_that_are_seldom_installed(self, name: str) -> None:
        excesses, masks = programs(4, 3, "nonnegative")
        solution = solve(CvxpyLayersSolver(installed(name), tolerance=1e-4), excesses, masks, 0.1, "nonnegative", 0.5)
        expected = solve(CvxpyLayersSolver(), excesses, masks, 0.1, "nonnegative", 0.5)
        th.testing.assert_close(solution.deviations, expected.deviations, rtol=0, atol=1e-2)
        assert solution.converged.all()


def test_an_unknown_backend() -> None:
    with pytest.raises(
        ValueError, match=r"backend='gurobi' is unknown, expected one of \['diffcp', 'moreau', 'cuclarabel', 'mpax'\]"
    ):
        CvxpyLayersSolver("gurobi")


@pytest.mark.parametrize(("name", "backend"), cvxpylayers.BACKENDS.items())
def test_missing_packages_name_their_installation(
    name: str, backend: cvxpylayers.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, backend.modules[-1], None)
    with pytest.raises(ImportError) as error:
        CvxpyLayersSolver(name)
    assert f"`pip install {backend.packages}`" in str(error.value)
    assert backend.modules[-1] in str(error.value)


def test_missing_extra_names_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpylayers", None)
    with pytest.raises(ImportError, match=r'pip install "sb3-cora\[cvxpylayers\]"'):
        allocate(th.zeros(1, 2), all_coalitions(2), th.zeros(1), solver="cvxpylayers")


@pytest.mark.parametrize("threshold", [0.0, 0.1, 1.0, 10.0])
def test_the_best_signs_for_given_multipliers(threshold: float) -> None:
    """No shift of the pull leaves less behind."""
    pull = th.rand(200, 5, dtype=th.float64, generator=th.Generator().manual_seed(0))
    pull[0] = 0.3
    pull[1] = th.tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    residual = cvxpylayers._centered_residual(pull, threshold)
    assert residual.sum(dim=1).abs().max() < 1e-14
    for shift in th.linspace(-0.5, 1.5, 2001, dtype=th.float64):
        rival = th.nn.functional.softshrink(pull - shift, threshold)
        assert (residual.square().sum(dim=1) <= rival.square().sum(dim=1) + 1e-14).all()
    if threshold >= 1:
        assert residual.abs().max() < 1e-14


@pytest.mark.parametrize("epsilon_bound", BOUNDS)
def test_any_multipliers_give_a_lower_bound(epsilon_bound: str) -> None:
    excesses, masks = programs(50, 4, epsilon_bound)
    generator = th.Generator().manual_seed(1)
    for variance_weight in (0.05, 5.0):
        for deviation_weight in (0.0, 0.4, 5.0):
            arguments = (excesses, masks, variance_weight, epsilon_bound, deviation_weight)
            multipliers = th.rand(excesses.shape, dtype=th.float64, generator=generator) ** 20 - 0.01
            multipliers[:5] = 0
            bound = cvxpylayers._dual_bound(
                excesses,
                masks,
                excesses.new_full((50,), variance_weight),
                multipliers,
                epsilon_bound == "nonnegative",
                deviation_weight,
            )
            assert bound.isfinite().all()
            for _ in range(50):
                deviations = th.randn(50, 4, dtype=th.float64, generator=generator) * 0.3
                deviations -= deviations.mean(dim=1, keepdim=True)
                assert (bound <= objective(deviations, *arguments) + 1e-12).all()
