# The project's commands. `make help` lists them.

VENV ?= .venv
PYTHON ?= python3
# Another build of torch: make demo TORCH='torch==2.13.0'
TORCH ?= torch
PROCESSES ?= 2
export SWIN_TEST_SEED
# Installed without bytecode, which pip writes on one core; then all cores do. Like pip, they pass over
# what is no Python of today (templates, tests of syntax).
INSTALL = $(RUN) -m pip install --quiet --no-compile
BYTECODE = $(RUN) -m compileall -qq -j 0 $(VENV)/lib $(VENV)/peers || true
# The same random numbers again: make test SWIN_TEST_SEED=1
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(PROCESSES) --dist worksteal \
	$(if $(SWIN_TEST_SEED),--hypothesis-seed $(SWIN_TEST_SEED))

DEMO_OUT ?= demo_output
# Training steps of the demo; empty for the config's own number.
DEMO_ITERS ?=

# Only some tests want these. They stay beside the environment, in which peft would be imported by
# each process that imports transformers, and by mmengine therefore; scikit-learn, and with it pandas,
# by each that imports mmdet, for a second; its mmdet
# would import all of mmpretrain, which fails to import with transformers 5, and of mmpose a file is
# read, without what it needs beside that.
PEERS := onedl-mmpretrain modelindex model-index lazy-importer ordered-set mat4py einops \
	importlib-metadata zipp mmpose 'peft>=0.17' accelerate psutil scikit-learn joblib cloudpickle narwhals \
	threadpoolctl

RUN := $(VENV)/bin/python

.PHONY: help demo test test-slow test-all mutations lint docs clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.demo-installed  ## train a small model on generated scenes, on the CPU, and paint it
	$(RUN) tools/demo.py --out $(DEMO_OUT) $(if $(DEMO_ITERS),--iters $(DEMO_ITERS))

test: $(VENV)/.test-installed  ## unit tests, and the integration tests that matter most
	$(PYTEST) -m 'not slow'

test-slow: $(VENV)/.test-installed  ## the tests that `make test` leaves out
	$(PYTEST) -m slow --durations 12

test-all: test test-slow  ## every test, as CI runs them

mutations: $(VENV)/.test-installed  ## break the code on purpose, and say which test sees it
	OMP_NUM_THREADS=1 $(RUN) tests/mutations.py

lint: $(VENV)/.lint-installed  ## ruff check, ruff format --check, and mypy on public modules
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(VENV)/.test-installed  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build

clean:  ## remove what the commands above made
	rm -rf $(VENV) .venv-classic .venv-torch-only .venv-oldest $(DEMO_OUT) .ci/*_output .pytest_cache .ruff_cache .mypy_cache build site *.egg-info

$(RUN):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml | $(RUN)
	@echo "installing into $(VENV)"
	$(INSTALL) '$(TORCH)'
	$(INSTALL) -e '.[onedl]'
	$(BYTECODE)
	@touch $@

$(VENV)/.test-installed: $(VENV)/.demo-installed
	$(INSTALL) -e '.[onedl,detection,test,test-tools]'
	$(INSTALL) --no-deps --target $(VENV)/peers $(PEERS)
	$(BYTECODE)
	@touch $@

$(VENV)/.lint-installed: pyproject.toml | $(RUN)
	$(RUN) -m pip install --quiet 'mypy>=1.13' 'ruff>=0.14'
	@touch $@
