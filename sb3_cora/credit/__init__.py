from sb3_cora.credit.allocations import Credits, allocate
from sb3_cora.credit.coalitions import (
    all_coalitions,
    extremes,
    largest_excess,
    leave_one_out,
    n_proper_coalitions,
    singletons,
    splits,
)
from sb3_cora.credit.concepts import CONCEPTS, Concept, Division, shared_needs
from sb3_cora.credit.concepts.core import core, core_l1, least_core
from sb3_cora.credit.concepts.marginal_contributions import difference, singleton
from sb3_cora.credit.concepts.nucleolus import nucleolus
from sb3_cora.credit.concepts.semivalues import banzhaf, shapley
from sb3_cora.credit.concepts.uniform import equal, shared
from sb3_cora.credit.games import FactoredQFunction, coalition_values
from sb3_cora.credit.sampling import (
    SAMPLINGS,
    CoalitionSample,
    coalitions_along,
    draw_coalitions,
    required_coalitions,
)
from sb3_cora.credit.solvers import SOLVERS, ActiveSetSolver, ConvergenceError, CoreSolver, CvxpyLayersSolver, make_solver

__all__ = [
    "CONCEPTS",
    "SAMPLINGS",
    "SOLVERS",
    "ActiveSetSolver",
    "CoalitionSample",
    "Concept",
    "ConvergenceError",
    "CoreSolver",
    "Credits",
    "CvxpyLayersSolver",
    "Division",
    "FactoredQFunction",
    "all_coalitions",
    "allocate",
    "banzhaf",
    "coalition_values",
    "coalitions_along",
    "core",
    "core_l1",
    "difference",
    "draw_coalitions",
    "equal",
    "extremes",
    "largest_excess",
    "least_core",
    "leave_one_out",
    "make_solver",
    "n_proper_coalitions",
    "nucleolus",
    "required_coalitions",
    "shapley",
    "shared",
    "shared_needs",
    "singleton",
    "singletons",
    "splits",
]
