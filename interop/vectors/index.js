'use strict';

// Replays what was recorded of the originals against our packages: `node interop/vectors [options]
// [PATTERN…]`.

const { find } = require('../../tests/players');
const { conclude, options } = require('../../tests/scenarios/options');
const { CONVERSATIONS } = require('./conversations');
const { Table } = require('./table');

async function main({ jobs, list, long, patterns }) {
  const { present, absent } = find();
  const replays = present
    .flatMap((player) => CONVERSATIONS.map((conversation) => ({ player, conversation })))
    .map((replay) => ({ ...replay, name: `${replay.conversation.name}: ${replay.player.name}` }))
    .filter(({ player, conversation: { long: isLong, needs = [] }, name }) => {
      if (isLong && !long) return false;
      if (!needs.every((ability) => player.abilities.includes(ability))) return false;
      return patterns.every((pattern) => name.includes(pattern));
    });
  if (list) {
    for (const { name } of replays) console.log(name);
    return;
  }

  const rest = replays[Symbol.iterator]();
  const worker = async () => {
    for (const one of rest) one.problem = await replay(one);
  };
  await Promise.all(Array.from({ length: jobs }, worker));

  console.log();
  for (const { name, reason } of absent) console.log(`left out: ${name}: ${reason}`);
  const failed = replays.filter(({ problem }) => problem);
  const failures = failed.map(({ name, problem }) => ({ name, text: problem.message }));
  conclude(replays.length, failures, absent);
}

/** Plays one; what went wrong, if anything. */
async function replay({ player, conversation, name }) {
  const began = performance.now();
  const table = new Table(player);
  let problem;
  try {
    await table.within(conversation.run(table));
    await table.end();
  } catch (error) {
    problem = error;
    await table.end().catch(() => {});
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  const text = problem ? `: ${problem.message}` : '';
  console.log(`${problem ? 'FAIL    ' : 'ok      '} ${name} (${seconds} s)${text}`);
  return problem;
}

main(options('interop/vectors'));
