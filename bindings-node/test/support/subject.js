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

function define(name, options, run) {
  test(name, { timeout: LIMIT_MS, ...options }, async (t) => {
    const network = new Network({ roletalk, subject });
    // Reconnect timers keep no process alive, not even one that waits for them.
    const awake = setInterval(() => {}, LIMIT_MS);
    t.after(
      async () => {
        await network.close();
        clearInterval(awake);
      },
      { timeout: LIMIT_MS },
    );
    await run(network, t);
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
