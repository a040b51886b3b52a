#!/usr/bin/env bash
# Tests the installed C library: run.sh STAGE [--all] [--list] [PATTERN...]
#
# STAGE is where `make install PREFIX=STAGE` has put it. Each test program is built and run as C11 with the
# shared library and as C++17 with the static one, by each compiler that there is; the examples are built and
# run. --all adds the same programs under valgrind and with AddressSanitizer. With patterns, only the cases
# that have all of them in their names; --list shows the names. What is not installed here is left out and
# said so at the end; it fails when it is in REQUIRE, a list with commas: c, clang, gcc, pkg-config, cmake,
# openssl, rustc, valgrind, asan. JOBS cases run at a time.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
arguments "${BASH_SOURCE[0]}" "$@"
export PKG_CONFIG_PATH=$stage/lib/pkgconfig
export LD_LIBRARY_PATH=$stage/lib

cc=${CC:-cc} cxx=${CXX:-c++}
for tool in "$cc" "$cxx" nm readelf; do look_for "$tool" c; done
for tool in pkg-config cmake openssl rustc valgrind; do look_for "$tool"; done

# The compiler of the system, and the other of the two.
compilers=()
if have c; then
    if "$cc" --version | grep -qi clang; then first=clang second=gcc; else first=gcc second=clang; fi
    compilers=("$first" "$second")
else
    compilers=(gcc clang)
    first=c
fi
for tool in "${compilers[@]}"; do
    [ "$tool" = "$first" ] && continue
    look_for "$tool"
    look_for "${tool/gcc/g}++" "$tool"
done
c_of() { if [ "$1" = "$first" ]; then echo "$cc"; else echo "$1"; fi; }
cxx_of() { if [ "$1" = "$first" ]; then echo "$cxx"; else echo "${1/gcc/g}++"; fi; }
echo 'int main(void) { return 0; }' > "$work/empty.c"
have c && { "$cc" -fsanitize=address "$work/empty.c" -o "$work/empty" 2> "$work/no-asan" ||
    missing asan "$cc has no AddressSanitizer"; }

shared=(-L"$stage/lib" -lroletalk -lpthread)
# Only this library is to be static, not libc.
read -ra static_needs < <(sed -n 's/^Libs.private: *//p' "$stage/lib/pkgconfig/roletalk.pc")
static=("$stage/lib/libroletalk.a" "${static_needs[@]}")

# The library and its header.

exported() { # FILE OPTION
    nm --defined-only "$2" "$1" | awk 'NF == 3 {print $3}' | LC_ALL=C sort |
        diff "$here/tests/symbols.txt" - || fail "the names of $1 are not those of symbols.txt"
}

every_name_is_tested() {
    local name
    while read -r name; do
        grep -q "\b$name(" "$here/include/roletalk.h" || fail "$name is not in roletalk.h"
        grep -q "\b$name(" "$here"/tests/c/*.[ch] || fail "no test calls $name"
    done < "$here/tests/symbols.txt"
}

# A program that has the version of the header does not ask for it.
every_function_is_wrapped() {
    local name
    while read -r name; do
        [ "$name" = roletalk_abi_version ] || grep -q "\b$name\b" "$here/include/roletalk.hpp" ||
            fail "roletalk.hpp does not wrap $name"
    done < "$here/tests/symbols.txt"
}

# What the header defines for every program that includes it.
header_keeps_to_its_names() {
    local header=$here/include/roletalk.h
    {
        sed -n 's/^#define \([A-Za-z_0-9]*\).*/\1/p; s/^} \([A-Za-z_0-9]*\);/\1/p' "$header"
        sed -n 's/^typedef .*(\*\([A-Za-z_0-9]*\)).*/\1/p' "$header"
    } > "$dir/names"
    [ "$(wc -l < "$dir/names")" -gt 50 ] || fail "only $(wc -l < "$dir/names") names were found"
    ! grep -v '^roletalk_\|^ROLETALK_' "$dir/names" || fail "roletalk.h defines names that are not its own"
}

header_tells_of_threads_and_callbacks() {
    awk -v functions="$(wc -l < "$here/tests/symbols.txt")" '
        /^\/\/\// { text = text $0; next }
        /^(ROLETALK_MUST_USE )?[a-z].* roletalk_[a-z0-9_]*\(/ && !/^static|^typedef/ {
            if (text !~ /[Tt]hread/) { print "not said from which threads:", $0; bad = 1 }
            if (text !~ /callback|handler|middleware/) { print "not said what in callbacks:", $0; bad = 1 }
            seen++
        }
        $0 != "ROLETALK_MUST_USE" { text = "" }
        END {
            if (seen != functions) { print seen, "of", functions, "functions were found"; bad = 1 }
            exit bad
        }' "$here/include/roletalk.h" || fail "roletalk.h has gaps"
}

# C and C++ have two ways to say so.
ignored_statuses_warn() {
    local compiler
    printf '#include "roletalk.h"\nint main(void) { roletalk_peer peer = {0}; %s; }\n' \
        'roletalk_peer_poll(peer, 0, NULL)' > "$dir/ignore.c"
    for compiler in "$cc" "$cxx -x c++"; do
        # shellcheck disable=SC2086 # words
        ! compile $compiler "$dir/ignore.c" -c -o "$dir/ignore.o" 2> "$dir/warning" ||
            fail "$compiler does not warn"
        grep -q 'unused-result' "$dir/warning" || fail "$(cat "$dir/warning")"
    done
}

# That is in a file of its own, which the library names, and of the same build.
without_debug_information() { # LIBRARY
    local debug name
    ! readelf -S "$1" "${static[0]}" | grep -q '\.debug_' || fail "$1 or ${static[0]} has debug information"
    # nm fails where there is no table of symbols.
    ! nm "$1" 2> /dev/null | grep -q . || fail "$1 has symbols that nobody needs"
    name=$(readelf --string-dump=.gnu_debuglink "$1" | sed -n 's/.* \(libroletalk[^ ]*\.debug\).*/\1/p')
    debug=$(dirname "$1")/.debug/$name
    readelf -S "$debug" | grep -q '\.debug_info' || fail "$debug has no debug information"
    diff <(readelf -n "$1" | grep 'Build ID') <(readelf -n "$debug" | grep 'Build ID')
}

uninstall_removes_what_install_brings() {
    local what found installed=$dir/root/usr/lib/libroletalk.so.0
    for what in install uninstall; do
        # The library is there already.
        make -s -C "$here" -o lib "$what" PROFILE=dev PREFIX=/usr DESTDIR="$dir/root"
        found=$(find "$dir/root" -not -type d | wc -l)
        [ "$what" = uninstall ] || [ "$found" -ge 9 ] || fail "only $found files were installed"
        [ "$what" = uninstall ] || without_debug_information "$installed"
    done
    [ "$found" -eq 0 ] || fail "$(find "$dir/root" -not -type d) is left"
}

soname() { readelf -d "$library" | grep 'SONAME.*\[libroletalk\.so\.0\]'; }

layout() {
    compile "$cc" "$here/tests/layout.c" -o "$dir/layout"
    "$dir/layout" | diff "$here/tests/layout.txt" - ||
        fail "the layout of a struct has changed: only new fields at the end may be recorded"
}

# Test programs.

build_as_c() { compile "$(c_of "$1")" "$2" -o "$3" "${@:4}" "${shared[@]}" -ldl; }
# The static library, for C; for C++ it is the layer that is tested, with the shared one.
build_as_cpp() {
    case $2 in
        *.cpp) compile "$(cxx_of "$1")" "$2" -o "$3" "${@:4}" "${shared[@]}" ;;
        *) compile "$(cxx_of "$1")" -x c++ "$2" -x none -o "$3" "${@:4}" "${static[@]}" ;;
    esac
}

source_of() { case $1 in *.cpp) echo "$here/tests/cpp/$1" ;; *) echo "$here/tests/c/$1" ;; esac; }

build_and_run() { # BUILD COMPILER FILE
    "$1" "$2" "$(source_of "$3")" "$dir/program"
    run_program "$dir/program" "${3%.*}"
}

under_valgrind() { # FILE
    local build=build_as_c options=()
    case $1 in
        *.cpp) build=build_as_cpp ;;&
        # memcheck does not see that the assembler of ring, which TLS is made with, sets what it sets.
        tls.c | reload.c | mistakes.cpp) options=(--undef-value-errors=no) ;;
    esac
    "$build" "$first" "$(source_of "$1")" "$dir/program"
    run_program "$dir/program" "${1%.*}" valgrind --quiet --leak-check=full \
        --errors-for-leak-kinds=definite,indirect,possible --show-leak-kinds=definite,indirect,possible --error-exitcode=9 \
        --fair-sched=try "${options[@]}"
}

# It sees the C and C++ code, and what the library does with the program's memory through malloc, memcpy and
# the like; the library itself is built as usual.
with_asan() { # FILE
    local build=build_as_c
    case $1 in *.cpp) build=build_as_cpp ;; esac
    "$build" "$first" "$(source_of "$1")" "$dir/program" -O1 -fsanitize=address,undefined
    # It is slow, as with a command before it.
    run_program "$dir/program" "${1%.*}" env
}

# Whatever is global in one of the libraries meets the other.
two_static_libraries() { # COMPILER
    local archives
    rustc --edition 2024 --crate-type staticlib -O -o "$dir/libother.a" "$here/tests/static/other.rs"
    for archives in "$dir/libother.a ${static[0]}" "${static[0]} $dir/libother.a"; do
        # shellcheck disable=SC2086 # two words
        compile "$(c_of "$1")" "$here/tests/static/two.c" -o "$dir/two" -Wl,--whole-archive $archives \
            -Wl,--no-whole-archive "${static_needs[@]}"
        bounded "$dir/two"
    done
}

# Examples.

build_example() { # COMPILER FILE OUT ARGUMENT...
    local compiler
    case $2 in *.cpp) compiler=$(cxx_of "$1") ;; *) compiler=$(c_of "$1") ;; esac
    compile "$compiler" "$here/examples/$2" -o "$3" "${@:4}"
}

only_build() { build_example "$1" "$2" "$dir/example" "${shared[@]}"; } # COMPILER FILE

# Builds examples with the shared library into $dir: FILE...; echo_service.cpp becomes echo_service_cpp.
examples() {
    local file
    for file in "$@"; do
        build_example "$first" "$file" "$dir/$(basename "${file/.cpp/_cpp}" .c)" "${shared[@]}"
    done
}

# Starts a server that prints its address first, to the descriptor that is said: serve 1|2 PROGRAM. Its
# address is in $url, its process id in $server, its input is open as descriptor 9.
serve() {
    rm -f "$dir/in" "$dir/tells"
    mkfifo "$dir/in" "$dir/tells"
    # Open for reading and writing: nobody waits for the other side.
    exec 8<> "$dir/tells"
    # No function, so that $server is `timeout`.
    if [ "$1" = 1 ]; then
        timeout -k 10 "$limit" "$2" > "$dir/tells" < "$dir/in" 8>&- &
    else
        timeout -k 10 "$limit" "$2" > "$dir/out" 2> "$dir/tells" < "$dir/in" 8>&- &
    fi
    server=$!
    exec 9> "$dir/in"
    IFS= read -r -t "$limit" -u 8 url || fail "$2 does not tell its address"
    case $url in ws://*) ;; *) fail "$2 tells \"$url\" instead of its address" ;; esac
}

# Whether a process catches SIGTERM, or blocks it to read it: hears_sigterm PROCESS
hears_sigterm() {
    local mask
    while read -r mask; do
        (((0x$mask & 0x4000) == 0)) || return 0
    done < <(sed -n 's/^Sig\(Blk\|Cgt\):\s*//p' "/proc/$1/status")
    return 1
}

# Ends a service by SIGTERM, as soon as it hears that.
end_service() {
    local service
    service=$(pgrep -P "$server")
    until hears_sigterm "$service"; do :; done
    # Not to `timeout`, which passes it on twice: the second one ends the service at once.
    kill -TERM "$service"
    wait "$server" || fail "the service ended with $?"
    exec 9>&-
}

echo_example() { # SERVICE
    examples "$1" rpc_client.c rpc_client.cpp
    serve 1 "$dir/$(basename "${1/.cpp/_cpp}" .c)"
    bounded "$dir/rpc_client" "$url" | diff <(printf 'hello\n100 answers\n') -
    bounded "$dir/rpc_client_cpp" "$url" | diff <(printf 'hello\n100 answers, 4950 in sum\n') -
    end_service
}

# The next two: each with one in the other language.
news_example() { # PUBLISHER SUBSCRIBER
    local subscriber
    examples "$1" "$2"
    serve 1 "$dir/$(basename "${1/.cpp/_cpp}" .c)"
    # It must not keep the publisher's input open.
    bounded "$dir/$(basename "${2/.cpp/_cpp}" .c)" "$url" > "$dir/heard" 9>&- &
    subscriber=$!
    printf 'one\ntwo\n' >&9
    exec 9>&-
    wait "$server"
    wait "$subscriber"
    diff <(printf 'one\ntwo\n') "$dir/heard"
}

file_example() { # RECEIVER SENDER
    examples "$1" "$2"
    serve 2 "$dir/$(basename "${1/.cpp/_cpp}" .c)"
    bounded "$dir/$(basename "${2/.cpp/_cpp}" .c)" "$url" "$library" > /dev/null
    wait "$server"
    exec 9>&-
    cmp "$dir/out" "$library"
}

# The programs of docs/C-API.md: those of its blocks whose first line names a file. The service listens on
# any port, and the client is given its address.

extract() { # DOCUMENT FILE
    awk -v name="$2" '
        /^```/ { on = 0; first = /^```./; next }
        first { on = $2 == name; first = 0 }
        on' "$(dirname "$here")/docs/$1" > "$dir/$2"
    [ -s "$dir/$2" ] || fail "$1 has no $2"
}

guide() { # EXTENSION
    local compiler=$cc line
    [ "$1" = c ] || compiler=$cxx
    extract C-API.md "service.$1"
    extract C-API.md "client.$1"
    sed -i 's/127.0.0.1:9000/127.0.0.1:0/' "$dir/service.$1"
    compile "$compiler" "$dir/service.$1" -o "$dir/service" "${shared[@]}"
    serve 1 "$dir/service"
    sed -i "s|ws://127.0.0.1:9000|$url|" "$dir/client.$1"
    compile "$compiler" "$dir/client.$1" -o "$dir/client" "${shared[@]}"
    bounded "$dir/client" > "$dir/printed"
    [ "$(head -n 1 "$dir/printed")" = 42 ] || fail "the client says $(cat "$dir/printed")"
    if [ "$1" = cpp ]; then
        IFS= read -r -t "$limit" -u 8 line
        [ "$line" = "10 bytes" ] || fail "the service says $line"
    fi
    end_service
}

# A deadline that crosses three services. On a slow machine it is over before the last one begins: then that
# one says nothing.
deadline_guide() {
    extract C-API.md place.c
    compile "$cc" "$dir/place.c" -c -o "$dir/place.o"
    extract C-API.md deadline.cpp
    compile "$cxx" "$dir/deadline.cpp" -o "$dir/program" "${shared[@]}"
    bounded "$dir/program" > "$dir/printed"
    LC_ALL=C sort "$dir/printed" | tr '\n' ';' > "$dir/sorted"
    case $(cat "$dir/sorted") in
        "front: TIMEOUT;nobody waits for stock;stock has a deadline;" | "front: TIMEOUT;") ;;
        *) fail "it says $(cat "$dir/printed")" ;;
    esac
}

# Functions, which nothing calls: the same is in balance.c and balance.cpp of the tests.
balance_guide() {
    extract C-API.md balance.c
    compile "$cc" "$dir/balance.c" -c -o "$dir/c.o"
    extract C-API.md balance.cpp
    compile "$cxx" "$dir/balance.cpp" -c -o "$dir/cpp.o"
}

# The same, with resilience.c and retries.cpp.
retry_guide() {
    extract C-API.md retry.c
    compile "$cc" "$dir/retry.c" -c -o "$dir/c.o"
    extract C-API.md retry.cpp
    compile "$cxx" "$dir/retry.cpp" -c -o "$dir/cpp.o"
}

# The same, with access.c and access.cpp.
access_guide() {
    extract C-API.md access.c
    compile "$cc" "$dir/access.c" -c -o "$dir/c.o"
    extract C-API.md access.cpp
    compile "$cxx" "$dir/access.cpp" -c -o "$dir/cpp.o"
}

# The programs of docs/TLS.md, with certificates that are made as it says.
tls_guide() { # FILE
    local compiler=$cc
    [ "$1" = tls.c ] || compiler=$cxx
    extract TLS.md "$1"
    recipe
    compile "$compiler" "$dir/$1" -o "$dir/program" "${shared[@]}"
    [ "$(cd "$dir" && bounded ./program)" = safe ] || fail "$1 does not say safe"
}

# What is not meant does not compile, with an error that says what is.
rejected_by() { # COMPILER HEADER EXPECTED CODE
    printf '#include <%s>\nint main(void) { %s }\n' "$2" "$4" > "$dir/wrong.c"
    # shellcheck disable=SC2086 # words
    ! compile $1 "$dir/wrong.c" -c -o "$dir/wrong.o" 2> "$dir/errors" || fail "it compiles: $4"
    grep -q "$3" "$dir/errors" || fail "$4: $(cat "$dir/errors")"
}

wrong_programs_do_not_compile() {
    local handler message
    for handler in '"41"' NULL '&peer'; do
        rejected_by "$cc" roletalk.h _Generic \
            "roletalk_peer peer; (void)peer; roletalk_data data = roletalk_data_number($handler); (void)data;"
    done
    rejected_by "$cxx -x c++" roletalk.hpp conversion 'roletalk_data_number(41);'
    while IFS='|' read -r handler message; do
        rejected_by "$cxx -x c++" roletalk.hpp "$message" \
            "roletalk::Peer peer; peer.role(\"r\").on_request(\"x\", $handler);"
    done << 'CASES'
[](roletalk::Context) { return 1; }|a handler is called with one argument
[]() { return 1; }|a handler is called with one argument
[](roletalk::Context &) { return std::vector<int>(); }|a handler of requests returns its answer
CASES
}

# How users find the library.

echo_pair() { # SERVICE CLIENT
    serve 1 "$1"
    bounded "$2" "$url" > /dev/null
    end_service
}

with_pkg_config() { # KIND
    local flags libraries=("${shared[@]}")
    read -ra flags < <(pkg-config --cflags roletalk)
    if [ "$1" = static ]; then
        read -ra libraries < <(pkg-config --libs --static roletalk | sed "s|-lroletalk|${static[0]}|")
    else
        read -ra libraries < <(pkg-config --libs roletalk)
    fi
    "$cc" -I"$here/examples" "${flags[@]}" "$here/examples/echo_service.c" -o "$dir/service" "${libraries[@]}"
    "$cxx" -std=c++17 "${flags[@]}" "$here/examples/rpc_client.cpp" -o "$dir/client" "${libraries[@]}"
    echo_pair "$dir/service" "$dir/client"
}

with_cmake() { # COMPILER
    local kind
    cmake -S "$here/tests/cmake" -B "$dir/cmake" -DCMAKE_PREFIX_PATH="$stage" \
        -DCMAKE_C_COMPILER="$(c_of "$1")" -DCMAKE_CXX_COMPILER="$(cxx_of "$1")" \
        -DEXAMPLES="$here/examples"
    cmake --build "$dir/cmake"
    for kind in shared static; do
        echo_pair "$dir/cmake/echo_service_cpp_$kind" "$dir/cmake/rpc_client_c_$kind"
    done
}

# The cases.

add "names, shared library" c exported "$library" -D
add "names, static library" c exported "${static[0]}" -g
add "names, each is in the header and tested" "" every_name_is_tested
add "names, each is wrapped for C++" "" every_function_is_wrapped
add "names, the header defines no others" "" header_keeps_to_its_names
add "header, each function tells of threads and callbacks" "" header_tells_of_threads_and_callbacks
add "header, ignored statuses warn" c ignored_statuses_warn
add "wrong programs do not compile" c wrong_programs_do_not_compile
add "guide, C" c guide c
add "guide, C++" c guide cpp
add "guide, a deadline" c deadline_guide
add "guide, which unit gets it" c balance_guide
add "guide, what is made again" c retry_guide
add "guide, who gets in" c access_guide
add "guide, TLS in C" "c openssl" tls_guide tls.c
add "guide, TLS in C++" "c openssl" tls_guide tls.cpp
add "uninstall removes what install brings" c uninstall_removes_what_install_brings
add "soname" c soname
add "layout of structs" c layout
mapfile -t programs < <(test_programs)
if [ -n "$all" ]; then
    for program in "${programs[@]}"; do
        needed=$(needed_by "$program")
        add "${program%.*}, valgrind" "c valgrind $needed" under_valgrind "$program"
        add "${program%.*}, AddressSanitizer" "c asan $needed" with_asan "$program"
    done
fi
for compiler in "${compilers[@]}"; do
    needed="c"
    [ "$compiler" = "$first" ] || needed="c $compiler"
    for program in "${programs[@]}"; do
        case $program in
            *.cpp)
                add "${program%.*}, $compiler, C++, shared" "$needed" \
                    build_and_run build_as_cpp "$compiler" "$program"
                ;;
            *)
                add "${program%.*}, $compiler, C, shared" "$needed $(needed_by "$program")" \
                    build_and_run build_as_c "$compiler" "$program"
                add "${program%.*}, $compiler, C++, static" "$needed $(needed_by "$program")" \
                    build_and_run build_as_cpp "$compiler" "$program"
                ;;
        esac
    done
    add "two static libraries of rustc, $compiler" "$needed rustc" two_static_libraries "$compiler"
    add "CMake package, $compiler" "$needed cmake" with_cmake "$compiler"
    # The first compiler builds them below, to run them.
    [ "$compiler" = "$first" ] && continue
    for file in "$here"/examples/*.c "$here"/examples/*.cpp; do
        add "example $(basename "$file"), $compiler, is built" "$needed" \
            only_build "$compiler" "$(basename "$file")"
    done
done
for file in echo_service.c epoll_service.c echo_service.cpp epoll_service.cpp; do
    add "example $file, with rpc_client.c and rpc_client.cpp" c echo_example "$file"
done
add "example publish.c, with subscribe.cpp" c news_example publish.c subscribe.cpp
add "example publish.cpp, with subscribe.c" c news_example publish.cpp subscribe.c
add "example receive_file.c, with send_file.cpp" c file_example receive_file.c send_file.cpp
add "example receive_file.cpp, with send_file.c" c file_example receive_file.cpp send_file.c
add "pkg-config, shared" "c pkg-config" with_pkg_config shared
add "pkg-config, static" "c pkg-config" with_pkg_config static
run_cases
