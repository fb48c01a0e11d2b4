# Every target sets up .venv itself, once. Needed are Python 3.11 or newer with pip, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# several threads for a tiny network would spend their time waiting for each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
PARALLEL := -n 2 --dist loadgroup --durations=15

.PHONY: demo demo-kill test test-ci test-all test-oldest test-others test-matrix test-gpu mutate check check-style check-types check-names check-users bench docs dist clean

demo: $(READY)  ## train a classifier on real data
	$(BIN)/python -m callbacksets.demo

demo-kill: $(READY)  ## the same training in a process that is killed five times and started again
	$(BIN)/python -m callbacksets.demo --kill 5

test: $(READY)  ## run the tests, but those marked slow
	$(PYTEST) $(PARALLEL) -m "not slow"

test-ci: $(READY)  ## run the slow ones too, but those that take longest or repeat others
	$(PYTEST) $(PARALLEL) -m "not release"

test-all: $(READY)  ## run all tests
	$(PYTEST) $(PARALLEL)

test-oldest:  ## run the tests of the bridge with the oldest Lightning
	$(PYTHON) tests/scripts/matrix.py 2.4

test-others: $(VENV)/others  ## compare with Keras, skorch, Ignite, Hugging Face's Trainer and Optuna
	OMP_NUM_THREADS=1 $(VENV)/others/bin/python -m pytest -q tests/test_coming_from.py tests/test_examples.py tests/test_tune.py

test-matrix:  ## run them with each Lightning in both namespaces, and all with each Python that is found and a newer torch
	$(PYTHON) tests/scripts/matrix.py

test-gpu: $(READY)  ## run what needs a GPU: tests and measurements in one table
	$(BIN)/python -m tests.scripts.gpu

mutate: $(READY)  ## change the core in one place at a time, and tell which changes no test notices; takes an hour
	$(BIN)/python -m tests.scripts.mutate

check: check-style check-types check-names check-users  ## lint and type-check; every public name has a type

check-style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(READY)
	$(BIN)/mypy

check-names: $(READY)
	PATH=$(CURDIR)/$(BIN):$$PATH VIRTUAL_ENV=$(CURDIR)/$(VENV) PYTHONPATH=src $(BIN)/pyright --verifytypes callbacksets --ignoreexternal

check-users: $(READY)
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

# beside the packages of the other tests, which would import some of these if they were there
$(VENV)/others: pyproject.toml constraints.txt $(READY)
	$(PYTHON) -m venv $@
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > "$$(echo $@/lib/python*/site-packages)/beside.pth"
	$@/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv* dist site
