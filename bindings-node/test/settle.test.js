'use strict';

// Everything that somebody waits for has an outcome: promises, callbacks and streams, whenever the peer is closed or
// drained, or a signal aborts. And nobody is warned of what is no mistake.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const net = require('node:net');
const { addressOf } = require('./support/network');
const { beyond, differs } = require('./support/subject');

/** What a promise comes to: the code or the name of what it is rejected with. */
const outcome = (promise) => promise.then(() => 'fulfilled', (error) => error.code ?? error.name);

/** A promise for the call of a callback. */
const called = (act) => outcome(new Promise((resolve, reject) => act((error) => (error ? reject(error) : resolve()))));

const CLOSE = (peer) => peer.close();
const DRAIN = (peer) => peer.drain(1);
const DISPOSE = (peer) => peer[Symbol.asyncDispose]();

// What is waited for, and its outcome when the peer is closed. Each gets a pair whose listener serves `role`, with
// requests that are never answered, and streams that nobody reads; the dialer is closed.
const WAITS = {
  whenReady: ['CLOSED', ({ dialer }) => outcome(dialer.destination('nobody').whenReady())],
  'whenReady with a signal': [
    'CLOSED',
    ({ dialer }) => outcome(dialer.destination('nobody').whenReady({ signal: new AbortController().signal })),
  ],
  connect: ['CLOSED', ({ dialer, silent }) => outcome(dialer.connect(silent))],
  'connect with a callback': ['CLOSED', ({ dialer, silent }) => called((cb) => dialer.connect(silent, cb))],
  'connect, once': ['CLOSED', ({ dialer, silent }) => outcome(dialer.connect(silent, { permanent: false }))],
  'connect with a name': [
    'CLOSED',
    ({ dialer, silent }) => outcome(dialer.connect(silent.replace('127.0.0.1', 'localhost'))),
  ],
  request: ['CONNECTION_LOST', ({ destination }) => outcome(destination.request('never', null))],
  'request with a callback': [
    'CONNECTION_LOST',
    ({ destination }) => called((cb) => destination.request('never', null, cb)),
  ],
  'request with a signal': [
    'CONNECTION_LOST',
    ({ destination }) => outcome(destination.request({ event: 'never', signal: new AbortController().signal }, null)),
  ],
  'survey with a callback': [
    'CONNECTION_LOST',
    ({ destination }) => called((cb) => destination.survey('never', null, cb)),
  ],
  survey: [
    'CONNECTION_LOST',
    async ({ destination }) => {
      for await (const { error } of destination.survey('never', null)) return error.code;
    },
  ],
  'send with a callback': ['fulfilled', ({ destination }) => called((cb) => destination.send('e', null, cb))],
  'a message to nobody': ['NO_UNIT', ({ dialer }) => called((cb) => dialer.destination('nobody').send('e', null, cb))],
  'a ping': ['fulfilled', ({ ws }) => called((cb) => ws.ping('', true, cb))],
  'a stream that is asked for': [
    'CONNECTION_LOST',
    ({ destination }) => called((cb) => destination.Readable('never', null).once('error', cb)),
  ],
  close: ['fulfilled', ({ dialer }) => called((cb) => dialer.close(cb))],
  'the event close': ['fulfilled', ({ dialer }) => outcome(once(dialer, 'close'))],
  drain: ['fulfilled', ({ dialer }) => outcome(dialer.drain(60_000))],
  serve: ['fulfilled', ({ dialer }) => outcome(dialer.serve())],
  listen: ['CLOSED', ({ dialer }) => outcome(dialer.listen({ port: 0, host: 'localhost' }))],
  'listen with a callback': ['CLOSED', ({ dialer }) => called((cb) => dialer.listen(0, cb))],
};

// The same of what has to be under way first, which is told by `begun`.
const UNDER_WAY = {
  'a stream that is read': [
    'CONNECTION_LOST',
    async ({ destination, begun }) => {
      const readable = destination.Readable('source', null);
      await once(readable, 'ready');
      begun();
      return outcome(readable.toArray());
    },
  ],
  'a stream that is written': [
    'CONNECTION_LOST',
    async ({ destination, begun }) => {
      const writable = destination.Writable('sink', null);
      await once(writable, 'ready');
      begun();
      return called((cb) => writable.write(Buffer.alloc(20 << 20), cb));
    },
  ],
  'a stream that is ended': [
    'CONNECTION_LOST',
    async ({ destination, begun }) => {
      const writable = destination.Writable('sink', null);
      await once(writable, 'ready');
      begun();
      return called((cb) => writable.end(Buffer.alloc(20 << 20), cb));
    },
  ],
};

/** A pair, and the address of a server that never says anything. */
async function pair(network) {
  const { listener, dialer, ws, role, destination } = await network.service();
  role.onRequest('never', () => {});
  role.onWritable('never', () => {});
  role.onWritable('source', (ctx, cb) => cb(null, null));
  role.onReadable('sink', (ctx, cb) => cb(null, null));
  const server = net.createServer();
  await network.serve(server);
  return { listener, dialer, ws, destination, silent: addressOf(server.address().port) };
}

for (const [how, end] of Object.entries({ close: CLOSE, drain: DRAIN, 'await using': DISPOSE })) {
  for (const [what, [expected, wait]] of Object.entries({ ...WAITS, ...UNDER_WAY })) {
    // Draining lets that become what it wants to be.
    const result = how === 'drain' && what.startsWith('listen') ? 'fulfilled' : expected;
    beyond(`${how} settles: ${what}`, async (network) => {
      const parts = await pair(network);
      // What is asked for in the turn of the end, too, and what is under way.
      let waiting;
      await new Promise((begun) => {
        waiting = wait({ ...parts, begun });
        if (what in WAITS) begun();
      });
      end(parts.dialer);
      assert.equal(await waiting, result);
      if (result === 'fulfilled' && what.startsWith('listen')) await once(parts.dialer, 'close');
    });
  }

  beyond(`after ${how}, whenReady rejects at once`, async (network) => {
    const { dialer, destination } = await pair(network);
    await (how === 'close' ? new Promise((resolve) => dialer.close(resolve)) : end(dialer));
    for (const waiting of [destination, dialer.destination('other')]) {
      await assert.rejects(waiting.whenReady(), { code: 'CLOSED', message: 'The peer is closed' });
    }
  });
}

beyond('a peer that was closed and dials again waits again', async (network) => {
  const { listener, dialer, destination } = await pair(network);
  await new Promise((resolve) => dialer.close(resolve));
  dialer.connect(network.address(listener));
  assert.equal(await destination.whenReady(), destination);
});

beyond('a closed peer takes no upgrades', async (network) => {
  const server = require('node:http').createServer();
  const peer = network.peer();
  peer.prepareWSServer();
  server.on('upgrade', (...args) => peer.handleUpgrade(...args));
  await network.serve(server);
  const address = addressOf(server.address().port);
  peer.close();
  await assert.rejects(network.peer().connect(address, { permanent: false }), /Unexpected server response: 503/);
  peer.prepareWSServer();
  await network.peer().connect(address);
});

const SIGNALLED = {
  whenReady: ({ dialer, signal }) => outcome(dialer.destination('nobody').whenReady({ signal })),
  request: ({ destination, signal }) => outcome(destination.request({ event: 'never', signal }, null)),
  'request with a callback': ({ destination, signal }) =>
    called((cb) => destination.request({ event: 'never', signal }, null, cb)),
  survey: async ({ destination, signal }) => {
    for await (const { error } of destination.survey({ event: 'never', signal }, null)) return error.name;
  },
};

for (const [what, wait] of Object.entries(SIGNALLED)) {
  beyond(`a signal settles: ${what}, however often, and without a warning`, async (network) => {
    const parts = await pair(network);
    const warnings = [];
    const warned = (warning) => warnings.push(warning);
    process.on('warning', warned);
    const controller = new AbortController();
    const { signal } = controller;
    signal.throwIfAborted();
    const waiting = Array.from({ length: 30 }, () => wait({ ...parts, signal }));
    controller.abort(Object.assign(new Error(), { name: 'Mine' }));
    assert.deepEqual(await Promise.all(waiting), Array(30).fill('Mine'));
    await new Promise(setImmediate);
    process.off('warning', warned);
    assert.deepEqual(warnings, []);
  });
}

beyond('however many wait for a unit, nobody is warned, and no listener is seen', async (network) => {
  const listener = await network.listener();
  listener.role('role');
  const dialer = network.peer();
  const destination = dialer.destination('role');
  const warnings = [];
  const warned = (warning) => warnings.push(warning);
  process.on('warning', warned);
  const waiting = Array.from({ length: 100 }, () => destination.whenReady());
  assert.equal(destination.listenerCount('open'), 0);
  await dialer.connect(network.address(listener));
  assert.deepEqual(await Promise.all(waiting), Array(100).fill(destination));
  process.off('warning', warned);
  assert.deepEqual(warnings, []);
});

// What nobody looks at ends a process only where it is a failure that is told nowhere else.
const UNHANDLED = { code: 1, signal: null };
const EXITED = { code: 0, signal: null };
const LOOSE = {
  'a permanent address, whose service is down': [
    EXITED,
    `peer.connect(address); await once(peer, 'reconnect_fail'); peer.close();`,
  ],
  'a permanent address, and is closed': [EXITED, `peer.connect(address); peer.close();`],
  'an address once, and is closed': [EXITED, `peer.connect(address, { permanent: false }); peer.close();`],
  'an address once, and the service is down': [UNHANDLED, `peer.connect(address, { permanent: false });`],
  'what is no address': [UNHANDLED, `peer.connect('nonsense');`],
};

for (const [what, [expected, source]] of Object.entries(LOOSE)) {
  differs(`a process that dials ${what}, and does not look at the promise`, 'it ends', async (network) => {
    // Nobody listens there, and nobody gets it when they ask for any.
    const address = addressOf(1);
    const program = network.program(`const peer = new Peer(); const address = '${address}'; ${source}`);
    assert.deepEqual(await program.end(), expected, program.stderr);
    if (expected === EXITED) assert.equal(program.stderr, '');
  });
}

differs('a permanent address that is awaited rejects all the same', 'it has no codes', async (network) => {
  const address = addressOf(await network.unusedPort());
  const program = network.program(`
    const peer = new Peer();
    try { await peer.connect('${address}'); } catch (error) { tell(error.code); }
    await peer.connect('${address}');
  `);
  assert.equal(await program.told(), 'CONNECT_FAILED');
  assert.deepEqual(await program.end(), UNHANDLED);
});

// The regular end of programs, with much under way: no word on stderr.
const BUSY = `
  const { AsyncLocalStorage } = require('node:async_hooks');
  process.on('warning', (warning) => tell(['warning', String(warning)]));
  process.on('unhandledRejection', (error) => { tell(['unhandled', String(error)]); process.exitCode = 1; });
  const service = new Peer({ name: 'service' });
  const role = service.role('role');
  let asked = 0;
  let reading = 0;
  role.onRequest('never', () => { asked++; });
  role.onRequest('asks back', async (ctx) => {
    asked++;
    const back = service.destination('back');
    await back.whenReady();
    await back.request({ event: 'never', unit: ctx.unit }, null);
  });
  role.onRequest('waits', async () => { asked++; await service.destination('nobody').whenReady(); });
  role.onReadable('sink', async ({ readable }, cb) => {
    cb(null, null);
    for await (const chunk of readable) reading += chunk.length > 0;
  });
  role.onWritable('source', async ({ writable }, cb) => {
    cb(null, null);
    for (;;) if (!writable.write(Buffer.alloc(65536))) await once(writable, 'drain');
  });
  await service.listen({ port: 0, host: '127.0.0.1' });
  const client = new Peer({ name: 'client' });
  client.role('back').onRequest('never', () => { asked++; });
  await client.connect('ws://127.0.0.1:' + service.port);
  const destination = client.destination('role');
  await destination.whenReady();
  client.destination('nobody').whenReady();
  client.connect('ws://127.0.0.1:1');
  for (let n = 0; n < 10; n++) destination.request('never', n);
  for (let n = 0; n < 5; n++) destination.request('waits', n);
  for (let n = 0; n < 5; n++) destination.request('asks back', n);
  destination.survey('never', null);
  destination.send('nothing', null);
  const writable = destination.Writable('sink', null);
  await once(writable, 'ready');
  writable.write(Buffer.alloc(10 << 20));
  const readable = destination.Readable('source', null);
  await once(readable, 'readable');
  while (asked < 26 || reading === 0) await new Promise(setImmediate);
`;

for (const [how, end] of Object.entries({
  'both peers are closed': 'client.close(); service.close();',
  'both are drained': 'await Promise.all([service.drain(1), client.drain(1)]);',
  'both are drained, and a while passes in between': `
    const drained = service.drain(1);
    for (const end = performance.now() + 5; performance.now() < end; );
    await Promise.all([drained, client.drain(1)]);
  `,
  'both are drained, the one that asks first': `
    const drained = client.drain(1);
    for (const end = performance.now() + 5; performance.now() < end; );
    await Promise.all([drained, service.drain(1)]);
  `,
  'nothing is closed, and the process ends itself': 'process.exit(0);',
})) {
  differs(`a program ends without a word when ${how}`, 'it ends by an unhandled rejection', async (network) => {
    const program = network.program(`${BUSY} ${end}`);
    assert.deepEqual(await program.end(), EXITED, program.stderr);
    assert.equal(program.stderr, '');
    await assert.rejects(program.told(), /ended/, 'there was no warning and no rejection');
  });
}

