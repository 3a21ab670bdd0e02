# make demo    set up .venv, then turn the shipped SSD into an engine in build/demo
# make test    set up .venv, then lint and all tests
# make lint    ruff and mypy alone
# make quick   the tests that take no more than a few seconds each

PYTHON ?= python3
MODEL ?= models/ssd_mobilenet_v1_coco_300.onnx
OUTPUT ?= build/demo
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet
else
INSTALL = $(UV) pip install --quiet --python $(BIN)/python
endif

.DEFAULT_GOAL := help
.PHONY: help demo test quick lint format test-lowest benchmark clean

help:
	@sed -n 's/^# make/make/p' Makefile

# The stamps make a second call quick: they are older than pyproject.toml only if dependencies may have changed.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "surgery needs Python 3.10 or newer; name one with: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/surgery run ssd $(MODEL) --output $(OUTPUT)

# Tests run even if the linters complain; either failing fails the target.
test: $(VENV)/.installed-dev
	@status=0; \
	$(MAKE) --no-print-directory lint || status=1; \
	$(BIN)/python -m pytest $(PYTEST_ARGS) || status=1; \
	exit $$status

quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow and not corpus and not gpu" $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The oldest versions that pyproject.toml allows, in an environment of their own.
test-lowest:
	@test -n "$(UV)" || { echo "test-lowest needs uv (https://docs.astral.sh/uv)" >&2; exit 2; }
	$(PYTHON) -m venv build/lowest
	$(UV) pip install --quiet --python build/lowest/bin/python --resolution lowest-direct -e '.[test]'
	build/lowest/bin/python -m pytest -m "not slow and not corpus and not gpu" $(PYTEST_ARGS)

benchmark: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/startup.py

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
