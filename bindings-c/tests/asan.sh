#!/usr/bin/env bash
# Runs the test programs with AddressSanitizer: asan.sh STAGE. It sees the C and C++ code, and what the
# library does with the program's memory through malloc, memcpy and the like; the library itself is built as
# usual.
here=$(dirname "$0")
. "$here/common.sh"
export LD_LIBRARY_PATH=$stage/lib

build() {
    local compiler=${CC:-cc}
    case $1 in *.cpp) compiler=${CXX:-c++} ;; esac
    compile "$compiler" -O1 -fsanitize=address,undefined "$1" -o "$2" -L"$stage/lib" -lroletalk \
        -lpthread -ldl
}
under=()
slow=1 test_programs build "$here"/tests/c/*.c "$here"/tests/cpp/*.cpp
