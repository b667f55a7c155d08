"""
Accuracy of the core program's default solver on every kind of game, beside Clarabel.

    python -m benchmarks.credit.accuracy

prints one row per kind of game, number of agents and variance weight (0 is the least core), and writes them to
``benchmarks/results/credit_accuracy.csv``. Every figure is the worst over the games of a row:

- ``efficiency``: how far the credits are from summing to the grand value, and ``feasibility``: what the worst-off coalition
  lacks beyond epsilon; both relative to the largest number in the game;
- ``gap``: the certified duality gap, relative to the largest excess at the equal split;
- ``above_reference``: the objective less Clarabel's, relative to the same. Negative where Clarabel's is the higher one. Both
  are evaluated at the credits with the least epsilon they need;
- ``unconverged``: samples whose certificate missed the solver's tolerance.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import clarabel
import numpy as np
import torch as th
from scipy import sparse

from sb3_cora.credit import all_coalitions, allocate, sample_coalitions

TARGET = 1e-9
N_GAMES = 20_000
WEIGHTS = (0.0, 1e-3, 0.1, 1.0, 10.0)
TABLES = {2: None, 3: None, 4: None, 6: None, 8: None, 10: 100, 20: 200}
"""Number of agents, and how many coalitions are sampled; all of them where ``None``."""

RESULTS = Path(__file__).parents[1] / "results" / "credit_accuracy.csv"

Game = tuple[np.ndarray, np.ndarray]
"""Values ``(n_games, n_coalitions)`` and grand values ``(n_games,)``."""


def normal(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Independent standard normal values."""
    return rng.standard_normal((n_games, len(masks))), rng.standard_normal(n_games)


def heavy_tailed(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Independent values from Student's t with 1.5 degrees of freedom: no variance, now and then a coalition dominates."""
    return rng.standard_t(1.5, (n_games, len(masks))), rng.standard_t(1.5, n_games)


def supermodular(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Any two agents are worth more together than apart; the core is never empty."""
    n_agents = masks.shape[1]
    synergies = rng.exponential(size=(n_games, n_agents, n_agents))
    alone = rng.standard_normal((n_games, n_agents))
    everyone = np.concatenate([masks, np.ones((1, n_agents))]).astype(float)
    values = alone @ everyone.T + np.einsum("ci,bij,cj->bc", everyone, synergies, everyone, optimize=True)
    return values[:, :-1], values[:, -1]


def nearly_additive(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """A sum of the members' worths plus noise of 1e-6: all constraints nearly meet in one point."""
    worths = rng.standard_normal((n_games, masks.shape[1]))
    return worths @ masks.T + 1e-6 * rng.standard_normal((n_games, len(masks))), worths.sum(axis=1)


def zero(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Nothing is worth anything."""
    return np.zeros((n_games, len(masks))), np.zeros(n_games)


def one_coalition(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """One coalition is worth something."""
    values = np.zeros((n_games, len(masks)))
    values[np.arange(n_games), rng.integers(len(masks), size=n_games)] = rng.standard_normal(n_games)
    return values, np.zeros(n_games)


def ties(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """A coalition's worth depends on its size only."""
    worths = rng.standard_normal((n_games, masks.shape[1] + 1))
    return worths[:, masks.sum(axis=1)], worths[:, -1]


def small_integers(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Whole numbers from -2 to 2, with many ties."""
    return rng.integers(-2, 3, (n_games, len(masks))).astype(float), rng.integers(-2, 3, n_games).astype(float)


def tiny(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Normal values of size 1e-9."""
    values, grand_value = normal(rng, n_games, masks)
    return 1e-9 * values, 1e-9 * grand_value


def huge(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Normal values of size 1e7."""
    values, grand_value = normal(rng, n_games, masks)
    return 1e7 * values, 1e7 * grand_value


GAMES: dict[str, Callable[[np.random.Generator, int, np.ndarray], Game]] = {
    game.__name__: game
    for game in (
        normal,
        heavy_tailed,
        supermodular,
        nearly_additive,
        zero,
        one_coalition,
        ties,
        small_integers,
        tiny,
        huge,
    )
}


class Row(NamedTuple):
    """One line of the table; see the top of this file."""

    game: str
    n_agents: int
    n_coalitions: int
    variance_weight: float
    n_games: int
    efficiency: float
    feasibility: float
    gap: float
    unconverged: int
    n_references: int
    above_reference: float

    def misses_target(self) -> bool:
        """
        :return: whether any figure is worse than ``TARGET``
        """
        return self.unconverged > 0 or not all(
            figure <= TARGET for figure in (self.efficiency, self.feasibility, self.gap, self.above_reference)
        )

    def written(self) -> list[str]:
        """
        :return: the fields as the CSV has them: measured figures to two digits, which is what they are good for
        """
        measured = ("efficiency", "feasibility", "gap", "above_reference")
        return [f"{figure:.1e}" if name in measured else str(figure) for name, figure in self._asdict().items()]


def clarabel_deviations(excesses: np.ndarray, masks: np.ndarray, variance_weight: float) -> np.ndarray | None:
    """
    Solve one core program in reduced form (see ``CoreSolver``) with Clarabel at tolerance 1e-12.

    :param excesses: ``(n_coalitions,)``, of order one
    :param masks: ``(n_coalitions, n_agents)``
    :param variance_weight: positive
    :return: what each agent gets beyond the equal share ``(n_agents,)``; ``None`` where Clarabel gives up
    """
    n_coalitions, n_agents = masks.shape
    quadratic = sparse.diags(np.append(np.full(n_agents, 2 * variance_weight / n_agents), 0.0), format="csc")
    linear = np.append(np.zeros(n_agents), 1.0)
    equality = np.append(np.ones(n_agents), 0.0)[None]
    rationality = -np.concatenate([masks, np.ones((n_coalitions, 1))], axis=1)
    bound = -linear[None]
    constraints = sparse.csc_matrix(np.concatenate([equality, rationality, bound]))
    right_hand_side = np.concatenate([[0.0], -excesses, [0.0]])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n_coalitions + 1)]
    solution = clarabel.DefaultSolver(quadratic, linear, constraints, right_hand_side, cones, settings).solve()
    if str(solution.status) not in ("Solved", "AlmostSolved"):
        return None
    deviations = np.array(solution.x)[:n_agents]
    return deviations - deviations.mean()


def measure(name: str, masks: th.Tensor, variance_weight: float, n_games: int, n_references: int, seed: int = 0) -> Row:
    """
    Solve games of one kind and compare the first of them to Clarabel.

    :param name: key of ``GAMES``
    :param masks: boolean ``(n_coalitions, n_agents)``
    :param variance_weight: 0 for the least core
    :param n_games: how many games to solve
    :param n_references: how many of them to solve again with Clarabel
    :param seed: of the games
    :return: the row of the table
    """
    n_coalitions, n_agents = masks.shape
    members = masks.numpy().astype(float)
    values, grand_value = GAMES[name](np.random.default_rng(seed), n_games, masks.numpy())
    result = allocate(th.from_numpy(values), masks, th.from_numpy(grand_value), variance_weight=variance_weight, check=False)
    credits, epsilon, gap = result.credits.numpy(), result.epsilon.numpy(), result.gap.numpy()

    largest = np.maximum(np.abs(values).max(axis=1), np.abs(grand_value))
    largest[largest == 0] = 1
    excesses = values - members.sum(axis=1) * grand_value[:, None] / n_agents
    size = excesses.max(axis=1).clip(min=0)
    size[size == 0] = 1

    def objective(deviations: np.ndarray, sample: int, weight: float) -> float:
        lacking = (excesses[sample] / size[sample] - members @ deviations).max()
        return max(0.0, lacking) + weight * (deviations**2).mean()

    above_reference, n_compared = -np.inf, 0
    for sample in range(n_references):
        weight = max(variance_weight * size[sample], 1e-3)
        reference = clarabel_deviations(excesses[sample] / size[sample], members, weight)
        if reference is not None:
            deviations = (credits[sample] - grand_value[sample] / n_agents) / size[sample]
            n_compared += 1
            above_reference = max(
                above_reference, objective(deviations, sample, weight) - objective(reference, sample, weight)
            )
    return Row(
        game=name,
        n_agents=n_agents,
        n_coalitions=n_coalitions,
        variance_weight=variance_weight,
        n_games=n_games,
        efficiency=float((np.abs(credits.sum(axis=1) - grand_value) / largest).max()),
        feasibility=float(((values - credits @ members.T - epsilon[:, None]) / largest[:, None]).max()),
        gap=float((gap / size).max()),
        unconverged=int((~result.converged.numpy()).sum()),
        n_references=n_compared,
        above_reference=float(above_reference),
    )


def rows(n_games: int, n_references: int, tables: Mapping[int, int | None] = TABLES) -> Iterator[Row]:
    """
    :param n_games: games a row
    :param n_references: how many of them are solved by Clarabel too
    :param tables: numbers of agents and of coalitions, as ``TABLES`` has them
    :return: the rows of the table
    """
    for n_agents, n_coalitions in tables.items():
        if n_coalitions is None:
            masks = all_coalitions(n_agents)
        else:
            masks = sample_coalitions(n_agents, n_coalitions, th.Generator().manual_seed(0))
        for name in GAMES:
            for variance_weight in WEIGHTS:
                yield measure(name, masks, variance_weight, n_games, min(n_games, n_references))


def main() -> None:
    """Print the table, write it, and say which rows miss the target."""
    parser = argparse.ArgumentParser(description="Accuracy of the core program's default solver beside Clarabel")
    parser.add_argument("--n-games", type=int, default=N_GAMES, help="games a row")
    parser.add_argument("--n-references", type=int, default=200, help="games a row that Clarabel solves too")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the CSV goes")
    args = parser.parse_args()

    print(
        f"{'game':16}{'n':>3}{'M':>5}{'weight':>8}{'efficiency':>12}{'feasibility':>12}{'gap':>10}{'unconv.':>8}"
        f"{'compared':>9}{'above ref.':>11}"
    )
    table = []
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        for row in rows(args.n_games, args.n_references):
            table.append(row)
            writer.writerow(row.written())
            file.flush()
            print(
                f"{row.game:16}{row.n_agents:3}{row.n_coalitions:5}{row.variance_weight:8g}{row.efficiency:12.1e}"
                f"{row.feasibility:12.1e}{row.gap:10.1e}{row.unconverged:8}{row.n_references:9}{row.above_reference:11.1e}"
                + ("  MISSES TARGET" if row.misses_target() else ""),
                flush=True,
            )
    missed = [row for row in table if row.misses_target()]
    print(
        f"{sum(row.n_games for row in table)} programs solved, {sum(row.n_references for row in table)} of them compared to "
        f"Clarabel, {len(missed)} of {len(table)} rows miss the target of {TARGET:g}. Written to {args.output}."
    )


if __name__ == "__main__":
    main()
