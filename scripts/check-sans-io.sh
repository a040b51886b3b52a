#!/usr/bin/env bash
# The layers wire, ws and engine own no socket, thread, clock or source of
# randomness: their hosts bring those. This script finds what breaks the rule.
#
#   scripts/check-sans-io.sh [DIR...]     default: core/src/{wire,ws,engine}
#   scripts/check-sans-io.sh --self-test  proves that it finds planted violations
#
# Comments, string literals and items under #[cfg(test)] do not count, nor do
# files that are only such a module (tests.rs, tests/). A directory NAME may also
# be a single file NAME.rs. Prints file:line for each finding.
# Exit code: 0 clean, 1 findings, 2 nothing to check or unusable.
set -euo pipefail

command -v python3 > /dev/null || { echo 'check-sans-io: needs python3' >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

check() {
    python3 - "$@" <<'PY'
import os, re, sys

FORBIDDEN = [
    (r'\btokio(_\w+)?\b', 'tokio'),
    (r'\bstd\s*::\s*net\b', 'std::net'),
    (r'\bstd\s*::\s*thread\b', 'std::thread'),
    (r'\bInstant\s*::\s*now\b', 'Instant::now'),
    (r'\bSystemTime\s*::\s*now\b', 'SystemTime::now'),
    (r'\bthread_rng\b', 'thread_rng'),
    (r'\brand\s*::', 'rand::'),
    (r'\bgetrandom\b', 'getrandom'),
    # The same through a list: use std::{net::TcpStream, thread}
    (r'\bstd\s*::\s*\{[^;]*\bnet\b', 'std::{net}'),
    (r'\bstd\s*::\s*\{[^;]*\bthread\b', 'std::{thread}'),
]


def blank(text):
    """The text with spaces in place of all but newlines."""
    return re.sub(r'[^\n]', ' ', text)


def strip(source):
    """Blanks comments and literals, keeping every position."""
    out, i, n = [], 0, len(source)
    while i < n:
        rest = source[i:i + 2]
        if rest == '//':
            end = source.find('\n', i)
            end = n if end < 0 else end
        elif rest == '/*':
            depth, end = 1, i + 2
            while end < n and depth:
                if source.startswith('/*', end):
                    depth, end = depth + 1, end + 2
                elif source.startswith('*/', end):
                    depth, end = depth - 1, end + 2
                else:
                    end += 1
        elif m := re.compile(r'\b(?:b|c)?r(#*)"').match(source, i):
            close = '"' + m.group(1)
            end = source.find(close, m.end())
            end = n if end < 0 else end + len(close)
        elif source[i] == '"':
            end = i + 1
            while end < n and source[end] != '"':
                end += 2 if source[end] == '\\' else 1
            end = min(end + 1, n)
        elif m := re.compile(r"'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])'").match(source, i):
            end = m.end()
        else:
            out.append(source[i])
            i += 1
            continue
        out.append(blank(source[i:end]))
        i = end
    return ''.join(out)


def drop_tests(code):
    """Blanks every item under #[cfg(test)]."""
    attr = re.compile(r'#\s*\[\s*cfg\s*\(\s*(?:test|all\s*\(\s*test\b[^\]]*)\s*\)\s*\]')
    start = 0
    while m := attr.search(code, start):
        end, depth = m.end(), 0
        while end < len(code):
            c = code[end]
            if c in '{([':
                depth += 1
            elif c in '})]':
                depth -= 1
                if depth <= 0 and c == '}':
                    break
            elif c == ';' and depth == 0:
                break
            end += 1
        end = min(end + 1, len(code))
        code = code[:m.start()] + blank(code[m.start():end]) + code[end:]
        start = end
    return code


def sources(path):
    """The source files of one layer, without those that are only tests."""
    if os.path.isfile(path + '.rs'):
        yield path + '.rs'
    for folder, dirs, names in os.walk(path):
        dirs[:] = sorted(d for d in dirs if d != 'tests')
        for name in sorted(names):
            if name.endswith('.rs') and name != 'tests.rs':
                yield os.path.join(folder, name)


files = []
for path in sys.argv[1:]:
    layer = list(sources(path))
    if not layer:
        # A renamed layer must not pass as clean.
        print(f'check-sans-io: no sources in {path}', file=sys.stderr)
        sys.exit(2)
    files += layer
found = 0
for path in files:
    with open(path, encoding='utf-8') as f:
        code = drop_tests(strip(f.read()))
    hits = set()
    for pattern, name in FORBIDDEN:
        for m in re.finditer(pattern, code):
            hits.add((code.count('\n', 0, m.end() - 1) + 1, name))
    for line, name in sorted(hits):
        print(f'{os.path.relpath(path)}:{line}: {name} in a sans-IO layer')
        found += 1
sys.exit(1 if found else 0)
PY
}

self_test() {
    local failures=0 status out line
    dir=$(mktemp -d) # global: the trap outlives this function
    trap 'rm -rf "$dir"' EXIT
    mkdir -p "$dir/engine/tests" "$dir/wire"

    # Nothing here may be found.
    cat > "$dir/engine/clean.rs" <<'RS'
//! Works under tokio, never calls Instant::now.
/* std::thread /* getrandom */ std::net */
use std::time::Instant; // the host passes Instant::now()
const TEXT: &str = "tokio \" rand::random";
const RAW: &str = r#"std::net " thread_rng"#;
fn quote<'a>(c: &'a char) -> bool { *c == '"' || *c == '\'' }
fn net(operand: Operand) { operand::get(); brand::new(); }
#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    fn f() { if true { let _ = Instant::now(); } }
}
#[cfg(test)]
use tokio::test;
fn after() {}
RS
    echo 'use tokio::net::TcpStream;' > "$dir/engine/tests/util.rs"
    echo 'use std::thread;' > "$dir/engine/tests.rs"
    status=0; out=$(check "$dir/engine") || status=$?
    if [ "$status" != 0 ]; then
        echo "self-test: false alarm: $out"; failures=1
    fi

    # Each of these lines has to be found.
    while IFS= read -r line; do
        printf '#[cfg(test)]\nmod tests { fn f() {} }\n\nfn g() { let q = "\\""; }\n%s\n' "$line" > "$dir/wire/bad.rs"
        status=0; out=$(check "$dir/wire") || status=$?
        if [ "$status" != 1 ] || [[ "$out" != *"bad.rs:5: "* ]]; then
            echo "self-test: missed: $line ($status $out)"; failures=1
        fi
    done <<'RS'
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use std::net::SocketAddr;
use std::{fmt, net::IpAddr};
let now = Instant::now();
let now = std::time::SystemTime::now();
let x = rand::random::<u64>();
let mut r = thread_rng();
getrandom::fill(&mut bytes)?;
std::thread::spawn(f);
use std::{sync::Arc, thread};
RS
    printf 'use tokio::task;\n' > "$dir/ws.rs"
    status=0; check "$dir/ws" > /dev/null || status=$?
    [ "$status" = 1 ] || { echo 'self-test: missed a violation in a single file'; failures=1; }
    status=0; check "$dir/engine" "$dir/none" 2> /dev/null || status=$?
    [ "$status" = 2 ] || { echo 'self-test: a missing layer passes as clean'; failures=1; }

    [ "$failures" = 0 ] && echo 'self-test: ok'
    return "$failures"
}

if [ "${1:-}" = --self-test ]; then
    self_test
elif [ $# -gt 0 ]; then
    check "$@"
else
    cd "$root"
    check core/src/wire core/src/ws core/src/engine
fi
