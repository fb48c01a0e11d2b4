# Every target sets up .venv itself, once. Needed are Python 3.11 or newer with pip, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BRIDGE := tests/fit tests/testing $(addprefix tests/test_,adapter.py golden_runs.py golden_traces.py resume.py)

.PHONY: demo test test-oldest check bench docs dist clean

demo: $(READY)  ## train a classifier on real data
	$(BIN)/python -m callbacksets.demo

test: $(READY)  ## run the tests; several threads for a tiny network would spend their time waiting for each other
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --durations=15

test-oldest: .venv-oldest/.ready  ## run the tests of the bridge with the oldest Lightning
	.venv-oldest/bin/python -m pytest -q -n 2 $(BRIDGE)

check: $(READY)  ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.scripts.user_code

bench: $(READY)  ## measure, and write benchmarks/results.md
	$(BIN)/python -m benchmarks

docs: $(READY) $(VENV)/.docs  ## build the documentation in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(READY)  ## build wheel and sdist in dist/, and try them in empty environments
	rm -rf dist
	$(BIN)/python -m build
	tests/scripts/try_dist.sh $(BIN)/python dist/*

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-oldest/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[dev]'
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest dist site
