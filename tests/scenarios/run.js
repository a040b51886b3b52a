'use strict';

const { Stage } = require('./stage');

/** Milliseconds that a single wait may take: only there to fail, on a busy machine too. */
const LIMIT = 120_000;
/** The same where we know that it is in vain. A busy machine cannot make such a cell fail by it. */
const LIMIT_OF_DEVIATION = 2_000;
/** How many of those that mostly wait run at a time. */
const WAITING = 16;

/**
 * Runs all cells, some at a time, and notes the result in each.
 *
 * @param deviations what is known not to work; see ../../interop/deviations.js
 */
async function runAll(cells, jobs, deviations) {
  for (const cell of cells) cell.deviation = deviations.find((one) => one.applies(cell));
  const having = (flag) => cells.filter(({ scenario }) => scenario[flag]);
  const waiting = having('waits');
  const alone = having('alone');
  const others = cells.filter(({ scenario }) => !scenario.waits && !scenario.alone);
  await runGroups(groups(waiting), WAITING);
  await runGroups(groups(others), jobs);
  await runGroups(groups(alone), 1);
}

async function runGroups(list, jobs) {
  const rest = list[Symbol.iterator]();
  const worker = async () => {
    for (const group of rest) await runGroup(group);
  };
  await Promise.all(Array.from({ length: jobs }, worker));
}

/** Cells that run one after the other with the same two processes; the longest groups first. */
function groups(cells) {
  const made = new Map();
  for (const cell of cells) {
    const { kind, fresh, alone } = cell.scenario;
    const single = kind === 'pair' || fresh || alone;
    const alike = [cell.dialer.name, cell.listener.name, startOptions(cell)];
    const key = single ? cell : JSON.stringify(alike);
    if (!made.has(key)) made.set(key, []);
    made.get(key).push(cell);
  }
  return [...made.values()].sort((a, b) => b.length - a.length);
}

async function runGroup(cells) {
  let stage;
  for (const [index, cell] of cells.entries()) {
    const began = performance.now();
    stage ??= new Stage(cell, LIMIT);
    const ended = await attempt(stage, cell);
    // Only what works as it should leaves the two fit for another scenario.
    if (ended.error || index === cells.length - 1) {
      try {
        await stage.end();
      } catch (error) {
        Object.assign(ended, { error, crashed: true });
      }
      stage = undefined;
    }
    cell.result = judge(cell, ended);
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const { outcome, text } = cell.result;
    console.log(`${outcome.padEnd(8)} ${cell.name} (${seconds} s)${text ? `: ${text}` : ''}`);
  }
}

/** What the two of an `each` are started with. */
function startOptions({ scenario, side }) {
  const { asker = {}, server = {} } = scenario.start ?? {};
  const [dialer, listener] = side === 'dialer' ? [asker, server] : [server, asker];
  return { dialer, listener };
}

async function attempt(stage, cell) {
  const { scenario, side } = cell;
  try {
    if (scenario.kind === 'each') {
      await stage.meetOnce(startOptions(cell));
      const both = [stage.dialer, stage.listener];
      [stage.asker, stage.server] = side === 'dialer' ? both : both.reverse();
    }
    const known = cell.deviation;
    const inVain = known !== undefined && known.error === undefined;
    stage.limit = inVain && !scenario.waits ? LIMIT_OF_DEVIATION : LIMIT;
    await scenario.run(stage);
    await stage.isAlive();
    stage.limit = LIMIT;
    return {};
  } catch (error) {
    return { error };
  }
}

function judge(cell, { error, crashed }) {
  const known = cell.deviation;
  const text = error?.message.replace(/\s+/g, ' ').slice(0, 300);
  // No deviation excuses a process that dies.
  if (known && !crashed) {
    const expected = known.error === undefined || known.error.test(text);
    if (error) return { outcome: expected ? 'deviates' : 'FAIL', note: known.note, text };
    if (known.sometimes) return { outcome: 'ok' };
    return { outcome: 'FAIL', text: `works, but deviation ${known.note} says no` };
  }
  return error ? { outcome: 'FAIL', text } : { outcome: 'ok' };
}

module.exports = { runAll };
