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

.PHONY: help packages setup demo test sanitize valgrind lint bench clean

help:
	@echo "make demo   serve an ASGI app on ffloop under uvicorn and send it requests"
	@echo "make test   run all tests"
	@echo "make sanitize, make valgrind   the tests again, where memory is watched; with gcc or clang, on Linux"
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
	@if ! $(BIN)/python -c "import sysconfig; assert sysconfig.get_config_var('Py_GIL_DISABLED')" 2>/dev/null; then \
	  $(BIN)/python -m pip install --quiet --only-binary :all: --group programs-with-gil; fi
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

# Both C modules with AddressSanitizer and UBSan, in an environment and a copy of their own: neither is built over the other. Leaks are
# not looked for, since Python leaves plenty at its end.
SANITIZED = $(VENV)-sanitized
SANITIZERS = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1
CC ?= cc
SANITIZE_TESTS ?= tests --ignore tests/cpython --ignore tests/programs --ignore tests/test_benchmarks.py
# It measures memory, of which AddressSanitizer keeps what was freed.
override SANITIZE_TESTS += --deselect tests/uv/test_handles.py::test_a_hundred_thousand_handles_leave_memory_and_descriptors_where_they_were

$(SANITIZED)/.ready: setup.py build_ffi.py pyproject.toml vendor/libuv.pin $(shell find src/ffloop -name '*.[ch]' -o -name '*.py')
	$(MAKE) packages VENV=$(SANITIZED)
	rm -rf $(SANITIZED)/source && mkdir $(SANITIZED)/source
	tar -c --exclude '*.so' --exclude '*.o' src vendor setup.py build_ffi.py pyproject.toml README.md LICENSE | tar -x -C $(SANITIZED)/source
	CFLAGS="$(SANITIZERS)" LDFLAGS="$(SANITIZERS)" $(SANITIZED)/bin/python -m pip install --quiet --no-deps --force-reinstall $(SANITIZED)/source
	@touch $@

sanitize: $(SANITIZED)/.ready
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" PYTHONMALLOC=malloc \
	  ASAN_OPTIONS=detect_leaks=0:handle_segv=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(SANITIZED)/bin/python -m pytest -n $(WORKERS) --dist loadscope --max-worker-restart 0 $(SANITIZE_TESTS) $(PYTEST_ARGS)

# What the sanitizers do not see: uninitialised memory, and what Python itself does to memory of ours that was freed.
valgrind: setup
	PYTHONMALLOC=malloc valgrind --quiet --error-exitcode=9 --suppressions=.ci/valgrind.supp \
	  $(BIN)/python -m pytest -p no:xdist -o timeout=0 -o faulthandler_timeout=0 tests/test_speeds.py tests/test_scheduling.py $(PYTEST_ARGS)

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
