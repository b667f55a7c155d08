"""Coalitions drawn at random, for teams that form too many to list, and how many of them are enough."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Literal, NamedTuple

import torch as th

from sb3_cora.credit.coalitions import LARGEST_ENUMERATION, all_coalitions, extremes, first_occurrences, n_proper_coalitions

Sampling = Literal["uniform", "shapley_kernel", "permutations"]

SAMPLINGS: tuple[Sampling, ...] = ("uniform", "shapley_kernel", "permutations")
"""The ways in which ``draw_coalitions`` can sample."""


class CoalitionSample(NamedTuple):
    """
    Coalitions together with how they were drawn, which unbiased estimates such as that of the Shapley value need.

    :param masks: Boolean ``(n_coalitions, n_agents)``.
    :param expected_counts: How often each of these was expected among the draws ``(n_coalitions,)``, positive; 1 for a
        coalition that is always included. ``None``: not known.
    :param orders: Orders of arrival ``(n_orders, n_agents)``, a permutation of the agents in each row, if the masks are the
        coalitions that form as agents arrive: first those of the first order, from one agent up to all but one, then those of
        the next order. ``None`` if the coalitions were drawn otherwise.
    """

    masks: th.Tensor
    expected_counts: th.Tensor | None = None
    orders: th.Tensor | None = None

    def to(self, device: th.device | str) -> "CoalitionSample":
        """
        :param device: Where to put the masks, counts and orders.
        :return: The sample on that device.
        """
        return CoalitionSample(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]


def as_sample(coalitions: th.Tensor | CoalitionSample) -> CoalitionSample:
    """
    :param coalitions: Boolean masks ``(n_coalitions, n_agents)``, or a sample.
    :return: The sample. Made from masks alone, it says nothing about how they were drawn.
    """
    return coalitions if isinstance(coalitions, CoalitionSample) else CoalitionSample(coalitions)


def draw_coalitions(
    n_agents: int,
    n_coalitions: int,
    sampling: Sampling = "uniform",
    generator: th.Generator | None = None,
    *,
    paired: bool = False,
    include_extremes: bool = False,
) -> CoalitionSample:
    """
    Draw proper coalitions. They are not enumerated, so the number of agents may be large.

    - ``"uniform"``: all coalitions are equally likely. No coalition is drawn twice.
    - ``"shapley_kernel"``: sizes are drawn in proportion to ``1 / (size * (n_agents - size))``, the weights under which the
      Shapley value is a least-squares fit (Lundberg and Lee 2017), and within a size all coalitions are equally likely. No
      coalition is drawn twice; if a size would be drawn more often than it has coalitions, all of them are taken.
    - ``"permutations"``: the coalitions that form along random orders of arrival, as many orders as fit into
      ``n_coalitions``. Each order holds one coalition of every size, so small and large coalitions are drawn repeatedly.

    :param n_agents: Number of agents, at least 2.
    :param n_coalitions: How many to draw. At most ``2 ** n_agents - 2``, except with ``"permutations"``.
    :param sampling: One of ``SAMPLINGS``.
    :param generator: Source of randomness, PyTorch's global one if ``None``; the masks are on its device.
    :param paired: Whether to draw each coalition with its complement, and each order with its reverse. A free epsilon and
        concepts with ``Concept.complements`` need it, and it lowers the variance of estimates. ``n_coalitions`` must be even
        then, except with ``"permutations"``.
    :param include_extremes: Whether to begin with every agent on its own and everyone but one agent, and draw only the rest.
        Not for ``"permutations"``.
    :return: The coalitions and their expected counts.
    :raises ValueError: If ``sampling`` is unknown, or ``n_coalitions`` is too small, too large, or odd with ``paired``.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling={sampling!r} is unknown, expected one of {list(SAMPLINGS)}.")
    _check_number(n_agents, n_coalitions, sampling, paired, include_extremes)
    device = generator.device if generator is not None else None
    if sampling == "permutations":
        per_order = n_agents - 1
        n_orders = n_coalitions // (2 * per_order) if paired else n_coalitions // per_order
        orders = th.rand(n_orders, n_agents, generator=generator, device=device).argsort(dim=1)
        if paired:
            orders = th.stack([orders, orders.flip(1)], dim=1).flatten(end_dim=1)
        masks = coalitions_along(orders)
        n_of_size = th.tensor([math.comb(n_agents, size) for size in range(n_agents)], dtype=th.float64, device=device)
        return CoalitionSample(masks, len(orders) / n_of_size[masks.sum(dim=1)], orders)

    fixed = extremes(n_agents, device) if include_extremes else th.empty((0, n_agents), dtype=th.bool, device=device)
    smallest = 2 if include_extremes else 1
    n_drawn = n_coalitions - len(fixed)
    if n_drawn == 0:
        drawn, counts = fixed[:0], th.empty(0, dtype=th.float64, device=device)
    elif sampling == "uniform":
        drawn = _draw_uniformly(n_agents, n_drawn, smallest, paired, generator)
        n_available = sum(math.comb(n_agents, size) for size in range(smallest, n_agents - smallest + 1))
        counts = th.full((n_drawn,), n_drawn / n_available, dtype=th.float64, device=device)
    else:
        drawn, counts = _draw_by_size(n_agents, n_drawn, smallest, paired, generator)
    return CoalitionSample(th.cat([fixed, drawn]), th.cat([counts.new_ones(len(fixed)), counts]))


def coalitions_along(orders: th.Tensor) -> th.Tensor:
    """
    The proper coalitions that form as agents arrive one by one.

    :param orders: Of shape ``(n_orders, n_agents)``, a permutation of the agents in each row.
    :return: Boolean masks ``(n_orders * (n_agents - 1), n_agents)``, the first order's first, of growing size.
    """
    n_agents = orders.shape[1]
    place = orders.argsort(dim=1)
    there = place[:, None, :] <= th.arange(n_agents - 1, device=orders.device)[:, None]
    return there.reshape(-1, n_agents)


def required_coalitions(n_agents: int, delta: float, Delta: float) -> int:
    """
    How many coalitions to draw for credits in the delta-probable core: with probability at least ``1 - Delta`` over the draw,
    all but a share ``delta`` of the coalitions get what they are worth up to epsilon (CORA, theorem 4.3; Yan and Procaccia
    2021). The theorem gives the order ``(n + log(1 / Delta)) / delta^2``, and the constant may be 1, as here: the solution of
    a core program of ``n`` unknowns over ``M`` drawn coalitions violates more than a share ``delta`` of all coalitions with
    probability at most ``sum_{i < n} binom(M, i) delta^i (1 - delta)^(M - i)`` (Campi and Garatti 2008), which for the
    returned ``M`` is below ``Delta``.

    :param n_agents: Number of agents, at least 1.
    :param delta: Share of coalitions that may get less than that, between 0 and 1.
    :param Delta: Probability with which more of them may get less, between 0 and 1.
    :return: The number of coalitions. If it exceeds ``2 ** n_agents - 2``, take all proper coalitions instead.
    :raises ValueError: If a number is out of its range.
    """
    if n_agents < 1:
        raise ValueError(f"n_agents must be at least 1, got {n_agents}.")
    for name, share in (("delta", delta), ("Delta", Delta)):
        if not 0 < share < 1:
            raise ValueError(f"{name} must lie between 0 and 1, both excluded, got {share}.")
    return math.ceil((n_agents + math.log(1 / Delta)) / delta**2)


def _check_number(n_agents: int, n_coalitions: int, sampling: Sampling, paired: bool, include_extremes: bool) -> None:
    """
    :raises ValueError: If this number of coalitions cannot be drawn in this way.
    """
    n_available = n_proper_coalitions(n_agents)
    if sampling == "permutations":
        if include_extremes:
            raise ValueError(
                'include_extremes=True does not go with sampling="permutations", where the orders of arrival determine all '
                "coalitions. Use include_extremes=False, or another sampling."
            )
        least = (n_agents - 1) * (2 if paired else 1)
        if n_agents < 2 or n_coalitions < least:
            raise ValueError(
                f"n_coalitions={n_coalitions} is too small: {'an order and its reverse' if paired else 'one order'} of "
                f"{n_agents} agents meets {least} proper coalitions, so choose at least that."
            )
        return
    if not 1 <= n_coalitions <= n_available:
        raise ValueError(
            f"n_coalitions={n_coalitions} is out of range: {n_agents} agents form {n_available} proper coalitions "
            f"(neither empty nor everyone), so choose a number in [1, {n_available}]."
        )
    if include_extremes and n_coalitions < len(extremes(n_agents)):
        raise ValueError(
            f"n_coalitions={n_coalitions} is too small: the singletons and their complements alone are "
            f"{len(extremes(n_agents))} coalitions of {n_agents} agents. Choose at least that, or include_extremes=False."
        )
    if paired and n_coalitions % 2:
        raise ValueError(f"n_coalitions={n_coalitions} is odd, and paired coalitions come with their complements: add one.")


def _collect(draw: Callable[[], th.Tensor], n_wanted: int) -> th.Tensor:
    """
    Draw until there are enough different coalitions. Rejecting repetitions keeps all other coalitions equally likely.

    :param draw: Returns some random coalitions, boolean ``(n_drawn, n_agents)``.
    :param n_wanted: How many different coalitions to return.
    :return: Boolean masks ``(n_wanted, n_agents)``.
    """
    masks = draw()
    masks = masks[first_occurrences(masks)]
    while len(masks) < n_wanted:
        masks = th.cat([masks, draw()])
        masks = masks[first_occurrences(masks)]
    return masks[:n_wanted]


def _with_complements(masks: th.Tensor) -> th.Tensor:
    """
    :return: Every coalition followed by its complement, ``(2 * n_coalitions, n_agents)``.
    """
    return th.stack([masks, ~masks], dim=1).flatten(end_dim=1)


def _draw_uniformly(
    n_agents: int, n_coalitions: int, smallest: int, paired: bool, generator: th.Generator | None
) -> th.Tensor:
    """
    :param smallest: Smallest size of a coalition and of its complement.
    :return: Boolean masks ``(n_coalitions, n_agents)``, all different.
    """
    device = generator.device if generator is not None else None

    def eligible(masks: th.Tensor) -> th.Tensor:
        size = masks.sum(dim=1)
        masks = masks[(size >= smallest) & (size <= n_agents - smallest)]
        # Of a coalition and its complement, the one with the first agent stands for both.
        return masks ^ ~masks[:, :1] if paired else masks

    n_wanted = n_coalitions // 2 if paired else n_coalitions
    # If more than half of them are wanted, most coalitions drawn by a coin toss per agent would be repetitions.
    if n_agents <= LARGEST_ENUMERATION and 2 * n_coalitions >= n_proper_coalitions(n_agents):
        masks = eligible(all_coalitions(n_agents, device))
        masks = masks[first_occurrences(masks)] if paired else masks
        masks = masks[th.randperm(len(masks), generator=generator, device=device)[:n_wanted]]
    else:
        masks = _collect(
            lambda: eligible(th.randint(2, (n_wanted, n_agents), generator=generator, device=device).bool()), n_wanted
        )
    return _with_complements(masks) if paired else masks


def _draw_by_size(
    n_agents: int, n_coalitions: int, smallest: int, paired: bool, generator: th.Generator | None
) -> tuple[th.Tensor, th.Tensor]:
    """
    Divide the draws among the sizes by their Shapley kernel weights, and draw within each size without replacement.

    :param smallest: Smallest size of a coalition and of its complement.
    :return: Boolean masks ``(n_coalitions, n_agents)``, all different, and their expected counts ``(n_coalitions,)``.
    """
    device = generator.device if generator is not None else None
    # If paired, only the smaller of a coalition and its complement is drawn; of size n / 2, the one with the first agent.
    sizes = list(range(smallest, n_agents // 2 + 1 if paired else n_agents - smallest + 1))
    halves = [paired and 2 * size == n_agents for size in sizes]
    n_of_size = [
        math.comb(n_agents - 1, size - 1) if half else math.comb(n_agents, size)
        for size, half in zip(sizes, halves, strict=True)
    ]
    weights = [(0.5 if half else 1.0) / (size * (n_agents - size)) for size, half in zip(sizes, halves, strict=True)]
    shares = _share_out(n_coalitions // 2 if paired else n_coalitions, weights, n_of_size)

    # Random rounding that keeps the expectations (systematic sampling): lay the shares end to end on a line, shift the line
    # by a uniform number, and give every size as many draws as there are integers in its segment.
    shift = float(th.rand((), generator=generator, device=device, dtype=th.float64))
    ends, total = [shift], 0.0
    for share in shares:
        total += share
        ends.append(total + shift)
    ends[-1] = round(total) + shift
    masks, counts = [], []
    for size, half, share, available, start, end in zip(sizes, halves, shares, n_of_size, ends[:-1], ends[1:], strict=True):
        n_drawn = min(available, math.floor(end) - math.floor(start))
        if n_drawn == 0:
            continue
        drawn = _draw_of_size(n_agents, size, n_drawn, half, generator)
        masks.append(_with_complements(drawn) if paired else drawn)
        counts += [share / available] * len(masks[-1])
    return th.cat(masks), th.tensor(counts, dtype=th.float64, device=device)


def _share_out(n_draws: int, weights: list[float], capacities: list[int]) -> list[float]:
    """
    Divide draws in proportion to weights, but give nothing more than its capacity.

    :return: The expected number of draws for each weight; they sum to ``n_draws``.
    """
    shares = [0.0] * len(weights)
    open_ = set(range(len(weights)))
    left = float(n_draws)
    while open_:
        total = sum(weights[index] for index in open_)
        full = {index for index in open_ if left * weights[index] / total >= capacities[index]}
        if not full:
            for index in open_:
                shares[index] = left * weights[index] / total
            break
        for index in full:
            shares[index] = float(capacities[index])
            left -= capacities[index]
        open_ -= full
    return shares


def _draw_of_size(
    n_agents: int, size: int, n_coalitions: int, with_first_agent: bool, generator: th.Generator | None
) -> th.Tensor:
    """
    :param with_first_agent: Whether to draw only coalitions that the first agent belongs to.
    :return: Boolean masks ``(n_coalitions, n_agents)`` of this size, all different, uniform without replacement.
    """
    device = generator.device if generator is not None else None
    if with_first_agent:
        others = _draw_of_size(n_agents - 1, size - 1, n_coalitions, False, generator)
        return th.cat([others.new_ones(len(others), 1), others], dim=1)
    if 2 * n_coalitions >= math.comb(n_agents, size):
        members = th.tensor(list(combinations(range(n_agents), size)), dtype=th.long, device=device)
        members = members[th.randperm(len(members), generator=generator, device=device)[:n_coalitions]]
        return th.zeros(n_coalitions, n_agents, dtype=th.bool, device=device).scatter_(1, members, True)

    def draw() -> th.Tensor:
        ranks = th.rand(n_coalitions, n_agents, generator=generator, device=device).argsort(dim=1).argsort(dim=1)
        return ranks < size

    return _collect(draw, n_coalitions)
