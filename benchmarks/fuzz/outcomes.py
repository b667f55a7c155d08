"""What becomes of a case of the fuzz."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """
    What a case has come to.

    :param outcome: ``"answer"``; ``"refusal"``, a typed error that names what is wrong; ``"flagged"``, games with numbers that
        are not finite under ``check=False``, which are given zero and reported; or ``"defect"``.
    :param kind: Of an answer the concept or algorithm, of a refusal the error and the argument that it names, else what it is.
    :param n_cases: How many games or environments.
    :param worst: Of answers the largest violation of a certificate, relative to the largest number of the game.
    """

    outcome: str
    kind: str
    n_cases: int
    worst: float = 0.0
