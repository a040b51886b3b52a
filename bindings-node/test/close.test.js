'use strict';

// What closing a peer or a unit does on both sides.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const http = require('node:http');
const { HOST } = require('./support/network');
const { check, differs } = require('./support/subject');

const WORD = 'intentionaly closed';

check('close returns the server of a listener, and nothing otherwise', async (network) => {
  const server = http.createServer();
  const given = await network.listener({ server });
  assert.equal(given.close(), server);
  const own = await network.listener();
  assert.ok(own.close() instanceof http.Server);
  assert.equal(network.peer().close(), undefined);
});

check('close calls back without an error once the listener is stopped, and its units are lost', async (network) => {
  const { listener, unit, dialerUnit } = await network.pair();
  const lost = Promise.all([once(unit, 'close'), once(dialerUnit, 'close')]);
  const error = await new Promise((resolve) => listener.close(resolve));
  assert.equal(error, undefined);
  await lost;
  assert.equal(listener.units.length, 0);
});

check('units that are sent to and closed in one turn get all of it', async (network) => {
  const listener = await network.listener();
  const text = 'x'.repeat(10_000);
  const received = Array.from({ length: 5 }, async () => {
    const peer = network.peer();
    const message = new Promise((resolve) => peer.role('extra').onMessage('note', (ctx) => resolve(ctx.data)));
    const { unit, ws } = await peer.connect(network.address(listener));
    const closed = once(ws, 'close');
    unit.on('error', (error) => assert.fail(error));
    return [await message, (await closed)[0]];
  });
  const destination = listener.destination('extra');
  while (destination.units.length < received.length) await once(destination, 'unit');
  destination.broadcast('note', text);
  for (const unit of destination.units) unit.close();
  for (const outcome of await Promise.all(received)) assert.deepEqual(outcome, [text, 4000]);
});

check('a second close calls back with an error', async (network) => {
  const listener = await network.listener();
  await new Promise((resolve) => listener.close(resolve));
  const error = await new Promise((resolve) => listener.close(resolve));
  assert.equal(error.code, 'ERR_SERVER_NOT_RUNNING');
});

check('close takes only a function', async (network) => {
  const { listener, dialer, unit } = await network.pair();
  for (const peer of [listener, dialer]) {
    for (const wrong of ['x', {}, 1]) {
      assert.throws(() => peer.close(wrong), { message: 'Argument should be a function (if provided)' });
    }
  }
  assert.ok(dialer.units.includes(unit), 'a wrong argument closes nothing');
});

check('a closed peer does not listen again', async (network) => {
  const listener = await network.listener();
  await new Promise((resolve) => listener.close(resolve));
  assert.throws(() => listener.listen(0), { message: '.listen has been called already' });
});

check('a closed listener refuses connections, and its port is free', async (network) => {
  const listener = await network.listener();
  await new Promise((resolve) => listener.close(resolve));
  await assert.rejects(network.peer().connect(network.address(listener)), (error) => {
    assert.match(String(error), /ECONNREFUSED/);
    return true;
  });
  await network.listener({ port: listener._port });
});

check('a closed dialer does not come back', async (network) => {
  const { listener, dialer, unit, dialerUnit } = await network.pair();
  let back = 0;
  listener.on('unit', ({ id }) => (back += id === dialer.id));
  const lost = Promise.all([once(unit, 'close'), once(dialerUnit, 'close')]);
  dialer.close();
  await lost;
  await network.join(network.peer(), listener);
  assert.equal(back, 0);
  assert.equal(dialer.units.length, 0);
});

check('a dialer that was closed can dial again', async (network) => {
  const { listener, dialer, unit } = await network.pair();
  const lost = once(unit, 'close');
  dialer.close();
  await lost;
  const again = await network.join(dialer, listener);
  assert.equal(again.unit.id, listener.id);
  assert.notEqual(again.unit, unit);
});

for (const [who, whom] of [
  ['dialer', 'listener'],
  ['listener', 'dialer'],
]) {
  check(`a peer that is closed (${who}) tells the other one with code 4000`, async (network) => {
    const pair = await network.pair();
    const units = { listener: pair.dialerUnit, dialer: pair.unit };
    const [socket] = units[whom]._sockets;
    const closed = once(socket, 'close');
    pair[who].close();
    const [code, reason] = await closed;
    assert.deepEqual([code, String(reason)], [4000, WORD]);
  });

  check(`a unit that is closed (by the ${who}) ends on both sides`, async (network) => {
    const pair = await network.pair();
    const units = { listener: pair.dialerUnit, dialer: pair.unit };
    const [socket] = units[whom]._sockets;
    const seen = Promise.all([once(socket, 'close'), once(units[who], 'close'), once(units[whom], 'close')]);
    assert.equal(units[who].close(), undefined);
    const [[code, reason], ...nothing] = await seen;
    assert.deepEqual([code, String(reason)], [4000, WORD]);
    assert.deepEqual(nothing, [[], []], "the event 'close' has no arguments");
    assert.equal(pair[who].units.includes(units[who]), false);
    assert.equal(pair[whom].units.includes(units[whom]), false);
    assert.deepEqual([...units[who]._sockets], []);
  });
}

check('a unit closed by its dialer does not come back', async (network) => {
  const { listener, dialer, unit, dialerUnit } = await network.pair();
  let back = 0;
  listener.on('unit', ({ id }) => (back += id === dialer.id));
  const lost = Promise.all([once(unit, 'close'), once(dialerUnit, 'close')]);
  unit.close();
  await lost;
  await network.join(network.peer(), listener);
  assert.equal(back, 0);
});

check('a unit closed by the listener is dialed again by the dialer', async (network) => {
  const { listener, dialer, unit, dialerUnit } = await network.pair();
  const back = Promise.all([once(listener, 'unit'), once(dialer, 'unit')]);
  dialerUnit.close();
  const [[newDialerUnit], [newUnit]] = await back;
  assert.equal(newDialerUnit.id, dialer.id);
  assert.equal(newUnit.id, listener.id);
  assert.notEqual(newUnit, unit);
  assert.notEqual(newDialerUnit, dialerUnit);
});

check('closing a unit twice is no error', async (network) => {
  const { unit } = await network.pair();
  const lost = once(unit, 'close');
  unit.close();
  unit.close();
  await lost;
  unit.close();
});

check("in the unit's event 'close' it is not listed any more, and its destinations are closed", async (network) => {
  const { dialer, unit, destination } = await network.service();
  const order = [];
  destination.on('close', () => order.push('destination'));
  const seen = new Promise((resolve) => {
    unit.on('close', () => resolve([dialer.units.length, destination.ready, destination.units.length]));
  });
  unit.close();
  assert.deepEqual(await seen, [0, false, 0]);
  assert.deepEqual(order, ['destination']);
});

check('a message sent before closing still arrives', async (network) => {
  const { destination, role, unit } = await network.service();
  const received = new Promise((resolve) => role.onMessage('last', (ctx) => resolve(ctx.data)));
  destination.send('last', 'word');
  unit.close();
  assert.equal(await received, 'word');
});

check('a peer closed within a handler is closed', async (network) => {
  const { listener, role, destination, unit, dialerUnit } = await network.service();
  const lost = Promise.all([once(unit, 'close'), once(dialerUnit, 'close')]);
  role.onMessage('stop', () => listener.close());
  destination.send('stop', null);
  await lost;
  assert.equal(listener.units.length, 0);
});

check('a peer that never listened closes with prepareWSServer, too', async (network) => {
  const peer = network.peer();
  peer.prepareWSServer();
  assert.equal(peer.close(), undefined);
});

differs('close calls back on a peer that only dials', 'it never does', async (network) => {
  const { dialer, unit } = await network.pair();
  const lost = once(unit, 'close');
  const error = await new Promise((resolve) => dialer.close(resolve));
  assert.equal(error, undefined);
  await lost;
  assert.equal(dialer.units.length, 0);
});

differs("the event 'close' comes when nothing is connected and nothing listens", 'it never does', async (network) => {
  const { listener, dialer } = await network.pair();
  for (const peer of [listener, dialer]) {
    const closed = once(peer, 'close');
    peer.close();
    await closed;
    assert.deepEqual(peer.units, []);
  }
});

differs('a peer that is closed stops dialing', 'its attempts go on for ever', async (network) => {
  const port = await network.unusedPort();
  const dialer = network.peer();
  await assert.rejects(dialer.connect(`ws://${HOST}:${port}`));
  dialer.close();
  let events = 0;
  dialer.on('reconnect_fail', () => events++);
  const other = network.peer();
  const failed = once(other, 'reconnect_fail');
  await assert.rejects(other.connect(`ws://${HOST}:${port}`));
  await failed;
  assert.equal(events, 0);
});
