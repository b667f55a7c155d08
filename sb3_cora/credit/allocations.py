"""
Divide the grand value of a game among its agents, given what coalitions are worth. A solution concept divides; this module
checks its input, puts it into units in which it is well scaled, and leaves out agents that take no part.

A batch of games consists of the values ``v(C)`` of the given proper coalitions ``(batch, n_coalitions)``, their masks
``(n_coalitions, n_agents)``, and the grand value ``v(N)`` ``(batch,)``. The empty coalition is worth 0. A concept is
efficient if the credits of every game sum to ``v(N)``.
"""

import math
from typing import Any, NamedTuple

import torch as th

from sb3_cora.credit.coalitions import largest_excess, restrict_coalitions, splits
from sb3_cora.credit.concepts import CONCEPTS, Concept, Division
from sb3_cora.credit.concepts.base import formula
from sb3_cora.credit.concepts.core import EpsilonBound
from sb3_cora.credit.sampling import CoalitionSample, as_sample
from sb3_cora.credit.solvers import ConvergenceError, CoreSolver, make_solver

MIN_PIECE, MAX_PIECE_NUMBERS = 1024, 2**21
"""On the CPU the batch is divided in pieces whose values hold at most ``MAX_PIECE_NUMBERS`` numbers, unless that would be
fewer than ``MIN_PIECE`` samples."""


class Credits(NamedTuple):
    """
    The credits of a batch of games, in the units of the coalition values.

    :param credits: Of shape ``(batch, n_agents)``.
    :param epsilon: Of shape ``(batch,)``, the largest excess ``v(C) - x(C)`` over the given coalitions under the credits
        ``x``; not below 0 unless ``epsilon_bound="free"``.
    :param gap: Of shape ``(batch,)``, how far the objective of the program may lie above its minimum; 0 for concepts that are
        formulas, infinite for a sample without solution.
    :param converged: Boolean ``(batch,)``, whether the gap is within the solver's tolerance.
    """

    credits: th.Tensor
    epsilon: th.Tensor
    gap: th.Tensor
    converged: th.Tensor


@th.no_grad()
def allocate(
    values: th.Tensor,
    masks: th.Tensor | CoalitionSample,
    grand_value: th.Tensor,
    concept: str = "core",
    *,
    variance_weight: float = 0.1,
    epsilon_bound: EpsilonBound = "nonnegative",
    scale: float | th.Tensor | None = None,
    solver: str | CoreSolver = "active_set",
    player_mask: th.Tensor | None = None,
    check: bool = True,
) -> Credits:
    """
    Divide the grand value of every game of a batch among its agents.

    All arithmetic is in the precision of the solver, by default float64; the credits come back in the dtype of ``values``. No
    gradient flows.

    :param values: Values ``v(C)`` of the given coalitions, ``(batch, n_coalitions)``.
    :param masks: These coalitions, boolean ``(n_coalitions, n_agents)``, neither empty nor everyone; or a
        ``CoalitionSample``, from which concepts that can be estimated, such as ``"shapley"``, are estimated.
    :param grand_value: Value ``v(N)`` of the grand coalition, ``(batch,)``.
    :param concept: One of ``CONCEPTS``.
    :param variance_weight: The weight of the variance against ``eps``, for ``"core"`` and ``"core_l1"``. In ``"core"`` the two
        terms have different units, so a weight means something only together with ``scale``: among ``n`` agents no credit
        is further than ``scale * (n - 1) / (2 * variance_weight)`` from the equal share. 0 gives the least core.
    :param epsilon_bound: Whether ``eps`` stops at 0 (``"nonnegative"``) or may be negative (``"free"``). The credits of the
        nucleolus do not depend on it: its excesses are always free.
    :param scale: One positive number or ``(batch,)``. Values are divided by it before the program is solved, and credits are
        multiplied by it afterwards; this changes nothing but the meaning of ``variance_weight``. ``None``: no scaling, the
        program as the paper states it.
    :param solver: One of ``SOLVERS``, or a solver, for ``"core"``, ``"least_core"`` and ``"core_l1"``.
    :param player_mask: Of shape ``(batch, n_agents)``, which agents take part (all if ``None``). The others leave the game:
        they get 0, and coalitions are formed among the players alone. A lone player gets the grand value.
    :param check: Whether to raise on numbers that are not finite, scales that are not positive and samples that did not
        converge. If not, samples with such numbers or scales get zero credits, those that did not converge get the best
        credits found, and ``converged`` is false for all of them. Then concepts that are formulas of all given values, and
        programs with ``epsilon_bound="nonnegative"``, read nothing back from the device, except to group samples by
        ``player_mask``.
    :return: Credits, epsilon, gap and convergence, in the units of ``values``.
    :raises ValueError: If an argument is unknown or of the wrong shape, or, with ``check``, not finite.
    :raises ConvergenceError: If a sample did not converge, with ``check``.
    """
    if not isinstance(concept, str) or concept not in CONCEPTS:
        raise ValueError(f"concept={concept!r} is unknown, expected one of {list(CONCEPTS)}.")
    if not isinstance(epsilon_bound, str) or epsilon_bound not in ("nonnegative", "free"):
        raise ValueError(f"epsilon_bound={epsilon_bound!r} is unknown, expected 'nonnegative' or 'free'.")
    variance_weight = check_variance_weight(variance_weight)
    solver = make_solver(solver)
    sample = as_sample(masks)
    _check_types(values, sample, grand_value, player_mask)
    _check_shapes(values, sample, grand_value, player_mask)
    if check:
        _check_coalitions(sample)

    device = values.device
    sample = sample.to(device)
    unit = _unit(scale, solver.dtype, values)
    if check:
        _check_numbers(values, grand_value, unit)
        sound = th.ones_like(unit, dtype=th.bool)
    else:
        sound = values.isfinite().all(dim=1) & grand_value.isfinite() & unit.isfinite() & (unit > 0)
    unit = unit.masked_fill(~sound, 1)
    players = None if player_mask is None else player_mask.to(device).bool()

    settings = {"variance_weight": variance_weight, "epsilon_bound": epsilon_bound, "solver": solver}
    divide = _Divider(concept, CONCEPTS[concept], settings)
    # Piece by piece on the CPU, so that the temporary copies of the values fit into its cache.
    size = max(MIN_PIECE, MAX_PIECE_NUMBERS // max(1, values.shape[1])) if device.type == "cpu" else max(1, len(values))
    pieces = []
    for start in range(0, max(1, len(values)), size):
        piece = slice(start, start + size)
        unsound = ~sound[piece]
        scaled = (values[piece].to(unit.dtype) / unit[piece, None]).masked_fill_(unsound[:, None], 0)
        scaled_grand_value = (grand_value[piece].to(unit.dtype) / unit[piece]).masked_fill_(unsound, 0)
        if players is None:
            pieces.append(divide(scaled, sample, scaled_grand_value))
        else:
            pieces.append(divide.among(players[piece], scaled, sample, scaled_grand_value))
    credits, epsilon, gap, converged = (th.cat(parts) for parts in zip(*pieces, strict=True))
    result = Credits(
        credits=credits * unit[:, None] * sound[:, None],
        epsilon=epsilon * unit,
        gap=(gap * unit).masked_fill(~sound, math.inf),
        converged=converged & sound,
    )
    if check and not bool(result.converged.all()):
        raise ConvergenceError(_describe_failures(result))
    credits, epsilon, gap = (part.to(values.dtype) for part in result[:3])
    return Credits(credits, epsilon, gap, result.converged)


class _Divider(NamedTuple):
    """
    A concept together with the arguments of ``allocate`` that it may take.

    :param name: The concept's name.
    :param concept: The concept.
    :param settings: Values of all arguments that concepts may take, by name.
    """

    name: str
    concept: Concept
    settings: dict[str, Any]

    def __call__(
        self, values: th.Tensor, sample: CoalitionSample, grand_value: th.Tensor, players: th.Tensor | None = None
    ) -> Credits:
        """
        :param values: Of shape ``(batch, n_coalitions)``.
        :param sample: The coalitions.
        :param grand_value: Of shape ``(batch,)``.
        :param players: Boolean ``(batch, n_agents)``, which agents take part (all if ``None``). For concepts that estimate.
        :return: The credits.
        """
        masks = sample.masks
        n_agents = masks.shape[1]
        settings = {name: self.settings[name] for name in self.concept.settings}
        divided: th.Tensor | Division
        if n_agents < 2:
            divided = grand_value[:, None].expand(-1, n_agents)
        elif self.concept.estimates:
            divided = self.concept.divide(values, sample, grand_value, players=players, **settings)
        else:
            divided = self.concept.divide(values, masks, grand_value, **settings)
        division = divided if isinstance(divided, Division) else formula(divided)
        if division.credits.shape != (len(values), n_agents):
            raise ValueError(
                f"concept={self.name!r} must divide {len(values)} games of {n_agents} agents into credits of shape "
                f"{(len(values), n_agents)}, and returned {tuple(division.credits.shape)}."
            )
        if players is not None:
            values = values.masked_fill(~splits(masks, players), -math.inf)
        epsilon = largest_excess(division.credits, values, masks)
        epsilon = epsilon.masked_fill(epsilon == -math.inf, 0)
        if self.settings["epsilon_bound"] == "nonnegative":
            epsilon = epsilon.clamp(min=0)
        return Credits(division.credits, epsilon, division.gap, division.converged)

    def among(self, players: th.Tensor, values: th.Tensor, sample: CoalitionSample, grand_value: th.Tensor) -> Credits:
        """
        Divide every game among its players. Samples with the same players are solved together.

        :param players: Boolean ``(batch, n_agents)``, which agents take part in which game.
        :param values: Of shape ``(batch, n_coalitions)``.
        :param sample: The coalitions.
        :param grand_value: Of shape ``(batch,)``.
        :return: The credits.
        """
        if self.concept.estimates and (sample.expected_counts is not None or sample.orders is not None):
            return self(values, sample, grand_value, players)
        nothing = th.zeros_like(grand_value)
        result = Credits(values.new_zeros(players.shape), nothing, nothing.clone(), nothing == 0)
        teams, team_of_sample = th.unique(players, dim=0, return_inverse=True)
        for number, team in enumerate(teams):
            if not team.any():
                continue
            samples = (team_of_sample == number).nonzero()[:, 0]
            team_masks, rows = restrict_coalitions(sample.masks, team)
            divided = self(values[samples][:, rows], CoalitionSample(team_masks), grand_value[samples])
            result.credits[samples[:, None], team.nonzero()[:, 0]] = divided.credits
            for whole, part in zip(result[1:], divided[1:], strict=True):
                whole[samples] = part
        return result


def check_variance_weight(variance_weight: float) -> float:
    """
    :param variance_weight: What ``allocate`` or an algorithm was given.
    :return: The same as a float.
    :raises TypeError: If it is no number.
    :raises ValueError: If it is negative or not finite.
    """
    try:
        # float() would take text as well.
        weight = None if isinstance(variance_weight, str | bytes) else float(variance_weight)
    except (TypeError, ValueError, RuntimeError):
        weight = None
    if weight is None:
        raise TypeError(f"variance_weight must be a number, got {variance_weight!r}; 0 gives the least core.")
    if not weight >= 0:
        raise ValueError(f"variance_weight must not be negative, got {weight}; 0 gives the least core.")
    if math.isinf(weight):
        raise ValueError(f"variance_weight must be finite, got {weight}; concept='equal' is the limit of large weights.")
    return weight


def _unit(scale: float | th.Tensor | None, dtype: th.dtype, values: th.Tensor) -> th.Tensor:
    """
    :param scale: What ``allocate`` was given.
    :param dtype: Of the solver.
    :param values: Of the games.
    :return: The scale of each game, ``(batch,)``.
    :raises TypeError: If the scale is neither a number nor a tensor.
    :raises ValueError: If there are not as many as games.
    """
    scale = 1.0 if scale is None else scale
    try:
        if isinstance(scale, th.Tensor) and scale.is_complex():
            raise TypeError("complex")
        unit = th.as_tensor(scale, dtype=dtype, device=values.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"scale must be a number or a tensor of one for each game, got {scale!r}.") from error
    if unit.shape not in ((), (1,), values.shape[:1]):
        raise ValueError(f"scale must be one number or (batch={len(values)},), got {tuple(unit.shape)}.")
    return unit.expand(len(values))


def _check_types(values: th.Tensor, sample: CoalitionSample, grand_value: th.Tensor, player_mask: th.Tensor | None) -> None:
    """
    :raises TypeError: If an argument of ``allocate`` is no tensor, or none that has numbers to compute with.
    """
    tensors = {"values": values, "masks": sample.masks, "grand_value": grand_value, "player_mask": player_mask}
    for name, tensor in tensors.items():
        if tensor is None and name == "player_mask":
            continue
        if not isinstance(tensor, th.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}: th.as_tensor makes one.")
        if tensor.layout != th.strided or tensor.is_meta:
            raise TypeError(f"{name} must be a dense tensor, got {tensor.layout} on {tensor.device}: to_dense() makes one.")
        if tensor.is_complex():
            raise TypeError(f"{name} must be real, got {tensor.dtype}.")


def _check_shapes(values: th.Tensor, sample: CoalitionSample, grand_value: th.Tensor, player_mask: th.Tensor | None) -> None:
    """
    :raises ValueError: If the shapes of the arguments of ``allocate`` do not match.
    """
    masks, counts, orders = sample
    if masks.dim() != 2 or masks.dtype != th.bool or masks.shape[1] < 1:
        raise ValueError(f"masks must be boolean (n_coalitions, n_agents), got {masks.dtype} {tuple(masks.shape)}.")
    n_coalitions, n_agents = masks.shape
    if values.dim() != 2 or values.shape[1] != n_coalitions or not values.is_floating_point():
        raise ValueError(
            f"values must be floating point (batch, n_coalitions={n_coalitions}), got {values.dtype} {tuple(values.shape)}."
        )
    n_samples = len(values)
    if grand_value.shape != (n_samples,):
        raise ValueError(f"grand_value must be (batch={n_samples},), got {tuple(grand_value.shape)}.")
    if player_mask is not None and player_mask.shape != (n_samples, n_agents):
        raise ValueError(f"player_mask must be (batch={n_samples}, n_agents={n_agents}), got {tuple(player_mask.shape)}.")
    if counts is not None and counts.shape != (n_coalitions,):
        raise ValueError(
            f"The expected_counts of the sample given as masks must be (n_coalitions={n_coalitions},), got "
            f"{tuple(counts.shape)}."
        )
    if orders is not None and (orders.shape[1:] != (n_agents,) or len(orders) * (n_agents - 1) != n_coalitions):
        raise ValueError(
            f"The orders of the sample given as masks must be (n_orders, n_agents={n_agents}) and meet its {n_coalitions} "
            f"coalitions, n_agents - 1 each, got {tuple(orders.shape)}."
        )


def _check_coalitions(sample: CoalitionSample) -> None:
    """
    :raises ValueError: If a coalition is empty or grand, or is expected to be drawn less than never.
    """
    masks, counts, _ = sample
    if counts is not None and not bool((counts > 0).all()):
        raise ValueError(
            f"The expected_counts of the sample given as masks must be positive, got {counts.min().item()}: draw_coalitions "
            "returns them."
        )
    size = masks.sum(dim=1)
    improper = ((size == 0) | (size == masks.shape[1])).nonzero()[:, 0]
    if len(improper):
        row = int(improper[0])
        kind = "empty" if size[row] == 0 else "the grand coalition"
        raise ValueError(
            f"masks[{row}] is {kind}; only proper coalitions belong there. The empty one is worth 0, and the grand one's "
            "worth is grand_value."
        )


def _check_numbers(values: th.Tensor, grand_value: th.Tensor, unit: th.Tensor) -> None:
    """
    :raises ValueError: If a number is not finite, or a unit is not positive.
    """
    bad = (~(values.isfinite().all(dim=1) & grand_value.isfinite())).nonzero()[:, 0]
    if len(bad):
        sample = int(bad[0])
        raise ValueError(
            f"{len(bad)} of {len(values)} samples hold numbers that are not finite, the first is sample {sample}: grand_value="
            f"{grand_value[sample].item()}, {int((~values[sample].isfinite()).sum())} of {values.shape[1]} coalition values. "
            "Look for NaN in rewards, observations and critics, or pass check=False to give such samples zero credits."
        )
    bad = (~(unit.isfinite() & (unit > 0))).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"scale must be positive and finite, got {unit[bad[0]].item()} for sample {int(bad[0])}. Where it is a spread of "
            "values that are all equal, replace it by 1."
        )


def _describe_failures(result: Credits) -> str:
    """
    :return: An error message that says which samples did not converge, and what to do.
    """
    failed = (~result.converged).nonzero()[:, 0]
    sample = int(failed[0])
    return (
        f"{len(failed)} of {len(result.converged)} credit programs did not converge, the first is sample {sample} with a "
        f"gap of {result.gap[sample].item():.3g} (in units of the values). Try another solver, or pass check=False to go on "
        "with the best credits found."
    )
