# Two commands do everything: `make rehearse` and `make test`. Python 3.11+ and make are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
JOBS   ?= 4

.PHONY: help setup rehearse rehearse-ten test faults nine-days bench system lint lock wheel clean

help:
	@echo "make setup         install into $(VENV); then: $(BIN)/splitctl"
	@echo "make rehearse      a whole split on this machine, under live load, to a certificate"
	@echo "make rehearse-ten  the same with ten seeds"
	@echo "make test          lint, types, layers and all tests; lists what did not run and why"
	@echo "make faults        kill commands, workers, servers and rehearsals at every point; by hand"
	@echo "make nine-days     a rollout on the cluster with each driver, and all that may happen to it; by hand"
	@echo "make bench         the data path against its rivals; by hand"
	@echo "make system        what needs root: Debian packages; more PostgreSQL versions; a Kubernetes API server"
	@echo "make lock          renew the locked dependencies"

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "splitctl needs Python 3.11 or newer: set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

rehearse: setup
	$(BIN)/splitctl rehearse $(ARGS)

rehearse-ten: setup
	$(BIN)/python -m rehearsal.campaign --seeds 10 $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Most tests wait far more than they compute. A whole estate needs the machine for itself. 5: none chosen.
test: lint
	$(BIN)/python -m pytest -m "not faults and not rehearsal" -n $(JOBS) --dist loadgroup $(ARGS) || [ $$? = 5 ]
	$(BIN)/python -m pytest -m "rehearsal and not faults" $(ARGS) || [ $$? = 5 ]
	@echo "Not run here: tests marked 'faults' (kills at every point, more than an hour): make faults"

# Its runs wait more than they compute, and meet more when the machine is busy.
faults: setup
	$(BIN)/python -m pytest -m faults tests/model tests/migrator/faults -n $(JOBS) --dist load $(ARGS)
	$(BIN)/python -m pytest -m faults tests/rehearsal/faults $(ARGS)

# RESULTS=FILE gets what was measured, a line for each.
nine-days: setup
	SPLITCTL_NINE_DAYS=$(RESULTS) $(BIN)/python -m pytest -m "faults or rehearsal" tests/cluster/nine_days $(ARGS)

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

system:
	sh .ci/system

lock: setup
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11 --extra rehearsal --extra parquet --group dev pyproject.toml -o requirements.lock

wheel: setup
	$(BIN)/python -m hatchling build -t wheel

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
