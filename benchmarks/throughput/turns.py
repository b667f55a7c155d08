"""How a contestant takes its turns: an iteration for each line it is sent, and its seconds as a line of JSON in return."""

import json
import os
import sys
import time


class Turns:
    """
    The contestant's end of the pipe. Between its turns it waits, so that the others have the core for themselves.

    Whatever else the process prints goes to the standard error.
    """

    def __init__(self) -> None:
        # A number and no file object: BenchMARL pickles its callbacks
        self._answers = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._start: tuple[float, float] | None = None

    @property
    def taken(self) -> bool:
        """Whether a turn has begun and not ended."""
        return self._start is not None

    def begin(self) -> None:
        """
        Wait for the next turn.

        :raises SystemExit: When there is none
        """
        if not sys.stdin.readline():
            raise SystemExit
        self._start = time.perf_counter(), time.process_time()

    def elapsed(self) -> tuple[float, float]:
        """
        :return: Wall-clock and CPU seconds since the turn began
        """
        assert self._start is not None, "begin() first"
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]

    def end(self, sections: dict[str, float]) -> None:
        """
        Answer with the seconds of this turn.

        :param sections: CPU seconds of its parts
        """
        wall, processor = self.elapsed()
        self._start = None
        answer = {"wall": wall, "processor": processor, "sections": sections}
        os.write(self._answers, f"{json.dumps(answer)}\n".encode())
