# Everything runs in .venv, which `make install` makes once and renews when the package lists change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart

.PHONY: install test coverage lint audit docs soak quickstart clean
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq -c constraints.txt -e '.[dev]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pip check
	$(BIN)/vermin --quiet --target=3.11- --no-tips --violations evagen examples

# Bytecode first, for the hundred processes that the tests start where none may be written (PYTHONDONTWRITEBYTECODE).
test: lint
	$(BIN)/python -m compileall -q -x /box/ evagen tokenizer ar_model eval kernels
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The same tests, with what they do not reach; below 90% of the lines it fails.
coverage: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90

# Known weaknesses of the pinned packages, from PyPI: needs a network, so it stands beside the tests.
audit: install
	$(BIN)/pip install -qq pip-audit
	$(BIN)/pip-audit --no-deps --disable-pip -r constraints.txt

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
