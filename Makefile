# `make demo` and `make test` set up all they need, in a virtual environment of their own.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# How many processes share the tests; 0 runs them in one, for a debugger. A class or file stays in one process, and with it the
# servers that its tests share.
WORKERS ?= 2
# The loops that ffloop is compared with. Not all have wheels for every interpreter and system.
PEERS = uvloop==0.23.0 rloop==0.5.0 zuvloop==0.0.17 rsloop==0.1.66
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --max-worker-restart 0 $(PYTEST_ARGS)

.PHONY: help packages setup demo test lint bench clean

help:
	@echo "make demo   serve an ASGI app on ffloop under uvicorn and send it requests"
	@echo "make test   run all tests"
	@echo "make lint   ruff and mypy"
	@echo "make bench  measure the loops that are installed, side by side"
	@echo "WORKERS=... how many processes share the tests ($(WORKERS)); PYTEST_ARGS=... for pytest"
	@echo "PYTHON=...  the interpreter to use ($(PYTHON)); VENV=... where to set up ($(VENV))"

# What the tests need from elsewhere. Apart from the build: one may fail where there is no network, the other never.
$(VENV)/.packages: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group test
	$(BIN)/python -m pip install --quiet --only-binary :all: --group programs
	@touch $@

# The stamp depends on what is compiled, so that a changed C file is built again.
$(VENV)/.ready: $(VENV)/.packages setup.py build_ffi.py vendor/libuv.pin $(wildcard src/ffloop/native/* src/ffloop/native/accelerator/*)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

packages: $(VENV)/.packages

setup: $(VENV)/.ready

demo: setup
	$(BIN)/python examples/demo.py

# Both speeds, where there are two: see src/ffloop/speed.py.
test: setup
	$(PYTEST)
	@if $(BIN)/python -c "import ffloop._speed" 2>/dev/null; then \
	  echo "== the same with FFLOOP_PURE=1" && FFLOOP_PURE=1 $(PYTEST); fi

lint: setup
	$(BIN)/python -m pip install --quiet --group lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m pip install --quiet --only-binary :all: --group bench
	@for peer in $(PEERS); do \
	  $(BIN)/python -m pip install --quiet --only-binary :all: $$peer || echo "no wheel of $$peer here: left out"; \
	done
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build dist src/*.egg-info src/ffloop/_speed.* src/ffloop/uv/_libuv.* vendor/libuv
