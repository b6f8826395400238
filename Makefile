PYTHON ?= python3
SETUP = $(PYTHON) -m scripts.setup
VENV_PYTHON = .venv/bin/python

# These tests mostly wait, for Docker and for time to pass. Real models, which compute, keep to themselves.
TWO_FILES_AT_ONCE = -n 2 --dist loadfile --no-loadscope-reorder

# Python is begun some hundred times by the tests, and would read all our modules as source each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up serve down logs lint test test-fast test-llamacpp faults faults-mutants soak bench bench-peers clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

up: ## set everything up and run the controller in the background
	@$(SETUP) up

serve: ## the same, with the controller in the foreground
	@$(SETUP) serve

down: ## stop the controller and the models
	@$(SETUP) down

logs: ## follow the controller's log
	@$(SETUP) logs

lint: ## ruff and mypy
	@$(SETUP) dev-env
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

test-fast: ## the tests that need no Docker
	@$(SETUP) dev-env
	$(VENV_PYTHON) -m pytest -n auto --dist worksteal -m "not docker and not real_model"

test: ## set everything up, then lint and the whole test suite
	@$(SETUP) test-env
	@$(MAKE) --no-print-directory lint test-fast
	$(VENV_PYTHON) -m pytest $(TWO_FILES_AT_ONCE) -m "docker and not real_model"
	$(VENV_PYTHON) -m pytest $(TWO_FILES_AT_ONCE) -m real_model

faults: ## the tests of docs/reliability.md, and a table of their verdicts and figures (also in faults.json)
	@$(SETUP) test-env
	$(VENV_PYTHON) -m pytest tests/docker/faults tests/controller/supervisor -q --promises=faults.json

faults-mutants: ## break each promise by one line, in a copy, and see its test fail (PROMISES="L1 F3" for some)
	@$(SETUP) test-env
	$(VENV_PYTHON) -m tests.promises.mutants $(PROMISES)

MINUTES ?= 15
soak: ## random interleavings and faults for a while (MINUTES=15); what the controller holds before and after
	@$(SETUP) test-env
	$(VENV_PYTHON) -m pytest tests/controller/supervisor/test_state_machine.py -qq --hypothesis-profile=long --timeout=0
	$(VENV_PYTHON) -m pytest tests/docker/faults/test_soak.py -qq -s --soak-minutes=$(MINUTES)

test-llamacpp: bench-peers ## the tests with llama.cpp's own server, which bench-peers builds
	@$(SETUP) test-env
	$(VENV_PYTHON) -m pytest -m llamacpp

bench-peers: ## build the servers that ours is measured beside, once (minutes)
	$(PYTHON) -m bench.peers_setup

bench: bench-peers ## measure ours beside llama.cpp and transformers (BENCH="--passes 3" for other options)
	@$(SETUP) test-env
	$(VENV_PYTHON) -m bench.peers $(BENCH)

clean: ## remove the virtual environment, wheels and caches (not data, images, volumes)
	@$(SETUP) clean
