'use strict';

// Runs every scenario for every dialer and listener, and prints a line for each cell and a summary.
// `node interop/live [pattern …]` runs the cells whose line contains all the patterns.
// See ../README.md for the variables.

const { DEVIATIONS, deviation } = require('./deviations');
const { find } = require('./implementations');
const { SCENARIOS } = require('./scenarios');
const { Stage } = require('./stage');
const { summary } = require('./summary');

/** Milliseconds that a single wait may take. */
const LIMIT = 20_000;
/** The same where we know that it is in vain. */
const LIMIT_OF_DEVIATION = 3_000;
/** Cells at a time: most of their time they wait for a process to start. */
const JOBS = Number(process.env.INTEROP_JOBS ?? 4);

const LONG = process.env.INTEROP_LONG === '1';
const REQUIRED = (process.env.INTEROP_REQUIRE ?? '').split(',').filter(Boolean);

/** All cells, in the order of the table. */
function cells(implementations) {
  const made = [];
  for (const scenario of SCENARIOS) {
    if (scenario.long && !LONG) continue;
    for (const dialer of implementations) {
      for (const listener of implementations) {
        if (dialer.original && listener.original) continue;
        if (scenario.kind === 'pair') {
          made.push({ scenario, dialer, listener });
        } else {
          const dialerAsks = { asker: dialer, server: listener, side: 'dialer' };
          const listenerAsks = { asker: listener, server: dialer, side: 'listener' };
          made.push({ scenario, dialer, listener, ...dialerAsks });
          made.push({ scenario, dialer, listener, ...listenerAsks });
        }
      }
    }
  }
  return made.filter(able).map((cell) => ({ ...cell, name: title(cell) }));
}

/** Whether the side that needs an ability has it. */
function able(cell) {
  if (!cell.scenario.needs) return true;
  const [side, ability] = cell.scenario.needs;
  return cell[side].abilities.includes(ability);
}

function title({ scenario, dialer, listener, side }) {
  const asks = side ? `, ${side} asks` : '';
  return `${scenario.name}: ${dialer.name} → ${listener.name}${asks}`;
}

async function run(cell, certificate) {
  const { scenario, dialer, listener } = cell;
  const known = deviation(cell);
  const limit = scenario.limit ?? (known ? LIMIT_OF_DEVIATION : LIMIT);
  const stage = new Stage({ dialer, listener }, limit, certificate);
  let error;
  let crashed = false;
  try {
    if (scenario.kind === 'each') {
      await stage.meet();
      const both = [stage.dialer, stage.listener];
      [stage.asker, stage.server] = cell.side === 'listener' ? both.reverse() : both;
    }
    await scenario.run(stage);
  } catch (thrown) {
    error = thrown;
  }
  try {
    await stage.end();
  } catch (crash) {
    error = crash;
    crashed = true;
  }
  const text = error?.message.replace(/\s+/g, ' ').slice(0, 300);
  // No deviation excuses a process that dies.
  if (known && !crashed) {
    if (error) return { outcome: 'deviates', note: DEVIATIONS.indexOf(known) + 1, text };
    if (known.sometimes) return { outcome: 'ok' };
    return { outcome: 'FAIL', text: `works, but deviation ${DEVIATIONS.indexOf(known) + 1} says no` };
  }
  return error ? { outcome: 'FAIL', text } : { outcome: 'ok' };
}

/** Runs the cells, some at a time, in order. */
async function all(list, jobs, certificate) {
  const rest = list[Symbol.iterator]();
  const worker = async () => {
    for (const cell of rest) {
      const began = performance.now();
      cell.result = await run(cell, certificate);
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      const { outcome, text } = cell.result;
      console.log(`${outcome.padEnd(8)} ${cell.name} (${seconds} s)${text ? `: ${text}` : ''}`);
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
}

async function main() {
  const { present, absent } = find();
  for (const { name, version } of present) console.log(`${name}: ${version}`);
  for (const { name, reason } of absent) console.log(`${name}: skipped: ${reason}`);

  const patterns = process.argv.slice(2);
  const chosen = cells(present).filter(({ name }) => patterns.every((one) => name.includes(one)));
  const certificate = () => present.find((one) => one.certificate).certificate();
  const alone = chosen.filter(({ scenario }) => scenario.alone);
  const long = chosen.filter(({ scenario }) => scenario.long);
  const others = chosen.filter(({ scenario }) => !scenario.alone && !scenario.long);
  await all(long, long.length, certificate);
  await all(others, JOBS, certificate);
  await all(alone, 1, certificate);

  console.log(`\n${summary(chosen, present, absent)}`);
  const failed = chosen.filter(({ result }) => result.outcome === 'FAIL');
  const missing = absent.filter(({ name }) => REQUIRED.includes(name));
  for (const { name } of missing) console.log(`${name} is required, but absent`);
  if (failed.length > 0) console.log(`${failed.length} of ${chosen.length} cells failed:`);
  for (const { name, result } of failed) console.log(`  ${name}: ${result.text}`);
  process.exitCode = failed.length > 0 || missing.length > 0 || chosen.length === 0 ? 1 : 0;
}

main();
