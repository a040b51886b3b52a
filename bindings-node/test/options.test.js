'use strict';

// Options that nobody reads: a warning of the process, which names the one that was meant.

const assert = require('node:assert/strict');
const { beyond } = require('./support/subject');

/** What a program warns of. */
async function warnings(network, source) {
  const program = network.program(`
    const told = [];
    process.on('warning', ({ name, message }) => told.push([name, message]));
    const peer = new Peer();
    peer.role('role').onRequest('e', (ctx, cb) => cb(null, ctx.data));
    peer.role('role').onWritable('e', (ctx, cb) => cb(new Error('no')));
    await peer.listen({ port: 0, host: '127.0.0.1' });
    const client = new Peer();
    const address = 'ws://127.0.0.1:' + peer.port;
    await client.connect(address);
    const destination = client.destination('role');
    ${source}
    await new Promise(setImmediate);
    tell(told);
    process.exit();
  `);
  return program.told();
}

const MISTAKES = {
  Peer: [`new Peer({ naem: 'x' })`, 'Peer has no option "naem", which is ignored. Did you mean "name"?'],
  'Peer, in capitals': [`new Peer({ Name: 'x' })`, 'Peer has no option "Name", which is ignored. Did you mean "name"?'],
  'Peer, something else': [
    `new Peer({ port: 9000 })`,
    'Peer has no option "port", which is ignored. There are: acquaintanceNetworks, acquaintancePorts, authenticate, ' +
      'balance, channelBinding, connectionAge, eject, friendly, identityHeaders, name, origins, peerKey, policy.',
  ],
  listen: [
    `await new Peer().listen({ port: 0, hots: '127.0.0.1' })`,
    'listen has no option "hots", which is ignored. Did you mean "host"?',
  ],
  connect: [
    `await client.connect(address, { permanant: false })`,
    'connect has no option "permanant", which is ignored. Did you mean "permanent"?',
  ],
  'connect, in British': [
    `await client.connect(address, { rejectUnauthorised: false })`,
    'connect has no option "rejectUnauthorised", which is ignored. Did you mean "rejectUnauthorized"?',
  ],
  request: [
    `await destination.request({ event: 'e', timeuot: 5 })`,
    'request has no option "timeuot", which is ignored. Did you mean "timeout"?',
  ],
  send: [`destination.send({ event: 'e', units: 5 })`, 'send has no option "units", which is ignored. Did you mean "unit"?'],
  survey: [
    `destination.survey({ event: 'e', singal: null })`,
    'survey has no option "singal", which is ignored. Did you mean "signal"?',
  ],
  broadcast: [
    `destination.broadcast({ event: 'e', evnet: 'e' })`,
    'broadcast has no option "evnet", which is ignored. Did you mean "event"?',
  ],
  'broadcast, which goes to all units': [
    `destination.broadcast({ event: 'e', prefer: { zone: 'a' } })`,
    'broadcast has no option "prefer", which is ignored. There are: event, timeout, unit, waitForUnit, signal, ' +
      'headers, requireHeaders, traceparent, tracestate, baggage, inherit, role.',
  ],
  'survey, which goes to all units': [
    `destination.survey({ event: 'e', key: 5, timeout: 100 })`,
    'survey has no option "key", which is ignored. There are: event, timeout, unit, waitForUnit, signal, ' +
      'headers, requireHeaders, traceparent, tracestate, baggage, inherit, role.',
  ],
  destination: [
    `client.destination('role', { prefers: { zone: 'a' } })`,
    'destination has no option "prefers", which is ignored. Did you mean "prefer"?',
  ],
  'send, its balance': [
    `destination.send({ event: 'e', balanced: 'least-loaded' })`,
    'send has no option "balanced", which is ignored. Did you mean "balance"?',
  ],
  Readable: [
    `destination.Readable('e', null, { highWatermark: 5 })`,
    'Readable has no option "highWatermark", which is ignored. Did you mean "highWaterMark"?',
  ],
  'Readable, its request': [
    `destination.Readable({ event: 'e', timeOut: 5 }, null)`,
    'Readable has no option "timeOut", which is ignored. Did you mean "timeout"?',
  ],
  Writable: [
    `destination.Writable('e', null, { highWaterMarc: 5 })`,
    'Writable has no option "highWaterMarc", which is ignored. Did you mean "highWaterMark"?',
  ],
  whenReady: [
    `await destination.whenReady({ signl: null })`,
    'whenReady has no option "signl", which is ignored. Did you mean "signal"?',
  ],
};

for (const [what, [source, message]] of Object.entries(MISTAKES)) {
  beyond(`a warning, once, of a mistake in the options of ${what}`, async (network) => {
    assert.deepEqual(await warnings(network, `for (let n = 0; n < 3; n++) { ${source}; }`), [
      ['RoletalkOptionWarning', message],
    ]);
  });
}

beyond('what is no mistake is no warning', async (network) => {
  const told = await warnings(
    network,
    `
    // The original writes the role into the options that it is given.
    const options = { event: 'e', timeout: 100, role: 'role', unit: destination.units[0], signal: undefined };
    for (let n = 0; n < 2; n++) await destination.request(options, null);
    await client.connect(address, { permanent: false, headers: {}, rejectUnauthorized: true, mine: 5, ca: undefined });
    await client.connect(address, undefined);
    new Peer({});
    new Peer({ name: 'n', friendly: true, balance: 'least-loaded' });
    client.destination('role', { balance: 'round-robin', prefer: { zone: 'a' }, waitForUnit: false });
    await destination.request({ event: 'e', balance: ([{ unit }]) => unit, prefer: {}, key: undefined }, null);
    destination.send({ event: 'e', key: Buffer.from('k') });
    new Peer(null ?? undefined);
    destination.Readable('e', null, { highWaterMark: 5, encoding: 'utf8' }).on('error', () => {});
    destination.Readable('e', null, null).on('error', () => {});
    await destination.whenReady({ signal: undefined });
    await new Peer().listen({ port: 0, host: undefined, path: '/', server: undefined, ssl: undefined });
  `,
  );
  assert.deepEqual(told, []);
});

beyond('however many names are wrong, the warnings end', async (network) => {
  const told = await warnings(network, `for (let n = 0; n < 1000; n++) new Peer({ ['x' + n]: 1 });`);
  assert.equal(told.length, 100);
});
