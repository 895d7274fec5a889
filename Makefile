# make demo   set up whatever is missing, then serve the page and print its address
# make test   set up whatever is missing, then lint, type-check and run every test
# make setup  the part they share: .venv, pinned packages, the default model

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint mutation gates clean

PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
MODEL := smollm2-135m
ARGS ?=

help:
	@sed -n 's/^# make/make/p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; set PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/runtime.stamp: requirements.txt tools/install.py | $(BIN)/python
	$(BIN)/python -m tools.install requirements.txt
	@touch $@

.venv/dev.stamp: requirements-dev.txt .venv/runtime.stamp
	$(BIN)/python -m tools.install requirements-dev.txt
	@touch $@

setup: .venv/runtime.stamp
	@$(BIN)/python -m eet_demo fetch $(MODEL)

demo: setup
	$(BIN)/python app.py $(ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: .venv/dev.stamp setup lint
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

# Plants faults in the CUDA kernels, one at a time; fails if a test misses one. Hours, not minutes, on two cores.
mutation: .venv/dev.stamp
	$(BIN)/python tests/kernels/mutation.py $(ARGS)

# Every kernel instance for every architecture, with registers and spills; fails when a decode kernel spills.
gates: .venv/dev.stamp
	$(BIN)/python -m tools.gates.compile $(ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis kernels/build
