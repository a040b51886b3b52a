#!/usr/bin/env bash
# Runs one fuzz target under libFuzzer, from the stored corpus on.
#
#   scripts/fuzz.sh TARGET [SECONDS] [LIBFUZZER-OPTION...]   TARGET: fields, frames, handshake, policy, websocket, stream
#   scripts/fuzz.sh TARGET FILE                              repeats one input
#   scripts/fuzz.sh --minimize TARGET                        makes the stored corpus small again
#
# Works with the stable toolchain: libfuzzer-sys brings libFuzzer's source, which needs a C++
# compiler, and the flags below are what cargo-fuzz would pass. What is found goes to
# target/fuzz-corpus/TARGET, inputs that fail to core/fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
directory=${CARGO_TARGET_DIR:-target}

usage() { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

minimize=
[ "${1:-}" = --minimize ] && { minimize=1; shift; }
target=${1:-}
case $target in fields | frames | handshake | policy | websocket | stream) shift ;; *) usage ;; esac

triple=$(rustc -vV | sed -n 's/^host: //p')
# With --target the flags hold for what is fuzzed, not for build scripts and macros, which would
# not link. One codegen unit, as cargo-fuzz: sancov's tables get lost in some links otherwise.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
 -Cllvm-args=-sanitizer-coverage-level=4 \
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
 -Cllvm-args=-sanitizer-coverage-pc-table \
 -Cllvm-args=-sanitizer-coverage-trace-compares \
 -Cdebug-assertions -Coverflow-checks"
cargo build --release -p roletalk-fuzz --features libfuzzer --bin "$target" \
    --target "$triple" --target-dir "$directory/fuzz"
program=$directory/fuzz/$triple/release/$target

stored=core/fuzz/corpus/$target
found=$directory/fuzz-corpus/$target
artifacts=core/fuzz/artifacts/$target/
mkdir -p "$stored" "$found" "$artifacts"
options=(-max_len=4096 -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$artifacts")

if [ -n "$minimize" ]; then
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    # What covers the same is kept once, whatever its counters say: it has to stay small.
    "$program" "${options[@]}" -max_len=512 -set_cover_merge=1 -use_counters=0 \
        "$fresh" "$stored" "$found"
    # Seeds and failures of the past have names of their own and stay; the others have hashes.
    find "$stored" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
    for file in "$stored"/*; do
        rm -f "$fresh/$(sha1sum < "$file" | cut -c1-40)"
    done
    find "$fresh" -type f -exec cp -t "$stored" {} +
    du -sb "$stored"
elif [ -f "${1:-}" ]; then
    "$program" "${options[@]}" "$@"
else
    seconds=${1:-60}
    shift || true
    "$program" "${options[@]}" -max_total_time="$seconds" -print_final_stats=1 "$@" "$found" "$stored"
fi
