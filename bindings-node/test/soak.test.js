'use strict';

const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const path = require('node:path');
const { test } = require('node:test');

test('a fiftieth of the soak leaves memory as it was', () => {
  const program = path.join(__dirname, 'soak/soak.js');
  const options = { encoding: 'utf8', env: { ...process.env, NODE_TEST_CONTEXT: undefined } };
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--expose-gc', program, '0.02', '64'], options);
  assert.equal(status, 0, stdout + stderr);
});
