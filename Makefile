# One entry for people and for CI. `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PHOTOS ?= examples/photos
MATTES ?= mattes

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup matte test check bench

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

setup: $(VENV)/.setup ## install the tool, the training and the development tools into .venv

matte: $(VENV)/.matte ## install the tool alone into .venv and matte examples/photos
	$(BIN)/stylematte matte $(PHOTOS) --out $(MATTES)
	@echo "The mattes are in $(abspath $(MATTES))"

test: $(VENV)/.setup ## run the tests, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart=0 $(ARGS)

check: $(VENV)/.setup ## lint, formatting, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.matte ## measure throughput against a plain loop; PHOTOS=folder for photos of your own
	$(BIN)/python benchmarks/throughput.py $(PHOTOS) $(ARGS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps make a second call free. What mattes needs is small: no torch in it.
$(VENV)/.matte: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[cpu]'
	@touch $@

$(VENV)/.setup: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[cpu,train,dev]'
	@touch $(VENV)/.matte $@
