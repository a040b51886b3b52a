#!/usr/bin/env bash
# Tests the installed C library: run.sh STAGE, where `make install PREFIX=STAGE` has put it.
#
# Each program is built by each compiler that there is, as C11 and as C++17, with the shared and the
# static library. What is not installed here is said and left out.
set -euo pipefail
stage=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PKG_CONFIG_PATH=$stage/lib/pkgconfig
export LD_LIBRARY_PATH=$stage/lib
warnings="-Wall -Wextra -Werror"

step() { printf '== %s\n' "$*"; }
have() { command -v "$1" >/dev/null || { echo "$1 is not installed: left out"; return 1; }; }
fail() { echo "$*" >&2; exit 1; }

for tool in "${CC:-cc}" "${CXX:-c++}" pkg-config nm readelf; do
    have "$tool" || { echo "C and C++: NOT TESTED for want of $tool"; exit 0; }
done

step "names: nothing but rt_ is exported, and nothing is missing"
nm -D --defined-only "$stage/lib/libroletalk.so" | awk '{print $3}' | LC_ALL=C sort |
    diff "$here/tests/symbols.txt" - || fail "the exported names are not those of symbols.txt"
for name in $(cat "$here/tests/symbols.txt"); do
    grep -q "\b$name(" "$here/include/roletalk.h" || fail "$name is not in roletalk.h"
    grep -q "\b$name(" "$here"/tests/c/*.[ch] || fail "no test calls $name"
done
readelf -d "$stage/lib/libroletalk.so" | grep -q 'SONAME.*\[libroletalk\.so\.0\]' || fail "soname"

flags=$(pkg-config --cflags roletalk)
shared=$(pkg-config --libs roletalk)
# Only this library is to be static, not libc.
static=$(pkg-config --libs --static roletalk | sed "s|-lroletalk|$stage/lib/libroletalk.a|")

compile() { # COMPILER LANGUAGE FILE OUT LIBS
    local standard="-std=c11"
    [ "$2" = c++ ] && standard="-std=c++17"
    # shellcheck disable=SC2086
    "$1" -x "$2" $standard -D_GNU_SOURCE -g $warnings $flags -I"$here/tests/c" -I"$here/examples" \
        "$3" -x none -o "$4" $5 -lpthread
}

step "layout"
compile "${CC:-cc}" c "$here/tests/c/layout.c" "$work/layout" "$shared"
"$work/layout" | diff "$here/tests/layout.txt" - ||
    fail "the layout of a struct has changed: only new fields at the end may be recorded"

step "tests"
for test in messages lifecycle arguments hostile bounds leaks; do
    compile "${CC:-cc}" c "$here/tests/c/$test.c" "$work/$test" "$shared"
    "$work/$test"
done
compile "${CC:-cc}" c "$here/tests/c/unload.c" "$work/unload" "-ldl"
"$work/unload" "$stage/lib/libroletalk.so"
compile "${CC:-cc}" c "$here/tests/c/tls.c" "$work/tls" "$shared"
if have openssl; then
    for name in own other; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj "/CN=$name" -addext "subjectAltName=DNS:localhost" \
            -addext "basicConstraints=critical,CA:FALSE" \
            -keyout "$work/$name.key" -out "$work/$name.pem" 2> "$work/log" || fail "$(cat "$work/log")"
    done
    "$work/tls" "$work/own.pem" "$work/own.key" "$work/other.pem"
fi
compile "${CXX:-c++}" c++ "$here/tests/c/messages.c" "$work/messages++" "$static"
"$work/messages++"
compile "${CXX:-c++}" c++ "$here/tests/cpp/layer.cpp" "$work/layer" "$shared"
"$work/layer"

if have valgrind; then
    step "valgrind"
    # Without the fork: the child leaves what was the parent's alone.
    for test in messages "lifecycle no-fork" arguments hostile bounds "leaks 2000"; do
        # shellcheck disable=SC2086
        valgrind --quiet --leak-check=full --errors-for-leak-kinds=definite,indirect \
            --show-leak-kinds=definite,indirect --error-exitcode=9 --fair-sched=try \
            "$work/"$test
    done
fi

step "AddressSanitizer and UndefinedBehaviorSanitizer, in the C code"
"$here/tests/sanitize.sh" "$stage"

step "examples, with every compiler, shared and static"
for pair in gcc:g++ clang:clang++; do
    have "${pair%:*}" || continue
    for libs in "$shared" "$static"; do
        for file in "$here"/examples/*.c; do
            compile "${pair%:*}" c "$file" "$work/$(basename "$file" .c)" "$libs"
        done
        for file in "$here"/examples/*.cpp; do
            compile "${pair#*:}" c++ "$file" "$work/$(basename "$file" .cpp)_cpp" "$libs"
        done
    done
    for file in "$here"/tests/c/*.c; do
        compile "${pair#*:}" c++ "$file" "$work/as_cpp" "$shared"
    done
done

step "examples do what they say"
serve() { # PROGRAM: its address in $url, its input open as descriptor 9
    mkfifo "$work/in"
    "$@" < "$work/in" > "$work/out" 2> "$work/err" &
    server=$!
    exec 9> "$work/in"
    rm "$work/in"
    # It tells its address when it listens.
    url=
    while [ -z "$url" ]; do
        kill -0 $server || fail "$1 has ended"
        url=$(head -n 1 "$work/out" "$work/err" 2>/dev/null | grep -a -m 1 '^ws://' || true)
    done
}
for service in echo_service epoll_service echo_service_cpp; do
    serve "$work/$service"
    "$work/rpc_client" "$url" | diff <(printf 'hello\n100 answers\n') -
    "$work/rpc_client_cpp" "$url" | diff <(printf 'hello\n100 answers, 4950 in sum\n') -
    exec 9>&-
    wait $server
done
serve "$work/publish"
# It must not keep the publisher's input open.
"$work/subscribe" "$url" > "$work/heard" 9>&- &
subscriber=$!
printf 'one\ntwo\n' >&9
exec 9>&-
wait $server $subscriber
diff <(printf 'one\ntwo\n') "$work/heard"
serve "$work/receive_file"
"$work/send_file" "$url" "$here/include/roletalk.h" > /dev/null
wait $server
exec 9>&-
cmp "$work/out" "$here/include/roletalk.h"
"$work/streams_pubsub_cpp" | diff <(printf 'it rains\n1048576 bytes\n') -

if have cmake; then
    step "find_package"
    cmake -S "$here/tests/cmake" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$stage" \
        -DEXAMPLES="$here/examples" > "$work/log" || { cat "$work/log"; exit 1; }
    cmake --build "$work/cmake" > "$work/log" || { cat "$work/log"; exit 1; }
    "$work/cmake/streams_shared" > /dev/null
    "$work/cmake/streams_static" > /dev/null
fi
echo "C and C++: ok"
