from sb3_cora.credit.allocations import CONCEPTS, EFFICIENT_CONCEPTS, Credits, allocate
from sb3_cora.credit.coalitions import all_coalitions, leave_one_out, n_proper_coalitions, sample_coalitions, singletons
from sb3_cora.credit.excess import largest_excess
from sb3_cora.credit.games import FactoredQFunction, coalition_values
from sb3_cora.credit.solvers import SOLVERS, ActiveSetSolver, ConvergenceError, CoreSolver, CvxpyLayersSolver

__all__ = [
    "CONCEPTS",
    "EFFICIENT_CONCEPTS",
    "SOLVERS",
    "ActiveSetSolver",
    "ConvergenceError",
    "CoreSolver",
    "Credits",
    "CvxpyLayersSolver",
    "FactoredQFunction",
    "all_coalitions",
    "allocate",
    "coalition_values",
    "largest_excess",
    "leave_one_out",
    "n_proper_coalitions",
    "sample_coalitions",
    "singletons",
]
