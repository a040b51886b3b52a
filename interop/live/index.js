'use strict';

// Runs every scenario for every dialer and listener, and prints a line for each cell and a summary.
// `node interop/live [--ours] [pattern …]` runs the cells whose line contains all the patterns.
// See ../README.md for the variables.

const { cells } = require('./cells');
const { find } = require('./implementations');
const { runAll } = require('./run');
const { summary } = require('./summary');

/** Groups of cells at a time: part of their time they wait for a process. */
const JOBS = Number(process.env.INTEROP_JOBS ?? 4);
const REQUIRED = (process.env.INTEROP_REQUIRE ?? '').split(',').filter(Boolean);

async function main() {
  const { present, absent } = find();
  for (const { name, version } of present) console.log(`${name}: ${version}`);
  for (const { name, reason } of absent) console.log(`${name}: skipped: ${reason}`);
  const missing = absent.filter(({ name }) => REQUIRED.includes(name));

  const patterns = process.argv.slice(2).filter((one) => one !== '--ours');
  const chosen = cells(present, {
    ours: process.argv.includes('--ours'),
    all: process.env.INTEROP_ALL === '1' || patterns.length > 0,
    long: process.env.INTEROP_LONG === '1',
  }).filter(({ name }) => patterns.every((one) => name.includes(one)));
  await runAll(chosen, JOBS);

  console.log(`\n${summary(chosen, present, absent)}`);
  const failed = chosen.filter(({ result }) => result.outcome === 'FAIL');
  for (const { name } of missing) console.log(`${name} is required, but absent`);
  console.log(`${chosen.length - failed.length} of ${chosen.length} cells are as they should be`);
  for (const { name, result } of failed) console.log(`  ${name}: ${result.text}`);
  process.exitCode = failed.length > 0 || missing.length > 0 || chosen.length === 0 ? 1 : 0;
}

main();
