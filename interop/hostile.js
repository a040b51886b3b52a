'use strict';

// What the bad inputs of tests/hostile do to the original: `node interop/hostile.js [PATTERN…]`. It is
// for those who want to know, and part of no suite.

const { Attack } = require('../tests/hostile/attack');
const { CASES } = require('../tests/hostile/cases');
const { Victim } = require('../tests/hostile/victim');
const { find } = require('../tests/players');
const { ORIGINALS } = require('./originals');

/** Milliseconds for what the original may never do. */
const LIMIT = 5_000;

async function main(patterns) {
  const isJs = ({ name }) => name === 'js';
  const { present, absent } = find(ORIGINALS.filter(isJs));
  const original = present.find(isJs);
  if (!original) throw new Error(`js is ${absent.find(isJs).reason}`);
  const cases = CASES.filter(({ name }) => patterns.every((pattern) => name.includes(pattern)));
  const counts = { 'lives': 0, 'dies': 0, 'hangs': 0 };
  for (const one of cases) {
    const { what, text = '' } = await attack(original, one);
    counts[what]++;
    console.log(`${what}  ${one.name}  ${text.split('\n')[0]}`.trim());
  }
  console.log(`\n${original.version}: ${JSON.stringify(counts)} of ${cases.length}`);
}

/** A process for each case, since many end it. */
async function attack(original, { keyed, setup, ...rest }) {
  const destination = setup?.victim === 'destination' ? setup.role : undefined;
  const victim = await Victim.start(original, { keyed, destination });
  victim.limit = LIMIT;
  try {
    await new Attack(victim, { keyed, setup, ...rest }).survive();
    return { what: 'lives' };
  } catch (error) {
    // The end of its connection may be seen before its own.
    await victim.player.ask('units').catch(() => {});
    const { dead } = victim.player;
    return dead ? { what: 'dies', text: dead.message } : { what: 'hangs', text: error.message };
  } finally {
    await victim.end();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
