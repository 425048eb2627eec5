# The two commands: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash
# Processes that share the tests; empty for none.
WORKERS ?= 2
# Files with few and long tests come first, so that no process is left with one of them at the end.
LONG := tests/docs tests/test_demo.py tests/http/test_described_requests.py tests/jobs
# The tests' folders are in memory where there is room for them and programs may be started there: thousands of commits need not wait for a disk.
# Servers that refuse to run as root pass through the folder to their own.
SCRATCH = folder=$$(mktemp -d /dev/shm/sandbox-tests.XXXXXX 2>/dev/null) && [ $$(df --output=avail $$folder | tail -1) -gt 6000000 ] \
	&& cp "$$(type -P true)" $$folder/true && $$folder/true || { rm -rf "$$folder"; folder=$$(mktemp -d); }; \
	chmod 711 "$$folder"

.PHONY: venv demo test lint serve bench clean

venv: $(VENV)/.runtime

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); echo "installing python3-venv, which Debian keeps apart from Python"; \
		SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); $$SUDO apt-get update -qq && $$SUDO apt-get install -yqq python3-venv >/dev/null \
		&& $(PYTHON) -m venv $(VENV) || { echo "no venv module: install python3-venv and run make again"; exit 1; }; }

$(VENV)/.runtime: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: $(VENV)/.runtime
	@$(BIN)/sandbox demo

test: $(VENV)/.dev
	@$(SCRATCH); trap 'rm -rf "$$folder"' EXIT; export TMPDIR="$$folder"; \
	$(BIN)/python -m pytest $(if $(WORKERS),-n $(WORKERS) --dist loadfile --no-loadscope-reorder) $(or $(TESTS),$(LONG) tests)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy policies enclaves sandbox app.py

serve: $(VENV)/.runtime
	@SANDBOX_DATA=$${SANDBOX_DATA:-sandbox-data} $(BIN)/sandbox serve --with-worker

bench: $(VENV)/.dev
	@for name in $$(ls benchmarks/*.py | xargs -n1 basename | sed 's/\.py$$//' | grep -v '^_'); do \
		echo "== benchmarks.$$name"; $(BIN)/python -m benchmarks.$$name $(BENCH) || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
