# Every target sets up what it needs in .venv by itself; `make help` lists them.
#
# Variables: PYTHON (the interpreter .venv is made with), PYTEST_ARGS, BENCH_ARGS. pip's own variables
# (PIP_INDEX_URL and so on) work as usual.

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.done
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A process for each core, whose OpenMP threads must not spin: a waiting one holds up another
# process's work, and two processes took twice as long as one.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --dist worksteal

# What the installed package is made from.
SOURCES := CMakeLists.txt pyproject.toml LICENSE \
  $(shell find csrc python -type f ! -name '*.so' ! -name '*.pyc' 2>/dev/null)
CXX_FILES = $(shell find csrc bench -name '*.h' -o -name '*.cpp')
# mypy reads a module's stub instead of the module, unless the module is named.
STUBBED = $(filter-out %/_core.py,$(patsubst %.pyi,%.py,$(shell find python -name '*.pyi')))
USER_CODE := tests/types/user_code.py tests/types/errors.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:
.PHONY: help demo test test-slow bench lint format clean distclean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: $(DONE)/install $(DONE)/group-demo ## a tour of the operations, then small networks trained several ways
	$(BIN)/python examples/tour.py
	$(BIN)/python examples/train_digits.py
	$(BIN)/python examples/train_residual.py
	$(BIN)/python examples/train_optimizers.py

test: $(DONE)/install $(DONE)/group-test ## the test suite (PYTEST_ARGS="-k relu -n 0")
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(DONE)/install $(DONE)/group-test ## the tests that take minutes
	$(PYTEST) -m slow $(PYTEST_ARGS)

bench: $(DONE)/install $(DONE)/group-bench ## measure against torch and others (BENCH_ARGS="--quick")
	$(BIN)/python -m bench $(BENCH_ARGS)

lint: $(DONE)/install $(DONE)/group-lint ## ruff, clang-format, type checkers, and the stubs against what they describe
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/python scripts/write_stubs.py --check
	$(BIN)/mypy
	$(BIN)/mypy $(STUBBED)
	$(BIN)/mypy $(USER_CODE) scripts/write_stubs.py
	$(BIN)/pyright --pythonpath $(BIN)/python $(USER_CODE)
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml \
	  --allowlist tests/types/stubtest_allowed.txt --ignore-unused-allowlist dlkernels

format: $(DONE)/group-lint ## rewrite the sources as ruff and clang-format want them
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean: ## remove what was built, tested or drawn; .venv stays
	rm -rf build dist examples/out .mypy_cache .pytest_cache .ruff_cache .hypothesis $(DONE)/install
	find bench examples python tests -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)

# --- Setting up: one file per finished step, so that a second run does only what has changed.

$(DONE)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'error: "$(PYTHON)" is not Python 3.10 or newer (choose one: make PYTHON=python3.12 ...)' >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'error: "$(PYTHON)" cannot make a virtual environment (on Debian: apt install python3-venv)' >&2; \
	  exit 1; }
	@echo "Setting up $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	@mkdir -p $(DONE) && touch $@

# torch before anything that could pull another version of it.
$(DONE)/group-torch: pyproject.toml $(DONE)/venv
	$(PIP) install --group torch
	@touch $@

$(DONE)/group-%: pyproject.toml $(DONE)/group-torch
	$(PIP) install --group $*
	@touch $@

# Without build isolation, because a build environment that is new every time would make CMake start
# from nothing every time; build/ stays, and only what has changed is compiled.
$(DONE)/install: $(SOURCES) $(DONE)/group-torch $(DONE)/group-build
	@command -v $${CXX:-g++} >/dev/null || { \
	  echo 'error: no C++ compiler found (on Debian: apt install g++)' >&2; exit 1; }
	@$(BIN)/python -c 'import os, sys, sysconfig; sys.exit(not os.path.exists( \
	  os.path.join(sysconfig.get_path("include"), "Python.h")))' || { \
	  echo 'error: "$(PYTHON)" lacks its C headers (on Debian: apt install python3-dev)' >&2; exit 1; }
	@echo "Building and installing dlkernels (some minutes the first time)"
	$(PIP) install --no-build-isolation .
	@touch $@
