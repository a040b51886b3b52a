'use strict';

// AsyncLocalStorage: callbacks, promises and streams have the store of the one who asked; handlers and listeners have
// none of anybody else's, and what they enter stays with their own request.

const assert = require('node:assert/strict');
const { AsyncLocalStorage } = require('node:async_hooks');
const { once } = require('node:events');
const { beyond, differs } = require('./support/subject');

const LOSES = 'it loses the store, or gives it to others';

differs('callbacks and promises have the store of their caller', LOSES, async (network) => {
  const storage = new AsyncLocalStorage();
  const { listener, dialer, ws, role, destination } = await network.service();
  role.onRequest('e', (ctx, cb) => cb(null, ctx.data));
  role.onWritable('stream', ({ writable }, cb) => {
    cb(null, null);
    writable.end('data');
  });
  role.onReadable('stream', ({ readable }, cb) => {
    cb(null, null);
    readable.resume();
  });
  const controller = new AbortController();
  const { signal } = controller;
  const idle = network.peer();
  const other = network.peer();
  const CALLS = {
    request: (cb) => destination.request('e', null, cb),
    'request that is given up': (cb) => destination.request({ event: 'e', signal }, null, cb),
    'request as a promise': (cb) => destination.request('e', null).then(cb),
    survey: (cb) => destination.survey('e', null, cb),
    send: (cb) => destination.send('e', null, cb),
    'send to nobody': (cb) => dialer.destination('nobody').send('e', null, cb),
    connect: (cb) => dialer.connect(network.address(listener), cb),
    'connect that fails': (cb) => dialer.connect('nonsense', cb),
    listen: (cb) => other.listen(0, cb),
    close: (cb) => idle.close(cb),
    ping: (cb) => ws.ping('', true, cb),
    whenReady: (cb) => destination.whenReady().then(cb),
    'Readable: ready': (cb) => destination.Readable('stream', null).on('ready', cb).resume(),
    'Readable: data': (cb) => destination.Readable('stream', null).on('data', cb),
    'Readable: end': (cb) => destination.Readable('stream', null).on('end', cb).resume(),
    'Readable: error': (cb) => destination.Readable('nothing', null).on('error', cb),
    'Writable: write': (cb) => destination.Writable('stream', null).write('data', cb),
    'Writable: finish': (cb) => destination.Writable('stream', null).on('finish', cb).end('data'),
    'Writable: end': (cb) => destination.Writable('stream', null).end('data', cb),
  };
  const seen = Object.entries(CALLS).map(
    ([name, call]) =>
      new Promise((resolve) => {
        storage.run(name, () => call(() => resolve([name, storage.getStore()])));
      }),
  );
  controller.abort();
  for (const [name, store] of await Promise.all(seen)) assert.equal(store, name);
});

/** A pair whose peers, role and connections were made with stores that nobody may see. */
async function stained(network) {
  const storage = new AsyncLocalStorage();
  const listener = await storage.run('listener', () => network.listener());
  const dialer = storage.run('dialer', () => network.peer());
  const { unit, peerUnit } = await storage.run('connect', () => network.join(dialer, listener));
  // The one who has dialed serves: its connection was made in a turn of its own.
  const role = storage.run('role', () => dialer.role('role'));
  const destination = storage.run('destination', () => listener.destination('role'));
  await storage.run('ready', () => destination.whenReady());
  return { storage, listener, dialer, unit, peerUnit, role, destination };
}

differs('handlers see nobody’s store', LOSES, async (network) => {
  const { storage, dialer, role, destination } = await stained(network);
  const seen = {};
  const see = (name, store = storage.getStore()) => (seen[name] = store);
  dialer.onData(() => see('middleware of the peer'));
  role.onMessage('e', () => see('message'));
  role.onRequest('e', (ctx, cb) => {
    see('request');
    cb(null, null);
  });
  role.onRequest('later', async (ctx, cb) => {
    await null;
    see('request, later');
    cb(null, null);
  });
  role.onRequest('fails', () => {
    throw new Error('no');
  });
  dialer.on('handler_error', () => see('handler_error'));
  role.onReadable('e', ({ readable }, cb) => {
    see('readable');
    readable.on('data', () => see('data')).on('end', () => see('end')).on('ready', () => see('ready'));
    cb(null, null);
  });
  role.onWritable('e', ({ writable }, cb) => {
    see('writable');
    writable.on('finish', () => see('finish'));
    writable.end('data');
    cb(null, null);
  });
  await storage.run('asker', async () => {
    destination.send('e', null);
    await destination.request('e', null);
    await destination.request('later', null);
    await assert.rejects(destination.request('fails', null));
    const writable = destination.Writable('e', null);
    writable.end('data');
    const readable = destination.Readable('e', null).resume();
    await Promise.all([once(writable, 'finish'), once(readable, 'end')]);
  });
  while (!('end' in seen && 'finish' in seen)) await new Promise(setImmediate);
  assert.equal(Object.keys(seen).length, 11, Object.keys(seen).join());
  for (const [name, store] of Object.entries(seen)) assert.equal(store, undefined, name);
});

differs('listeners see nobody’s store', LOSES, async (network) => {
  const { storage, listener, dialer, unit, peerUnit, destination } = await stained(network);
  const seen = {};
  const see = (name) => () => (seen[name] = storage.getStore());
  listener.on('unit', see('unit'));
  peerUnit.on('close', see('close of a unit'));
  listener.on('close', see('close of a peer'));
  destination.on('close', see('close of a destination')).on('open', see('open'));
  const back = once(listener, 'unit');
  const reopened = once(destination, 'open');
  storage.run('closer', () => unit._sockets[0].close());
  await back;
  await reopened;
  const closed = once(listener, 'close');
  storage.run('closer', () => listener.close());
  await closed;
  assert.equal(Object.keys(seen).length, 5, Object.keys(seen).join());
  for (const [name, store] of Object.entries(seen)) assert.equal(store, undefined, name);
  dialer.close();
});

differs('what a handler enters is seen by its own request, and by no other', LOSES, async (network) => {
  const { storage, dialer, role, destination } = await stained(network);
  const before = [];
  const after = [];
  dialer.onData((ctx) => {
    before.push(storage.getStore());
    if (ctx.data !== null) storage.enterWith(ctx.data);
  });
  role.onRequest('e', async (ctx, cb) => {
    after.push([ctx.data, storage.getStore()]);
    await null;
    after.push([ctx.data, storage.getStore()]);
    cb(null, null);
  });
  role.onMessage('e', (ctx) => after.push([ctx.data, storage.getStore()]));
  for (let round = 0; round < 3; round++) {
    const asked = [];
    for (let n = 0; n < 20; n++) {
      destination.send('e', `message ${n}`);
      asked.push(destination.request('e', `request ${n}`), destination.request('e', null));
    }
    await Promise.all(asked);
  }
  assert.deepEqual([...new Set(before)], [undefined]);
  assert.equal(after.length, 3 * 20 * 5);
  for (const [data, store] of after) assert.equal(store, data ?? undefined);
});

beyond('what a listener enters is seen by no other', async (network) => {
  const storage = new AsyncLocalStorage();
  const listener = await network.listener();
  const seen = [];
  listener.role('role').onRequest('e', (ctx, cb) => {
    seen.push(storage.getStore());
    cb(null, null);
  });
  listener.on('unit', (unit) => {
    seen.push(storage.getStore());
    storage.enterWith(unit.name);
  });
  for (const name of ['a', 'b', 'c']) {
    const peer = network.peer({ name });
    await peer.connect(network.address(listener));
    await peer.destination('role').request('e', null);
  }
  assert.deepEqual(seen, Array(6).fill(undefined));
});
