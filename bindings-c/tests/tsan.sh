#!/usr/bin/env bash
# Runs the C tests with ThreadSanitizer, the library and Rust's standard library included: tsan.sh STAGE, of
# which it takes the header. Without the standard library's atomics, every lock would look like a race; to
# build that takes a nightly compiler with its sources.
set -euo pipefail
stage=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$(dirname "$here")/target}/tsan

left_out() { echo "ThreadSanitizer: left out: $*"; exit 0; }
sources=$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library || sources=
[ -n "$sources" ] || left_out "there is no nightly Rust (rustup toolchain install nightly)"
[ -d "$sources" ] || left_out "nightly Rust has no sources (rustup component add rust-src --toolchain nightly)"
compiler=$(command -v clang || command -v gcc) || left_out "there is neither clang nor gcc"

host=$(rustc +nightly -vV | sed -n 's/^host: //p')
RUSTFLAGS="-Zsanitizer=thread" cargo +nightly build --locked -Zbuild-std --target "$host" \
    --target-dir "$target" -p roletalk-c
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Rust's: those of C compilers may be older than what its code calls.
runtime=$(rustc +nightly --print sysroot)/lib/rustlib/$host/lib/librustc-nightly_rt.tsan.a
library=$target/$host/debug/libroletalk.so
export LD_LIBRARY_PATH=$work
ln -s "$library" "$work/$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')"
export TSAN_OPTIONS="halt_on_error=0 exitcode=66 suppressions=$here/tests/tsan.suppressions"
# Some kernels randomize addresses more than older runtimes can take.
run=()
failed=0
setarch -R true 2>/dev/null && run=(setarch -R)
# The argument of lifecycle leaves its fork out.
for test in messages "lifecycle no-fork" arguments hostile bounds "leaks 2000"; do
    name=${test%% *}
    echo "ThreadSanitizer: $name"
    "$compiler" -std=c11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Werror -fsanitize=thread \
        -I"$stage/include" -c "$here/tests/c/$name.c" -o "$work/$name.o"
    "$compiler" "$work/$name.o" -o "$work/$name" -rdynamic -Wl,--whole-archive "$runtime" \
        -Wl,--no-whole-archive "$library" -lpthread -lrt -lm -ldl -lresolv -lgcc_s
    # shellcheck disable=SC2086
    "${run[@]}" "$work/"$test || failed=1
done
exit $failed
