# A bare machine needs Python >= 3.10 with venv, and make. Everything is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# JupyterLab does not start as root, as in a container, unless it is told to.
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)
# Least percentage of the public names that must have a complete type.
LEAST_TYPED := 95
# Tests run in a process for each core and one more, because some wait for other processes.
WORKERS = $(shell $(PYTHON) -c "import os; print(1 + (os.cpu_count() or 1))")
# Tests that take minutes, most of them in the emulator and the simulator; .ci/steps/35_emulator runs them.
LONG := tests/kernels/emulator tests/kernels/test_simulator.py tests/house/test_without_numba_cuda.py \
	tests/operators/test_precision.py $(addprefix tests/backends/test_,processes.py other_cpus.py) \
	$(addprefix tests/tutorial/test_,checks.py measured.py) \
	$(addprefix tests/emulator/test_,foreign.py barriers.py survival.py)

.PHONY: help demo learn test gpu fuzz mutants lint types figures tutorials site clean

help:
	@echo "make demo     a photograph through real layers; every result checked, a picture saved"
	@echo "make learn    the course, in JupyterLab"
	@echo "make test     all tests that need no GPU, but for some minutes of the emulator's"
	@echo "make gpu      what only a GPU can tell, in about eight minutes; installs nothing, uses PYTHON"
	@echo "make fuzz     ten thousand random cases for each operator; takes a while"
	@echo "make mutants  whether the tests notice wrong lines in geometry.py; takes about an hour"
	@echo "make lint     ruff and mypy"
	@echo "make types    mypy --strict, and the share of the public names that have a complete type"
	@echo "make figures  draw all pictures of figures/ again"
	@echo "make tutorials  execute the course again: outputs, and notebooks without solutions"
	@echo "make site     the course as web pages, in site/: no server, no network"
	@echo "make clean    remove .venv and everything that was generated"

demo: $(VENV)/.core
	$(BIN)/cks-numba demo

learn: $(VENV)/.tutorials
	$(BIN)/jupyter lab --notebook-dir=tutorials $(AS_ROOT)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(addprefix --ignore=,$(LONG)) $(PYTEST_FLAGS)

gpu:
	@PYTHON="$(PYTHON)" .ci/gpu

fuzz: $(VENV)/.test
	FUZZ_CASES=10000 $(BIN)/python -m pytest -q -n auto tests/operators/test_fuzz.py

mutants: $(VENV)/.test
	$(BIN)/python tests/mutants.py geometry --sample 100 --seed $$(date +%j)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: $(VENV)/.test $(VENV)/.types
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" basedpyright --verifytypes cks_numba --ignoreexternal \
		| awk '/completeness score/ { print; score = $$NF + 0 } END { exit score < $(LEAST_TYPED) }'

figures: $(VENV)/.core
	$(BIN)/cks-numba figures

tutorials: $(VENV)/.tutorials
	$(BIN)/python tutorials/build.py

site: $(VENV)/.tutorials
	$(BIN)/python tutorials/site.py

# Stamp files: the set-up runs again only when pyproject.toml has changed.
$(VENV)/.core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# One stamp for each list of optional dependencies in pyproject.toml, such as .venv/.test.
$(VENV)/.%: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo_out gpu_out train_out site figures/*.svg .pytest_cache .mypy_cache .ruff_cache .coverage*
	find cks_numba tests figures -name __pycache__ -type d -prune -exec rm -rf {} +
