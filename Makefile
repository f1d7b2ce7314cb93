# Every script of the project is a target of this file: `make` (the demo), `make test`, `make check`, `make docs`.
# Each prepares .venv (`make bench`: .bench) by itself, does no work twice and is safe to run again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
RUNNING := $(VENV)/ready-to-run
TESTING := $(VENV)/ready-to-test
BENCH := .bench
BENCHING := $(BENCH)/ready-to-bench

.DEFAULT_GOAL := demo
.PHONY: demo test check format docs goldens bench

demo: $(RUNNING)  ## draws a data set, trains on it, evaluates, predicts, and leaves runs/demo
	@$(BIN)/maskrcnn demo --out runs/demo

test: check  ## format, lint, types and every test
	@$(BIN)/python -m pytest

check: $(TESTING)  ## format, lint and types
	@$(BIN)/ruff format --check --quiet . || { echo "make format puts this right"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: $(TESTING)  ## writes what check asks for
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

docs: $(TESTING)  ## writes docs/cli.md from the program, then sees that links resolve and code blocks run
	@$(BIN)/python -m maskrcnn.cli.reference > docs/cli.md
	@$(BIN)/python -m pytest tests/docs

goldens: $(TESTING)  ## every golden, about six minutes
	@MASKRCNN_GOLDENS=all $(BIN)/python -m pytest tests/golden

bench: $(BENCHING)  ## beside the rivals, on the CPU: benchmarks/results/cpu.md; ARGS=--quick takes under 5 minutes
	@$(BENCH)/bin/python -m benchmarks $(ARGS)

# One environment: what runs the program first, what tests it on top. The stamps date from the pins and the ranges.
# The rivals have one of their own, because torchvision wants the torch of its release.
$(BIN)/python $(BENCH)/bin/python: %/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "maskrcnn needs Python 3.11 or newer; name one, such as: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $*

$(RUNNING): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing maskrcnn into $(VENV)"
	@began=$$(date +%s); $(PIP) install --constraint constraints.txt --editable '.[plots]' && \
	  echo "installed in $$(( $$(date +%s) - began )) s (downloads included)"
	@touch $@

$(TESTING): $(RUNNING)
	@echo "installing what the tests need"
	@$(PIP) install --constraint constraints.txt --editable '.[test]'
	@touch $@

$(BENCHING): pyproject.toml benchmarks/requirements.txt | $(BENCH)/bin/python
	@echo "installing the rivals into $(BENCH), some gigabytes"
	@$(BENCH)/bin/python -m pip --disable-pip-version-check -qq install -r benchmarks/requirements.txt --editable .
	@touch $@
