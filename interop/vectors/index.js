'use strict';

// Replays what was recorded of the originals against our packages: `node interop/vectors [pattern …]`.

const { find } = require('../live/implementations');
const { CONVERSATIONS } = require('./conversations');
const { Table } = require('./table');

async function main() {
  const patterns = process.argv.slice(2);
  const long = process.env.INTEROP_LONG === '1';
  const implementations = find().present.filter(({ original }) => !original);
  let failed = 0;
  let count = 0;
  for (const implementation of implementations) {
    for (const conversation of CONVERSATIONS) {
      const name = `${conversation.name}: ${implementation.name}`;
      const { needs = [] } = conversation;
      if (conversation.long && !long) continue;
      if (!patterns.every((pattern) => name.includes(pattern))) continue;
      if (!needs.every((ability) => implementation.abilities.includes(ability))) continue;
      count++;
      const began = performance.now();
      const table = new Table(implementation);
      let problem;
      try {
        await table.within(conversation.run(table));
        await table.end();
      } catch (error) {
        problem = error;
        await table.end().catch(() => {});
      }
      if (problem) failed++;
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      const text = problem ? `: ${problem.message}` : '';
      console.log(`${problem ? 'FAIL    ' : 'ok      '} ${name} (${seconds} s)${text}`);
    }
  }
  console.log(`${count - failed} of ${count} replays are as recorded`);
  process.exitCode = failed > 0 || count === 0 ? 1 : 0;
}

main();
