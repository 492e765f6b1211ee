# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.11 or newer, git and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check format bench lock clean

demo: $(READY)  ## train, evaluate and report on the embedded digits
	$(BIN)/manyhot demo --out demo

test: $(READY)  ## all tests, with branch coverage
	$(BIN)/python -m coverage erase
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --cov --cov-report=
	@$(BIN)/python -m coverage report --precision=1 | tail -n 40

check: $(READY)  ## lint, format, types, import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## every benchmark, each beside its peer
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

lock: $(READY)  ## exact versions for CI, without addresses
	$(BIN)/python -m uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	    --no-annotate --no-header --upgrade --quiet --output-file requirements.lock

# uv installs in a tenth of pip's time; where it cannot be had, pip does the same.
$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "manyhot needs Python 3.11 or newer; name one with: make PYTHON=python3.12 demo"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv || true
	if $(BIN)/python -m uv --version >/dev/null 2>&1; then \
	    $(BIN)/python -m uv pip install --python $(BIN)/python -r requirements.lock && \
	    $(BIN)/python -m uv pip install --python $(BIN)/python --no-deps --editable .; \
	else \
	    $(BIN)/python -m pip install -r requirements.lock && \
	    $(BIN)/python -m pip install --no-deps --editable .; \
	fi
	touch $(READY)

clean:
	rm -rf $(VENV) .coverage* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
