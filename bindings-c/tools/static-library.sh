#!/usr/bin/env bash
# Makes the static library that is installed: static-library.sh SHARED RUST OUT.
#
# rustc's static library RUST shows all global symbols of Rust's standard library and of every crate, so
# that two of them in one program are symbols defined twice. OUT has one object, in which only the names
# that the library SHARED exports are global, and no debug information, which is ten times as large as the rest
# and slows down every link. Needs ld and objcopy of binutils.
set -euo pipefail
shared=$1 rust=$2 out=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nm -D --defined-only "$shared" | awk '{print $3}' > "$work/exported"
# Without --gc-sections, with which ld forgets that references are weak. Section groups go: a linker drops
# all but one of the groups that have the same name, also where the symbols of the one it keeps are local.
# shellcheck disable=SC2046
"${LD:-ld}" -r --force-group-allocation $(sed 's/^/-u /' "$work/exported") "$rust" -o "$work/merged.o"
# LLVM bitcode of the standard library, which no linker needs, and on which the LLVM plugin of older
# binutils aborts.
# shellcheck disable=SC2086
${OBJCOPY:-objcopy} --strip-debug -R .llvmbc -R .llvmcmd --keep-global-symbols="$work/exported" \
    "$work/merged.o" "$work/roletalk.o"
rm -f "$out"
"${AR:-ar}" rcs "$out" "$work/roletalk.o"
