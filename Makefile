# The same commands for a person and for CI.
#   make demo [SITE=pool]   run notebooks/01_quickstart.ipynb for real (SITE=pool: on an HTCondor pool that it builds and starts)
#   make test               install what the tests need, start the real parts, run everything
#   make format lint types unit integration notebooks docs bench soak clean
#   make pool-down          end the pool of `make demo SITE=pool`
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
SITE ?= local
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test packages images format lint types shell unit integration notebooks docs bench soak pool-down clean

help:
	@sed -n '2,5p' Makefile | cut -c3-

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml | .venv/bin/python
	$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

.venv/.test: pyproject.toml | .venv/bin/python
	$(PIP_INSTALL) --editable '.[test]'
	@touch $@ .venv/.demo

demo: .venv/.demo
	$(BIN)/python notebooks/execute.py --site $(SITE) notebooks/01_quickstart.ipynb

# What the real parts need from Debian: installed when root, told otherwise (tests of a missing part are skipped with the reason).
packages:
	@bash tests/parts/packages

# The images of the pool and of the job containers: built once (some minutes), kept in ~/.cache/jupyter_offload.
images: packages
	@if [ "$$(id -u)" = 0 ] && command -v podman >/dev/null; then containers/prepare; fi

test: packages lint types shell images
	$(BIN)/python -m pytest -n 2 --dist loadfile --reruns 2 --reruns-delay 3 --cov --cov-report=term:skip-covered -m "not soak" tests

format: .venv/.test
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/interrogate --quiet jupyter_offload

types: .venv/.test
	$(BIN)/mypy

shell: packages
	@git ls-files -- ':!*.j2' | xargs -r grep -lE '^#!.*\b(ba)?sh\b' -- 2>/dev/null | xargs -r shellcheck

unit: .venv/.test
	$(BIN)/python -m pytest -n 2 tests/unit

integration: .venv/.test images
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not soak" tests/integration

notebooks: .venv/.test
	$(BIN)/python -m pytest tests/notebooks

docs: .venv/.test
	$(BIN)/python docs/generate.py

bench: images .venv/.test
	$(BIN)/python benchmarks/run.py

soak: images .venv/.test
	$(BIN)/python -m pytest -m soak tests

pool-down:
	containers/htcondor/pool down --name demo

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
