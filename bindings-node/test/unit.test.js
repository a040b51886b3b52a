'use strict';

// What a unit tells of the remote peer.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { check, differs } = require('./support/subject');

check('both sides see id and name of the other', async (network) => {
  const { listener, dialer, unit, dialerUnit } = await network.pair();
  assert.deepEqual([unit.id, unit.name], [listener.id, 'listener']);
  assert.deepEqual([dialerUnit.id, dialerUnit.name], [dialer.id, 'dialer']);
});

check('a unit without a name has an empty one', async (network) => {
  const { unit } = await network.join(network.peer(), await network.listener());
  assert.equal(unit.name, '');
});

check('meta tells of the other process', async (network) => {
  const before = Date.now();
  const { unit } = await network.pair();
  assert.deepEqual(Object.keys(unit.meta), ['os', 'runtime', 'time', 'uptime', 'protocol']);
  const { os, runtime, time, uptime, protocol } = unit.meta;
  assert.equal(os, process.platform);
  assert.equal(runtime, `nodejs ${process.version}`);
  assert.ok(time >= before && time <= Date.now(), `${time}`);
  assert.ok(Number.isInteger(uptime) && uptime >= 0 && uptime <= Date.now() - before, `${uptime}`);
  assert.equal(protocol, '2.0.0');
});

check('getRoles lists the active roles, in the order of their creation, and follows changes', async (network) => {
  const listener = await network.listener();
  listener.role('b');
  listener.role('a');
  const dialer = network.peer();
  const { unit, peerUnit } = await network.join(dialer, listener);
  assert.deepEqual(unit.getRoles(), ['b', 'a']);
  assert.deepEqual(peerUnit.getRoles(), []);

  const destination = dialer.destination('c');
  const opened = once(destination, 'open');
  listener.role('c');
  await opened;
  assert.deepEqual(unit.getRoles(), ['b', 'a', 'c']);

  const closed = once(destination, 'close');
  listener.role('b').disable();
  listener.role('c').disable();
  await closed;
  assert.deepEqual(unit.getRoles(), ['a']);
});

check('the dialer announces its roles, too', async (network) => {
  const { listener, dialer, dialerUnit } = await network.pair();
  const opened = once(listener.destination('d'), 'open');
  dialer.role('d');
  await opened;
  assert.deepEqual(dialerUnit.getRoles(), ['d']);
});

check('getTags gives a copy of the tags that were set when the peers connected', async (network) => {
  const listener = await network.listener();
  const dialer = network.peer();
  listener.setTag('zone', 'a');
  listener.setTag('größe', '大');
  const { unit, peerUnit } = await network.join(dialer, listener);
  listener.setTag('zone', 'b');
  assert.deepEqual(unit.getTags(), { zone: 'a', größe: '大' });
  assert.deepEqual(peerUnit.getTags(), {});
  unit.getTags().zone = 'c';
  assert.equal(unit.getTags().zone, 'a');
});

check('a unit is one object as long as it is connected', async (network) => {
  const { listener, dialer, unit, dialerUnit } = await network.pair();
  assert.equal(dialer.units[0], unit);
  assert.equal(listener.units[0], dialerUnit);
  assert.equal(dialer.units[0], unit);
});

check('what a unit knew stays readable after it has closed', async (network) => {
  const { listener, unit } = await network.pair({ roles: ['r'] });
  const lost = once(unit, 'close');
  unit.close();
  await lost;
  assert.deepEqual([unit.id, unit.name, unit.getRoles()], [listener.id, 'listener', ['r']]);
  assert.equal(unit.meta.protocol, '2.0.0');
});

differs('an inactive role is not listed from the start', 'it lists inactive roles in the handshake', async (network) => {
  const listener = await network.listener();
  listener.role('on');
  listener.role('off', false);
  const dialer = network.peer();
  const { unit } = await network.join(dialer, listener);
  assert.deepEqual(unit.getRoles(), ['on']);
  assert.equal(dialer.destination('off').ready, false);
});
