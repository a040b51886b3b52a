'use strict';

// The names in docs/API.md are there.

const assert = require('node:assert/strict');
const { readFileSync, readdirSync } = require('node:fs');
const path = require('node:path');
const { test } = require('node:test');

const ROOT = path.resolve(__dirname, '../..');
const read = (...names) => readFileSync(path.join(ROOT, ...names), 'utf8');

/** All sources of a directory behind each other. */
function all(directory, extension) {
  const names = readdirSync(path.join(ROOT, directory), { recursive: true });
  return names
    .filter((name) => name.endsWith(extension))
    .map((name) => read(directory, name))
    .join('\n');
}

const core = all('core/src', '.rs') + all('core/engine/src', '.rs');
const types = read('bindings-node/index.d.ts');
const python = all('bindings-python/python/roletalk', '.py') + read('bindings-python/python/roletalk/_engine.pyi');
const header = read('bindings-c/include/roletalk.h');
const layer = read('bindings-c/include/roletalk.hpp');

/** By column: whether a language has a name. What is not the package's own stands in other words. */
const has = {
  Rust: (name) => new RegExp(`pub ((async |const )?fn|struct|enum) ${name.replace('Peer::', '')}\\b`).test(core),
  Node: (name) => new RegExp(`^( {2}|export class )(readonly |get )?${name}\\b`, 'm').test(types),
  Python: (name) => new RegExp(`(^ +(async )?def ${name}\\(|^class ${name}\\b|^ {4}${name}:|\\b${name}:)`, 'm').test(python),
  C: (name) => new RegExp(`\\b${name}\\b`).test(header),
  'C++': (name) => new RegExp(`\\b${name}[({;]|\\b(class|struct) ${name}\\b`).test(layer),
};

/** Of the standard library, or of the language. */
const FOREIGN = new Set(['shutdown', 'AsyncWrite', 'end', 'destroy', 'str', 'what', 'message', 'unit', 'timeout_ms', 'unordered', 'active', 'active=False']);

const lines = read('docs/API.md')
  .split('\n')
  .filter((line) => line.startsWith('| '));
const rows = lines.filter((line) => !line.startsWith('| | '));
const columns = ['Rust', 'Node', 'Python', 'C', 'C++'];

for (const row of rows) {
  const [what, ...cells] = row.split('|').slice(1, -1);
  test(what.trim(), () => {
    assert.equal(cells.length, columns.length, row);
    for (const [n, column] of columns.entries()) {
      for (const [, name] of cells[n].matchAll(/`([^`]+)`/g)) {
        if (!FOREIGN.has(name)) assert(has[column](name), `${column} has no ${name}`);
      }
    }
  });
}

test('there are rows', () => assert(rows.length > 35, `${rows.length} rows`));
