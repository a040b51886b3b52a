# Each target does its own set-up. `make help` lists them; CI runs `make lint` and `make test-all`.

CARGO ?= cargo
SECONDS_OF_SOAK ?= 600
SECONDS_OF_FUZZ ?= 60
FUZZ_TARGETS = fields frames handshake policy websocket stream
ifneq ($(CARGO_TARGET_DIR),)
# As for cargo here; what runs in other directories would take a relative one for another.
override CARGO_TARGET_DIR := $(abspath $(CARGO_TARGET_DIR))
export CARGO_TARGET_DIR
endif
TARGET = $(or $(CARGO_TARGET_DIR),target)

# Where there is none, what needs it is left out.
CC_IS_HERE = command -v $(CC) >/dev/null
LEFT_OUT = scripts/left-out.sh

PYTHON ?= python3
MEMCHECK_PYTHON = data messages requests streams roles events limits hostile
VENV ?= .venv
VENV_PYTHON = $(VENV)/bin/python
# Those that are supported, free-threaded ones too; and those that `make dist` tests the wheels on.
PYTHONS ?= python3.9 python3.10 python3.11 python3.12 python3.13 python3.14 python3.14t
DIST_PYTHONS ?= $(PYTHON)
# The extension module needs CPython 3.9.
PYTHON_IS_HERE = $(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' >/dev/null 2>&1

NODE ?= node
NODE_IS_HERE = $(NODE) --version >/dev/null 2>&1 && npm --version >/dev/null 2>&1
NODE_PLATFORM = $(shell $(NODE) -p 'process.platform + "-" + process.arch + (process.platform === "linux" && !process.report.getReport().header.glibcVersionRuntime ? "-musl" : "")')
NODE_MAJOR = $(shell $(NODE) -p 'process.versions.node.split(".")[0]')
# The oldest that is supported, and those with long-term support; the newest of them is the current one.
NODE_VERSIONS ?= 20 24 26
NODE_LIBRARY = $(TARGET)/release/libroletalk_node.$(if $(filter Darwin,$(shell uname -s)),dylib,so)
NODE_ADDON = bindings-node/prebuilds/$(NODE_PLATFORM)/roletalk.node
NODE_MODULES = bindings-node/node_modules/.package-lock.json

# What does not hang on the kind of sockets runs once.
NODE_TESTS_OF_SOCKETS = $(patsubst bindings-node/%,%,$(filter-out %/types.test.js %/readme.test.js,\
	$(wildcard bindings-node/test/*.test.js)))

# The suites of `make test`, and of `make test-all`. After `build-tests`, they set BUILT and build nothing again.
SUITES = build-tests test-rust test-c test-node test-python test-scenarios test-hostile test-demo \
	test-quickstart test-vectors test-interop
ALL_SUITES = build-tests test-rust test-models test-c-all test-node test-node-versions test-python \
	memcheck-python test-python-versions test-scenarios-all test-hostile test-demo test-quickstart \
	test-vectors-all test-interop-all

.PHONY: all help build node python dist dist-python players optimized-players demo scenarios interop \
	test test-all $(sort $(SUITES) $(ALL_SUITES)) \
	bench bench-node bench-python bench-restarts bench-hostile soak fuzz lint lint-python fmt

all: build

## Lists the targets.
help:
	@awk '/^## / {text = text substr($$0, 4) " "; next} \
		/^[a-z][a-z -]*:/ && text {sub(":.*", ""); printf "%-22s %s\n", $$0, text} {text = ""}' Makefile

## Builds the library, its examples and its benchmarks, and the packages for Node and Python where these are.
build:
	$(CARGO) build --workspace --all-targets --locked
	@if $(NODE_IS_HERE); then $(MAKE) --no-print-directory node; \
	else $(LEFT_OUT) node "Node or npm is not installed: bindings-node is not built"; fi
	@if $(PYTHON_IS_HERE); then $(MAKE) --no-print-directory python; \
	else $(LEFT_OUT) python "CPython 3.9 or later with venv is not installed: bindings-python is not built"; fi

## Builds the Node package: `require('./bindings-node')` works then.
node:
	$(CARGO) build --release --locked -p roletalk-node
	@mkdir -p $(dir $(NODE_ADDON))
	cp $(NODE_LIBRARY) $(NODE_ADDON).new
	strip $(if $(filter Darwin,$(shell uname -s)),-x,--strip-unneeded) $(NODE_ADDON).new
	mv $(NODE_ADDON).new $(NODE_ADDON)

$(VENV)/.requirements: bindings-python/requirements-dev.txt bindings-python/requirements-test.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(NODE_MODULES): bindings-node/package.json bindings-node/package-lock.json
	cd bindings-node && npm ci --no-audit --no-fund
	@touch $@

## Builds the Python package into .venv: `.venv/bin/python -c 'import roletalk'` works then.
python: $(VENV)/.requirements
	$(VENV)/bin/maturin develop --release --locked --quiet -m bindings-python/Cargo.toml

## The npm package with the binary for this platform, in bindings-node; wheel and sdist.
dist: node
	cp LICENSE bindings-node/LICENSE
	cd bindings-node && npm pack
	@if $(PYTHON_IS_HERE); then $(MAKE) --no-print-directory dist-python; fi

## The sdist, and the wheel that is built from it, tested in virtual environments of their own on DIST_PYTHONS; in bindings-python/dist. Free-threaded interpreters among them get wheels of their own.
dist-python: $(VENV)/.requirements
	rm -rf bindings-python/dist
	cp LICENSE bindings-python/LICENSE
	$(VENV)/bin/maturin build --release --sdist -m bindings-python/Cargo.toml \
		-o bindings-python/dist
	scripts/test-python-versions.sh $(VENV)/bin/maturin bindings-python/dist $(DIST_PYTHONS)

## The programs that take part in scenarios, in every language that is here; see tests/README.md.
players:
	$(CARGO) build --locked -p roletalk-player
	@if $(NODE_IS_HERE); then $(MAKE) --no-print-directory node; \
	else $(LEFT_OUT) node "Node or npm is not installed: https://nodejs.org"; fi
	@if $(CC_IS_HERE); then $(MAKE) --no-print-directory -C bindings-c player; \
	else $(LEFT_OUT) c "there is no C compiler ($(CC))"; fi
	@if $(PYTHON_IS_HERE); then $(MAKE) --no-print-directory python; \
	else $(LEFT_OUT) python "CPython 3.9 or later with venv is not installed"; fi

# Those of them that are made without optimization, for benchmarks.
optimized-players:
	$(CARGO) build --release --locked -p roletalk-player
	@if $(CC_IS_HERE); then $(MAKE) --no-print-directory -C bindings-c player STAGED=release; fi

## Several processes, in every language that is here, find each other and do real work; checks itself.
demo: players
	@$(NODE_IS_HERE) || { echo "make demo is directed by a Node program: install Node 20 or later" >&2; exit 1; }
	@$(NODE) tests/demo

## Every scenario between all pairs of languages. OPTIONS="--long PATTERN" is passed on.
scenarios: players
	$(NODE) tests/scenarios --all $(OPTIONS)

## Recorded conversations, and every scenario with the originals, as far as they are here; see interop/README.md.
interop: players
	$(NODE) interop/vectors
	$(MAKE) --no-print-directory test-interop

## What to run before a change is sent: every suite, without the slow tools. One summary at the end.
test:
	@BUILT=1 scripts/test.sh $(SUITES)

## All of it: also valgrind, sanitizers, other versions of Node and Python, and what takes minutes.
test-all:
	@BUILT=1 scripts/test.sh $(ALL_SUITES)

# What the suites build, so that their times are theirs.
build-tests: players
	$(CARGO) test --workspace --lib --bins --tests --examples --locked --no-run
	$(CARGO) build --locked -p roletalk-quickstart

## The tests in Rust.
test-rust:
	$(CARGO) test --workspace --exclude roletalk-models --lib --bins --tests --examples --locked
	$(CARGO) test --workspace --doc --locked

## Models of what threads hand over to each other, in every order in which they can run: takes a minute.
test-models:
	$(CARGO) test --locked -p roletalk-models
	@$(MAKE) --no-print-directory -C bindings-c models

## The tests of the C library; test-c-all adds valgrind and sanitizers.
test-c test-c-all:
	@if $(CC_IS_HERE); then $(MAKE) --no-print-directory -C bindings-c $(@:test-c%=test%); \
	else $(LEFT_OUT) c "there is no C compiler ($(CC)): bindings-c is not tested"; fi

## The tests of the Node package, with loop-native sockets and with Node's.
test-node:
	@if $(NODE_IS_HERE); then $(MAKE) --no-print-directory test-node-here; \
	else $(LEFT_OUT) node "Node or npm is not installed: bindings-node is not tested"; fi

.PHONY: test-node-here
test-node-here: $(if $(BUILT),,node) $(NODE_MODULES)
	cd bindings-node && $(NODE) --test --test-reporter=spec --test-concurrency=3 test/*.test.js
	cd bindings-node && ROLETALK_SOCKETS=node $(NODE) --test --test-reporter=spec --test-concurrency=3 $(NODE_TESTS_OF_SOCKETS)

## The same on the newest patches of those of NODE_VERSIONS that are not the one installed, from the package `node` of the npm registry.
test-node-versions: $(if $(BUILT),,node) $(NODE_MODULES)
	@export npm_config_ignore_scripts=false; \
	for major in $(filter-out $(NODE_MAJOR),$(NODE_VERSIONS)); do \
		run="npx --yes --package node@$$major -- node"; \
		version=$$($$run --version) || { $(LEFT_OUT) node-$$major "npm has no Node $$major" || exit 1; continue; }; \
		echo "Node $$version"; \
		(cd bindings-node && $$run --test --test-reporter=spec test/*.test.js) || exit 1; \
	done

## The tests of the Python package, on asyncio and uvloop.
test-python:
	@if $(PYTHON_IS_HERE); then $(if $(BUILT),,$(MAKE) --no-print-directory python &&) \
		cd bindings-python && $(abspath $(VENV_PYTHON)) -m pytest -q -rs; \
	else $(LEFT_OUT) python "CPython 3.9 or later with venv is not installed: bindings-python is not tested"; fi

## The same with the wheels on those of PYTHONS that are here.
test-python-versions: $(VENV)/.requirements
	rm -rf $(TARGET)/python
	scripts/test-python-versions.sh $(VENV)/bin/maturin $(TARGET)/python $(PYTHONS)

## Those tests of the Python package that use one process, under valgrind, with the extension module built for debugging.
memcheck-python: $(VENV)/.requirements
	@if command -v valgrind >/dev/null; then \
		$(CARGO) build --locked -p roletalk-python && cd bindings-python && \
		$(abspath $(VENV_PYTHON)) tests/memcheck.py $(abspath $(TARGET))/debug/libroletalk_python.so \
			$(MEMCHECK_PYTHON:%=tests/test_%.py); \
	else $(LEFT_OUT) valgrind "not installed: the extension module is not run under it"; fi

# The packages together, and with the originals. Those with -all have every pair, and what takes minutes.
test-scenarios test-hostile test-demo test-quickstart test-vectors test-interop \
test-scenarios-all test-vectors-all test-interop-all:
	@if $(NODE_IS_HERE); then $(MAKE) --no-print-directory $(if $(BUILT),,players) run-$@; \
	else $(LEFT_OUT) node "Node or npm is not installed: $@ is not run"; fi

.PHONY: $(addprefix run-test-,scenarios hostile demo quickstart vectors interop scenarios-all vectors-all interop-all)
run-test-scenarios:
	$(NODE) tests/scenarios
run-test-scenarios-all:
	$(NODE) tests/scenarios --all --long
run-test-hostile:
	$(NODE) --test --test-reporter=spec tests/hostile/*.test.js
run-test-demo:
	$(NODE) --test --test-reporter=spec tests/demo/*.test.js tests/tls/*.test.js
run-test-quickstart:
	$(CARGO) build --locked -p roletalk-quickstart
	VENV=$(VENV) $(NODE) --test --test-reporter=spec tests/quickstart/*.test.js tests/scenarios/*.test.js
run-test-vectors:
	$(NODE) interop/vectors
run-test-vectors-all:
	$(NODE) interop/vectors --long
run-test-interop run-test-interop-all:
	@cd interop && npm install --no-audit --no-fund || echo "npm cannot install the original"
	$(NODE) interop $(if $(filter %-all,$@),--long)

## The measurements of docs/BENCHMARKS.md. BENCH=--quick takes a fraction of the time.
bench:
	$(CARGO) bench --locked -p roletalk --bench engine -- $(BENCH)
	$(CARGO) bench --locked -p roletalk --bench field -- $(BENCH)
	$(MAKE) -C bindings-c bench
	@if $(NODE_IS_HERE); then $(MAKE) --no-print-directory bench-node; fi
	@if $(PYTHON_IS_HERE); then $(MAKE) --no-print-directory bench-python; fi

## The Node package, beside the original where ROLETALK_JS names its directory.
bench-node: node
	$(NODE) bindings-node/bench $(BENCH)

## The Python package, beside websockets, pyzmq, grpcio and asyncio's streams.
bench-python: python
	$(VENV_PYTHON) -m pip install --quiet -r bindings-python/requirements-bench.txt
	$(VENV_PYTHON) bindings-python/bench $(BENCH)

## Response times of units while a peer is under attack, next to those without an attack: tests/README.md, Sieges.
bench-hostile: players optimized-players
	PLAYERS=release $(NODE) tests/hostile/siege-bench.js $(BENCH)

## A rolling restart at 1,000 requests a second, within and between languages; then with the originals as clients, as far as they are here. BENCH="PATTERN…" takes some.
bench-restarts: players optimized-players
	PLAYERS=release $(NODE) tests/scenarios/restart-bench.js $(BENCH)
	PLAYERS=release $(NODE) interop/restart-bench.js

## The two simulations for a long time, with new seeds, and a million ways of a request.
soak:
	ROLETALK_SCHEDULES=1000000 $(CARGO) test --release --locked -p roletalk-engine --lib -- attempts
	ROLETALK_SIM_SECONDS=$(SECONDS_OF_SOAK) $(CARGO) test --release --locked -p roletalk-engine \
		--test simulation -- --nocapture
	ROLETALK_SIM_SECONDS=$(SECONDS_OF_SOAK) $(CARGO) test --release --locked -p roletalk \
		--test network -- --nocapture

## The fuzz targets under libFuzzer, from the stored corpus on.
fuzz:
	for target in $(FUZZ_TARGETS); do \
		scripts/fuzz.sh $$target $(SECONDS_OF_FUZZ) || exit 1; \
	done

## Formatting, lints, types, documentation, dependencies, spelling: with the tools that are here; scripts/install-lint-tools.sh installs most.
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked
	$(MAKE) -C bindings-c check-header
	scripts/lint.sh
	@if $(PYTHON_IS_HERE); then $(MAKE) --no-print-directory lint-python; \
	else $(LEFT_OUT) python "CPython 3.9 or later with venv is not installed: its types are not checked"; fi

## What checks the types of the Python package, those of its tests, examples and benchmark, and its stubs.
lint-python: $(if $(BUILT),,python)
	cd bindings-python && $(abspath $(VENV_PYTHON)) -m mypy
	cd bindings-python && $(abspath $(VENV_PYTHON)) -m mypy.stubtest roletalk --allowlist stubtest-allowlist.txt
	cd bindings-python && $(abspath $(VENV))/bin/pyright --pythonpath $(abspath $(VENV_PYTHON)) -p .

## Formats the code.
fmt:
	$(CARGO) fmt --all
