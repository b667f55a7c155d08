"""The registry of solution concepts: complete, true in what it declares, and open to concepts from elsewhere."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_cora import CORAPPO
from sb3_cora import credit as credit_package
from sb3_cora.common.rollout import Rollout
from sb3_cora.credit import CONCEPTS, Concept, all_coalitions, allocate, extremes
from sb3_cora.credit.coalitions import is_closed_under_complement
from tests.algorithms import assert_trained, make_tiny, weights
from tests.joint_games import MaskedTeam
from tests.processes import ROOT

CONCEPT_FILES = sorted((ROOT / "sb3_cora" / "credit" / "concepts").glob("[a-z]*.py"))

over_concepts = pytest.mark.parametrize("name", CONCEPTS)


def games(n_games: int, n_coalitions: int) -> tuple[th.Tensor, th.Tensor]:
    generator = th.Generator().manual_seed(0)
    return (th.randn(shape, generator=generator, dtype=th.float64) for shape in ((n_games, n_coalitions), (n_games,)))


# What is registered


def test_every_function_of_the_concepts_is_registered() -> None:
    defined = {}
    for path in CONCEPT_FILES:
        if path.stem != "base":
            module = importlib.import_module(f"sb3_cora.credit.concepts.{path.stem}")
            functions = inspect.getmembers(module, inspect.isfunction)
            defined |= {name: function for name, function in functions if function.__module__ == module.__name__}
    defined = {name: function for name, function in defined.items() if not name.startswith("_")}
    assert defined == {name: concept.divide for name, concept in CONCEPTS.items()}
    assert all(getattr(credit_package, name) is function for name, function in defined.items())


def test_the_docs_list_every_concept() -> None:
    table = (ROOT / "docs" / "credits.md").read_text(encoding="utf-8").partition("| `concept`, `CORAPPO(credit=)` |")[2]
    rows = re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \|", table.partition("\n\n")[0], flags=re.MULTILINE)
    assert {name: efficient == "yes" for name, efficient in rows} == {
        name: concept.efficient for name, concept in CONCEPTS.items()
    }


def test_only_the_registry_and_defaults_name_a_concept() -> None:
    found = []
    for part in ("credit", "cora_ppo"):
        for path in (ROOT / "sb3_cora" / part).rglob("*.py"):
            if path not in CONCEPT_FILES and path.name != "__init__.py":
                nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
                found += [(path.stem, string) for string in strings if string in CONCEPTS]
    assert sorted(found) == [("allocations", "core"), ("cora_ppo", "core")]


# What is declared


@over_concepts
@pytest.mark.parametrize("n_agents", [3, 5, 12])
def test_efficient_concepts_and_no_others_sum_to_the_grand_value(name: str, n_agents: int) -> None:
    concept = CONCEPTS[name]
    sample = concept.draw(n_agents, generator=th.Generator().manual_seed(0))
    values, grand_value = games(20, len(sample.masks))
    result = allocate(values, sample, grand_value, name)
    lacking = (result.credits.sum(dim=1) - grand_value).abs()
    assert result.converged.all()
    assert lacking.max() < 1e-9 if concept.efficient else lacking.min() > 1e-6


@over_concepts
def test_all_coalitions_are_taken_up_to_the_declared_number_of_agents(name: str) -> None:
    concept = CONCEPTS[name]
    for n_agents in range(1, concept.max_agents_exact + 1):
        sample = concept.draw(n_agents)
        assert sample.masks.equal(all_coalitions(n_agents)) and sample.expected_counts is None
    beyond = concept.draw(concept.max_agents_exact + 1)
    assert len(beyond.masks) < 2 ** (concept.max_agents_exact + 1) - 2 and beyond.expected_counts is not None
    assert len(concept.draw(200).masks) >= 254
    # Of few agents there are fewer than are drawn of many
    assert len(replace(concept, max_agents_exact=3).draw(4).masks) == 14


@over_concepts
def test_samples_hold_what_the_concept_takes(name: str) -> None:
    concept = CONCEPTS[name]
    for n_agents, n_coalitions in ((4, 12), (12, None)):
        masks = concept.draw(n_agents, n_coalitions, generator=th.Generator().manual_seed(0)).masks
        rows = set(map(tuple, masks.tolist()))
        assert not concept.complements or is_closed_under_complement(masks)
        assert not concept.extremes or rows >= set(map(tuple, extremes(n_agents).tolist()))
    orders = concept.draw(12).orders
    assert (orders is not None) == (concept.sampling == "permutations")


@over_concepts
def test_concepts_take_the_settings_that_they_declare(name: str) -> None:
    concept = CONCEPTS[name]
    _, coalitions, _, *others = inspect.signature(concept.divide).parameters
    assert coalitions == ("coalitions" if concept.estimates else "masks")
    assert others == [*concept.settings, *(["players"] if concept.estimates else [])]


def test_settings_that_are_declared_must_exist() -> None:
    with pytest.raises(ValueError, match=r"settings=\('weight',\) must be .* out of \['variance_weight', 'epsilon_bound'"):
        Concept(credit_package.equal, efficient=True, settings=("weight",))


# A concept from elsewhere, by the steps of CONTRIBUTING.md

INEFFICIENT = '''
from sb3_cora.credit import CONCEPTS, Concept, difference, singleton


def middle(values, masks, grand_value):
    """Between what an agent is worth on its own and what the team would lose without it."""
    return (singleton(values, masks, grand_value) + difference(values, masks, grand_value)) / 2


CONCEPTS["middle"] = Concept(middle, efficient=False, extremes=True)
'''


class Observed(CORAPPO):
    """Keeps the last rollout's advantages and credits, each ``(n_steps, n_envs, ...)``."""

    def _allocate_credits(self, rollout: Rollout) -> th.Tensor:
        credits = super()._allocate_credits(rollout)
        self.advantages, self.credits = rollout.advantages[..., 0].numpy(), credits.numpy()
        return credits


@pytest.fixture
def registry() -> Iterator[dict[str, Concept]]:
    before = dict(CONCEPTS)
    yield CONCEPTS
    CONCEPTS.clear()
    CONCEPTS.update(before)


def example() -> str:
    """The code of the section "A new solution concept"."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## A new solution concept")[2]
    code = re.findall(r"^   ```python\n(.*?)^   ```", guide.partition("\n## ")[0], flags=re.DOTALL | re.MULTILINE)
    assert len(code) == 1
    return inspect.cleandoc(code[0])


@pytest.mark.parametrize("name", ["equal_surplus", "middle"])
def test_a_concept_of_another_package(
    name: str, registry: dict[str, Concept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / f"team_{name}"
    package.mkdir()
    (package / "__init__.py").write_text(example() if name == "equal_surplus" else INEFFICIENT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"credit='{name}' is unknown"):
        make_tiny(CORAPPO, "climbing", credit=name)
    importlib.import_module(package.name)

    # Alone the two are worth 1 and 3, without the other's help 6 is left; and without them the team would lose 7 and 9
    values, grand_value = th.tensor([[1.0, 3.0]]), th.tensor([10.0])
    assert allocate(values, all_coalitions(2), grand_value, name).credits.tolist() == [[4.0, 6.0]]

    for env in ("climbing", "differential", MaskedTeam(dead=(1,))):
        model = make_tiny(Observed, env, credit=name)
        before = weights(model)
        assert_trained(before, model.learn(16))
        # Of the living; the dead have none. Only what is said to be efficient is multiplied to have the advantage for mean
        mean = model.credits.sum(axis=2) / (model.credits != 0).sum(axis=2)
        assert np.allclose(mean, model.advantages, rtol=1e-4, atol=1e-4) == registry[name].efficient
    beyond = registry[name].draw(12)
    assert len(beyond.masks) == 254 and (beyond.masks.sum(dim=1) == 1).sum() == 12
