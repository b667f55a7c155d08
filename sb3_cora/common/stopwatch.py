"""Where the time of an iteration goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


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

    def share(self, *names: str) -> float:
        """
        :param names: Sections
        :return: Their part of all the time measured, between 0 and 1
        """
        total = sum(self.seconds.values())
        return sum(self.seconds.get(name, 0.0) for name in names) / total if total > 0 else 0.0
