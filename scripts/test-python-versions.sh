#!/usr/bin/env bash
# Runs the tests of the Python package on each interpreter given, with the wheel installed in a virtual
# environment of its own: test-python-versions.sh MATURIN WHEELS PYTHON...
# Wheels that are not in the directory WHEELS yet are built into it. One serves all versions of CPython
# with the interpreter's lock; free-threaded ones have their own. Interpreters that are not here, or that
# the package does not support, are left out and told of; it fails when REQUIRE names one of them, as it
# was given here, or when none is left.
set -euo pipefail
left_out=$(realpath "$(dirname "$0")/left-out.sh")
# What is demanded of the package's own environment is not here: no orjson.
REQUIRE=$(echo ",${REQUIRE:-}," | sed 's/,orjson,/,/')
export REQUIRE
maturin=$(realpath "$1")
mkdir -p "$2"
wheels=$(realpath "$2")
shift 2
cd "$(dirname "$0")/../bindings-python"

describe='
import platform, sys, sysconfig, venv, ensurepip
free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
assert platform.python_implementation() == "CPython", "not CPython"
assert sys.version_info >= ((3, 14) if free else (3, 9)), "too old"
print(platform.python_version() + ("t" if free else ""))
'
tested=
for python in "$@"; do
	if ! version=$("$python" -c "$describe" 2>/dev/null); then
		"$left_out" "$(basename "$python")" \
			"$python is not here, or is not CPython 3.9 or later with venv (free-threaded: 3.14)"
		continue
	fi
	case " $tested " in *" $version "*) continue ;; esac
	echo "CPython $version ($python)"
	case $version in
		*t) tag=cp$(echo "$version" | cut -d. -f1,2 | tr -d .)t ;;
		*) tag=abi3 ;;
	esac
	if ! compgen -G "$wheels/roletalk-*-$tag-*.whl" >/dev/null; then
		"$maturin" build --release --locked --quiet -i "$(command -v "$python")" -o "$wheels"
	fi
	environment=$wheels/venv
	"$python" -m venv --clear "$environment"
	"$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
		-r requirements-test.txt "$wheels"/roletalk-*-"$tag"-*.whl
	"$environment/bin/python" -m pytest -q -p no:cacheprovider
	rm -rf "$environment"
	tested="$tested $version"
done
echo "tested on:${tested:- none}"
if [ -z "$tested" ]; then
	echo "none of these interpreters is here: $*" >&2
	exit 1
fi
