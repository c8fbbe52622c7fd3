# Everything runs in .venv, which each target sets up by itself when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint types bench format clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: $(READY)  ## train a DEQ on handwritten digits, distil it, compare: out/digits/
	$(BIN)/cdeq demo digits

test: lint types  ## lint, types, doctests, tests, README blocks and examples
	$(BIN)/pytest

lint: $(READY)  ## style and format, without changing anything
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)  ## static types of src
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

bench: $(READY)  ## cost of solvers and student as ratios: results/bench.json
	$(BIN)/cdeq bench --output results/bench.json
	$(BIN)/python -m cdeq.report.quoting README.md docs/results/*.md

format: $(READY)  ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove caches and builds; .venv and out/ stay
	rm -rf .pytest_cache .ruff_cache build dist
	find src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp is written last: an interrupted installation starts again.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[train,graph,language,report,dev]'
	@touch $@
