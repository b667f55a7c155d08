# `make train` and `make test` need python3 and make, nothing else: the first call builds .venv, later calls find it ready.

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed

# What `make train` trains, e.g. `make train ALGO=mappo ENV=navigation ARGS="--seed 1 -n 500000"`.
# Assigned with `=` because shells export an ENV of their own, which `?=` would take over.
ALGO = cora_ppo
ENV = give_way
ARGS =

# One thread a process: the networks are small, and a test run has one process a core.
TEST_ENVIRONMENT = OMP_NUM_THREADS=1
TEST_PROCESSES = 2

.DEFAULT_GOAL = help
.PHONY: help install train test lowest newest lint type format docs dist clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

# torch goes first and pinned: left to the resolver, an install can fetch two versions of a very large package. The pip that
# Python brings may be years old, and then takes more than twice the time to resolve.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(head -n 1 constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]"
	touch $@

install: $(INSTALLED)  ## build .venv with everything the project uses

train: $(INSTALLED)  ## train ALGO on ENV with the zoo's ARGS, then evaluate it and draw its learning curve
	$(BIN)/python zoo/train.py --algo $(ALGO) --env $(ENV) --progress $(ARGS)

test: $(INSTALLED)  ## run the tests (ARGS goes to pytest)
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup $(ARGS)

lowest: $(INSTALLED)  ## run the smoke tests with the lowest versions of the dependencies that pyproject.toml declares
	.ci/smoke lowest

newest: $(INSTALLED)  ## run the smoke tests with the newest versions of the dependencies
	.ci/smoke newest

lint: $(INSTALLED)  ## lint, and check the format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(INSTALLED)  ## check the types
	$(BIN)/mypy

format: $(INSTALLED)  ## mend what lint can, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)  ## build the documentation in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going --builder html docs docs/_build/html

dist: $(INSTALLED)  ## build the wheel and the source distribution in dist/
	rm -rf dist
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz

clean:  ## remove .venv, the built documentation and the caches, but no trained model
	rm -rf $(VENV) dist docs/_build docs/examples .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
