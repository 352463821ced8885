PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
OLDEST := .venv-oldest
CORE := tests/test_*.py tests/graph_operators tests/kernels tests/network tests/supernet tests/device_log tests/latency \
	tests/image_data tests/search/test_study.py tests/scores tests/coreml/test_conversion.py tests/hostile

.PHONY: search test test-slow test-oldest check predictors wheel clean
.DELETE_ON_ERROR:

search: $(READY)
	$(BIN)/mvig-nas search --latency-budget 1.0ms

test: $(READY) check
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow
	HOSTILE_SEEDS=10000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/hostile -k wrong_file

# The core's tests with the oldest versions that pyproject.toml allows, in an environment of their own. What these
# depend on is as new as can be, so that they are warned of what has become old since.
test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) -m tests.oldest_versions > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt --editable '.[dev]'
	$(OLDEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal -W ignore::DeprecationWarning -m "not slow" $(CORE)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

predictors: $(READY)
	$(BIN)/python -m mvig_nas.latency.published

wheel: $(READY)
	$(BIN)/pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) $(OLDEST) build dist

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mvig-nas needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
