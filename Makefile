# Everything that a developer or a first user runs. `make` alone prints this help.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types unit docs format clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

help:  ## Print this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP)  ## Make the environment in .venv, with the pinned versions

# uv where there is one, else the standard tools; a second time it is up to date and takes no time.
$(STAMP): pyproject.toml setup.py constraints.txt
	@if command -v uv > /dev/null; then \
	  test -x $(BIN)/python || uv venv --quiet $(if $(filter-out python3,$(PYTHON)),--python $(PYTHON),) $(VENV); \
	  uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'; \
	else \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch $(STAMP)

DEMO := outputs/digits/digits_cnn/tascnet-seed0

demo: setup  ## Tune, prune and export on the embedded digits (no files, no network), and predict an image
	$(BIN)/python -m tascnet
	$(BIN)/python -m tascnet stage=predict predict.model=$(DEMO)/prune/export/model.onnx \
	  predict.input=examples/seven.png predict.output=-
	@cp $(DEMO)/models.svg outputs/demo.svg && echo "plot: outputs/demo.svg, report: $(DEMO)/report.html"

test: lint types unit  ## Lint, types and tests: what CI runs

lint: setup  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## Check types
	$(BIN)/mypy

unit: setup  ## Run the tests
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

docs: setup  ## Write the tables of docs/files.md from the records
	$(BIN)/python -m tascnet.report.files docs/files.md

format: setup  ## Format the code and fix what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment, caches and build files; outputs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
