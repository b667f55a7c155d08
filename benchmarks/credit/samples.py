"""How much is lost by the core program over sampled coalitions only (CORA, figure 7)."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.axes import Axes

from benchmarks.credit.critic_games import critic
from benchmarks.credit.games import GAMES, Game
from sb3_cora.credit import all_coalitions, allocate, draw_coalitions
from sb3_cora.credit.sampling import Sampling

N_AGENTS = 10
WEIGHT = 0.1
N_COALITIONS = (10, 20, 50, 100, 200, 500, 1022)
ROUNDING = 1e-9
"""A coalition that lacks less than this beyond epsilon, in units of the scale, is not counted as violated."""

WAYS: tuple[Sampling, ...] = ("uniform", "shapley_kernel")


def supermodular(rng: np.random.Generator, n_games: int, masks: np.ndarray) -> Game:
    """Supermodular games of unequal agents; without worths of their own, ten agents would share equally."""
    values, grand_value = GAMES["supermodular"](rng, n_games, masks)
    worths = N_AGENTS * rng.standard_normal((n_games, N_AGENTS))
    return values + worths @ masks.T, grand_value + worths.sum(axis=1)


KINDS = {
    "normal": GAMES["normal"],
    "nearly_additive": GAMES["nearly_additive"],
    "supermodular": supermodular,
    "critic": critic,
}


class Row(NamedTuple):
    """
    One line of the table. Every figure is a mean over the games of one draw of coalitions, which all games share as they do in
    training; of these means the mean over the draws, and the bounds between which 95 % of them lie (``_low``, ``_high``).

    Let ``x`` be the credits from the sampled coalitions, ``eps`` the epsilon found with them, and ``x*`` the credits from all
    1022 coalitions. Values are in units of the scale, the standard deviation of the grand value over the games.

    - ``gap``: ``(F(x) - F(x*)) / F(x*)``, where ``F(x) = max(0, max_C (v(C) - x(C))) + (w / n) * sum_i (x_i - v(N) / n)^2`` is
      the objective over all coalitions; 0 where ``F(x*) = 0``, since the equal split solves both programs there
    - ``violated``: share of all coalitions with ``v(C) > x(C) + eps``
    - ``violation``: ``max(0, max_C (v(C) - x(C) - eps))``
    - ``distance``: ``|x - x*| / |x* - v(N) / n|``, 1 for equal shares; quotient of the means over the games
    - ``microseconds``: per program, the least over the draws
    - ``bound``: ``n / (M + 1)``, of the expected ``violated`` whatever the game, for uniformly drawn coalitions
    - ``equal_gap``: the ``gap`` of equal shares, which need no coalition
    """

    game: str
    sampling: str
    extremes: bool
    n_coalitions: int
    n_games: int
    n_draws: int
    gap: float
    gap_low: float
    gap_high: float
    violated: float
    violated_low: float
    violated_high: float
    violation: float
    violation_low: float
    violation_high: float
    distance: float
    distance_low: float
    distance_high: float
    microseconds: float
    bound: float
    equal_gap: float


class Games(NamedTuple):
    """
    Games of which everything is known.

    :param masks: All coalitions, ``(n_coalitions, n_agents)``
    :param values: ``(n_games, n_coalitions)``
    :param grand_value: ``(n_games,)``
    :param credits: The solution over all coalitions ``(n_games, n_agents)``
    """

    masks: th.Tensor
    values: th.Tensor
    grand_value: th.Tensor
    credits: th.Tensor

    @property
    def shares(self) -> th.Tensor:
        """Equal ones, ``(n_games, n_agents)``."""
        return (self.grand_value[:, None] / N_AGENTS).expand(-1, N_AGENTS)

    def lacking(self, credits: th.Tensor) -> th.Tensor:
        """
        :param credits: ``(n_games, n_agents)``
        :return: Excess of every coalition, ``(n_games, n_coalitions)``
        """
        return self.values - credits @ self.masks.to(credits).T

    def gap(self, credits: th.Tensor) -> float:
        """
        :param credits: ``(n_games, n_agents)``
        :return: See ``Row``
        """

        def objective(x: th.Tensor) -> th.Tensor:
            return self.lacking(x).amax(dim=1).clamp(min=0) + WEIGHT * x.var(dim=1, correction=0)

        least = objective(self.credits)
        return float(th.where(least > 0, (objective(credits) - least) / least, 0).mean())


def draw_games(name: str, n_games: int) -> Games:
    """
    :param name: Key of ``KINDS``
    :param n_games: Number of games
    :return: The games and their solution
    """
    masks = all_coalitions(N_AGENTS)
    drawn = KINDS[name](np.random.default_rng(0), n_games, masks.numpy())
    values, grand_value = (th.from_numpy(part / drawn[1].std()) for part in drawn)
    return Games(masks, values, grand_value, allocate(values, masks, grand_value, variance_weight=WEIGHT).credits)


def one_draw(games: Games, n_coalitions: int, sampling: Sampling, extremes: bool, seed: int) -> tuple[float, ...]:
    """
    :param games: To solve
    :param n_coalitions: How many coalitions to draw
    :param sampling: How to draw them
    :param extremes: Whether to begin with the smallest and the largest ones
    :param seed: Of the draw
    :return: Gap, violated, violation, distance and microseconds, see ``Row``
    """
    generator = th.Generator().manual_seed(seed)
    masks = draw_coalitions(N_AGENTS, n_coalitions, sampling, generator, include_extremes=extremes).masks
    values = games.values[:, codes(masks) - 1]
    start = time.perf_counter()
    found = allocate(values, masks, games.grand_value, variance_weight=WEIGHT)
    elapsed = time.perf_counter() - start
    beyond = games.lacking(found.credits) - found.epsilon[:, None]
    distance = (found.credits - games.credits).norm(dim=1).mean() / (games.credits - games.shares).norm(dim=1).mean()
    return (
        games.gap(found.credits),
        float((beyond > ROUNDING).double().mean()),
        float(beyond.amax(dim=1).clamp(min=0).mean()),
        float(distance),
        1e6 * elapsed / len(values),
    )


def codes(masks: th.Tensor) -> th.Tensor:
    """
    :param masks: Boolean ``(n_coalitions, n_agents)``
    :return: The number whose binary digits are the members; coalition ``c`` stands in row ``c - 1`` of ``all_coalitions``
    """
    return (masks.long() << th.arange(masks.shape[1])).sum(dim=1)


def measure(games: Games, name: str, n_coalitions: int, sampling: Sampling, extremes: bool, n_draws: int) -> Row:
    """
    :param games: To solve
    :param name: What they are called
    :param n_coalitions: How many coalitions a draw has
    :param sampling: How they are drawn
    :param extremes: Whether to begin with the smallest and the largest ones
    :param n_draws: Number of draws
    :return: The row of the table
    """
    draws = [one_draw(games, n_coalitions, sampling, extremes, seed) for seed in range(n_draws)]
    spread: dict[str, float] = {}
    for field, figures in zip(("gap", "violated", "violation", "distance"), np.array(draws).T, strict=False):
        low, high = np.percentile(figures, (2.5, 97.5))
        spread |= {field: float(figures.mean()), f"{field}_low": float(low), f"{field}_high": float(high)}
    return Row(
        name,
        sampling,
        extremes,
        n_coalitions,
        len(games.values),
        n_draws,
        microseconds=min(draw[4] for draw in draws),
        bound=N_AGENTS / (n_coalitions + 1),
        equal_gap=games.gap(games.shares),
        **spread,
    )


def rows(quick: bool, n_games: int = 512, n_draws: int = 20) -> Iterator[Row]:
    """
    :param quick: Few games and few draws, for tests
    :param n_games: Games of each kind
    :param n_draws: Draws of coalitions
    :return: The rows of the table
    """
    numbers = (10, 50, 1022) if quick else N_COALITIONS
    if quick:
        n_games, n_draws = 16, 2
    for name in KINDS:
        games = draw_games(name, n_games)
        for sampling in WAYS:
            for extremes in (False, True):
                for n_coalitions in numbers:
                    if not extremes or n_coalitions >= 2 * N_AGENTS:
                        yield measure(games, name, n_coalitions, sampling, extremes, n_draws)


def plot(rows: list[Row], gap: Axes, violated: Axes) -> None:
    """
    Plot gap and violated share against the number of coalitions.

    :param rows: Of the table
    :param gap: Where to plot the first
    :param violated: Where to plot the second
    """
    for number, game in enumerate(dict.fromkeys(row.game for row in rows)):
        for sampling, extremes, style in (("uniform", False, "-"), ("shapley_kernel", True, ":")):
            line = [row for row in rows if (row.game, row.sampling, row.extremes) == (game, sampling, extremes)]
            line = [row for row in line if row.gap > 1e-14]
            x, color = [row.n_coalitions for row in line], f"C{number}"
            label = f"{game}, {sampling}" + (" and extremes" if extremes else "")
            for axes, field in ((gap, "gap"), (violated, "violated")):
                mean, low, high = ([getattr(row, field + suffix) for row in line] for suffix in ("", "_low", "_high"))
                axes.plot(x, mean, style, color=color, label=label, marker=".")
                axes.fill_between(x, low, high, color=color, alpha=0.12)
    bounds = dict(sorted((row.n_coalitions, row.bound) for row in rows))
    violated.plot(list(bounds), list(bounds.values()), "k--", label="bound n / (M + 1)")
    for axes, title in ((gap, "Objective above the optimum"), (violated, "Coalitions left short of more than epsilon")):
        axes.set(title=f"{title}, {N_AGENTS} agents", xlabel="sampled coalitions, 1022 are all", ylabel="share", xscale="log")
        axes.set_yscale("log")
    gap.set_ylabel("share of the optimum")
    violated.set_ylabel("share of all coalitions")
    violated.legend(fontsize=6)
