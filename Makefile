# make quickstart   set up, run the grid `quickstart`, write and show the comparison
# make test         set up, check style and types, run the tests
# make bench        time the models' parts side by side (pytest-benchmark); JSON in benchmarks/
# make bench-compare  the same, and fail where the least time is more than a quarter above that of the last `make bench`
# make bench-peers  the models against torch.nn.Transformer, BART and nn.LSTM; on a GPU with ARGS="--device cuda"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: quickstart test bench bench-compare bench-peers install install-dev
.DELETE_ON_ERROR:

quickstart: install
	$(BIN)/lvt run quickstart
	$(BIN)/lvt report quickstart --publish

test: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

BENCHMARK := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only \
	--benchmark-group-by=group --benchmark-columns=median,iqr,min,rounds --benchmark-storage=file://benchmarks

bench: install-dev
	$(BENCHMARK) --benchmark-save=bench

bench-compare: install-dev
	$(BENCHMARK) --benchmark-compare --benchmark-compare-fail=min:25%

bench-peers: install-dev
	$(BIN)/python -m pip install --quiet -e ".[dev,peers]" -c constraints.txt
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/peers.py $(ARGS)

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -e . -c constraints.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -e ".[dev]" -c constraints.txt
	touch $@ $(VENV)/installed
