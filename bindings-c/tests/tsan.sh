#!/usr/bin/env bash
# Runs the test programs with ThreadSanitizer: tsan.sh STAGE [--list] [PATTERN...]. The header is STAGE's; the
# library is built here, and Rust's standard library with it: without the standard library's atomics, every
# lock would look like a race. That takes a nightly compiler with its sources. Where there is none, all is
# left out, and fails when REQUIRE, a list with commas, has `tsan`.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
arguments "${BASH_SOURCE[0]}" "$@"

sources=$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library || sources=
if [ -z "$sources" ]; then
    missing tsan "there is no nightly Rust (rustup toolchain install nightly)"
elif [ ! -d "$sources" ]; then
    missing tsan "nightly Rust has no sources (rustup component add rust-src --toolchain nightly)"
elif command -v clang++ >/dev/null; then
    compiler=clang compiler_cpp=clang++
elif command -v g++ >/dev/null; then
    compiler=gcc compiler_cpp=g++
else
    missing tsan "there is neither clang nor gcc, with C++"
fi
look_for openssl

if have tsan && [ -z "$list" ]; then
    target=${CARGO_TARGET_DIR:-$(dirname "$here")/target}/tsan
    host=$(rustc +nightly -vV | sed -n 's/^host: //p')
    RUSTFLAGS="-Zsanitizer=thread" cargo +nightly build --locked -Zbuild-std --target "$host" \
        --target-dir "$target" -p roletalk-c
    # Rust's: those of C compilers may be older than what its code calls.
    runtime=$(rustc +nightly --print sysroot)/lib/rustlib/$host/lib/librustc-nightly_rt.tsan.a
    library=$target/$host/debug/libroletalk.so
    mkdir "$work/lib"
    ln -s "$library" "$work/lib/$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')"
    export LD_LIBRARY_PATH=$work/lib
fi
export TSAN_OPTIONS="halt_on_error=0 exitcode=66 suppressions=$here/tests/tsan.suppressions"
# Some kernels randomize addresses more than older runtimes can take.
under=(env)
setarch -R true 2>/dev/null && under=(setarch -R)

with_tsan() { # FILE
    local build=$compiler source=$here/tests/c/$1
    case $1 in *.cpp) build=$compiler_cpp source=$here/tests/cpp/$1 ;; esac
    compile "$build" -O1 -fsanitize=thread -c "$source" -o "$dir/program.o"
    "$build" "$dir/program.o" -o "$dir/program" -rdynamic -Wl,--whole-archive "$runtime" \
        -Wl,--no-whole-archive "$library" -lpthread -lrt -lm -ldl -lresolv -lgcc_s
    run_program "$dir/program" "${1%.*}" "${under[@]}"
}

while read -r program; do
    add "${program%.*}, ThreadSanitizer" "tsan $(needed_by "$program")" with_tsan "$program"
done < <(test_programs)
run_cases
