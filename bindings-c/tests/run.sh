#!/usr/bin/env bash
# Tests the installed C library: run.sh STAGE, where `make install PREFIX=STAGE` has put it.
#
# Each program is built by each compiler that there is, as C11 and as C++17, with the shared and the
# static library. What is not installed here is said and left out.
here=$(dirname "$0")
. "$here/common.sh"
export PKG_CONFIG_PATH=$stage/lib/pkgconfig
export LD_LIBRARY_PATH=$stage/lib

cc=${CC:-cc} cxx=${CXX:-c++}
for tool in "$cc" "$cxx" pkg-config nm readelf; do
    have "$tool" || { echo "C and C++: NOT TESTED for want of $tool"; exit 0; }
done

step "names: nothing but rt_ is exported, and nothing is missing"
for names in "-D $library" "-g $stage/lib/libroletalk.a"; do
    # shellcheck disable=SC2086
    nm --defined-only $names | awk 'NF == 3 {print $3}' | LC_ALL=C sort |
        diff "$here/tests/symbols.txt" - || fail "the names of $names are not those of symbols.txt"
done
for name in $(cat "$here/tests/symbols.txt"); do
    grep -q "\b$name(" "$here/include/roletalk.h" || fail "$name is not in roletalk.h"
    grep -q "\b$name(" "$here"/tests/c/*.[ch] || fail "no test calls $name"
done
# What the header defines for every program that includes it.
{
    sed -n 's/^#define \([A-Za-z_0-9]*\).*/\1/p; s/^} \([A-Za-z_0-9]*\);/\1/p' "$here/include/roletalk.h"
    sed -n 's/^typedef .*(\*\([A-Za-z_0-9]*\)).*/\1/p' "$here/include/roletalk.h"
} | grep -v '^rt_\|^RT_\|^ROLETALK_H$' && fail "roletalk.h defines names that are not its own"
awk '
    /^\/\*\*/ { text = "" }
    /^ \*/ { text = text $0 }
    /^[a-z].* \*?rt_[a-z0-9_]*\(/ && !/^static|^typedef/ {
        if (text !~ /[Tt]hread/) { print "not said from which threads:", $0; bad = 1 }
        if (text !~ /callback|handler|middleware/) { print "not said what in callbacks:", $0; bad = 1 }
        text = ""
    }
    END { exit bad }' "$here/include/roletalk.h" || fail "roletalk.h has gaps"

step "uninstall removes what install has brought"
for what in install uninstall; do
    # The library is there already.
    make -s -C "$here" -o lib "$what" PROFILE=dev PREFIX=/usr DESTDIR="$work/root" > "$work/log" 2>&1 ||
        fail "$(cat "$work/log")"
    found=$(find "$work/root" -not -type d | wc -l)
    [ "$what" = uninstall ] || [ "$found" -ge 8 ] || fail "only $found files were installed"
done
[ "$found" -eq 0 ] || fail "$(find "$work/root" -not -type d) is left"

readelf -d "$library" | grep -q 'SONAME.*\[libroletalk\.so\.0\]' || fail "soname"

include=$(pkg-config --cflags roletalk)
shared=$(pkg-config --libs roletalk)
# Only this library is to be static, not libc.
static=$(pkg-config --libs --static roletalk | sed "s|-lroletalk|$stage/lib/libroletalk.a|")

step "layout"
compile "$cc" "$here/tests/layout.c" -o "$work/layout"
"$work/layout" | diff "$here/tests/layout.txt" - ||
    fail "the layout of a struct has changed: only new fields at the end may be recorded"

programs=("$here"/tests/c/*.c)
as_c() { compile "$cc" "$1" -o "$2" $shared -lpthread -ldl; }
as_cpp() { compile "$cxx" -x c++ "$1" -x none -o "$2" $static -lpthread; }
cpp() { compile "$cxx" "$1" -o "$2" $shared -lpthread; }

under=()
step "tests, as C++ with the static library"
test_programs as_cpp "${programs[@]}"
step "tests, as C with the shared library"
test_programs as_c "${programs[@]}"
step "the C++ layer"
test_programs cpp "$here"/tests/cpp/*.cpp

if have rustc; then
    step "two static libraries of rustc in one program"
    rustc --edition 2024 --crate-type staticlib -O -o "$work/libother.a" "$here/tests/static/other.rs"
    both=("$work/libother.a" "$stage/lib/libroletalk.a")
    for compiler in gcc clang; do
        have "$compiler" || continue
        # Whatever is global in one of them meets the other.
        for archives in "${both[*]}" "${both[1]} ${both[0]}"; do
            # shellcheck disable=SC2086
            compile "$compiler" "$here/tests/static/two.c" -o "$work/two" -Wl,--whole-archive \
                $archives -Wl,--no-whole-archive ${static#*libroletalk.a} -lpthread
            "$work/two"
        done
    done
fi

if have valgrind; then
    step "valgrind"
    under=(valgrind --quiet --leak-check=full --errors-for-leak-kinds=definite,indirect
        --show-leak-kinds=definite,indirect --error-exitcode=9 --fair-sched=try)
    already() { :; }
    # memcheck does not see that the assembler of ring, which TLS is made with, sets what it sets.
    tls=$here/tests/c/tls.c
    mapfile -t others < <(printf '%s\n' "${programs[@]}" "$here"/tests/cpp/*.cpp | grep -vxF "$tls")
    slow=1 test_programs already "${others[@]}"
    under+=(--undef-value-errors=no)
    slow=1 test_programs already "$tls"
    under=()
fi

step "AddressSanitizer and UndefinedBehaviorSanitizer, in the C and C++ code"
"$here/tests/asan.sh" "$stage"

step "examples, with every compiler, shared and static"
for pair in gcc:g++ clang:clang++; do
    have "${pair%:*}" || continue
    for libs in "$shared" "$static"; do
        for file in "$here"/examples/*.c; do
            # shellcheck disable=SC2086
            compile "${pair%:*}" "$file" -o "$work/$(basename "$file" .c)" $libs -lpthread
        done
        for file in "$here"/examples/*.cpp; do
            # shellcheck disable=SC2086
            compile "${pair#*:}" "$file" -o "$work/$(basename "$file" .cpp)_cpp" $libs -lpthread
        done
    done
    for file in "$here"/tests/c/*.c; do
        compile "${pair#*:}" -x c++ -c "$file" -o "$work/as_cpp"
    done
done

step "examples do what they say"
serve() { # PROGRAM: its address in $url, its input open as descriptor 9
    mkfifo "$work/in"
    # What a server before has written goes before this one's input can be opened.
    "$@" > "$work/out" 2> "$work/err" < "$work/in" &
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
for service in echo_service epoll_service echo_service_cpp epoll_service_cpp; do
    serve "$work/$service"
    "$work/rpc_client" "$url" | diff <(printf 'hello\n100 answers\n') -
    "$work/rpc_client_cpp" "$url" | diff <(printf 'hello\n100 answers, 4950 in sum\n') -
    exec 9>&-
    wait $server
done
# Each with one in the other language.
for pair in publish:subscribe_cpp publish_cpp:subscribe; do
    serve "$work/${pair%:*}"
    # It must not keep the publisher's input open.
    "$work/${pair#*:}" "$url" > "$work/heard" 9>&- &
    subscriber=$!
    printf 'one\ntwo\n' >&9
    exec 9>&-
    wait $server $subscriber
    diff <(printf 'one\ntwo\n') "$work/heard"
done
for pair in receive_file:send_file_cpp receive_file_cpp:send_file; do
    serve "$work/${pair%:*}"
    "$work/${pair#*:}" "$url" "$library" > /dev/null
    wait $server
    exec 9>&-
    cmp "$work/out" "$library"
done

if have cmake; then
    step "find_package"
    for pair in gcc:g++ clang:clang++; do
        have "${pair%:*}" || continue
        rm -rf "$work/cmake"
        cmake -S "$here/tests/cmake" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$stage" \
            -DCMAKE_C_COMPILER="${pair%:*}" -DCMAKE_CXX_COMPILER="${pair#*:}" \
            -DEXAMPLES="$here/examples" > "$work/log" || { cat "$work/log"; exit 1; }
        cmake --build "$work/cmake" > "$work/log" || { cat "$work/log"; exit 1; }
    done
    # pkg-config's have been run above.
    for kind in shared static; do
        serve "$work/cmake/echo_service_cpp_$kind"
        "$work/cmake/rpc_client_c_$kind" "$url" > /dev/null
        exec 9>&-
        wait $server
    done
fi
echo "C and C++: ok"
