from typing import Any

from sb3_cora.credit.solvers.active_set import ActiveSetSolver
from sb3_cora.credit.solvers.base import ConvergenceError, CoreSolver, Solution
from sb3_cora.credit.solvers.cvxpylayers import CvxpyLayersSolver

SOLVERS: dict[str, type[CoreSolver]] = {"active_set": ActiveSetSolver, "cvxpylayers": CvxpyLayersSolver}
"""Solvers of the core program by name."""


def make_solver(solver: str | CoreSolver, **kwargs: Any) -> CoreSolver:
    """
    :param solver: A name among ``SOLVERS``, or a solver, which is returned as it is.
    :param kwargs: Arguments of the solver's constructor if it is given by name.
    :return: The solver.
    :raises ValueError: If the name is unknown.
    """
    if isinstance(solver, CoreSolver):
        return solver
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is unknown, expected one of {list(SOLVERS)} or a CoreSolver.")
    return SOLVERS[solver](**kwargs)


__all__ = ["SOLVERS", "ActiveSetSolver", "ConvergenceError", "CoreSolver", "CvxpyLayersSolver", "Solution", "make_solver"]
