# make demo [ARGS=--quick]   train a small language model with a memory and show what it gains
# make test                  lint, types and the test suite
# make test-long             the tests that take minutes
# make torture               kills, power cuts, faults and damage by the thousand (20 minutes)
# make bench                 what it costs, beside what else one could use (20 minutes)
# make pack-demo             what a pack brings to another copy of a network, on real text
# make serve-demo            serve a memory over HTTP while it is written and killed (3 minutes)
# make clean                 remove what the above wrote, except what was installed
#
# Everything runs in a virtual environment in $(VENV), made from $(PYTHON) at the first call.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
# Half of what the tests do is waiting for other processes and for the disk.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
TYPED := aesg examples storage_backends tools
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-long torture bench usefulness serve-demo pack-demo clean
.DEFAULT_GOAL := test

demo: $(VENV)/.installed-demo
	$(BIN)/python -m aesg.demo $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(TYPED)
	$(BIN)/pytest $(PARALLEL) $(ARGS)

test-long: $(VENV)/.installed-test
	$(BIN)/pytest -m long $(ARGS)

# The parts that need root say that they were skipped. The figures go to build/torture.json and
# build/packs.json.
torture: $(VENV)/.installed-test
	rm -f build/torture.json build/packs.json
	TORTURE_FIGURES=$(CURDIR)/build/torture.json PACK_FIGURES=$(CURDIR)/build/packs.json \
	  $(BIN)/pytest -m torture tests/torture tests/packs $(ARGS)
	$(BIN)/python -m tests.torture.figures build/torture.json
	$(BIN)/python -m tests.packs.fuzz_figures build/packs.json

# The report goes to build/benchmarks. ARGS=--quick: small, some minutes; ARGS=--list: what there is.
bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks $(ARGS)

# The report goes to build/usefulness. ARGS=--quick: two seeds, smaller, three minutes.
usefulness: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.usefulness $(ARGS)

serve-demo: $(VENV)/.installed-serve
	$(BIN)/python -m examples.serving.run $(ARGS)

pack-demo: $(VENV)/.installed-demo
	$(BIN)/python -m examples.packs.run $(ARGS)

$(VENV)/.installed-%: pyproject.toml constraints.txt storage_backends/spreading/_kernel.c storage_backends/_lookup.c
	@echo "Installing into $(VENV) (the first time takes a few minutes)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[$*]"
	$(BIN)/python -m storage_backends.spreading
	touch $@

clean:
	rm -rf build dist *.egg-info aesg_memory aesg_demo
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
