'use strict';

// The demonstration as a log: `node --test tests/demo/demo.test.js`. The players have to be built.

const assert = require('node:assert/strict');
const { execFileSync, spawn } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const { test } = require('node:test');

/** Milliseconds; only there to fail. */
const timeout = 150_000;

function start(file, environment = {}) {
  const run = spawn(process.execPath, [path.join(__dirname, file)], {
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  run.said = '';
  run.stdout.setEncoding('utf8').on('data', (text) => (run.said += text));
  return run;
}

/** Runs it to its end: what it has said, and its exit code. */
async function play(file) {
  const run = start(file);
  const [code] = await once(run, 'close');
  return { said: run.said, code };
}

test('everything is as told, and a log has no escape codes', { timeout }, async () => {
  const { said, code } = await play('index.js');
  assert.match(said, /All \d\d checks passed in/, said);
  assert.match(said, /● alice/);
  assert.ok(!said.includes('\x1b'), said);
  assert.equal(code, 0);
});

test('it fails when something is not as told', { timeout }, async () => {
  const { said, code } = await play('lie.js');
  assert.match(said, /✗ this should be so, but is not: both have the same bytes/, said);
  assert.match(said, /FAILED after \d+ checks/);
  assert.doesNotMatch(said, /checks passed/);
  assert.equal(code, 1);
});

const skip = process.platform === 'win32' && 'Windows has no signals';

test('its processes end when it is interrupted', { timeout, skip }, async () => {
  const run = start('index.js');
  while (!run.said.includes('dials alice')) await once(run.stdout, 'data');
  const children = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' })
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter(([, parent]) => parent === run.pid)
    .map(([pid]) => pid);
  assert.equal(children.length, 4);
  run.kill('SIGINT');
  const [code] = await once(run, 'close');
  assert.equal(code, 130, run.said);
  for (const pid of children) assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' });
});
