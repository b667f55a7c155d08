"""
Games at random through ``allocate``, most of them sound, the others with something wrong in them.

An answer is held to certificates that owe nothing to the solvers: the grand value is divided without rest, no coalition lacks
more than epsilon, the objective of a core program is reached from below by a dual solution that SciPy finds, the nucleolus
meets the least largest excess, and what has a formula is computed again.
"""

import math
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch as th
from scipy.optimize import linprog, nnls

from benchmarks.credit.games import GAMES
from benchmarks.fuzz.outcomes import Outcome
from sb3_cora.credit import CONCEPTS, CoalitionSample, ConvergenceError, Credits, all_coalitions, allocate, draw_coalitions

TOLERANCE = {th.float64: 1e-8, th.float32: 1e-5, th.float16: 1e-2, th.bfloat16: 5e-2}
"""Largest violation of an answer by the dtype of its values, relative to the largest number of its game."""

SOLVER_SHARE = 0.002
"""Share of the calls that cvxpylayers answers, which takes a hundred times as long."""

LARGEST_WEIGHT = 1e6
"""Weight of the variance, relative to the largest excess, from which on its rounding errors dwarf the objective. Credits are
then equal shares up to a millionth, to which the cap of every credit holds them."""

Arguments = dict[str, Any]


def sound(rng: np.random.Generator) -> Arguments:
    """
    :param rng: Source of randomness.
    :return: Arguments of ``allocate`` that it has to answer, or to refuse for what the concept needs of the coalitions.
    """
    n_agents = int(rng.choice(8, p=np.array([1, 3, 4, 4, 3, 2, 1, 1]) / 19)) + 1
    concept = str(rng.choice(list(CONCEPTS)))
    epsilon_bound = str(rng.choice(["nonnegative", "free"]))
    coalitions = _coalitions(rng, n_agents, concept)
    masks = coalitions.masks if isinstance(coalitions, CoalitionSample) else coalitions
    n_games = int(rng.choice([0, 1, 2, 8, 15, 30], p=[0.03, 0.17, 0.2, 0.3, 0.2, 0.1]))
    if len(masks) == 0 or n_games == 0:
        values, grand_value = np.zeros((n_games, len(masks))), rng.standard_normal(n_games)
    else:
        values, grand_value = GAMES[str(rng.choice(list(GAMES)))](rng, n_games, masks.numpy())
    dtype = list(TOLERANCE)[int(rng.choice(len(TOLERANCE), p=[0.75, 0.19, 0.03, 0.03]))]
    size = 1.0
    if dtype == th.float64 and rng.random() < 0.3:
        size = 10.0 ** rng.uniform(-300, 300)
    elif dtype == th.float32 and rng.random() < 0.3:
        size = 10.0 ** rng.uniform(-30, 30)
    scale: Any = None
    if rng.random() < 0.4:
        scale = size * float(10.0 ** rng.uniform(-2, 2))
        if rng.random() < 0.3:
            scale = th.full((n_games,), scale, dtype=th.float64)
    arguments: Arguments = {
        "values": th.from_numpy(values * size).to(dtype),
        "masks": coalitions,
        "grand_value": th.from_numpy(grand_value * size).to(dtype),
        "concept": concept,
        "variance_weight": float(rng.choice([0.0, 1e-3, 0.1, 1.0, 10.0, 10.0 ** rng.uniform(-12, 12)])),
        "epsilon_bound": epsilon_bound,
        "scale": scale,
        "check": bool(rng.random() < 0.7),
    }
    if rng.random() < 0.2:
        arguments["player_mask"] = th.from_numpy(rng.random((n_games, n_agents)) < 0.7)
    if rng.random() < SOLVER_SHARE and find_spec("cvxpylayers") is not None:
        arguments["solver"] = "cvxpylayers"
    return arguments


def _coalitions(rng: np.random.Generator, n_agents: int, concept: str) -> th.Tensor | CoalitionSample:
    """
    :param rng: Source of randomness.
    :param n_agents: Number of agents.
    :param concept: What divides.
    :return: All coalitions, some as the concept draws them, or any.
    """
    everything = all_coalitions(n_agents)
    way = rng.random()
    if n_agents == 1 or way < 0.5:
        return everything
    generator = th.Generator().manual_seed(int(rng.integers(2**31)))
    if way < 0.8:
        definition = CONCEPTS[concept]
        least = 2 * n_agents
        n_coalitions = 2 * int(rng.integers(least // 2, 1 + max(least, len(everything)) // 2))
        if n_coalitions < len(everything):
            return definition.draw(n_agents, n_coalitions, generator=generator)
        return everything
    if way < 0.9:
        sampling = str(rng.choice(["uniform", "shapley_kernel"]))
        return draw_coalitions(n_agents, int(rng.integers(1, len(everything) + 1)), sampling, generator)  # type: ignore[arg-type]
    rows = rng.integers(len(everything), size=int(rng.integers(0, 2 * len(everything))))
    return everything[th.from_numpy(rows)]


ALSO_NAMED = {"values": ("values", "grand_value"), "masks": ("masks", "values")}
"""Where a shape is wrong, the error may name the other one that it does not fit."""

# What is wrong with a call: for each argument, values that it cannot have. Each refusal has to name the argument.


def _somewhere(rng: np.random.Generator, tensor: th.Tensor, number: float) -> th.Tensor:
    changed = tensor.clone(memory_format=th.contiguous_format)
    if changed.numel():
        changed.view(-1)[int(rng.integers(changed.numel()))] = number
    return changed


def _masks_of(arguments: Arguments) -> th.Tensor:
    coalitions = arguments["masks"]
    return coalitions.masks if isinstance(coalitions, CoalitionSample) else coalitions


def faults(rng: np.random.Generator, arguments: Arguments) -> dict[str, list[Callable[[], Any]]]:
    """
    :param rng: Source of randomness.
    :param arguments: What ``allocate`` could answer.
    :return: By argument, what makes a wrong value of it.
    """
    values, grand_value, masks = arguments["values"], arguments["grand_value"], _masks_of(arguments)
    n_games, n_agents = len(values), masks.shape[1]
    improper = th.zeros(1, n_agents, dtype=th.bool)
    return {
        "values": [
            lambda: values.numpy().tolist() if values.dtype != th.bfloat16 else None,
            lambda: values.double().numpy(),
            lambda: None,
            lambda: 3.0,
            lambda: values.long(),
            lambda: values.bool(),
            lambda: values.to(th.complex64),
            lambda: values.double().to_sparse(),
            lambda: values.to("meta"),
            lambda: values[:, :-1] if values.shape[1] else values[0:0, None],
            lambda: values[..., None],
            lambda: values.flatten() if n_games != 1 or values.shape[1] != 1 else values[0, 0],
            lambda: th.cat([values, values[:1] if n_games else values.new_zeros(1, values.shape[1])]),
        ],
        "masks": [
            lambda: masks.tolist(),
            lambda: masks.numpy(),
            lambda: None,
            lambda: masks.float(),
            lambda: masks.long(),
            lambda: masks[None],
            lambda: masks[:, :0],
            lambda: masks.flatten(),
            lambda: th.cat([masks[:-1], improper]) if len(masks) else improper,
            lambda: th.cat([masks[:-1], ~improper]) if len(masks) else ~improper,
            lambda: CoalitionSample(None),  # type: ignore[arg-type]
            lambda: CoalitionSample(masks.float()),
            lambda: CoalitionSample(masks, th.ones(len(masks) + 1)),
            lambda: CoalitionSample(masks, th.zeros(len(masks) + 1)),
            lambda: CoalitionSample(masks, th.ones(len(masks) + 1), th.zeros(3, n_agents + 1, dtype=th.long)),
            lambda: CoalitionSample(masks, th.ones(len(masks)), th.full((len(masks) + 1, n_agents), n_agents)),
        ],
        "grand_value": [
            lambda: grand_value.double().numpy(),
            lambda: grand_value.tolist(),
            lambda: None,
            lambda: 1.0,
            lambda: grand_value[:, None],
            lambda: th.cat([grand_value, th.ones(1, dtype=grand_value.dtype)]),
            lambda: grand_value.to(th.complex64),
            lambda: grand_value.double().to_sparse(),
        ],
        "concept": [lambda: "nash", lambda: None, lambda: 3, lambda: ["core"], lambda: {"core"}, lambda: b"core"],
        "variance_weight": [
            lambda: -float(rng.exponential()),
            lambda: math.nan,
            lambda: math.inf,
            lambda: "0.1",
            lambda: None,
            lambda: [0.1],
            lambda: th.ones(2),
            lambda: th.tensor(math.nan),
            lambda: 1j,
        ],
        "epsilon_bound": [lambda: "positive", lambda: None, lambda: 0.0, lambda: ["free"], lambda: True],
        "scale": [
            lambda: 0.0,
            lambda: -1.0,
            lambda: math.nan,
            lambda: math.inf,
            lambda: "batch",
            lambda: [1.0] * (n_games + 2),
            lambda: th.ones(n_games + 2),
            lambda: th.ones(n_games, 2),
            lambda: th.ones(1, dtype=th.complex64),
            lambda: {"scale": 1},
            lambda: 1j,
        ],
        "solver": [lambda: "simplex", lambda: None, lambda: 3, lambda: ["active_set"], lambda: dict],
        "player_mask": [
            lambda: th.ones(n_games + 1, n_agents, dtype=th.bool),
            lambda: th.ones(n_agents + 1, dtype=th.bool),
            lambda: [[True] * n_agents] * n_games,
            lambda: np.ones((n_games, n_agents), dtype=bool),
            lambda: th.full((n_games + 1, n_agents), math.nan),
            lambda: "all",
        ],
    }


def unsound(rng: np.random.Generator, arguments: Arguments) -> th.Tensor:
    """
    Put numbers that are not finite into some games.

    :param rng: Source of randomness.
    :param arguments: Of ``allocate``, which are changed.
    :return: Which games have such numbers, ``(n_games,)``.
    """
    number = float(rng.choice([math.nan, math.inf, -math.inf]))
    place = str(rng.choice(["values", "grand_value", "scale"], p=[0.5, 0.3, 0.2]))
    n_games = len(arguments["values"])
    if place == "scale":
        arguments["scale"] = _somewhere(rng, th.ones(n_games), float(rng.choice([number, 0.0, -1.0])))
    else:
        arguments[place] = _somewhere(rng, arguments[place], number)
    return _not_finite(arguments)


def _not_finite(arguments: Arguments) -> th.Tensor:
    """
    :param arguments: Of ``allocate``.
    :return: Which games have numbers that are not finite, or that are not in the unit of their game, ``(n_games,)``.
    """
    scale = th.as_tensor(1.0 if arguments["scale"] is None else arguments["scale"], dtype=th.float64)
    numbers = th.cat([arguments["values"], arguments["grand_value"][:, None]], dim=1).double()
    scaled = numbers / scale.expand(len(numbers))[:, None]
    return ~(numbers.isfinite().all(dim=1) & scaled.isfinite().all(dim=1) & (scale > 0) & scale.isfinite())


# Certificates


def _shares(result: Credits, arguments: Arguments, game: int) -> tuple[np.ndarray, np.ndarray, float, np.ndarray, float]:
    """
    :param result: What ``allocate`` has returned.
    :param arguments: What it was given.
    :param game: Number of the game.
    :return: Values, masks and grand value of the players' own game, their credits and epsilon, in units of the largest number.
    """
    values, masks = arguments["values"][game].double().numpy(), _masks_of(arguments).numpy()
    grand_value, credits = float(arguments["grand_value"][game]), result.credits[game].double().numpy()
    players = arguments.get("player_mask")
    if players is not None:
        present = players[game].numpy()
        inside = masks & present
        size = inside.sum(axis=1)
        proper = (size > 0) & (size < present.sum())
        values, masks, credits = values[proper], inside[proper][:, present], credits[present]
    unit = max(np.abs(values).max(initial=0.0), abs(grand_value))
    unit = unit if unit > 0 else 1.0
    return values / unit, masks, grand_value / unit, credits / unit, float(result.epsilon[game]) / unit


def _worst_violation(result: Credits, arguments: Arguments, game: int, looks_closely: bool) -> float:
    """
    :param result: What ``allocate`` has returned.
    :param arguments: What it was given.
    :param game: Number of the game.
    :param looks_closely: Whether to compare with SciPy, too.
    :return: The largest violation, in units of the largest number of the game.
    """
    concept, players = arguments["concept"], arguments.get("player_mask")
    values, masks, grand_value, credits, epsilon = _shares(result, arguments, game)
    if players is not None and result.credits[game][~players[game]].any():
        return math.inf
    n_agents = len(credits)
    if n_agents == 0:
        return abs(epsilon)
    # Credits that are not efficient may be larger than any number of the game.
    size = max(1.0, float(np.abs(credits).max()))
    found = []
    if CONCEPTS[concept].efficient:
        found.append(abs(credits.sum() - grand_value))
    coalitional = masks.astype(float)
    lacking = float((values - coalitional @ credits).max(initial=-math.inf)) if len(masks) else 0.0
    if arguments["epsilon_bound"] == "nonnegative":
        lacking = max(lacking, 0.0)
    estimates = isinstance(arguments["masks"], CoalitionSample) and arguments["masks"].expected_counts is not None
    if players is None:
        found.append(abs(epsilon - lacking))
    if n_agents == 1:
        found.append(abs(credits[0] - grand_value))
    elif concept == "equal":
        found.append(np.abs(credits - grand_value / n_agents).max())
    elif concept == "shared":
        found.append(np.abs(credits - grand_value).max())
    elif concept in ("shapley", "banzhaf") and not estimates and players is None:
        found.append(np.abs(credits - _marginals(values, masks, grand_value, concept)).max())
    elif concept in ("difference", "singleton") and players is None:
        worth = {coalition.tobytes(): value for coalition, value in zip(masks[::-1], values[::-1], strict=True)}
        alone = np.eye(n_agents, dtype=bool)
        expected = [
            worth[agent.tobytes()] if concept == "singleton" else grand_value - worth[(~agent).tobytes()] for agent in alone
        ]
        found.append(np.abs(credits - expected).max())
    elif concept in ("core", "least_core", "core_l1", "nucleolus") and players is None and len(masks):
        unit = float(arguments["values"][game].double().abs().max().clamp(min=arguments["grand_value"][game].double().abs()))
        unit = unit if unit > 0 else 1.0
        scale = arguments["scale"]
        scale = 1.0 if scale is None else float(scale[game] if isinstance(scale, th.Tensor) else scale)
        weight = arguments["variance_weight"]
        if concept == "core":
            # In the units of this function the weight of the squares is another one.
            weight = weight * (unit / scale)
        deviations = credits - grand_value / n_agents
        if concept == "core" and weight > 0:
            found.append(max(0.0, float(np.abs(deviations).max()) - (n_agents - 1) / (2 * weight)))
        if looks_closely:
            free = arguments["epsilon_bound"] == "free" or concept == "nucleolus"
            worst = float((values - coalitional @ credits).max())
            worst = worst if free else max(worst, 0.0)
            wanted = values - coalitional.sum(axis=1) * grand_value / n_agents
            found.append(_above_minimum(concept, wanted, coalitional, deviations, worst, weight, free))
    return float(max(found, default=0.0)) / size


def _marginals(values: np.ndarray, masks: np.ndarray, grand_value: float, concept: str) -> np.ndarray:
    """
    :param values: Of all coalitions.
    :param masks: These.
    :param grand_value: Of all agents.
    :param concept: ``"shapley"`` or ``"banzhaf"``.
    :return: Its credits, by the sum of its definition.
    """
    n_agents = masks.shape[1]
    worth = {0: 0.0, 2**n_agents - 1: grand_value}
    powers = 2 ** np.arange(n_agents)
    for coalition, value in zip((masks @ powers).tolist(), values.tolist(), strict=True):
        worth.setdefault(coalition, value)
    credits = np.zeros(n_agents)
    for agent in range(n_agents):
        for coalition in range(2**n_agents):
            if not coalition >> agent & 1:
                size = coalition.bit_count()
                weight = 1 / (n_agents * math.comb(n_agents - 1, size)) if concept == "shapley" else 0.5 ** (n_agents - 1)
                credits[agent] += weight * (worth[coalition | 1 << agent] - worth[coalition])
    return credits


def _above_minimum(
    concept: str,
    wanted: np.ndarray,
    members: np.ndarray,
    deviations: np.ndarray,
    epsilon: float,
    weight: float,
    free: bool,
) -> float:
    """
    :param concept: Of the core's kind.
    :param wanted: What coalitions want beyond their equal shares, ``(n_coalitions,)``.
    :param members: Their members, ``(n_coalitions, n_agents)``.
    :param deviations: What agents get beyond their equal share.
    :param epsilon: What the worst-off coalition lacks.
    :param weight: Of the variance.
    :param free: Whether epsilon may be negative.
    :return: How far the objective lies above a bound from below.
    """
    n_agents = members.shape[1]
    directions = members - members.mean(axis=1, keepdims=True)
    # Below it the solution is the least core's, see `core`.
    size = wanted.max() - (wanted.min() if free else 0.0)
    if size <= 0:
        return float(np.abs(deviations).max())
    if weight * (1.0 if concept == "core_l1" else size) > LARGEST_WEIGHT and concept != "nucleolus":
        return 0.0
    if concept == "core" and weight * size > 1e-3:
        bound = max(
            _dual_bound(wanted, directions, deviations, epsilon, weight, size * near, free) for near in (1e-6, 1e-8, 1e-11)
        )
        return max(0.0, epsilon + weight * np.square(deviations).mean() - bound)
    deviation_weight = weight if concept == "core_l1" else 0.0
    # Over (d+, d-, eps), for |d| <= d+ + d-
    program = linprog(
        np.r_[np.full(2 * n_agents, deviation_weight / n_agents), 1.0],
        A_ub=np.c_[-members, members, -np.ones(len(members))],
        b_ub=-wanted / size,
        A_eq=np.r_[np.ones(n_agents), -np.ones(n_agents), 0.0][None],
        b_eq=[0.0],
        bounds=[(0, None)] * 2 * n_agents + [(None if free else 0, None)],
        method="highs-ds",
    )
    if not program.success:
        return math.inf
    objective = epsilon + deviation_weight * np.abs(deviations).mean()
    # Optima of SciPy's are true up to its tolerance of 1e-7; errors of ours are far larger or far smaller.
    return max(0.0, objective - program.fun * size - 1e-7 * size * max(1.0, deviation_weight))


def _dual_bound(
    wanted: np.ndarray,
    directions: np.ndarray,
    deviations: np.ndarray,
    epsilon: float,
    weight: float,
    near: float,
    free: bool,
) -> float:
    """
    The dual objective of the core program at weights y >= 0 of the coalitions that sum to at most 1. Those of coalitions that
    are not tight are zero, and least squares find the others, because together they have to make up the deviations.

    :param wanted: What coalitions want beyond their equal shares, ``(n_coalitions,)``.
    :param directions: Their indicators less their means, ``(n_coalitions, n_agents)``.
    :param deviations: What agents get beyond their equal share.
    :param epsilon: What the worst-off coalition lacks.
    :param weight: Of the variance.
    :param near: How much more than a tight coalition gets counts as tight.
    :param free: Whether epsilon may be negative.
    :return: A bound of the objective from below.
    """
    n_agents = len(deviations)
    tight = wanted - directions @ deviations >= epsilon - near
    # The last unknown is what the constraint eps >= 0 weighs, which it does at 0 alone.
    last = 0.0 if free or epsilon > near else 1.0
    system = np.vstack([np.c_[directions[tight].T, np.zeros(n_agents)], np.r_[np.ones(tight.sum()), last]])
    dual = nnls(system, np.r_[deviations * (2 * weight / n_agents), 1.0])[0]
    if dual.sum() == 0:
        return -math.inf
    dual = (dual / (dual.sum() if free else max(1.0, dual.sum())))[:-1]
    return float(dual @ wanted[tight] - n_agents / (4 * weight) * np.square(directions[tight].T @ dual).sum())


def play(seed: int, call: int) -> Iterator[Outcome]:
    """
    Make one call of ``allocate``.

    :param seed: Of the fuzz.
    :param call: Number of the call, which alone determines it together with the seed.
    :return: What its games have come to.
    """
    rng = np.random.default_rng([seed, call])
    arguments = sound(rng)
    kind = rng.random()
    faulty, bad = None, _not_finite(arguments)
    if kind < 0.2:
        faulty = str(rng.choice(list(faults(rng, arguments))))
        makers = faults(rng, arguments)[faulty]
        arguments[faulty] = makers[int(rng.integers(len(makers)))]()
        n_games = 1
    else:
        if kind < 0.35:
            bad = unsound(rng, arguments)
        n_games = len(arguments["values"])
    n_cases = max(1, n_games)
    try:
        result = allocate(**arguments)
    except ConvergenceError as error:
        if arguments.get("solver") == "cvxpylayers":
            # Its interior-point methods give up on numbers of very unequal size, and say so.
            yield Outcome("refusal", "ConvergenceError cvxpylayers", n_cases)
        else:
            yield Outcome("defect", f"call {call}: {error}", n_cases)
        return
    except (ValueError, TypeError) as error:
        # Whatever is wrong with a call, the coalitions may also lack what the concept needs, and numbers not be finite.
        possible = [] if faulty is None else [*ALSO_NAMED.get(faulty, (faulty,))]
        possible += [*(("grand_value", "scale") if bool(bad.any()) and arguments["check"] else ()), "concept", "epsilon_bound"]
        named = next((name for name in possible if name in str(error)), None)
        if named is None:
            yield Outcome("defect", f"call {call}: {type(error).__name__} names none of {possible}: {error}", n_cases)
        else:
            yield Outcome("refusal", f"{type(error).__name__} {named}", n_cases)
        return
    except Exception as error:
        what = f"{type(error).__name__} of {faulty or 'a sound call'} {arguments.get(faulty or '')!r:.80}: {error}"
        yield Outcome("defect", f"call {call}: {what}", n_cases)
        return
    if faulty is not None:
        # Some of what is wrong for one game is right for another, such as one scale for a batch of one.
        answered = isinstance(result.credits, th.Tensor) and bool(result.credits.isfinite().all())
        yield Outcome("answer" if answered else "defect", f"in spite of {faulty}" if answered else f"call {call}", 1)
        return
    yield from _judge(result, arguments, bad, call, rng)


def _judge(result: Credits, arguments: Arguments, bad: th.Tensor, call: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """
    :param result: What ``allocate`` has returned.
    :param arguments: What it was given.
    :param bad: Which games have numbers that are not finite.
    :param call: Number of the call.
    :param rng: Source of randomness.
    :return: What the games have come to.
    """
    concept, dtype = arguments["concept"], arguments["values"].dtype
    if len(bad) == 0:
        shapes_are_right = result.credits.shape == (0, _masks_of(arguments).shape[1]) and len(result.converged) == 0
        yield Outcome("answer" if shapes_are_right else "defect", "no games" if shapes_are_right else f"call {call}", 1)
        return
    if any(part.isnan().any() for part in result) or not result.credits.isfinite().all():
        yield Outcome("defect", f"call {call}: {concept} returned numbers that are not finite", len(bad))
        return
    given_up = ~result.converged & ~bad
    if bool((result.converged & bad).any() | result.credits[bad].any()):
        yield Outcome("defect", f"call {call}: {concept} answered a game of numbers that are not finite", int(bad.sum()))
        return
    if bool(bad.any()):
        yield Outcome("flagged", "not finite", int(bad.sum()))
    if bool(given_up.any()):
        if arguments.get("solver") == "cvxpylayers":
            yield Outcome("flagged", "not converged, cvxpylayers", int(given_up.sum()))
        else:
            yield Outcome("defect", f"call {call}: {concept} did not converge", int(given_up.sum()))
    games = (result.converged & ~bad).nonzero()[:, 0].tolist()
    closely = games[int(rng.integers(len(games)))] if games and dtype == th.float64 else None
    worst = 0.0
    for game in games:
        violation = _worst_violation(result, arguments, game, game == closely)
        if not violation <= TOLERANCE[dtype]:
            yield Outcome("defect", f"call {call}, game {game}: {concept} {dtype} violates by {violation:.1e}", 1, violation)
        elif dtype == th.float64:
            worst = max(worst, violation)
    if games:
        yield Outcome("answer", concept, len(games), worst)
