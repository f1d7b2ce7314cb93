# All scripts of the project: `make` (the demo), `make test`, `make slow`, `make fuzz`, `make check`, `make format`,
# `make docs`, `make licences`, `make goldens`, `make bench`. Each installs what it needs into .venv (`make bench`: .bench)
# and can be repeated.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
RUNNING := $(VENV)/ready-to-run
TESTING := $(VENV)/ready-to-test
BENCH := .bench
BENCHING := $(BENCH)/ready-to-bench
# One process per core, at most 4. A file's tests stay in one process, because they share what they have trained.
# PROCESSES=0 runs everything in this process.
PROCESSES ?= auto
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := demo
.PHONY: demo test slow fuzz check format docs licences goldens bench

demo: $(RUNNING)  ## draws a data set, trains, evaluates, predicts; the results are in runs/demo
	@$(BIN)/maskrcnn demo --out runs/demo

test: check  ## check, then all tests that take less than 20 seconds
	@$(PYTEST) -m "not slow"

slow: $(TESTING)  ## the tests that take more than 20 seconds
	@$(PYTEST) -m slow

fuzz: $(TESTING)  ## the tests that draw their inputs, with new ones each time
	@MASKRCNN_HYPOTHESIS=new $(PYTEST) -m hypothesis

check: $(TESTING)  ## format, lint and types; warns about long files and functions
	@$(BIN)/ruff format --check --quiet . || { echo "make format fixes this"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python tests/architecture/sizes.py

format: $(TESTING)  ## formats the code and applies safe lint fixes
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

docs: $(TESTING)  ## generates docs/cli.md, tests the docs, then builds the site: site/index.html
	@$(BIN)/python -m maskrcnn.cli.reference > docs/cli.md
	@$(BIN)/python -m pytest tests/docs
	@$(PIP) install --constraint constraints.txt --editable '.[docs]'
	@$(BIN)/python docs/build_site.py
	@$(BIN)/zensical build --strict

licences: $(TESTING)  ## lists the licence of every package in .venv; fails on one that is neither permissive nor explained
	@$(BIN)/python tests/architecture/licences.py

goldens: $(TESTING)  ## all goldens, about six minutes
	@MASKRCNN_GOLDENS=all $(BIN)/python -m pytest tests/golden

bench: $(BENCHING)  ## compares with other libraries on a CPU: benchmarks/results/cpu.md; ARGS=--quick: under 5 minutes
	@$(BENCH)/bin/python -m benchmarks $(ARGS)

# One environment for the program and its tests, made again when pyproject.toml or constraints.txt change.
# The benchmarks have their own, because torchvision requires the torch of its release.
$(BIN)/python $(BENCH)/bin/python: %/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "maskrcnn needs Python 3.11 or newer; choose one, for example: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $*

$(RUNNING): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing maskrcnn into $(VENV)"
	@began=$$(date +%s); $(PIP) install --constraint constraints.txt --editable . && \
	  echo "installed in $$(( $$(date +%s) - began )) s (downloads included)"
	@touch $@

$(TESTING): $(RUNNING)
	@echo "installing the tools for tests"
	@$(PIP) install --constraint constraints.txt --editable '.[test]'
	@touch $@

$(BENCHING): pyproject.toml benchmarks/requirements.txt | $(BENCH)/bin/python
	@echo "installing the other libraries into $(BENCH), several gigabytes"
	@$(BENCH)/bin/python -m pip --disable-pip-version-check -qq install -r benchmarks/requirements.txt --editable .
	@touch $@
