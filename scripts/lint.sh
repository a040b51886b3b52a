#!/usr/bin/env bash
# What `make lint` runs besides rustfmt, clippy, rustdoc and what Python's types need: lint.sh [NAME...]
#
# - deny          licenses, sources and versions of dependencies (deny.toml)
# - advisories    their known vulnerabilities, where the database can be reached
# - msrv          the workspace builds with the oldest Rust that Cargo.toml promises
# - semver        the Rust API keeps what the last release had
# - ruff          Python: checks and format
# - eslint        JavaScript
# - clang-format  C and C++
# - shellcheck    shell scripts
# - typos         spelling, everywhere
# - actionlint    the workflows of the public forge
#
# What is not installed is left out and said so; it fails when REQUIRE, a list with commas, has its name.
# scripts/install-lint-tools.sh installs most.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=$(pwd)/target/lint-tools
[ -z "${CARGO_TARGET_DIR:-}" ] || tools=$CARGO_TARGET_DIR/lint-tools
PATH=$tools/bin:$PATH
cargo=${CARGO:-cargo}

# Ends a check that cannot be made.
left_out() { # NAME REASON
    scripts/left-out.sh "$1" "$2" || return 1
    return 77
}
installed() { # NAME PROGRAM
    command -v "$2" >/dev/null || left_out "$1" "$2 is not installed: scripts/install-lint-tools.sh"
}
# Other versions format in another way.
pinned() { # PROGRAM
    local version
    version=$(sed -n "s/^$1==//p" scripts/requirements-lint.txt)
    installed "$1" "$1" || return
    case "$("$1" --version)" in
        *"$version"*) ;;
        *) left_out "$1" "version $version is not installed: scripts/install-lint-tools.sh" ;;
    esac
}
# The files of the repository, those that are not added yet as well.
files() { git ls-files -z --cached --others --exclude-standard --deduplicate -- "$@"; }

check_deny() {
    "$cargo" deny --version >/dev/null 2>&1 ||
        left_out deny "cargo-deny is not installed: scripts/install-lint-tools.sh" || return
    "$cargo" deny --log-level error check licenses bans sources
}

check_advisories() {
    "$cargo" deny --version >/dev/null 2>&1 ||
        left_out advisories "cargo-deny is not installed: scripts/install-lint-tools.sh" || return
    "$cargo" deny --log-level off fetch db >/dev/null 2>&1 ||
        left_out advisories "the database is not reached" || return
    "$cargo" deny --log-level error check --disable-fetch advisories
}

check_msrv() {
    local version
    version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    rustup run "$version" cargo --version >/dev/null 2>&1 ||
        left_out msrv "Rust $version is not installed: rustup toolchain install $version" || return
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/msrv rustup run "$version" cargo check --workspace --locked
}

check_semver() {
    local tag
    tag=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null) || tag=
    if [ -z "$tag" ]; then
        # Nothing that could be installed is missing.
        echo "left out: semver: there is no release to compare with"
        return 77
    fi
    "$cargo" semver-checks --version >/dev/null 2>&1 ||
        left_out semver "cargo-semver-checks is not installed: cargo install cargo-semver-checks --locked" ||
        return
    "$cargo" semver-checks check-release -p roletalk --baseline-rev "$tag"
}

check_ruff() {
    pinned ruff || return
    local status=0
    ruff check --quiet --config bindings-python/pyproject.toml . || status=1
    ruff format --quiet --diff --config bindings-python/pyproject.toml . || status=1
    return $status
}

check_eslint() {
    local eslint=bindings-node/node_modules/.bin/eslint
    [ -x $eslint ] && node --version >/dev/null 2>&1 ||
        left_out eslint "it is not installed: scripts/install-lint-tools.sh" || return
    node $eslint --config bindings-node/eslint.config.js bindings-node tests interop
}

check_clang-format() {
    pinned clang-format || return
    files '*.c' '*.h' '*.cpp' '*.hpp' ':!bindings-c/include/roletalk.h' |
        xargs -0 clang-format --dry-run -Werror
}

check_shellcheck() {
    installed shellcheck shellcheck || return
    files '*.sh' .ci/run | xargs -0 shellcheck --external-sources --source-path=SCRIPTDIR
}

check_typos() {
    installed typos typos || return
    typos
}

check_actionlint() {
    installed actionlint actionlint || return
    actionlint
}

names=("$@")
[ $# -gt 0 ] ||
    names=(deny advisories msrv semver ruff eslint clang-format shellcheck typos actionlint)
passed=0 failed=0 skipped=0
for name in "${names[@]}"; do
    declare -F "check_$name" >/dev/null || { echo "lint.sh: there is no check \"$name\"" >&2; exit 2; }
    status=0
    "check_$name" || status=$?
    case $status in
        0) passed=$((passed + 1)); echo "ok      $name" ;;
        77) skipped=$((skipped + 1)) ;;
        *) failed=$((failed + 1)); echo "FAILED  $name" ;;
    esac
done
echo "lint: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
