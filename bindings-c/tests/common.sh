# shellcheck shell=bash
# What the test scripts share. Sourced; $stage is where the library was installed, $here is bindings-c, and
# $work goes when the script ends.
#
# A script first says what there is to run, with `add`; then `run_cases` runs it, $JOBS cases at a time
# (default: as many as there are processors), prints a line for each and what failed cases have printed, and
# ends with the line `N passed, N failed, N skipped`. A case runs in a shell and a directory of its own, of
# which $dir is the name.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN)}
# In seconds, for each program that a case runs. Only there to fail.
limit=600

fail() { echo "$*" >&2; exit 1; }
bounded() { timeout -k 10 "$limit" "$@"; }

usage() { # SCRIPT: prints its introduction
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
}

# shellcheck disable=SC2034 # $all is for the scripts
arguments() { # SCRIPT ARGUMENT...: sets $stage, $all, $list and the array $patterns
    local script=$1
    shift
    stage='' all='' list='' patterns=()
    while [ $# -gt 0 ]; do
        case $1 in
            --all) all=1 ;;
            --list) list=1 ;;
            --help) usage "$script"; exit 0 ;;
            -*) usage "$script" >&2; fail "$1 is not an option" ;;
            *) if [ -z "$stage" ]; then stage=$1; else patterns+=("$1"); fi ;;
        esac
        shift
    done
    [ -n "$stage" ] || { usage "$script" >&2; exit 2; }
    [ -e "$stage/lib/libroletalk.so" ] ||
        fail "$stage has no lib/libroletalk.so: make -C bindings-c stage installs the library"
    stage=$(cd "$stage" && pwd)
    library=$stage/lib/libroletalk.so
}

# What is not here, and why: `have NAME` fails when it is in this table.
declare -A absent=()
missing() { have "$1" || return 0; absent[$1]=$2; }
look_for() { # PROGRAM [NAME]
    command -v "$1" >/dev/null || missing "${2:-$1}" "$1 is not installed"
}
have() { [ -z "${absent[$1]:-}" ]; }

# add NAME NEEDS COMMAND...: a case. NEEDS are names, with spaces between them; where one is missing, the
# case is left out, and fails when the name is in REQUIRE, a list with commas.
names=() needs=() commands=()
add() {
    names+=("$1") needs+=("$2")
    commands+=("$(printf '%q ' "${@:3}")")
}

selected() { # NAME
    local pattern
    for pattern in "${patterns[@]}"; do
        [[ $1 == *"$pattern"* ]] || return 1
    done
}

begin() { # INDEX: starts the case
    local dir=$work/$1
    mkdir "$dir"
    (
        # shellcheck disable=SC2064 # at the end of a function that fails, $dir is no more
        trap "echo \$? > '$dir/status'" EXIT
        eval "${commands[$1]}"
    ) > "$dir/log" 2>&1 < /dev/null &
    running[$1]=$!
}

passed=0 failed=0 skipped=0
# The process id of each case that runs, by its index.
declare -A running=()
# Waits until one of them has ended, and prints those that have.
collect() {
    local index
    wait -n || true
    for index in "${!running[@]}"; do
        [ -s "$work/$index/status" ] || ! kill -0 "${running[$index]}" 2>/dev/null || continue
        unset "running[$index]"
        if [ "$(cat "$work/$index/status" 2>/dev/null)" = 0 ]; then
            passed=$((passed + 1))
            echo "ok      ${names[index]}"
            rm -rf "${work:?}/$index"
        else
            failed=$((failed + 1))
            echo "FAILED  ${names[index]}"
            sed 's/^/        /' "$work/$index/log"
        fi
    done
}

run_cases() {
    local index name need reason found=0
    local -A left=()
    for index in "${!names[@]}"; do
        selected "${names[index]}" || continue
        found=1
        if [ -n "$list" ]; then
            echo "${names[index]}"
            continue
        fi
        reason=
        for need in ${needs[index]}; do
            have "$need" || { reason=$need; break; }
        done
        if [ -n "$reason" ]; then
            left[$reason]=$((${left[$reason]:-0} + 1))
            continue
        fi
        while [ "${#running[@]}" -ge "$jobs" ]; do collect; done
        begin "$index"
    done
    [ "$found" = 1 ] || fail "no case has ${patterns[*]} in its name; --list shows the names"
    [ -z "$list" ] || return 0
    while [ "${#running[@]}" -gt 0 ]; do collect; done
    for name in "${!left[@]}"; do
        case ,${REQUIRE:-}, in
            *,"$name",*)
                echo "required, but not here: $name: ${absent[$name]} (cases: ${left[$name]})"
                failed=$((failed + left[$name]))
                ;;
            *)
                echo "left out: $name: ${absent[$name]} (cases: ${left[$name]})"
                skipped=$((skipped + left[$name]))
                ;;
        esac
    done
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}

compile() { # COMPILER ARGUMENT...: in the language of the compiler
    local language=-std=c11
    case $1 in *++*) language=-std=c++17 ;; esac
    "$1" "$language" -D_GNU_SOURCE -g -Wall -Wextra -Werror -I"$stage/include" -I"$here/tests/c" \
        -I"$here/examples" "${@:2}"
}

# Runs a test program, with the arguments that it wants: run_program PROGRAM NAME [COMMAND...]. Behind the
# words of COMMAND, programs are slow, and tools do not like the fork of a process with threads: then there
# are fewer requests, and no fork.
run_program() {
    local program=$1 name=$2 args=() slow=
    shift 2
    [ $# -eq 0 ] || slow=1
    case $name in
        lifecycle | drops) [ -z "$slow" ] || args=(no-fork) ;;
        balance) args=("$(dirname "$here")/tests/data/key-placement.txt") ;;
        leaks) [ -z "$slow" ] || args=(2000) ;;
        settling) [ -z "$slow" ] || args=(5) ;;
        tls)
            certificates
            args=("$dir/own.pem" "$dir/own.key" "$dir/other.pem")
            ;;
        reload)
            certificates
            data=$(dirname "$here")/tests/data/tls
            args=("$dir/own.pem" "$dir/own.key" "$dir/other.pem" "$dir/other.key"
                "$data/expired.pem" "$data/key.pem")
            [ -z "$slow" ] || args+=(9)
            ;;
        unload) args=("$library") ;;
    esac
    bounded "$@" "$program" "${args[@]}"
}

# ca.pem, service.pem, client.pem and their keys, in $dir: made as docs/TLS.md says.
recipe() {
    awk '/^```/ { on = $0 == "```sh"; next } on' "$(dirname "$here")/docs/TLS.md" > "$dir/recipe.sh"
    (cd "$dir" && sh -e recipe.sh) > "$dir/openssl" 2>&1 || fail "$(cat "$dir/openssl")"
}

certificates() {
    local name
    for name in own other; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj "/CN=$name" -addext "subjectAltName=DNS:localhost" \
            -addext "basicConstraints=critical,CA:FALSE" \
            -keyout "$dir/$name.key" -out "$dir/$name.pem" 2> "$dir/openssl" || fail "$(cat "$dir/openssl")"
    done
}

# The names of the test programs, and what one needs besides a compiler.
test_programs() {
    local file
    for file in "$here"/tests/c/*.c "$here"/tests/cpp/*.cpp; do basename "$file"; done
}
needed_by() { case $1 in tls.c) echo openssl ;; esac; }
