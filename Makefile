# Each target does its own set-up; CI runs `make lint` and `make test`.

CARGO ?= cargo
SECONDS_OF_SOAK ?= 600
SECONDS_OF_FUZZ ?= 60
FUZZ_TARGETS = frames handshake websocket stream

PYTHON ?= python3
MEMCHECK_PYTHON = data messages requests streams roles events limits hostile
VENV ?= .venv
VENV_PYTHON = $(VENV)/bin/python
# The extension module needs CPython 3.9.
# Those that are supported, free-threaded ones too; and those that `make dist` tests the wheels on.
PYTHONS ?= python3.9 python3.10 python3.11 python3.12 python3.13 python3.14 python3.14t
DIST_PYTHONS ?= $(PYTHON)
HAS_PYTHON = $(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' >/dev/null 2>&1

NODE ?= node
NODE_PLATFORM = $(shell $(NODE) -p 'process.platform + "-" + process.arch + (process.platform === "linux" && !process.report.getReport().header.glibcVersionRuntime ? "-musl" : "")')
NODE_MAJOR = $(shell $(NODE) -p 'process.versions.node.split(".")[0]')
# The oldest that is supported, and those with long-term support; the newest of them is the current one.
NODE_VERSIONS ?= 20 24 26
NODE_LIBRARY = target/release/libroletalk_node.$(if $(filter Darwin,$(shell uname -s)),dylib,so)
NODE_ADDON = bindings-node/prebuilds/$(NODE_PLATFORM)/roletalk.node

.PHONY: all build node python dist dist-python test-node test-node-versions test-python \
	test-python-versions lint-python memcheck-python \
	bench-node bench-python interop scenarios players demo test bench soak fuzz lint fmt

all: build

## Builds the library, its examples and its benchmarks, the Node package where there is Node, and the
## Python package where there is Python.
build:
	$(CARGO) build --workspace --all-targets --locked
	@if $(NODE) --version >/dev/null 2>&1; then $(MAKE) --no-print-directory node; \
	else echo "Node is not installed: bindings-node is not built"; fi
	@if $(HAS_PYTHON); then $(MAKE) --no-print-directory python; \
	else echo "Python 3.9 is not installed: bindings-python is not built"; fi

## Builds the Node package: `require('./bindings-node')` works then.
node:
	$(CARGO) build --release --locked -p roletalk-node
	@mkdir -p $(dir $(NODE_ADDON))
	cp $(NODE_LIBRARY) $(NODE_ADDON).new
	strip $(if $(filter Darwin,$(shell uname -s)),-x,--strip-unneeded) $(NODE_ADDON).new
	mv $(NODE_ADDON).new $(NODE_ADDON)

$(VENV)/.requirements: bindings-python/requirements-dev.txt bindings-python/requirements-test.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV_PYTHON) -m pip install --quiet -r $<
	@touch $@

## Builds the Python package into .venv: `.venv/bin/python -c 'import roletalk'` works then.
python: $(VENV)/.requirements
	$(VENV)/bin/maturin develop --release --locked --quiet -m bindings-python/Cargo.toml

## The npm package with the binary for this platform, in bindings-node; wheel and sdist.
dist: node
	cp LICENSE bindings-node/LICENSE
	cd bindings-node && npm pack
	@if $(HAS_PYTHON); then $(MAKE) --no-print-directory dist-python; fi

## The sdist, and the wheel that is built from it, which is tested in virtual environments of its own
## on DIST_PYTHONS; in bindings-python/dist. Those of DIST_PYTHONS that are free-threaded get wheels of
## their own.
dist-python: $(VENV)/.requirements
	rm -rf bindings-python/dist
	cp LICENSE bindings-python/LICENSE
	$(VENV)/bin/maturin build --release --sdist -m bindings-python/Cargo.toml \
		-o bindings-python/dist
	scripts/test-python-versions.sh $(VENV)/bin/maturin bindings-python/dist $(DIST_PYTHONS)

## The tests of the Node package, with loop-native sockets and with Node's.
test-node: node
	cd bindings-node && npm ci --no-audit --no-fund && $(NODE) --test test/*.test.js
	cd bindings-node && ROLETALK_SOCKETS=node $(NODE) --test test/*.test.js

## The same on the newest patches of those of NODE_VERSIONS that are not the one installed, by the
## package `node` of the npm registry.
test-node-versions: node
	cd bindings-node && npm ci --no-audit --no-fund
	@export npm_config_ignore_scripts=false; \
	for major in $(filter-out $(NODE_MAJOR),$(NODE_VERSIONS)); do \
		run="npx --yes --package node@$$major -- node"; \
		version=$$($$run --version) || { echo "npm has no Node $$major: not tested"; continue; }; \
		echo "Node $$version"; \
		(cd bindings-node && $$run --test test/*.test.js) || exit 1; \
	done

## The tests of the Python package, under valgrind as well where it is installed.
test-python: python
	cd bindings-python && ../$(VENV_PYTHON) -m pytest -q
	@if command -v valgrind >/dev/null; then $(MAKE) --no-print-directory memcheck-python; \
	else echo "valgrind is not installed: the extension module is not run under it"; fi

## The same with the wheels on those of PYTHONS that are here.
test-python-versions: $(VENV)/.requirements
	rm -rf target/python
	scripts/test-python-versions.sh $(VENV)/bin/maturin target/python $(PYTHONS)

## What checks its types, those of its tests, examples and benchmark, and its stubs.
lint-python: python
	cd bindings-python && ../$(VENV_PYTHON) -m mypy
	cd bindings-python && ../$(VENV_PYTHON) -m mypy.stubtest roletalk --allowlist stubtest-allowlist.txt
	cd bindings-python && ../$(VENV)/bin/pyright --pythonpath ../$(VENV_PYTHON) -p .

## Those tests of the Python package that use one process, under valgrind, with Rust's own checks.
memcheck-python: $(VENV)/.requirements
	$(CARGO) build --locked -p roletalk-python
	cd bindings-python && ../$(VENV_PYTHON) tests/memcheck.py \
		../target/debug/libroletalk_engine.so $(MEMCHECK_PYTHON:%=tests/test_%.py)

## What was recorded of the originals, replayed against this implementation, and this implementation
## beside the originals, as far as they are here. See interop/README.md.
interop: players
	cd interop && npm install || echo "npm cannot install the original; going on without"
	$(NODE) interop/vectors
	$(NODE) interop

## This implementation's packages with each other, without the originals.
scenarios: players
	$(NODE) tests/scenarios --all

## The programs that take part in scenarios.
players: node
	$(CARGO) build --locked -p roletalk-player
	@if command -v $(CC) >/dev/null; then $(MAKE) --no-print-directory -C bindings-c player; \
	else echo "There is no C compiler: the player in C is not built"; fi
	@if $(HAS_PYTHON); then $(MAKE) --no-print-directory python; \
	else echo "Python 3.9 is not installed: its player does not take part"; fi

## Several processes that find each other and do real work; checks itself. One of them is in Python
## where the package is installed in .venv, one in C where there is a C compiler.
demo:
	@rm -f target/players/c-demo-player
	@if command -v $(CC) >/dev/null; then $(MAKE) --no-print-directory -C bindings-c demo-player; \
	else echo "There is no C compiler: no process is in C"; fi
	ROLETALK_DEMO_C="$$(ls $(CURDIR)/target/players/c-demo-player 2>/dev/null)" \
	ROLETALK_DEMO_PYTHON="$$($(VENV_PYTHON) -c 'import roletalk, sys; print(sys.executable)' 2>/dev/null)" \
		$(CARGO) run --locked -p roletalk --example demo

## Everything that must pass before a change is merged.
test:
	$(CARGO) test --workspace --lib --tests --examples --locked
	$(CARGO) test --workspace --doc --locked
	$(MAKE) -C bindings-c test
	@if $(NODE) --version >/dev/null 2>&1 && npm --version >/dev/null 2>&1; \
	then $(MAKE) --no-print-directory test-node test-node-versions interop; \
	else echo "Node or npm is not installed: bindings-node and interop are not tested"; fi
	@if $(HAS_PYTHON); then $(MAKE) --no-print-directory test-python; \
	else echo "Python 3.9 is not installed: bindings-python is not tested"; fi

## The measurements of docs/BENCHMARKS.md. BENCH=--quick takes a fraction of the time.
bench:
	$(CARGO) bench --locked -p roletalk --bench engine -- $(BENCH)
	$(CARGO) bench --locked -p roletalk --bench field -- $(BENCH)
	$(MAKE) -C bindings-c bench
	@if $(NODE) --version >/dev/null 2>&1; then $(MAKE) --no-print-directory bench-node; fi
	@if $(HAS_PYTHON); then $(MAKE) --no-print-directory bench-python; fi

## The Node package, beside the original where ROLETALK_JS names its directory.
bench-node: node
	$(NODE) bindings-node/bench $(BENCH)

## The Python package, beside websockets, pyzmq, grpcio and asyncio's streams.
bench-python: python
	$(VENV_PYTHON) -m pip install --quiet -r bindings-python/requirements-bench.txt
	$(VENV_PYTHON) bindings-python/bench $(BENCH)

## The simulation for a long time, with new seeds.
soak:
	ROLETALK_SIM_SECONDS=$(SECONDS_OF_SOAK) $(CARGO) test --release --locked -p roletalk \
		--test simulation -- --nocapture

## The fuzz targets under libFuzzer, from the stored corpus on.
fuzz:
	for target in $(FUZZ_TARGETS); do \
		scripts/fuzz.sh $$target $(SECONDS_OF_FUZZ) || exit 1; \
	done

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy -p roletalk --no-default-features --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked
	$(MAKE) -C bindings-c check-header
	scripts/check-sans-io.sh --self-test
	scripts/check-sans-io.sh
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny check licenses bans sources; \
	else \
		echo "cargo-deny is not installed: licenses and sources are not checked (cargo install cargo-deny)"; \
	fi
	@if $(HAS_PYTHON); then $(MAKE) --no-print-directory lint-python; \
	else echo "Python 3.9 is not installed: types of bindings-python are not checked"; fi

fmt:
	$(CARGO) fmt --all
