# make demo and make test set themselves up; the other verbs use the same .venv.
VENV ?= .venv
PYTHON ?= python3
PROCESSES ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test slow fuzz check bench reports calibrate wheel docs clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/statsnorm demo --out reports/demo

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(PROCESSES) --dist loadfile

slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

fuzz: $(STAMP)
	cd tests && $(abspath $(BIN))/python -m fuzz --cases 10000

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reports: $(STAMP)
	for report in reports/*/provenance.json; do \
	    $(BIN)/statsnorm verify --rebuild "$$(dirname "$$report")" || exit 1; done

bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/precision.py

calibrate: $(STAMP)
	$(BIN)/python benchmarks/calibrate.py

docs: $(STAMP)
	$(BIN)/python -m sphinx -W -q -b html docs site
	@echo site/index.html

wheel: $(STAMP)
	$(BIN)/python -m build --no-isolation
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet dist/statsnorm-*.whl
	cd build && empty/bin/statsnorm --version && empty/bin/statsnorm extract --images embedded \
		--size 32 --network vgg16 --condition original,contrast --out run --restart \
		&& empty/bin/statsnorm report run --out report && empty/bin/statsnorm verify report run
	rm -rf build/empty

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
