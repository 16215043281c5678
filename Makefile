# `make demo` and `make test` are all that a newcomer needs; both set up everything on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo demo-arm test lint

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Boardwise needs Python 3.11 or newer; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV): some 1.5 GB, about two minutes'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python -m examples.demo

demo-arm: $(VENV)/.installed
	$(BIN)/python -m examples.demo_arm

test: $(VENV)/.installed
	sh tests/prepare.sh
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	sh tests/run.sh $(BIN)/python

lint: $(VENV)/.installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
