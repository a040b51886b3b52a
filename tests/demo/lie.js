'use strict';

// For demo.test.js: the demonstration with a player that lies. Its hashes are wrong: `node lie.js`. As that
// player: `node lie.js PROGRAM ARGUMENTS…`, which starts the honest one.

const { spawn } = require('node:child_process');
const { createInterface } = require('node:readline');

const { find } = require('../players');
const { perform } = require('./perform');

const [program, ...args] = process.argv.slice(2);

if (program === undefined) {
  const { present } = find();
  const [first, ...rest] = present;
  const liar = { ...first, command: [process.execPath, __filename, ...first.command] };
  perform({ present: [liar, ...rest], absent: [] });
} else {
  const player = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  process.stdin.pipe(player.stdin);
  createInterface({ input: player.stdout }).on('line', (line) => {
    console.log(line.replace(/"sha256":"[0-9a-f]{64}"/, `"sha256":"${'0'.repeat(64)}"`));
  });
  player.on('close', (code) => process.exit(code));
}
