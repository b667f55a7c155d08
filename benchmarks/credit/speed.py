"""Time per program of the batched solver, beside cvxpylayers on the same games in the same run."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch as th
from matplotlib.axes import Axes
from numpy.random import default_rng

from benchmarks.credit.games import normal
from benchmarks.tools.timing import Name, compete
from sb3_cora.credit import CoalitionSample, all_coalitions, allocate, draw_coalitions

WEIGHT = 0.1
BATCHES: tuple[int, ...] = (256, 2048, 8192)
GPU_BATCHES: tuple[int, ...] = (8192, 262_144)
CONCEPT_BATCH = 2048
CONCEPTS = ("least_core", "core_l1", "nucleolus", "shapley", "banzhaf")
LARGEST_NUCLEOLUS = 8
OURS = "batched"


class Size(NamedTuple):
    """
    Games of one size.

    :param n_agents: Number of agents
    :param n_sampled: How many coalitions are sampled, all of them where ``None``
    :param n_diffcp: Games that cvxpylayers over diffcp is timed on; its time per program does not depend on the number
    :param n_moreau: At most so many games for cvxpylayers over moreau, which keeps a copy of the constraints for each
    :param target: How many times as fast as cvxpylayers over diffcp the batched solver is to be, in the largest batch
    :param prototype: By batch, microseconds that the solver's prototype took on one core of its own machine
    """

    n_agents: int
    n_sampled: int | None
    n_diffcp: int
    n_moreau: int
    target: float
    prototype: dict[int, float]

    def coalitions(self) -> CoalitionSample:
        """
        :return: The coalitions of these games
        """
        if self.n_sampled is None:
            return CoalitionSample(all_coalitions(self.n_agents))
        return draw_coalitions(self.n_agents, self.n_sampled, generator=th.Generator().manual_seed(0))


SIZES: tuple[Size, ...] = (
    Size(2, None, 256, 8192, 1000, {256: 0.4, 2048: 0.07, 8192: 0.02}),
    Size(4, None, 256, 8192, 100, {256: 15, 2048: 4.1, 8192: 3.3}),
    Size(6, None, 256, 2048, 40, {256: 33, 2048: 11, 8192: 10}),
    Size(10, 100, 256, 2048, 25, {256: 71, 2048: 44, 8192: 33}),
    Size(10, None, 64, 64, 40, {256: 154, 2048: 109, 8192: 110}),
)
CONCEPT_SIZES: tuple[tuple[int, int | None], ...] = ((2, None), (4, None), (6, None), (8, None), (10, 100), (10, None))

SOLVER_ARGS: dict[str, dict[str, object]] = {
    # At Clarabel's own tolerances, which is faster than what the reference solver of the project asks of it
    "diffcp": {"solve_method": "Clarabel", "n_jobs_forward": 1},
    "moreau": {"solver": "active_set"},
}
MODULES = {"diffcp": ("cvxpylayers", "diffcp", "clarabel"), "moreau": ("cvxpylayers", "moreau", "moreau_cpu")}


class Row(NamedTuple):
    """
    One line of the table.

    - ``device``, ``concept``, ``n_agents``, ``n_coalitions``, ``batch``: what is solved
    - ``solver``: ``"batched"``, or cvxpylayers over one of its backends
    - ``n_timed``: games that the time was taken on, the first ones of the batch
    - ``microseconds``: per game, the least over the repetitions
    - ``ratio``: this solver's time over the batched one's; 1 for the batched one
    - ``target_ratio``: what the ratio is to be at least, where there is a target
    - ``prototype_microseconds``, ``prototype_ratio``: time of the prototype, on another machine, and ours over it
    - ``disagreement``: largest difference of the objective from the batched solver's, over the games timed and relative to
      the largest number in the game
    """

    device: str
    concept: str
    n_agents: int
    n_coalitions: int
    batch: int
    solver: str
    n_timed: int
    microseconds: float
    ratio: float
    target_ratio: float | None = None
    prototype_microseconds: float | None = None
    prototype_ratio: float | None = None
    disagreement: float | None = None


class Games(NamedTuple):
    """
    :param values: ``(n_games, n_coalitions)``
    :param coalitions: What is valued
    :param grand_value: ``(n_games,)``
    """

    values: th.Tensor
    coalitions: CoalitionSample
    grand_value: th.Tensor

    def first(self, n_games: int) -> "Games":
        """
        :return: The first games
        """
        return Games(self.values[:n_games].clone(), self.coalitions, self.grand_value[:n_games].clone())

    def objective(self, credits: th.Tensor) -> th.Tensor:
        """
        :param credits: ``(n_games, n_agents)``
        :return: Of the core program, with the least epsilon that the credits need, ``(n_games,)``
        """
        credits = credits + (self.grand_value - credits.sum(dim=1))[:, None] / credits.shape[1]
        lacking = (self.values - credits @ self.coalitions.masks.to(credits).T).amax(dim=1).clamp(min=0)
        return lacking + WEIGHT * credits.var(dim=1, correction=0)


def draw_games(coalitions: CoalitionSample, n_games: int) -> Games:
    """
    :param coalitions: What is to be valued
    :param n_games: Number of games
    :return: Normal games in double precision
    """
    values, grand_value = normal(default_rng(0), n_games, coalitions.masks.numpy())
    return Games(th.from_numpy(values), coalitions, th.from_numpy(grand_value))


def solve(games: Games, concept: str = "core") -> th.Tensor:
    """
    :param games: To solve with the batched solver
    :param concept: The solution concept
    :return: Credits ``(n_games, n_agents)``
    """
    return allocate(*games, concept, variance_weight=WEIGHT, check=False).credits


def layer_for(masks: th.Tensor, backend: str) -> Callable[[Games], th.Tensor]:
    """
    The core program in cvxpylayers, built once. In deviations from equal shares; with equation 6 as it stands, diffcp takes
    as long.

    :param masks: Boolean ``(n_coalitions, n_agents)``
    :param backend: ``"diffcp"`` or ``"moreau"``
    :return: What ``solve`` is, without gradients as that one
    """
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    n_coalitions, n_agents = masks.shape
    members = masks.double()
    deviations, epsilon, excesses = cp.Variable(n_agents), cp.Variable(1), cp.Parameter(n_coalitions)
    # In one constraint with the others, because cvxpylayers 1.2 over moreau loses the sign of a variable with cvxpy 1.9.3
    rationality = cp.hstack([members.numpy() @ deviations + epsilon - excesses, epsilon]) >= 0
    objective = cp.sum(epsilon) + WEIGHT / n_agents * cp.sum_squares(deviations)
    layer = CvxpyLayer(
        cp.Problem(cp.Minimize(objective), [rationality, cp.sum(deviations) == 0]),
        parameters=[excesses],
        variables=[deviations],
        solver=backend.upper(),
        solver_args=SOLVER_ARGS[backend],
    )

    @th.no_grad()
    def solve_games(games: Games) -> th.Tensor:
        shares = games.grand_value[:, None] / n_agents
        (answer,) = layer(games.values - shares * members.sum(dim=1))
        return shares + answer

    return solve_games


def fastest_call(call: Callable[[], object], seconds: float, wait: Callable[[], object]) -> float:
    """
    :param call: What to time
    :param seconds: Repeat the call until so much time is over
    :param wait: Waits for what a call has set going
    :return: Seconds of the fastest call
    """
    fastest, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        wait()
        now = time.perf_counter()
        fastest = min(fastest, now - start)
        if now > end:
            return fastest


def fastest_calls(
    calls: Mapping[Name, Callable[[], object]], n_rounds: int, seconds: float, wait: Callable[[], object] = lambda: None
) -> dict[Name, float]:
    """
    :param calls: What to time, by name; they take turns
    :param n_rounds: Number of turns of each
    :param seconds: Of a turn
    :param wait: Waits for what a call has set going
    :return: Seconds of the fastest call, by name
    """
    turns = compete({name: partial(fastest_call, call, seconds, wait) for name, call in calls.items()}, n_rounds)
    return {name: min(taken) for name, taken in turns.items()}


def installed() -> tuple[str, ...]:
    """
    :return: The backends of cvxpylayers that can be had
    """
    return tuple(name for name, modules in MODULES.items() if all(map(importlib.util.find_spec, modules)))


def core_rows(size: Size, batches: tuple[int, ...], backends: tuple[str, ...], n_rounds: int, seconds: float) -> Iterator[Row]:
    """
    :param size: Of the games
    :param batches: Numbers of games to solve at once
    :param backends: Of cvxpylayers, to compare with
    :param n_rounds: As for ``fastest_calls``
    :param seconds: As for ``fastest_calls``
    :return: A row for each batch and solver
    """
    games = draw_games(size.coalitions(), batches[-1])
    masks = games.coalitions.masks
    limits = {OURS: batches[-1], "diffcp": size.n_diffcp, "moreau": size.n_moreau}
    # A layer for each number of games, because moreau starts afresh when that changes
    calls = {
        (name, n_timed): partial(solve if name == OURS else layer_for(masks, name), games.first(n_timed))
        for name in (OURS, *backends)
        for n_timed in dict.fromkeys(min(batch, limits[name]) for batch in batches)
    }
    objectives = {(name, n_timed): games.first(n_timed).objective(call()) for (name, n_timed), call in calls.items()}
    times = fastest_calls(calls, n_rounds, seconds)
    largest = games.values.abs().amax(dim=1)
    n_coalitions, n_agents = masks.shape
    for batch in batches:
        ours = times[OURS, batch] / batch
        prototype = size.prototype.get(batch)
        for name in (OURS, *backends):
            n_timed = min(batch, limits[name])
            each = times[name, n_timed] / n_timed
            row = Row("cpu", "core", n_agents, n_coalitions, batch, name, n_timed, 1e6 * each, each / ours)
            if name == OURS:
                yield row._replace(
                    prototype_microseconds=prototype, prototype_ratio=None if prototype is None else 1e6 * ours / prototype
                )
                continue
            difference = (objectives[name, n_timed] - objectives[OURS, batch][:n_timed]).abs() / largest[:n_timed]
            yield row._replace(
                target_ratio=size.target if name == "diffcp" and batch == BATCHES[-1] else None,
                disagreement=float(difference.max()),
            )


def concept_rows(sizes: tuple[tuple[int, int | None], ...], batch: int, n_rounds: int, seconds: float) -> Iterator[Row]:
    """
    :param sizes: Numbers of agents, and how many coalitions are sampled, all of them where ``None``
    :param batch: Number of games
    :param n_rounds: As for ``fastest_calls``
    :param seconds: As for ``fastest_calls``
    :return: A row for each size and concept other than the core
    """
    for n_agents, n_sampled in sizes:
        games = draw_games(Size(n_agents, n_sampled, 0, 0, 0, {}).coalitions(), batch)
        concepts = [name for name in CONCEPTS if name != "nucleolus" or n_agents <= LARGEST_NUCLEOLUS]
        times = fastest_calls({name: partial(solve, games, name) for name in concepts}, n_rounds, seconds)
        for name, each in times.items():
            yield Row("cpu", name, n_agents, len(games.coalitions.masks), batch, OURS, batch, 1e6 * each / batch, 1.0)


def gpu_rows(size: Size, batches: tuple[int, ...], n_rounds: int, seconds: float) -> Iterator[Row]:
    """
    :param size: Of the games
    :param batches: Numbers of games to solve at once
    :param n_rounds: As for ``fastest_calls``
    :param seconds: As for ``fastest_calls``
    :return: A row for each batch that fits in the GPU's memory
    """
    coalitions = size.coalitions()
    n_coalitions, n_agents = coalitions.masks.shape
    for batch in batches:
        on_cpu = draw_games(coalitions, batch)
        games = Games(on_cpu.values.cuda(), coalitions.to("cuda"), on_cpu.grand_value.cuda())
        try:
            (whole,) = fastest_calls({OURS: partial(solve, games)}, n_rounds, seconds, th.cuda.synchronize).values()
        except th.OutOfMemoryError:
            print(f"{batch} games of {size.n_agents} agents do not fit in the GPU's memory.")
            continue
        yield Row("cuda", "core", n_agents, n_coalitions, batch, OURS, batch, 1e6 * whole / batch, 1.0)


def rows(quick: bool, device: str) -> Iterator[Row]:
    """
    :param quick: Few and small games, for tests
    :param device: ``"cuda"`` to time a GPU too, where there is one
    :return: The rows of the table
    """
    sizes, batches, concept_sizes, n_rounds, seconds = SIZES, BATCHES, CONCEPT_SIZES, 9, 0.1
    backends = installed()
    if quick:
        sizes = tuple(size._replace(n_diffcp=8, n_moreau=8) for size in SIZES[:2])
        batches, concept_sizes, n_rounds, seconds = (16, 64), CONCEPT_SIZES[:2], 1, 0.0
    for size in sizes:
        yield from core_rows(size, batches, backends, n_rounds, seconds)
    yield from concept_rows(concept_sizes, batches[-1] if quick else CONCEPT_BATCH, n_rounds, seconds)
    if device == "cuda" and not th.cuda.is_available():
        print("There is no GPU here: its rows are left out.")
    elif device == "cuda":
        for size in sizes:
            yield from gpu_rows(size, batches if quick else GPU_BATCHES, n_rounds, seconds)


def plot(rows: list[Row], axes: Axes) -> None:
    """
    Plot the time per program of every size, in the largest batch.

    :param rows: Of the table
    :param axes: Where to plot
    """
    core = [row for row in rows if row.concept == "core" and row.device == "cpu"]
    core = [row for row in core if row.batch == max(row.batch for row in core)]
    names = list(dict.fromkeys(row.solver for row in core))
    for number, name in enumerate(names):
        mine = [row for row in core if row.solver == name]
        places = [place + 0.27 * (number - (len(names) - 1) / 2) for place in range(len(mine))]
        label = "batched solver" if name == OURS else f"cvxpylayers, {name}"
        bars = axes.bar(places, [row.microseconds for row in mine], 0.25, label=label)
        texts = [f"{row.microseconds:.3g}" if name == OURS else f"{row.ratio:.0f}x" for row in mine]
        axes.bar_label(bars, texts, fontsize=7)
    sizes = list(dict.fromkeys((row.n_agents, row.n_coalitions) for row in core))
    axes.set_xticks(range(len(sizes)), [f"{n_agents} agents\n{n_coalitions}" for n_agents, n_coalitions in sizes])
    axes.set(
        title=f"Speed, one core, batches of {core[0].batch}",
        ylabel="microseconds a program",
        xlabel="agents, and coalitions",
        yscale="log",
    )
    axes.legend(fontsize=8)
