'use strict';

// What `NODE_DEBUG=roletalk` shows, of a process of its own.

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const path = require('node:path');
const { text } = require('node:stream/consumers');
const { test } = require('node:test');

const PROGRAM = `
const { Peer } = require(${JSON.stringify(path.resolve(__dirname, '..'))});
const net = require('node:net');
(async () => {
  const service = new Peer({ name: 'service' });
  service.addPresharedKey('k', 'hush');
  await service.listen({ port: 0, host: '127.0.0.1' });
  const url = 'ws://127.0.0.1:' + service.port;
  const stranger = new Peer({ name: 'stranger' });
  await stranger.connect(url, { permanent: false }).catch(() => {});
  const client = new Peer({ name: 'client' });
  client.addPresharedKey('k', 'hush');
  const joined = new Promise((resolve) => service.once('unit', resolve));
  const { unit } = await client.connect(url);
  await joined;
  const closed = new Promise((resolve) => unit.once('close', resolve));
  service.close();
  await closed;
  client.close();
  stranger.close();
})();
`;

async function run(env) {
  const child = spawn(process.execPath, ['-e', PROGRAM], { env: { ...process.env, ...env } });
  const [said, [code]] = await Promise.all([
    text(child.stderr),
    new Promise((resolve) => child.once('exit', (...end) => resolve(end))),
  ]);
  assert.equal(code, 0, said);
  return said;
}

test('listening, connections and refusals are told, with address and reason', async () => {
  const said = await run({ NODE_DEBUG: 'roletalk' });
  const patterns = [
    /info: listening on 127\.0\.0\.1:\d+/,
    /warn: connection with 127\.0\.0\.1:\d+ refused: .*preshared key/,
    /info: connected with service \(\S+\), 127\.0\.0\.1:\d+/,
    /info: connected with client \(\S+\), 127\.0\.0\.1:\d+/,
    /info: disconnected from service \(\S+\), 127\.0\.0\.1:\d+/,
  ];
  for (const pattern of patterns) assert.match(said, pattern);
  assert.doesNotMatch(said, /hush/);
});

test('otherwise nothing is told', async () => {
  assert.equal(await run({ NODE_DEBUG: '' }), '');
});
