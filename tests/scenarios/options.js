'use strict';

// What the command lines of the suites have in common.

const { parseArgs } = require('node:util');

/** Groups of cells at a time: part of their time they wait for a process. */
const JOBS = 4;

const USAGE = `options:
  --long      also what takes up to a minute: heartbeats, stopped processes, silent connections
  --all       every scenario for every pair of implementations
  --jobs N    how much runs at a time (default: ${JOBS})
  --list      print the names, and run nothing
  PATTERN…    only what has all of these in its name`;

/** The options of a suite; prints what is wrong with them and ends the process when something is. */
function options(name) {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        long: { type: 'boolean', default: false },
        all: { type: 'boolean', default: false },
        list: { type: 'boolean', default: false },
        jobs: { type: 'string', default: String(JOBS) },
        help: { type: 'boolean', default: false },
      },
    });
    const jobs = Number(values.jobs);
    if (!Number.isInteger(jobs) || jobs < 1) {
      throw new Error(`--jobs takes a whole number from 1 on, not "${values.jobs}"`);
    }
    if (values.help) {
      console.log(`usage: node ${name} [options] [PATTERN…]\n${USAGE}`);
      process.exit(0);
    }
    return { ...values, jobs, patterns: positionals };
  } catch (error) {
    console.error(`${error.message}\nusage: node ${name} [options] [PATTERN…]\n${USAGE}`);
    process.exit(2);
  }
}

/** The names in REQUIRE, which may not be absent. */
function required() {
  return (process.env.REQUIRE ?? '').split(',').filter(Boolean);
}

/**
 * Prints the end of a run, and sets the exit code of the process.
 *
 * @param failures the names and texts of what has failed
 * @param absent the implementations that are not here, with the reasons
 * @param mayBeNone whether there may be nothing to run, since what it takes is absent
 */
function conclude(count, failures, absent, { mayBeNone = false } = {}) {
  const missing = absent.filter(({ name }) => required().includes(name));
  for (const { name, text } of failures) console.log(`FAIL ${name}: ${text}`);
  for (const { name, reason } of missing) console.log(`FAIL ${name} is required: ${reason}`);
  const isNone = count === 0 && !mayBeNone;
  if (isNone) console.log('FAIL nothing has this name');
  const failed = failures.length + missing.length;
  const skipped = absent.length - missing.length;
  console.log(`${count - failures.length} passed, ${failed} failed, ${skipped} skipped`);
  process.exitCode = failed > 0 || isNone ? 1 : 0;
}

module.exports = { conclude, options, required };
