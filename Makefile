# make demo: set up and run the demo on generated clips.  make test: set up and run all checks.
# make test-all: as make test, with the tests that are marked slow.
# make docs: build the documentation into site/.
# make findings: training methods on all data sets with a small budget, as in docs/findings.md.
# make compose-test: test the cluster of docker-compose.yml, with faults, on this machine's Docker.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_DEFAULT_TIMEOUT := 180
# hundreds of processes of the tests import the project
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all docs findings compose-test check setup clean

demo: $(READY)
	$(BIN)/remix demo

test: check
	$(BIN)/python -m pytest -n 2

test-all: check
	$(BIN)/python -m pytest -n 2 -m 'not compose'

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

findings: $(READY)
	$(BIN)/python benchmarks/findings.py --store store/findings --budget small

compose-test: $(READY)
	$(BIN)/python -m pytest -m compose

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) store build site *.egg-info
