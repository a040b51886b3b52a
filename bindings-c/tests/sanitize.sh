#!/usr/bin/env bash
# Runs the C tests with a sanitizer: sanitize.sh STAGE address|thread. The sanitizer sees the C code and
# what it shares with the library, through the allocator and the locks; the library itself is built as
# usual, since Rust's own sanitizers need a nightly compiler. ThreadSanitizer therefore leaves out what it
# would have to see inside the library.
set -euo pipefail
stage=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LD_LIBRARY_PATH=$stage/lib
export TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1"
for test in messages lifecycle arguments; do
    "${CC:-cc}" -std=c11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Werror -fsanitize="$2" \
        -I"$stage/include" "$here/tests/c/$test.c" -o "$work/$test" -L"$stage/lib" -lroletalk -lpthread
    # The argument leaves the fork out.
    "$work/$test" no-fork
done
