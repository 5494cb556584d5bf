# All set-up by itself: `make demo` and `make test` need git, make and Python >= 3.11 only.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := python -m pip install --disable-pip-version-check -q

.PHONY: demo test lint check slow mutants packages site clean

demo: $(VENV)/.installed
	$(BIN)/compress method=camc preserve_ratio=0.5

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "slow and not gpu"

# Breaks one law of tests/mutants.toml at a time, in a copy, and demands that a test fails.
mutants: $(VENV)/.dev
	$(BIN)/python tools/mutants.py

# Every way to install, run from another folder. What `--cfg job` needs is small, so torch is left out.
packages: $(VENV)/.dev
	rm -rf dist && $(BIN)/python -m build -q --outdir dist .
	rm -rf $(VENV)/packages && $(PYTHON) -m venv $(VENV)/packages
	$(VENV)/packages/bin/$(PIP) hydra-core omegaconf filelock
	for way in dist/*.whl "." "-e ."; do \
	  $(VENV)/packages/bin/$(PIP) --no-deps --force-reinstall $$way && \
	  (cd / && $(CURDIR)/$(VENV)/packages/bin/compress --cfg job method=camc preserve_ratio=0.4 | grep -q "preserve_ratio: 0.4") && \
	  echo "runs from another folder: pip install $$way" || exit 1; \
	done

# The pages as a site; a link or a name that leads nowhere is an error.
site: $(VENV)/.docs
	$(BIN)/mkdocs build

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/$(PIP) -e ".[docs]"
	touch $@

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("compress needs Python >= 3.11; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/$(PIP) -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache
