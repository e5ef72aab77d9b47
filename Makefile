# Everything runs in .venv, which `make install` makes once and renews when the package lists change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart

.PHONY: install test coverage lint docs soak quickstart clean
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq -c constraints.txt -e '.[dev]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vermin --quiet --target=3.10- --no-tips --violations evagen examples

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The same tests, with what they do not reach; below 90% of the lines it fails.
coverage: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90

# Kills tiny trainings of every stage for so long, and compares what they leave.
SECONDS ?= 40
soak: install
	$(BIN)/python tests/faults/soak.py $(SECONDS)

docs: install
	$(BIN)/python docs/generate.py

quickstart: install
	$(BIN)/evagen quickstart --out $(RUN)

clean:
	rm -rf $(VENV) build *.egg-info
