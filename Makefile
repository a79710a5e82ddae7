# Everything runs in .venv, which is made on first use: by uv where it is installed, by venv and pip
# elsewhere. An environment that is already there is used as it is.

PYTHON ?= python3
N ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

# The stamps live inside the environment, so that they are deleted with it.
RUNTIME := $(VENV)/.byzjax-runtime
DEV := $(VENV)/.byzjax-dev

ifneq ($(UV),)
CREATE = uv venv --quiet --seed --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
INSTALL = uv pip install --quiet --python $(BIN)/python
else
CREATE = $(PYTHON) -m venv $(VENV)
PIP = $(BIN)/python -m pip --disable-pip-version-check
# An environment that uv made has no pip.
INSTALL = { $(PIP) --version || $(BIN)/python -m ensurepip --default-pip; } >/dev/null 2>&1; $(PIP) install --quiet
endif

# $(call require,COMMAND,FIX): one line and no traceback where Python is too old or missing
require = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "error: byzjax needs Python 3.11 or newer, but '$(1) --version' says:" \
	"$$($(1) --version 2>&1 | head -n 1). Fix: $(2)" >&2; exit 1; }

.PHONY: help demo test test-quick check bench reproduce-quick clean

help:
	@echo "make demo    train on MNIST with 3 of 20 workers lying; figures in demo/ (ARGS=--quick: one minute)"
	@echo "make test    the test suite, in N=$(N) processes (ARGS='-k data': a part of it)"
	@echo "make test-quick   the same without what is slow: processes, the demo, notebooks, README, examples"
	@echo "make check   lint, format and types"
	@echo "make bench   speed of one round, as JSON and a table"
	@echo "make reproduce-quick   every experiment of the paper at a reduced size, and its report in reproduction-quick/"
	@echo "make clean   remove caches, builds and demo/, but not $(VENV)"
	@echo "PYTHON=python3.12 before the first of these chooses the interpreter."

demo: $(RUNTIME)
	$(BIN)/byzjax demo --out demo $(ARGS)

test: $(DEV)
	$(BIN)/python -m pytest -n $(N) --dist worksteal $(ARGS)

test-quick: $(DEV)
	$(BIN)/python -m pytest -n $(N) --dist worksteal -m "not slow" $(ARGS)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(RUNTIME)
	$(BIN)/python benchmarks/round.py $(ARGS)

reproduce-quick: $(RUNTIME)
	$(BIN)/byzjax reproduce all --variant both --quick --store reproduction-quick $(ARGS)
	$(BIN)/byzjax report reproduction-quick

clean:
	rm -rf build dist demo .cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@$(call require,$(BIN)/python,rm -rf $(VENV))
	@echo "installing byzjax into $(VENV): a minute or two, once"
	@$(INSTALL) --editable . --constraint constraints.txt
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@$(call require,$(BIN)/python,rm -rf $(VENV))
	@echo "installing byzjax and its development tools into $(VENV): a minute or two, once"
	@$(INSTALL) --editable '.[dev]' --constraint constraints.txt
	@touch $(RUNTIME) $@

$(BIN)/python:
	@$(call require,$(PYTHON),name another one: make PYTHON=python3.12 ...)
	@$(CREATE) || { rm -rf $(VENV); echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu, install python3-venv" >&2; exit 1; }
