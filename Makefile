# Bare `make` prints what there is. Everything made lands in .venv/ and build/, and needs python3 (3.11 or newer, with
# its headers and venv), gcc and make alone; PyPI has the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps
PIP := -m pip --disable-pip-version-check -qq
PYTEST := $(BIN)/python -m pytest
ARGS ?=
ONLY ?=
SUITE ?=
FULL ?=
comma := ,

C_FILES := $(sort $(wildcard src/sysclone/_core/*.[ch]))
BUILD_FILES := setup.py pyproject.toml src/sysclone/_version.py
LINTED := setup.py $(wildcard src tests tools examples benchmarks)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build demo test test-cpython test-sid test-free-threaded matrix lint format types floors cross-aarch64 bench late docs leaks asan soak clean

help: ## print this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-18s %s\n", $$1, $$2 }'

# --- to use

build: $(STAMPS)/build ## make .venv and install sysclone in it, in place
	@$(BIN)/python -c 'import sysclone, sysclone._core as core; assert core.__file__; print("sysclone", sysclone.__version__, "in", "$(VENV)")'

demo: build ## build, then show what is shared with what, measured live
	@$(BIN)/sysclone demo $(ARGS)

# --- to test

test: build lint types floors cross-aarch64 ## everything: lint, types, floors, aarch64, CPython's tests, the suite on every CPython
	@told=0; $(PYTHON) tools/test_cpython.py --python $(PYTHON) $(if $(ONLY),--only $(ONLY)) || told=1; \
		$(PYTHON) tools/test_matrix.py --python $(PYTHON) $(if $(ONLY),--only $(ONLY)) -- $(ARGS) || told=1; exit $$told

test-cpython: ## CPython's own tests with ours in its place: make test-cpython ONLY=3.13 SUITE=test_subprocess ARGS=test_preexec, or FULL=1
	@$(PYTHON) tools/test_cpython.py --python $(PYTHON) $(if $(FULL),--full) $(if $(ONLY),--only $(ONLY)) $(if $(SUITE),--suite $(SUITE)) -- $(ARGS)

matrix: ## the suite alone on every CPython here: make matrix ONLY=3.11,3.13 ARGS="-k task -x"
	@$(PYTHON) tools/test_matrix.py --python $(PYTHON) $(if $(ONLY),--only $(ONLY)) -- $(ARGS)

test-sid: ## the suite on CPython 3.14 and 3.15, in a folder of Debian sid (needs root and Debian's archive)
	@$(PYTHON) tools/sid_folder.py -- python3.14 tools/test_matrix.py --python python3.14 \
		--only $(or $(ONLY),3.14$(comma)3.15) --strict-skips --may-miss kernel_threads,first_pid_namespace,chromium,arrow,with_is_whole --total-seconds 1200 -- $(ARGS)

test-free-threaded: ## what needs no light process, on a free-threaded CPython built from Debian's source, in that folder
	@$(PYTHON) tools/free_threaded.py -- $(ARGS)

lint: $(STAMPS)/dev ## ruff, and clang-format if there is one
	@$(BIN)/ruff check $(LINTED)
	@$(BIN)/ruff format --check --quiet $(LINTED) || { $(BIN)/ruff format --diff $(LINTED); echo 'lint: try: make format'; exit 1; }
	@if command -v clang-format >/dev/null; then clang-format --dry-run -Werror $(C_FILES); fi

format: $(STAMPS)/dev ## write the code as lint wants it
	@$(BIN)/ruff check --fix $(LINTED)
	@$(BIN)/ruff format $(LINTED)
	@if command -v clang-format >/dev/null; then clang-format -i $(C_FILES); fi

types: $(STAMPS)/build $(STAMPS)/dev ## mypy, pyright on the public names, stubtest on the extension
	@$(BIN)/mypy src tests/typing
	@$(BIN)/stubtest --mypy-config-file pyproject.toml sysclone._core
	@PATH="$(CURDIR)/$(BIN):$$PATH" pyright tests/typing
	@told=$$(PATH="$(CURDIR)/$(BIN):$$PATH" pyright --verifytypes sysclone --ignoreexternal) || { echo "$$told"; exit 1; }; \
		echo "$$told" | grep completeness

floors: $(STAMPS)/build $(STAMPS)/dev ## who imports whom
	@$(PYTEST) -q tests/unit/test_floors.py

cross-aarch64: $(STAMPS)/venv ## compile the C for aarch64
	@$(BIN)/python tools/cross_aarch64.py

leaks: $(STAMPS)/build $(STAMPS)/dev ## the symbols, and a leak loop for each entry of the extension
	@$(PYTEST) tests/native $(ARGS)

asan: $(STAMPS)/asan ## the suite with the address and undefined-behaviour sanitizers
	@$(PYTHON) tools/sanitized.py build/venvs/asan/bin/python -- $(ARGS)

soak: $(STAMPS)/build $(STAMPS)/dev ## the tests that run for long
	@$(PYTEST) -m soak --timeout 0 $(ARGS)

# --- to know

bench: $(STAMPS)/build $(STAMPS)/dev $(STAMPS)/bench ## ours against the C floors and the peers, as ratios: make bench ARGS="--list"
	@$(BIN)/python benchmarks/bench.py $(ARGS)

late: $(STAMPS)/build ## how late tasks with a timeout are gone, in ten minutes: make late ARGS="--count 100 copied"
	@$(BIN)/python benchmarks/late.py $(ARGS)

docs: $(STAMPS)/venv ## check that what the pages link to is there
	@$(BIN)/python tools/check_links.py

clean: ## remove all that was made
	@rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find src tests tools examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	@rm -f src/sysclone/*.so

# --- how

# A stamp is not enough: what it stands for may have been removed.
ifeq ($(wildcard $(BIN)/python),)
$(shell rm -f $(STAMPS)/venv)
endif
ifeq ($(wildcard src/sysclone/_core.*.so),)
$(shell rm -f $(STAMPS)/build)
endif

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit("sysclone needs Python 3.11 or newer; $(PYTHON) is %d.%d" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@rm -rf $(VENV) && mkdir -p $(STAMPS)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) install 'setuptools>=77'
	@touch $@

$(STAMPS)/build: $(STAMPS)/venv $(C_FILES) $(BUILD_FILES)
	@$(BIN)/python $(PIP) install --no-build-isolation -e '.[cli]'
	@touch $@

# The tools are the last to be installed: demo needs none of them.
$(STAMPS)/dev: $(STAMPS)/venv pyproject.toml
	@$(BIN)/python $(PIP) install --no-build-isolation -e '.[cli,dev]'
	@touch $(STAMPS)/build $@

# The peers, for the benchmark alone.
$(STAMPS)/bench: $(STAMPS)/dev
	@$(BIN)/python $(PIP) install --no-build-isolation -e '.[bench]'
	@touch $(STAMPS)/build $(STAMPS)/dev $@

$(STAMPS)/asan: $(C_FILES) $(BUILD_FILES) $(wildcard src/sysclone/*.py src/sysclone/*.pyi src/sysclone/*/*.py)
	@mkdir -p $(STAMPS)
	@test -x build/venvs/asan/bin/python || $(PYTHON) -m venv build/venvs/asan
	@build/venvs/asan/bin/python $(PIP) install 'setuptools>=77'
	@rm -rf build/lib* && SYSCLONE_ASAN=1 build/venvs/asan/bin/python $(PIP) install --no-build-isolation --force-reinstall '.[test]'
	@touch $@
