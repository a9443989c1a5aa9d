# Everything a person types. Each target installs what it needs into .venv first.
PYTHON ?= python3
VENV   ?= .venv
CACHE  ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/otaria
ARGS   ?=
JOBS   ?= 3
HOURS  := -o faulthandler_timeout=0
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help demo demo-mixed test test-all test-boot check bench soak format constraints clean

# Tests start many hundred processes of Python. Where it may write no bytecode, each compiles all of Otaria for itself.
test test-all test-boot: export PYTHONDONTWRITEBYTECODE :=

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## a fleet updates itself, a bad release stops at the canary; ARGS="--exit --json" for scripts
	@$(BIN)/python -m simulator.demo --cache $(CACHE) $(ARGS)

demo-mixed: $(VENV)/mixed.stamp ## servers, routers and devices at three sites, and no pair is ever down; Debian or Ubuntu
	@$(BIN)/python -m simulator.demo_mixed --cache $(CACHE) $(ARGS)

test: $(VENV)/dev.stamp ## unit, contract, integration and end-to-end tests; 20 to 40 minutes on two processors
	@deploy/test-tools.sh
	@OTARIA_CACHE=$(CACHE) $(BIN)/pytest -n $(JOBS) --dist loadgroup -m "not deep" $(ARGS)

test-all: $(VENV)/dev.stamp ## the deep suite as well, and real boots by GRUB
	@deploy/test-tools.sh boots
	@OTARIA_CACHE=$(CACHE) HYPOTHESIS_PROFILE=deep CRASH=deep $(BIN)/pytest $(HOURS) -n $(JOBS) --dist loadgroup -m "not boots" $(ARGS)
	@OTARIA_CACHE=$(CACHE) $(BIN)/pytest $(HOURS) tests/boot/test_linux_boots.py -k grub

test-boot: $(VENV)/dev.stamp ## Linux in QEMU by GRUB, systemd-boot and U-Boot; writes docs/reference/boot-results.md
	@deploy/test-tools.sh boots
	@rm -f $(CACHE)/boot-results.jsonl
	@OTARIA_CACHE=$(CACHE) OTARIA_BOOT_RESULTS=$(CACHE)/boot-results.jsonl $(BIN)/pytest $(HOURS) tests/boot -n $(JOBS) --dist loadgroup $(ARGS); ended=$$?; \
	  $(BIN)/python -m tests.boot.results $(CACHE)/boot-results.jsonl && exit $$ended

check: $(VENV)/dev.stamp ## format, lint, types, import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/dev.stamp ## benchmarks as ratios against peers in the same run
	@deploy/bench-tools.sh
	@OTARIA_CACHE=$(CACHE) $(BIN)/python -m bench $(ARGS)

soak: $(VENV)/dev.stamp ## real server and broker under campaigns and faults; ARGS="--devices 10000 --hours 1 --chaos low --report docs/soak"
	@deploy/test-tools.sh
	@$(BIN)/otaria sim soak $(ARGS)

format: $(VENV)/dev.stamp ## put the code into the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

constraints: $(VENV)/dev.stamp ## renew constraints.txt from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-header --no-annotate \
	  --no-emit-index-url --upgrade --quiet --output-file constraints.txt

clean: ## remove what make made here
	rm -rf $(VENV) bench/out .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Otaria needs Python 3.11 or newer; name one with: make PYTHON=python3.11 …" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "Python has no venv module; on Debian: apt-get install python3-venv" >&2; exit 2; }

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Otaria into $(VENV) …"
	@$(PIP) --editable '.[demo]'
	@$(BIN)/python -m simulator.images --cache $(CACHE)
	@touch $@

$(VENV)/mixed.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Otaria with its site agent into $(VENV) …"
	@$(PIP) --editable '.[appliances,demo]'
	@$(BIN)/python -m simulator.images --cache $(CACHE)
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Otaria and its development tools into $(VENV) …"
	@$(PIP) --editable '.[dev]'
	@$(BIN)/python -m simulator.images --cache $(CACHE)
	@touch $@
