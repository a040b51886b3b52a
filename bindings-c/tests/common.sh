# What the test scripts share. Sourced with the stage, where the library was installed, as first argument;
# sets $stage, $here (bindings-c) and $work, which goes when the script ends.
set -euo pipefail
stage=$(cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
library=$stage/lib/libroletalk.so
include=-I$stage/include

step() { printf '== %s\n' "$*"; }
have() { command -v "$1" >/dev/null || { echo "$1 is not installed: left out"; return 1; }; }
fail() { echo "$*" >&2; exit 1; }

compile() { # COMPILER ARGUMENT...: in the language of the compiler
    local language=-std=c11
    case $1 in *++*) language=-std=c++17 ;; esac
    "$1" "$language" -D_GNU_SOURCE -g -Wall -Wextra -Werror $include -I"$here/tests/c" \
        -I"$here/examples" "${@:2}"
}

# Calls BUILD with the source and the name of each test program, which is to write $work/NAME, and runs it
# behind the words of the array $under, where there are any. With $under, programs are slow, and tools do
# not like the fork of a process with threads: then there are fewer requests, and no fork.
test_programs() { # BUILD FILE...
    local build=$1 file name args failed=0
    for file in "${@:2}"; do
        name=$(basename "${file%.*}")
        args=()
        case $name in
            lifecycle | drops) [ -z "${slow:-}" ] || args=(no-fork) ;;
            leaks) [ -z "${slow:-}" ] || args=(2000) ;;
            tls)
                certificates || continue
                args=("$work/own.pem" "$work/own.key" "$work/other.pem")
                ;;
            unload) args=("$library") ;;
        esac
        "$build" "$file" "$work/$name"
        "${under[@]}" "$work/$name" "${args[@]}" || { echo "$name has failed"; failed=1; }
    done
    return $failed
}

certificates() {
    [ -e "$work/other.pem" ] && return
    have openssl || return 1
    local name
    for name in own other; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj "/CN=$name" -addext "subjectAltName=DNS:localhost" \
            -addext "basicConstraints=critical,CA:FALSE" \
            -keyout "$work/$name.key" -out "$work/$name.pem" 2> "$work/log" || fail "$(cat "$work/log")"
    done
}
