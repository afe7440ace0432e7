# Everything runs from .venv, made from constraints.txt on first use: Python and make are all a machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= runs/demo
# Tests run in two processes, one thread each: batched linear algebra on small matrices gains nothing from threads.
WORKERS ?= 2

.PHONY: demo test slow lint format bench bench-ik bench-peers clean

demo: $(STAMP)
	$(BIN)/python -m robotics demo --out $(OUT)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks implicit-vs-unrolled
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks qp --experiments

# Trains the networks first, half an hour on one core; they are kept under runs/.
bench-ik: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks ik
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.ik.heads
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.ik.poses

# Peers stay out of the project's own requirements. Maros-Meszaros runs in .venv and finds its solvers there; each
# differentiable layer has an environment of its own under benchmarks/.envs, since their versions clash.
bench-peers: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt piqp clarabel proxsuite
	$(BIN)/python -m benchmarks peers

# PIP_CONSTRAINT reaches build environments too, so nothing pulls another torch.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[all]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build runs *.egg-info .pytest_cache .mypy_cache .ruff_cache
