#!/usr/bin/env bash
# Runs the C tests with AddressSanitizer: sanitize.sh STAGE. It sees the C code, and what the library does
# with the program's memory through malloc, memcpy and the like; the library itself is built as usual.
set -euo pipefail
stage=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LD_LIBRARY_PATH=$stage/lib
for test in messages lifecycle arguments hostile bounds; do
    "${CC:-cc}" -std=c11 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Werror -fsanitize=address,undefined \
        -I"$stage/include" "$here/tests/c/$test.c" -o "$work/$test" -L"$stage/lib" -lroletalk -lpthread
    # The argument leaves the fork of lifecycle out.
    "$work/$test" no-fork
done
