# The front door: `make help` lists what can be done. Python >= 3.11 and make are all a machine needs.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
EVERYTHING := $(VENV)/.everything-installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# One thread a worker: the numerical libraries would otherwise compete for the same cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types pytest docs soak bench studies clean

help: ## list the commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  make venv PYTHON=python3.12   with another interpreter;   make test JOBS=8   on more cores"

venv: $(EVERYTHING) ## make .venv with everything the tests need
	@echo "$(VENV) is ready: $$($(BIN)/python --version)"

demo: $(RUNTIME) ## train a small network on real data, inspect it, write demo/report.html
	$(BIN)/thalweg demo

test: lint types pytest docs ## lint, types, every test at reduced size, the documentation (under 10 minutes on two cores)

lint: $(EVERYTHING) ## ruff
	$(BIN)/ruff check .

types: $(EVERYTHING) ## mypy --strict on the package
	$(BIN)/mypy

pytest: $(EVERYTHING) ## the tests alone: of the code, of the examples in it, and of those in README and docs
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS)

docs: $(EVERYTHING) ## build the documentation site into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

soak: $(EVERYTHING) ## the full-size campaigns (long); figures go to benchmarks/SOAK.md
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m soak --durations=0 tests

bench: $(EVERYTHING) ## side-by-side benchmarks (long); writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.run

studies: $(RUNTIME) ## every study, quick preset, and the gallery (studies/index.html)
	$(BIN)/thalweg study --all

clean: ## remove .venv, site/ and the caches
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamps are redone when the requirements change. What the tests need includes what a run needs, so a full
# installation marks both; a run alone (`make demo` on a fresh machine) installs the smaller set.

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Thalweg needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name another one: make venv PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(PIP_INSTALL) -e .
	@touch $@

$(EVERYTHING): $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(PIP_INSTALL) -e '.[dev]'
	@touch $(RUNTIME) $@
