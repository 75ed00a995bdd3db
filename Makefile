# Every target sets up .venv by itself, once, from constraints.txt; `make PYTHON=/path/to/python3.12 …` picks the Python.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FIND := for p in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python); do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done

PEERS := .peers

.PHONY: help simulate test test-slow fuzz lint docs pictures benchmarks soak peers clean

help:
	@echo "make simulate    run the embedded default: federated FLEx on a tiny MoE"
	@echo "make test        the tests      make test-slow   the slow ones too"
	@echo "make fuzz        thousands of malformed configs, data files, models and run folders"
	@echo "make lint        ruff, pyright  make benchmarks  speed and memory against peers"
	@echo "make docs        what of docs/ is made from the code: configuration.md and the JSON schemas"
	@echo "make pictures    the README's pictures, from a run and a browser"
	@echo "make peers       what benchmarks/overhead.py and throughput.py compare with, in environments of their own: .peers/"
	@echo "make soak        an hour of rounds in which actors, the driver and the command are killed; MINUTES=60"
	@echo "make clean       remove .venv, .peers and caches; runs/ stays"

simulate: $(READY)
	@$(BIN)/flexray simulate

test: $(READY)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4

test-slow: $(READY)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "slow or not slow"

fuzz: $(READY)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "slow or not slow" tests/fuzz

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

docs: $(READY)
	@$(BIN)/flexray schema --markdown > docs/configuration.md
	@$(BIN)/flexray schema > docs/config.schema.json
	@$(BIN)/flexray schema --recipe > docs/recipe.schema.json

pictures: $(READY)
	@$(BIN)/python docs/pictures/make.py

benchmarks: $(READY)
	@for name in startup memory throughput; do $(BIN)/python -m benchmarks.$$name || exit 1; done

soak: $(READY)
	@$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),60)

peers: $(PEERS)/flower/.ready $(PEERS)/pfl/.ready

$(PEERS)/%/.ready: benchmarks/rivals/%.txt
	@echo "Setting up $(PEERS)/$* for the benchmarks, once: a few minutes, mostly for PyTorch."
	@python=$$($(FIND)) && rm -rf $(PEERS)/$* && $$python -m venv $(PEERS)/$* && \
	$(PEERS)/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find flexray tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@python=$$($(FIND)); \
	if [ -z "$$python" ]; then \
	  echo "flexray needs Python 3.11 or newer, and found none$(if $(PYTHON), at PYTHON=$(PYTHON))." >&2; \
	  echo "Install one (Debian, Ubuntu: sudo apt install python3.12 python3.12-venv; macOS: brew install python@3.12;" >&2; \
	  echo "anywhere: https://www.python.org/downloads), or name it: make PYTHON=/path/to/python3.12 simulate" >&2; \
	  exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$python --version), once: a few minutes, mostly for PyTorch." && \
	if ! $$python -m venv $(VENV); then \
	  echo "$$python has no working venv module (Debian, Ubuntu: sudo apt install python3-venv)." >&2; exit 1; \
	fi && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
