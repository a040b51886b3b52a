# Each target does its own set-up; CI runs `make lint` and `make test`.

CARGO ?= cargo
SECONDS_OF_SOAK ?= 600
SECONDS_OF_FUZZ ?= 60
FUZZ_TARGETS = frames handshake websocket stream

.PHONY: all build demo test bench soak fuzz lint fmt

all: build

## Builds the library, its examples and its benchmarks.
build:
	$(CARGO) build --workspace --all-targets --locked

## Several processes that find each other and do real work; checks itself.
demo:
	$(CARGO) run --locked -p roletalk --example demo

## Everything that must pass before a change is merged.
test:
	$(CARGO) test --workspace --lib --tests --examples --locked
	$(CARGO) test --workspace --doc --locked
	$(MAKE) -C bindings-c test

## The measurements of docs/BENCHMARKS.md. BENCH=--quick takes a fraction of the time.
bench:
	$(CARGO) bench --locked -p roletalk --bench engine -- $(BENCH)
	$(CARGO) bench --locked -p roletalk --bench field -- $(BENCH)
	$(MAKE) -C bindings-c bench

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

fmt:
	$(CARGO) fmt --all
