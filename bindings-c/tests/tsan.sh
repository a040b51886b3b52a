#!/usr/bin/env bash
# Runs the C tests with ThreadSanitizer, the library and Rust's standard library included: tsan.sh STAGE, of
# which it takes the header. Without the standard library's atomics, every lock would look like a race; to
# build that takes a nightly compiler with its sources.
here=$(dirname "$0")
. "$here/common.sh"
target=${CARGO_TARGET_DIR:-$(dirname "$here")/target}/tsan

left_out() { echo "ThreadSanitizer: left out: $*"; exit 0; }
sources=$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library || sources=
[ -n "$sources" ] || left_out "there is no nightly Rust (rustup toolchain install nightly)"
[ -d "$sources" ] || left_out "nightly Rust has no sources (rustup component add rust-src --toolchain nightly)"
if command -v clang++ >/dev/null; then
    compiler=clang compiler_cpp=clang++
elif command -v g++ >/dev/null; then
    compiler=gcc compiler_cpp=g++
else
    left_out "there is neither clang nor gcc, with C++"
fi

host=$(rustc +nightly -vV | sed -n 's/^host: //p')
RUSTFLAGS="-Zsanitizer=thread" cargo +nightly build --locked -Zbuild-std --target "$host" \
    --target-dir "$target" -p roletalk-c
# Rust's: those of C compilers may be older than what its code calls.
runtime=$(rustc +nightly --print sysroot)/lib/rustlib/$host/lib/librustc-nightly_rt.tsan.a
library=$target/$host/debug/libroletalk.so
export LD_LIBRARY_PATH=$work
ln -s "$library" "$work/$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')"
export TSAN_OPTIONS="halt_on_error=0 exitcode=66 suppressions=$here/tests/tsan.suppressions"

build() {
    local build=$compiler
    case $1 in *.cpp) build=$compiler_cpp ;; esac
    echo "ThreadSanitizer: $(basename "$2")"
    compile "$build" -O1 -fsanitize=thread -c "$1" -o "$2.o"
    "$build" "$2.o" -o "$2" -rdynamic -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive "$library" \
        -lpthread -lrt -lm -ldl -lresolv -lgcc_s
}
# Some kernels randomize addresses more than older runtimes can take.
under=()
setarch -R true 2>/dev/null && under=(setarch -R)
slow=1 test_programs build "$here"/tests/c/*.c "$here"/tests/cpp/*.cpp
