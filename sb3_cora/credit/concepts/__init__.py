from sb3_cora.credit.concepts import core, marginal_contributions, nucleolus, semivalues, uniform
from sb3_cora.credit.concepts.base import Concept, Division, shared_needs

CONCEPTS: dict[str, Concept] = {
    "core": Concept(core.core, efficient=True, settings=("variance_weight", "epsilon_bound", "solver")),
    "least_core": Concept(core.least_core, efficient=True, settings=("epsilon_bound", "solver")),
    "core_l1": Concept(core.core_l1, efficient=True, settings=("variance_weight", "epsilon_bound", "solver")),
    "nucleolus": Concept(nucleolus.nucleolus, efficient=True, complements=True),
    "shapley": Concept(semivalues.shapley, efficient=True, estimates=True, sampling="permutations", max_agents_exact=10),
    "banzhaf": Concept(semivalues.banzhaf, efficient=False, estimates=True, max_agents_exact=10),
    "difference": Concept(marginal_contributions.difference, efficient=False, extremes=True),
    "singleton": Concept(marginal_contributions.singleton, efficient=False, extremes=True),
    "equal": Concept(uniform.equal, efficient=True),
    "shared": Concept(uniform.shared, efficient=False),
}
"""Solution concepts by name. To add one, from any package, add an entry."""

__all__ = ["CONCEPTS", "Concept", "Division", "shared_needs"]
