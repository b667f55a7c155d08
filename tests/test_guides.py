"""
What the developer guide says of a new environment and a new solver, followed to the letter. A new algorithm is in test_zoo.py,
a new concept in test_credit_concepts.py, a new simulator in test_worlds.py.
"""

import importlib
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th

from sb3_cora import CORAPPO, check_joint_env, make_joint_vec_env
from sb3_cora.credit import SOLVERS, all_coalitions, allocate
from tests.algorithms import assert_trained, make_tiny, weights
from tests.processes import ROOT, run_zoo


def section(title: str) -> str:
    """
    :param title: Of a section of the guide
    :return: What is in it, without the indentation of blocks in lists
    """
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.sub("^   ", "", text, flags=re.MULTILINE)


@contextmanager
def package_of(title: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """
    :param title: Of a section with one file in Python
    :param folder: Where the file is written
    :return: What importing it gives
    """
    ((name, code),) = re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", section(title), flags=re.DOTALL | re.MULTILINE)
    (folder / f"{name}.py").write_text(textwrap.dedent(code), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    try:
        yield importlib.import_module(name)
    finally:
        sys.modules.pop(name, None)


def test_a_new_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with package_of("A new environment", tmp_path, monkeypatch):
        try:
            env = gym.make("echo")
            check_joint_env(env)
            observation, _ = env.reset(seed=0)
            total = 0.0
            for step in range(10):
                # One names what it was shown, the other what it was not
                right = observation.argmax(axis=1)
                observation, reward, terminated, truncated, info = env.step(np.array([right[0], (right[1] + 1) % 3]))
                assert info["agent_rewards"].tolist() == [1, 0] and truncated == (step == 9) and not terminated
                total += float(reward)
            assert total == 5.0
        finally:
            gym.registry.pop("echo", None)
    (command,) = re.findall(r"^python -m sb3_cora\.zoo\.train (.*)", section("A new environment"), flags=re.MULTILINE)
    output = run_zoo("train.py", *shlex.split(command), "-n", "64", "--final-eval-episodes", "4", folder=tmp_path).stdout
    assert "length 10.0 +- 0.0" in output


def test_a_new_solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as far from the exact solution as its gap allows: the objective is strongly convex in the credits."""
    before = dict(SOLVERS)
    with package_of("A new solver", tmp_path, monkeypatch) as module:
        try:
            masks = all_coalitions(3)
            values = th.as_tensor(np.random.default_rng(0).normal(size=(10, len(masks))))
            for epsilon_bound in ("nonnegative", "free"):
                settings: dict[str, Any] = {"variance_weight": 1.0, "epsilon_bound": epsilon_bound}
                found = allocate(values, masks, values.sum(dim=1), solver="frank_wolfe", **settings)
                exact = allocate(values, masks, values.sum(dim=1), **settings)
                assert found.gap.max() > 0 and found.converged.all()
                distance = (found.credits - exact.credits).square().sum(dim=1)
                assert (distance <= 3 * found.gap + 1e-9).all()
            # An epsilon of 3 = 6 - 3: a unit more for the first agent would cost more in variance than it lowers epsilon
            alone = allocate(
                th.tensor([[6.0, -6.0]]), all_coalitions(2), th.tensor([2.0]), solver="frank_wolfe", variance_weight=0.25
            )
            assert (alone.credits[0].tolist(), alone.epsilon.tolist()) == (pytest.approx([3, -1]), pytest.approx([3]))
            with pytest.raises(ValueError, match=r"deviation_weight=0\.1 is not available"):
                allocate(values, masks, values.sum(dim=1), "core_l1", solver=module.FrankWolfeSolver())
            env = make_joint_vec_env("climbing", n_envs=2)
            model = make_tiny(CORAPPO, env, solver="frank_wolfe", solver_kwargs={"tol": 1e-2}, variance_weight=1.0)
            initial = weights(model)
            assert_trained(initial, model.learn(2 * 16 * model.n_envs))
        finally:
            SOLVERS.clear()
            SOLVERS.update(before)
