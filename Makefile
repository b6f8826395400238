PYTHON ?= python3
SETUP = $(PYTHON) -m scripts.setup
VENV_PYTHON = .venv/bin/python

# One test file per process, the longest first. The docker tests mostly wait, for Docker and for time to pass, so three run at
# once; those with real models compute, so two do, and separately.
BY_FILE = --dist loadfile --no-loadscope-reorder

# The tests start Python some hundred times, which would otherwise compile all our modules each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up serve down logs lint test test-fast models faults faults-mutants soak bench bench-peers clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

up: ## set everything up and run the controller in the background
	@$(SETUP) up

serve: ## the same as up, with the controller in the foreground
	@$(SETUP) serve

down: ## stop the controller and the models
	@$(SETUP) down

logs: ## follow the controller's log
	@$(SETUP) logs

lint: ## run ruff, mypy and codespell
	@$(SETUP) dev-env
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) -m codespell_lib

test-fast: ## run the tests that need no Docker
	@$(SETUP) dev-env
	$(VENV_PYTHON) -m pytest -n auto --dist worksteal -m "not docker and not real_model"

test: ## set everything up, then run lint and the whole test suite
	@$(SETUP) test-env
	@$(MAKE) --no-print-directory lint test-fast
	$(VENV_PYTHON) -m pytest -n 3 $(BY_FILE) -m "docker and not real_model"
	$(VENV_PYTHON) -m pytest -n 2 $(BY_FILE) -m real_model

faults: ## run the tests of docs/reliability.md; print a table of verdicts and figures (also in faults.json)
	@$(SETUP) test-env
	$(VENV_PYTHON) -m pytest tests/docker/faults tests/controller/supervisor -q --promises=faults.json

faults-mutants: ## break each promise by one line, in a copy, and see its test fail (PROMISES="L1 F3" for some)
	@$(SETUP) test-env
	$(VENV_PYTHON) -m tests.promises.mutants $(PROMISES)

models: ## serve a small model of every family and write docs/models.md (takes a quarter of an hour)
	@$(SETUP) test-env
	$(VENV_PYTHON) -m tests.families

MINUTES ?= 15
soak: ## run random faults (MINUTES=15) beside random interleavings; nothing that the controller holds may grow
	@$(SETUP) test-env
	$(VENV_PYTHON) -m pytest -n 2 $(BY_FILE) -raP --log-level=CRITICAL --timeout=0 --hypothesis-profile=long --soak-minutes=$(MINUTES) \
		tests/controller/supervisor/test_state_machine.py tests/docker/faults/test_soak.py

bench-peers: ## build the servers that ours is compared with, once (takes minutes)
	$(PYTHON) -m bench.peers_setup

bench: bench-peers ## compare ours with llama.cpp and transformers (BENCH="--passes 3" sets options)
	@$(SETUP) test-env
	$(VENV_PYTHON) -m bench.peers $(BENCH)

clean: ## remove the virtual environment, wheels and caches (not data, images, volumes)
	@$(SETUP) clean
