"""How long something takes: contestants that take turns on one core, and sections of what one of them does."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

Name = TypeVar("Name")
Turn = TypeVar("Turn")


def use_one_core(core: int | None = None) -> None:
    """
    Keep this process, and those that it starts, on one core. Only Linux lets them.

    :param core: Its number, the last one allowed by default
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if core is None else core})


def compete(contestants: Mapping[Name, Callable[[], Turn]], n_rounds: int, n_uncounted: int = 0) -> dict[Name, list[Turn]]:
    """
    Let contestants take turns, so that whatever else the machine does slows all of them alike.

    :param contestants: By name, what takes one turn and returns how that went
    :param n_rounds: Turns of each that count
    :param n_uncounted: Turns of each before those, in which things are loaded and set up
    :return: The turns that count, by name
    """
    turns: dict[Name, list[Turn]] = {name: [] for name in contestants}
    for _ in range(n_uncounted + n_rounds):
        for name, take_turn in contestants.items():
            turns[name].append(take_turn())
    return {name: taken[n_uncounted:] for name, taken in turns.items()}


class Stopwatch:
    """
    Wall-clock seconds by section, since the last ``reset``.

    Sections may nest: the time of an inner one is taken off the outer one, so that the sections add up to the time
    that was measured at all.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = 0.0

    def reset(self) -> None:
        """Forget everything measured so far."""
        self.seconds = {}

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """
        Add the duration of the ``with`` block to a section.

        :param name: Name of the section
        """
        outer, self._inner = self._inner, 0.0
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inner
            self._inner = outer + elapsed


def timed(function: Callable[..., Any], stopwatch: Stopwatch, name: str) -> Callable[..., Any]:
    """
    :param function: Any function
    :param stopwatch: What measures its calls
    :param name: Name of the section that they are
    :return: A function that does the same
    """

    @wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        with stopwatch.section(name):
            return function(*args, **kwargs)

    return measured
