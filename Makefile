# Every target makes its own environment first: a fresh clone needs nothing but Python 3.10+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
HASHED := install --no-deps --require-hashes
LOCK := uv pip compile --quiet --universal --no-deps --no-annotate --generate-hashes --python-version 3.10 \
	--custom-compile-command "make lock"
# They have no wheels: what builds them must be there, by its hash too, or pip would fetch the newest to build with.
SOURCES := cellpylib zss
READY := $(VENV)/.ready
# Each process holds a model or two: more of them want more memory than most machines have to spare.
TEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test fast lint lock clean

demo: $(READY)
	$(BIN)/guided-ft run quickstart

test: $(READY)
	$(TEST)

fast: $(READY)
	$(TEST) -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# After a change of constraints.txt (needs uv): the hashes, for every Python and system.
lock:
	$(LOCK) $(patsubst %,--no-emit-package %,torch $(SOURCES)) constraints.txt --output-file requirements.lock
	grep -E '^($(subst $() ,|,$(SOURCES)))==' constraints.txt | $(LOCK) - --output-file sources.lock

clean:
	rm -rf $(VENV)

# Packages are those of the locks, byte for byte. Torch's are not: each machine has its own build of it (CPU, CUDA).
$(READY): pyproject.toml constraints.txt requirements.lock sources.lock
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(HASHED) -r requirements.lock
	$(PIP) $(HASHED) --no-build-isolation -r sources.lock
	$(PIP) install -c constraints.txt torch
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@
