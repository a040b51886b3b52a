'use strict';

// Peers introduce each other. The teller dialed the subject; the newcomer connects to the teller.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { FRAME } = require('./support/raw');
const { HOST } = require('./support/network');
const { beyond, check, differs } = require('./support/subject');

/** A subject that serves `role`, and a teller that has dialed it. */
async function teller(network, { friendly } = {}) {
  const subject = await network.listener({ name: 'subject' });
  subject.role('role').onRequest('who', (ctx, cb) => cb(null, 'subject'));
  const told = await network.listener({ name: 'teller', friendly });
  told.role('other').onRequest('e', (ctx, cb) => cb(null, null));
  await network.join(told, subject);
  return { subject, teller: told };
}

/** Gives a dial that was begun before the time that a whole other one takes. */
async function settle(network, newcomer, subject) {
  await newcomer.destination('other').request('e', null);
  await network.join(network.peer({ friendly: false }), subject);
}

check('a newcomer is told of whom the teller has dialed, and dials it', async (network) => {
  const { subject, teller: middle } = await teller(network);
  const newcomer = network.peer({ name: 'newcomer' });
  const destination = newcomer.destination('role');
  const opened = once(destination, 'unit');
  const accepted = once(subject, 'unit');
  await newcomer.connect(network.address(middle));
  const [unit] = await opened;
  assert.equal(unit.id, subject.id);
  assert.equal((await accepted)[0].id, newcomer.id);
  assert.equal((await destination.request('who', null)).data, 'subject');
  assert.deepEqual(newcomer.units.map(({ name }) => name).sort(), ['subject', 'teller']);
});

check('the introduced connection does without the teller', async (network) => {
  const { subject, teller: middle } = await teller(network);
  const newcomer = network.peer();
  const destination = newcomer.destination('role');
  const opened = once(destination, 'unit');
  await newcomer.connect(network.address(middle));
  await opened;
  const gone = newcomer.units.map((unit) => unit.id === middle.id && once(unit, 'close')).filter(Boolean);
  middle.close();
  await Promise.all(gone);
  assert.equal((await destination.request('who', null)).data, 'subject');
  assert.ok(subject.units.some(({ id }) => id === newcomer.id));
});

check('an unfriendly newcomer dials nobody', async (network) => {
  const { subject, teller: middle } = await teller(network);
  const newcomer = network.peer({ friendly: false });
  newcomer.destination('role');
  await newcomer.connect(network.address(middle));
  await settle(network, newcomer, subject);
  assert.deepEqual(newcomer.units.map(({ name }) => name), ['teller']);
});

check('a newcomer without a destination of those roles dials nobody', async (network) => {
  const { subject, teller: middle } = await teller(network);
  const newcomer = network.peer();
  await newcomer.connect(network.address(middle));
  await settle(network, newcomer, subject);
  newcomer.destination('role');
  assert.deepEqual(newcomer.units.map(({ name }) => name), ['teller']);
});

check('a unit that is connected already is not dialed again', async (network) => {
  const { subject, teller: middle } = await teller(network);
  const newcomer = network.peer();
  newcomer.destination('role');
  const { unit } = await network.join(newcomer, subject);
  await newcomer.connect(network.address(middle));
  await settle(network, newcomer, subject);
  assert.equal(unit._sockets.length, 1);
});

check('the introduction holds id, address as dialed, and roles', async (network) => {
  const { subject, teller: middle } = await teller(network);
  const raw = await network.raw(middle);
  await raw.handshake();
  const introduction = JSON.parse((await raw.message(FRAME.acquaint)).subarray(1));
  assert.deepEqual(introduction, { id: subject.id, address: network.address(subject), roles: ['role'] });
});

check('an introduction by another implementation is followed', async (network) => {
  const subject = await network.listener();
  subject.role('role');
  const listener = await network.listener();
  const opened = once(listener.destination('role'), 'unit');
  const raw = await network.raw(listener);
  await raw.handshake({ roles: [] });
  raw.json(FRAME.acquaint, { id: subject.id, address: network.address(subject), roles: ['role'] });
  assert.equal((await opened)[0].id, subject.id);
});

check('others learn of a newcomer that was dialed and serves several roles', async (network) => {
  const middle = await network.listener({ name: 'teller' });
  const waiting = network.peer({ name: 'waiting' });
  const destination = waiting.destination('b');
  await network.join(waiting, middle);
  const newcomer = await network.listener({ name: 'newcomer' });
  newcomer.role('a');
  newcomer.role('b');
  const opened = once(destination, 'unit');
  await network.join(middle, newcomer);
  assert.equal((await opened)[0].id, newcomer.id);
});

differs(
  'nobody is told of a peer whose address is not known',
  'it sends an introduction without an address, of which its own kind dies',
  async (network) => {
    const middle = await network.listener();
    middle.role('other').onRequest('e', (ctx, cb) => cb(null, 'end'));
    const raw = await network.raw(middle);
    await raw.handshake({ id: 'first', roles: [] });
    const newcomer = network.peer();
    newcomer.role('a');
    newcomer.role('b');
    await network.join(newcomer, middle);
    raw.ask('other', 'e', '');
    const types = [];
    while (types.at(-1) !== FRAME.answer) types.push((await raw.next()).payload[0]);
    assert.ok(!types.includes(FRAME.acquaint));
  },
);

/** A listener that wants `role` and is told of this address; whether it ignores it, or what it dials. */
async function tells(network, options, address) {
  const listener = network.peer(options);
  await listener.listen({ port: 0, host: HOST });
  listener.role('other').onRequest('e', (ctx, cb) => cb(null, 'end'));
  listener.destination('role');
  const raw = await network.raw(listener);
  await raw.handshake({ roles: [] });
  raw.json(FRAME.acquaint, { id: 'told', address, roles: ['role'] });
  // What it is told before is done before this is answered.
  raw.ask('other', 'e', '');
  await raw.message(FRAME.answer);
  return listener;
}

beyond('what is not for the teller to tell is ignored and counted', async (network) => {
  const subject = await network.listener();
  subject.role('role');
  for (const address of ['ws://169.254.169.254/latest/meta-data', 'ws://127.0.0.1:22', 'ws://[::]:9000', 'ws://h:70000']) {
    const listener = await tells(network, {}, address);
    assert.equal(listener.stats().addressesIgnored, 1, address);
  }
  const refused = await tells(network, { acquaintanceNetworks: ['public', '10.0.0.0/8'] }, network.address(subject));
  assert.equal(refused.stats().addressesIgnored, 1);
  const elsewhere = await tells(network, { acquaintancePorts: [9000, '9100-9200'] }, 'ws://127.0.0.1:8999');
  assert.equal(elsewhere.stats().addressesIgnored, 1);
  const wide = await tells(network, { acquaintanceNetworks: 'loopback', acquaintancePorts: 'any' }, network.address(subject));
  assert.equal(wide.stats().addressesIgnored, 0);
  assert.throws(() => network.peer({ acquaintanceNetworks: 'intranet' }), /no network of acquaintance/);
  assert.throws(() => network.peer({ acquaintancePorts: 0 }), /no port of acquaintance/);
  assert.throws(() => network.peer({ acquaintancePorts: {} }), { code: 'INVALID_ARGUMENT' });
});

beyond('a told name is judged by what it resolves to', async (network) => {
  const subject = await network.listener();
  subject.role('role');
  const address = `ws://localhost:${subject._port}`;
  const inner = await tells(network, {}, address);
  if (inner.units.length < 2) await once(inner, 'unit');
  assert.equal(inner.stats().addressesIgnored, 0);
  const outer = await tells(network, { acquaintanceNetworks: 'public' }, address);
  while (outer.stats().addressesIgnored === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.equal(subject.units.length, 1);
});
