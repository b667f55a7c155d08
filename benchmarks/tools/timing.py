"""Where the time of an iteration goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any


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
