'use strict';

const { cells } = require('./cells');
const { required } = require('./options');
const { runAll } = require('./run');
const { summary } = require('./summary');

/**
 * Runs the scenarios between implementations, and prints a line for each cell and a summary.
 *
 * @param found the implementations, as `find` of ../players gives them
 * @param options the command line, see options.js
 * @param deviations what is known not to work, see ../../interop/deviations.js
 */
async function main({ present, absent }, options, deviations = []) {
  const chosen = cells(present, {
    all: options.all || options.patterns.length > 0,
    long: options.long,
  }).filter(({ name }) => options.patterns.every((one) => name.includes(one)));
  if (options.list) {
    for (const { name } of chosen) console.log(name);
    return;
  }

  for (const { name, version } of present) console.log(`${name}: ${version}`);
  for (const { name, reason } of absent) console.log(`left out: ${name}: ${reason}`);
  const missing = absent.filter(({ name }) => required().includes(name));
  await runAll(chosen, options.jobs, deviations);

  console.log(`\n${summary(chosen, present, absent, deviations)}\n`);
  const failed = chosen.filter(({ result }) => result.outcome === 'FAIL');
  for (const { name, result } of failed) console.log(`FAIL ${name}: ${result.text}`);
  for (const { name, reason } of missing) console.log(`FAIL ${name} is required: ${reason}`);
  if (chosen.length === 0) console.log('FAIL no cell has this name');
  const skipped = absent.length - missing.length;
  const good = chosen.length - failed.length;
  console.log(`${good} passed, ${failed.length + missing.length} failed, ${skipped} skipped`);
  process.exitCode = failed.length > 0 || missing.length > 0 || chosen.length === 0 ? 1 : 0;
}

module.exports = { main };
