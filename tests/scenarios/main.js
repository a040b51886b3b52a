'use strict';

const { cells } = require('./cells');
const { conclude } = require('./options');
const { runAll } = require('./run');
const { summary } = require('./summary');

/**
 * Runs the scenarios between implementations, and prints a line for each cell and a summary.
 *
 * @param found the implementations, as `find` of ../players gives them
 * @param options the command line, see options.js
 * @param originals with originals: `deviations` is what is known not to work, see ../../interop/deviations.js
 */
async function main({ present, absent }, options, originals) {
  const deviations = originals?.deviations ?? [];
  const chosen = cells(present, {
    all: options.all || (options.patterns.length > 0 && !originals),
    long: options.long,
    originals: originals !== undefined,
  }).filter(({ name }) => options.patterns.every((one) => name.includes(one)));
  if (options.list) {
    for (const { name } of chosen) console.log(name);
    return;
  }

  for (const { name, version } of present) console.log(`${name}: ${version}`);
  for (const { name, reason } of absent) console.log(`left out: ${name}: ${reason}`);
  await runAll(chosen, options.jobs, deviations);

  console.log(`\n${summary(chosen, present, absent, deviations)}\n`);
  const failed = chosen.filter(({ result }) => result.outcome === 'FAIL');
  const failures = failed.map(({ name, result }) => ({ name, text: result.text }));
  const noOriginal = !present.some(({ original }) => original);
  const mayBeNone = originals !== undefined && noOriginal && options.patterns.length === 0;
  conclude(chosen.length, failures, absent, { mayBeNone });
}

module.exports = { main };
