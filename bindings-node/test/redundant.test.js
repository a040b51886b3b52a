'use strict';

// Several connections between two peers are one unit.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { lossOf, until } = require('./support/network');
const { check } = require('./support/subject');

/** A dialer with two connections to a listener that serves `role`. */
async function twice(network) {
  const service = await network.service();
  const { listener, dialer, unit } = service;
  const second = await dialer.connect(network.address(listener));
  await until(() => service.dialerUnit._sockets.length === 2);
  assert.equal(second.unit, unit);
  return { ...service, sockets: [service.ws, second.ws] };
}

check('a second connection joins the unit, without an event', async (network) => {
  const { listener, dialer } = await network.pair();
  let events = 0;
  for (const peer of [listener, dialer]) peer.on('unit', () => events++);
  const { unit, ws } = await dialer.connect(network.address(listener));
  await until(() => listener.units[0]._sockets.length === 2);
  assert.equal(events, 0);
  assert.deepEqual([dialer.units.length, listener.units.length], [1, 1]);
  assert.equal(unit, dialer.units[0]);
  assert.equal(unit._sockets.length, 2);
  assert.ok([...unit._sockets].includes(ws));
});

check('messages arrive once', async (network) => {
  const { destination, role } = await twice(network);
  const received = [];
  role.onMessage('e', (ctx) => received.push(ctx.data));
  role.onRequest('end', (ctx, cb) => cb(null, null));
  for (let n = 0; n < 10; n++) destination.send('e', n);
  await destination.request('end', null);
  assert.deepEqual(received, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

for (const index of [0, 1]) {
  check(`the loss of one (${index}) of two connections is not noticed`, async (network) => {
    const { destination, role, unit, dialerUnit, sockets } = await twice(network);
    role.onRequest('e', (ctx, cb) => cb(null, ctx.data));
    const events = [];
    unit.on('close', () => events.push('dialer'));
    dialerUnit.on('close', () => events.push('listener'));
    destination.on('close', () => events.push('destination'));
    const closed = once(sockets[index], 'close');
    sockets[index].terminate();
    assert.equal((await destination.request('e', 1)).data, 1);
    await closed;
    assert.equal((await destination.request('e', 2)).data, 2);
    assert.deepEqual(events, []);
  });
}

check('a waiting request is answered over the connection that is left', async (network) => {
  const { destination, role, sockets, dialerUnit } = await twice(network);
  const asked = new Promise((resolve) => role.onRequest('e', (ctx, cb) => resolve(cb)));
  const answer = destination.request('e', null);
  const cb = await asked;
  // Whichever carried it: the listener has lost the first, and only then it answers.
  const [remote] = dialerUnit._sockets;
  const lost = lossOf(remote);
  sockets[0].terminate();
  await lost;
  cb(null, 'answered');
  assert.equal((await answer).data, 'answered');
});

check('a lost connection of two comes back to the same unit', async (network) => {
  const { unit, sockets, dialerUnit } = await twice(network);
  let lost = 0;
  for (const end of [unit, dialerUnit]) end.on('close', () => lost++);
  const closed = once(sockets[1], 'close');
  sockets[1].terminate();
  await closed;
  await until(() => unit._sockets.length === 2 && dialerUnit._sockets.length === 2);
  assert.ok(![...unit._sockets].includes(sockets[1]));
  assert.equal(lost, 0);
});

check('the unit closes when the last connection does', async (network) => {
  const { dialer, listener, unit, dialerUnit } = await twice(network);
  const lost = Promise.all([once(unit, 'close'), once(dialerUnit, 'close')]);
  unit.close();
  await lost;
  assert.deepEqual([dialer.units.length, listener.units.length], [0, 0]);
});

check('two listeners that dial each other are one unit to each', async (network) => {
  const [a, b] = [await network.listener({ name: 'a' }), await network.listener({ name: 'b' })];
  for (const peer of [a, b]) {
    peer.role('role').onRequest('who', (ctx, cb) => cb(null, peer.name));
  }
  const { unit: bAtA, peerUnit: aAtB } = await network.join(a, b);
  const { unit } = await b.connect(network.address(a));
  await until(() => bAtA._sockets.length === 2);
  assert.equal(unit, aAtB);
  assert.deepEqual([a.units.length, b.units.length], [1, 1]);
  assert.equal(aAtB._sockets.length, 2);
  assert.equal((await a.destination('role').request('who', null)).data, 'b');
  assert.equal((await b.destination('role').request('who', null)).data, 'a');
});

check('roles and name of a newer connection replace the older ones', async (network) => {
  const listener = await network.listener();
  const first = await network.raw(listener);
  const accepted = once(listener, 'unit');
  await first.handshake({ id: 'same', name: 'old', roles: ['old'], tags: { a: '1' } });
  const [unit] = await accepted;
  assert.deepEqual([unit.name, unit.getRoles()], ['old', ['old']]);
  const opened = once(listener.destination('new'), 'open');
  const second = await network.raw(listener);
  await second.handshake({ id: 'same', name: 'new', roles: ['new'], tags: { a: '2' } });
  await opened;
  assert.deepEqual([unit.name, unit.getRoles()], ['new', ['new']]);
  assert.deepEqual(listener.units.length, 1);
  assert.equal(listener.destination('old').ready, false);
});
