'use strict';

// The module under test, and the three kinds of tests.
//
// By default the subject is this package. ROLETALK_UNDER_TEST names another one, a directory or a
// package name: with an installed roletalk 1.1.3 there, the suite shows that what it expects is what
// the original does. Only what is marked as different or as going beyond it is left out then.

const path = require('node:path');
const { describe, test } = require('node:test');
const { Network } = require('./network');

const PACKAGE = path.resolve(__dirname, '../..');

/** What `require` takes to load the subject, also in child processes and worker threads. */
const subject = locate(process.env.ROLETALK_UNDER_TEST ?? PACKAGE);

/** The directory that holds the subject's package.json. */
const root = packageRoot(require.resolve(subject));

const isOriginal = require(path.join(root, 'package.json')).name === 'roletalk';

const roletalk = require(subject);

/** A limit that only serves to fail: no test waits for it. */
const LIMIT_MS = 120_000;

function locate(name) {
  return /^[./]/.test(name) ? path.resolve(name) : require.resolve(name, { paths: [process.cwd()] });
}

function packageRoot(file) {
  const { existsSync } = require('node:fs');
  let directory = path.dirname(file);
  while (!existsSync(path.join(directory, 'package.json'))) directory = path.dirname(directory);
  return directory;
}

// A test may have a clock of its own.
const { setTimeout, clearTimeout } = globalThis;

/** Tests that run now. */
let running = 0;
/** Ends a file whose tests are over, and which does not end by itself. */
let watchdog;

function begin() {
  running++;
  clearTimeout(watchdog);
}

function end() {
  if (--running > 0) return;
  const giveUp = () => {
    console.error(`the tests are over, and something still keeps ${process.argv[1]} alive`);
    process.exit(1);
  };
  watchdog = setTimeout(giveUp, LIMIT_MS).unref();
}

/** Waits for what should not take long, and fails when it does. */
async function soon(promise, otherwise) {
  let timer;
  const late = new Promise((_, reject) => {
    // It keeps the process alive, too: reconnect timers do not, not even while a test waits for them.
    timer = setTimeout(() => reject(new Error(otherwise)), LIMIT_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function define(name, options, run) {
  test(name, options, async (t) => {
    begin();
    const network = new Network({ roletalk, subject });
    try {
      await soon(run(network, t), `not over in ${LIMIT_MS} ms`);
    } finally {
      await soon(network.close(), `peers, programs or connections of the test do not close in ${LIMIT_MS} ms`).finally(end);
    }
  });
}

/**
 * A test of what the original does and we do.
 *
 * @param {string} name
 * @param {(network: Network, t: import('node:test').TestContext) => Promise<void> | void} run
 */
function check(name, run) {
  define(name, {}, run);
}

/** A test of what we do where the original deliberately is not followed, and why it is not. */
function differs(name, why, run) {
  define(name, { skip: isOriginal && `the original: ${why}` }, run);
}

/** A test of what the original does not offer. */
function beyond(name, run) {
  define(name, { skip: isOriginal && 'beyond the original' }, run);
}

/** Runs the tests that `tests` defines side by side: for those that wait for timers. */
function concurrently(tests) {
  describe('side by side', { concurrency: true }, tests);
}

module.exports = { roletalk, subject, root, isOriginal, check, differs, beyond, concurrently };
