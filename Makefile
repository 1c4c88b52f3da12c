# Two commands matter: `make demo` shows the product, `make test` proves it. docs/architecture.md is the map.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
DATA_DIR ?= var
export PORT DATA_DIR
export OMP_WAIT_POLICY ?= PASSIVE
export OMP_NUM_THREADS ?= 1

RUNTIME_STAMP := $(VENV)/.installed-$(shell sha256sum requirements.txt | cut -c1-16)
DEV_STAMP := $(VENV)/.installed-dev-$(shell cat requirements.txt requirements-dev.txt | sha256sum | cut -c1-16)

.PHONY: help setup setup-dev demo test test-faults bench lint experiments

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(RUNTIME_STAMP)  ## make .venv and install the pinned requirements; nothing when unchanged

setup-dev: $(DEV_STAMP)  ## the same plus what tests and lint need

$(RUNTIME_STAMP): requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@rm -f $(VENV)/.installed-[0-9a-f]*; touch $@

$(DEV_STAMP): $(RUNTIME_STAMP) requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@rm -f $(VENV)/.installed-dev-*; touch $@

demo: setup  ## load the sample catalogue and start everything; Ctrl-C stops it
	@exec $(BIN)/python manage.py demo --port $(PORT)

test: setup-dev  ## the suite, on SQLite and on PostgreSQL, with the real parts it finds
	@$(BIN)/python -m tests.run

test-faults: setup-dev  ## slow fault tests: kills, lost brokers, full disks
	@$(BIN)/python -m pytest -m fault tests

bench: setup-dev  ## measure quality and speed, write docs/results/bench_*.json and docs/results.md
	@$(BIN)/python -m benchmarks

lint: setup-dev  ## ruff, mypy --strict, import contracts, missing migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ml searchapp tests benchmarks manage.py
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run

SAMPLE_DATA ?= ../shared/data
RESULTS := $(if $(QUICK),var/experiments/quick,docs/results)
RUN_EXPERIMENT = $(BIN)/python -m ml experiment $(1) --out $(RESULTS)/$(1).json $(if $(QUICK),--quick) \
	--data $(subst $() ,$(COMMA),$(addprefix $(SAMPLE_DATA)/,$(2)))
COMMA := ,

experiments: setup-dev  ## every claim: docs/results/<experiment>.json, then docs/results.md; QUICK=1 is a smoke run
	@$(call RUN_EXPERIMENT,compact,fashion_mnist mnist grocery)
	@$(call RUN_EXPERIMENT,twin-bottleneck,grocery clothing catalog places_indoor fashion_mnist)
	@$(call RUN_EXPERIMENT,lifelong,grocery clothing catalog places_indoor fashion_mnist)
	@$(call RUN_EXPERIMENT,compatible,grocery clothing catalog places_indoor fashion_mnist)
	@$(call RUN_EXPERIMENT,corrector,fashion_mnist mnist grocery clothing catalog places_indoor)
	@$(if $(QUICK),true,$(BIN)/python -m benchmarks.report)
