"""Many agents: time and memory of valuing sampled coalitions, and of dividing what they are worth."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.axes import Axes

from benchmarks.credit.critic_games import Situation, situation
from sb3_cora.credit import CoalitionSample, allocate, coalition_values, draw_coalitions, n_proper_coalitions

N_AGENTS = (5, 10, 20, 30, 50)
N_COALITIONS = 254
N_SAMPLES, N_SAMPLES_OF_LARGE_CORES = 100_000, 10_000
LARGEST_FAST_CORE = 10
"""Number of agents up to which as many core programs are solved as there are samples; more take milliseconds each."""

MAX_ELEMENTS = 2**20
WEIGHT = 0.1
MEBIBYTE = 2**20
STATUS = Path("/proc/self/status")


class Row(NamedTuple):
    """
    One line of the table.

    - ``step``: ``"values"`` (``coalition_values`` of twin critics of 2 x 64 units, in single precision), or the solution
      concept by which ``allocate`` divides values of such critics (the core) or normal ones (the Shapley value, on which they
      have no influence)
    - ``n_agents``, ``n_coalitions``, ``n_samples``: size of the problem. Of 5 agents there are no more coalitions; the Shapley
      value has as many orders of arrival as fit
    - ``microseconds``: per sample, in one pass over all of them
    - ``result_mib``: memory of what is returned
    - ``extra_mib``: how far the memory of the process rose above what it held before the call plus ``result_mib``. See
      ``extra_memory``; none where the system does not tell
    - ``temporary_mib``: memory of one of those temporaries of which the docstring of ``coalition_values`` promises that
      ``extra_mib`` is a handful
    - ``unconverged``: samples that ``allocate`` did not solve
    """

    step: str
    n_agents: int
    n_coalitions: int
    n_samples: int
    microseconds: float
    result_mib: float
    extra_mib: float | None
    temporary_mib: float | None
    unconverged: int


class Step(NamedTuple):
    """
    :param name: See ``Row``
    :param n_coalitions: How many there are
    :param n_samples: Of how many samples
    :param run: Takes the step for the first so many samples
    """

    name: str
    n_coalitions: int
    n_samples: int
    run: Callable[[int], tuple[th.Tensor, ...]]


def values_step(drawn: Situation, sample: CoalitionSample) -> Step:
    """
    :param drawn: What the agents do
    :param sample: The coalitions
    :return: The step that values them
    """

    def run(n_samples: int) -> tuple[th.Tensor, ...]:
        bound = drawn.critic.bind(drawn.states[:n_samples])
        actions, baseline_actions = drawn.actions[:n_samples], drawn.baseline_actions[:n_samples]
        return (coalition_values(bound, actions, baseline_actions, sample.masks, max_elements=MAX_ELEMENTS),)

    return Step("values", len(sample.masks), len(drawn.states), run)


def credits_step(concept: str, values: th.Tensor, sample: CoalitionSample, grand_value: th.Tensor) -> Step:
    """
    :param concept: The solution concept
    :param values: ``(n_samples, n_coalitions)``
    :param sample: The coalitions
    :param grand_value: ``(n_samples,)``
    :return: The step that divides the grand value
    """
    scale = float(grand_value.std())

    def run(n_samples: int) -> tuple[th.Tensor, ...]:
        games = (values[:n_samples], sample, grand_value[:n_samples])
        return allocate(*games, concept, variance_weight=WEIGHT, scale=scale, check=False)

    return Step(concept, len(sample.masks), len(values), run)


def steps(n_agents: int, n_samples: int, n_cores: int) -> Iterator[Step]:
    """
    :param n_agents: Number of agents
    :param n_samples: Number of samples
    :param n_cores: Number of core programs
    :return: The steps to measure
    """
    generator = th.Generator().manual_seed(0)
    n_coalitions = min(N_COALITIONS, n_proper_coalitions(n_agents))
    sample = draw_coalitions(n_agents, n_coalitions, generator=generator)
    drawn = situation(n_agents, n_samples, seed=0)
    yield values_step(drawn, sample)

    few = Situation(drawn.critic, *(part[:n_cores] for part in drawn[1:]))
    ends = th.tensor([[False], [True]]).expand(2, n_agents)
    (worths,) = values_step(few, CoalitionSample(th.cat([ends, sample.masks]))).run(n_cores)
    worths = worths - worths[:, :1]
    yield credits_step("core", worths[:, 2:].clone(), sample, worths[:, 1].clone())

    orders = draw_coalitions(n_agents, N_COALITIONS, "permutations", generator)
    values = th.randn(n_samples, len(orders.masks), generator=generator)
    yield credits_step("shapley", values, orders, th.randn(n_samples, generator=generator))


def virtual(field: str) -> int:
    """
    :param field: Of what Linux says of this process: ``"VmSize"``, the memory it has, or ``"VmPeak"``, the most it ever had
    :return: Bytes
    """
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def bytes_of(tensors: tuple[th.Tensor, ...]) -> int:
    """
    :return: Memory of the tensors
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def extra_memory(n_agents: int, n_samples: int, n_cores: int) -> dict[str, int]:
    """
    Memory of every step, as addresses: what is resident also depends on what the system finds worth keeping.

    :param n_agents: Number of agents
    :param n_samples: Number of samples
    :param n_cores: Number of core programs
    :return: Bytes beyond those held before and those of the result, by step
    """
    th.set_num_threads(1)
    extra = {}
    for step in steps(n_agents, n_samples, n_cores):
        step.run(min(64, step.n_samples))  # so that nothing is loaded or set up later on
        # Addresses without memory, up to the peak so far, so that whatever is added raises the peak
        filler = th.empty(virtual("VmPeak") - virtual("VmSize"), dtype=th.uint8)
        before = virtual("VmPeak")
        result = step.run(step.n_samples)
        extra[step.name] = virtual("VmPeak") - before - bytes_of(result)
        del filler, result
    return extra


def extra_memory_in_fresh_process(n_agents: int, n_samples: int, n_cores: int) -> dict[str, int]:
    """
    ``extra_memory`` in a new process whose allocator gives back every tensor as soon as it is freed. Left to itself, glibc
    would keep some for later, which hides memory that is used again.

    :return: As ``extra_memory``; nothing where the system does not tell
    """
    if not STATUS.is_file():
        return {}
    name, before = "MALLOC_MMAP_THRESHOLD_", os.environ.get("MALLOC_MMAP_THRESHOLD_")
    os.environ[name] = "65536"
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(extra_memory, n_agents, n_samples, n_cores).result()
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def rows(quick: bool, n_samples: int = N_SAMPLES) -> Iterator[Row]:
    """
    :param quick: Few samples of few agents, for tests
    :param n_samples: Number of samples
    :return: The rows of the table
    """
    if quick:
        n_samples = 4000
    for n_agents in N_AGENTS[:1] if quick else N_AGENTS:
        n_cores = n_samples if n_agents <= LARGEST_FAST_CORE else min(n_samples, N_SAMPLES_OF_LARGE_CORES)
        extra = extra_memory_in_fresh_process(n_agents, n_samples, n_cores)
        for step in steps(n_agents, n_samples, n_cores):
            step.run(min(64, step.n_samples))
            start = time.perf_counter()
            result = step.run(step.n_samples)
            elapsed = time.perf_counter() - start
            yield Row(
                step.name,
                n_agents,
                step.n_coalitions,
                step.n_samples,
                1e6 * elapsed / step.n_samples,
                bytes_of(result) / MEBIBYTE,
                extra[step.name] / MEBIBYTE if extra else None,
                4 * MAX_ELEMENTS / MEBIBYTE if step.name == "values" else None,
                0 if step.name == "values" else int((~result[-1]).sum()),
            )


def told(figures: list[float | None]) -> np.ndarray:
    """
    :return: The figures, not a number where there is none
    """
    return np.array(figures, dtype=float)


def plot(rows: list[Row], seconds: Axes, memory: Axes) -> None:
    """
    Plot time and memory against the number of agents.

    :param rows: Of the table
    :param seconds: Where to plot the first
    :param memory: Where to plot the second
    """
    for name in dict.fromkeys(row.step for row in rows):
        line = [row for row in rows if row.step == name]
        seconds.plot([row.n_agents for row in line], [row.microseconds for row in line], marker=".", label=name)
        numbers = sorted({row.n_samples for row in line}, reverse=True)
        label = f"{name}, {' or '.join(map(str, numbers))} samples"
        memory.plot([row.n_agents for row in line], told([row.extra_mib for row in line]), marker=".", label=label)
    values = [row for row in rows if row.temporary_mib is not None]
    temporary = told([row.temporary_mib for row in values])
    memory.plot([row.n_agents for row in values], temporary, "k--", label="one temporary of values")
    title = f"up to {N_COALITIONS} sampled coalitions"
    seconds.set(title=f"Time, {title}", xlabel="agents", ylabel="microseconds a sample", yscale="log")
    memory.set(title=f"Memory beside the result, {title}", xlabel="agents", ylabel="MiB", yscale="log", ylim=(1, 1000))
    for axes in (seconds, memory):
        axes.legend(fontsize=7)
