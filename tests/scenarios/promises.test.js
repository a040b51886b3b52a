'use strict';

// The table in README.md that says which scenarios test what the README of the repository promises.

const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const path = require('node:path');
const { test } = require('node:test');
const { SCENARIOS } = require('./scenarios.js');

const names = new Set(SCENARIOS.map(({ name }) => name));
const readme = readFileSync(path.join(__dirname, '../README.md'), 'utf8');
const [, section] = readme.split('## What the README promises, and what tests it');
const rows = section
  .split('\n## ')[0]
  .split('\n')
  .filter((line) => /^\| [^|]+ \| `/.test(line));

for (const row of rows) {
  const [, promise, scenarios] = row.split('|').map((cell) => cell.trim());
  test(promise, () => {
    const missing = Array.from(scenarios.matchAll(/`([^`]+)`/g), ([, name]) => name).filter((name) => !names.has(name));
    assert.deepEqual(missing, []);
  });
}

test('there are promises', () => assert(rows.length > 10, `${rows.length} rows`));
