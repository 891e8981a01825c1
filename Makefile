# Everything runs in .venv. Stamp files say what is installed there, so a second call installs nothing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEV_STAMP := .venv/.installed-dev
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: install demo check test docs bench bench-peers

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/dsdm run experiments/quickstart.yaml

check: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

docs: $(STAMP)
	$(BIN)/python docs/make_results.py
	$(BIN)/python docs/make_performance.py

bench: $(DEV_STAMP)
	@set -e; for file in $(sort $(filter-out %bench_peers.py,$(wildcard experiments/bench_*.py))); do \
	  echo "$$file"; $(BIN)/python "$$file"; \
	done

# Installs an environment for each peer under build/peers first: several GB.
bench-peers: $(STAMP)
	$(BIN)/python experiments/bench_peers.py

.venv/pyvenv.cfg:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dsdm needs Python 3.11 or newer; run make with PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

$(STAMP): .venv/pyvenv.cfg pyproject.toml constraints.txt
	@echo "installing into .venv (some minutes, once)"
	$(PIP) install --no-compile --constraint constraints.txt --editable .
	touch $@

$(DEV_STAMP): $(STAMP)
	@echo "installing the tools for make check and make test"
	$(PIP) install --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@
