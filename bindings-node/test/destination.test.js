'use strict';

// Destinations: their state and events, and the ways to reach units.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { check, differs, roletalk } = require('./support/subject');

/** A dialer connected to `count` listeners that serve `role` and answer `who` with their name. */
async function several(network, count) {
  const dialer = network.peer();
  const destination = dialer.destination('role');
  const listeners = [];
  const units = [];
  for (let n = 1; n <= count; n++) {
    const listener = await network.listener({ name: `${n}` });
    listener.role('role').onRequest('who', (ctx, cb) => cb(null, listener.name));
    const { unit } = await network.join(dialer, listener);
    listeners.push(listener);
    units.push(unit);
  }
  return { dialer, destination, listeners, units };
}

const askInTurn = async (destination, times) => {
  const names = [];
  for (let n = 0; n < times; n++) names.push((await destination.request('who', null)).data);
  return names;
};

const noUnits = (error) => {
  assert.equal(String(error), 'Error: No connected units with role [nobody]');
  return true;
};

check('without units, requests and streams throw at once', (network) => {
  const destination = network.peer().destination('nobody');
  assert.throws(() => destination.request('e', null), noUnits);
  assert.throws(() => destination.request('e', null, () => assert.fail('called')), noUnits);
  assert.throws(() => destination.request({ event: 'e' }, null), noUnits);
  assert.throws(() => destination.Readable('e', null), noUnits);
  assert.throws(() => destination.Writable('e', null), noUnits);
});

check('without units, messages and surveys go nowhere', (network) => {
  const destination = network.peer().destination('nobody');
  const fail = () => assert.fail('called');
  assert.equal(destination.send('e', null), undefined);
  assert.equal(destination.send({ event: 'e' }, null), undefined);
  assert.equal(destination.broadcast('e', null), undefined);
  assert.equal(destination.survey('e', null, fail), 0);
});

differs('without units, the callback of a message is told', 'it is never called', async (network) => {
  const { dialer, unit } = await network.pair();
  const destination = dialer.destination('nobody');
  for (const event of ['e', { event: 'e' }, { event: 'e', unit }]) {
    let called = false;
    const error = await new Promise((resolve) => {
      assert.equal(destination.send(event, null, resolve), undefined);
      called = true;
    });
    assert.ok(called, 'it is called when `send` has returned');
    assert.ok(noUnits(error));
    assert.equal(error.code, 'NO_UNIT');
  }
});

check('a destination is ready at once when a unit is connected that serves it', async (network) => {
  const { dialer, unit } = await network.pair({ roles: ['a'] });
  const destination = dialer.destination('a');
  assert.equal(destination.ready, true);
  assert.deepEqual(destination.units, [unit]);
  assert.equal(dialer.destination('b').ready, false);
});

check("a unit that connects: 'open', then 'unit' of the destination, then 'unit' of the peer", async (network) => {
  const listener = await network.listener();
  listener.role('role');
  const dialer = network.peer();
  const destination = dialer.destination('role');
  const order = [];
  destination.on('open', (...args) => order.push(['open', destination.ready, ...args]));
  destination.on('unit', (unit) => order.push(['destination', unit.id, destination.units.includes(unit)]));
  dialer.on('unit', (unit) => order.push(['peer', unit.id, dialer.units.includes(unit)]));
  await network.join(dialer, listener);
  assert.deepEqual(order, [
    ['open', true],
    ['destination', listener.id, true],
    ['peer', listener.id, true],
  ]);
});

check("'open' comes with the first unit, 'unit' with each, 'close' with the loss of the last", async (network) => {
  const dialer = network.peer();
  const destination = dialer.destination('role');
  const events = [];
  for (const event of ['open', 'unit', 'close']) {
    destination.on(event, (unit) => events.push(unit ? `${event} ${unit.name}` : event));
  }
  const units = [];
  for (const name of ['a', 'b']) {
    const listener = await network.listener({ name });
    listener.role('role');
    units.push((await network.join(dialer, listener)).unit);
  }
  for (const unit of units) {
    const lost = once(unit, 'close');
    unit.close();
    await lost;
  }
  assert.deepEqual(events, ['open', 'unit a', 'unit b', 'close']);
  assert.deepEqual([destination.ready, destination.units.length], [false, 0]);
});

check('send returns the unit and calls back once the message is written', async (network) => {
  const { destination, role, unit } = await network.service();
  const received = new Promise((resolve) => role.onMessage('e', resolve));
  const error = await new Promise((resolve) => {
    assert.equal(destination.send('e', 'data', resolve), unit);
  });
  assert.equal(error ?? null, null);
  const ctx = await received;
  assert.equal(ctx.data, 'data');
});

check('send takes options instead of an event', async (network) => {
  const { destination, role, unit } = await network.service();
  const received = new Promise((resolve) => role.onMessage('e', resolve));
  assert.equal(destination.send({ event: 'e' }, 1), unit);
  assert.equal((await received).event, 'e');
});

check('messages, requests and streams take turns over the units, in order of their arrival', async (network) => {
  const { destination, units } = await several(network, 3);
  assert.deepEqual(await askInTurn(destination, 6), ['1', '2', '3', '1', '2', '3']);
  const sent = [1, 2, 3, 4].map(() => destination.send('e', null));
  assert.deepEqual(sent.map(({ name }) => name), ['1', '2', '3', '1']);
  assert.equal((await destination.request('who', null)).unit, units[1]);
});

check('a unit that is lost drops out of the turn, one that joins gets its turns', async (network) => {
  const { dialer, destination, units } = await several(network, 3);
  const lost = once(units[1], 'close');
  units[1].close();
  await lost;
  assert.deepEqual((await askInTurn(destination, 4)).sort(), ['1', '1', '3', '3']);
  const joining = await network.listener({ name: '4' });
  joining.role('role').onRequest('who', (ctx, cb) => cb(null, '4'));
  await network.join(dialer, joining);
  assert.deepEqual((await askInTurn(destination, 6)).sort(), ['1', '1', '3', '3', '4', '4']);
});

check('a unit can be named', async (network) => {
  const { destination, units } = await several(network, 3);
  for (const unit of [units[2], units[0], units[2]]) {
    const answer = await destination.request({ event: 'who', unit }, null);
    assert.equal(answer.data, unit.name);
    assert.equal(answer.unit, unit);
    assert.equal(destination.send({ event: 'e', unit }, null), unit);
  }
  assert.deepEqual(await askInTurn(destination, 3), ['1', '2', '3'], 'naming takes no turns');
});

check('a message to a unit that does not serve the role is not sent', async (network) => {
  const { dialer, unit } = await network.pair();
  const destination = dialer.destination('nobody');
  assert.equal(destination.send({ event: 'e', unit }, null), undefined);
});

check('a request to a unit that does not serve the role is asked for all the same', async (network) => {
  const { dialer, unit } = await network.pair();
  await assert.rejects(dialer.destination('nobody').request({ event: 'e', unit }, null), {
    message: 'The role "nobody" is not registered',
  });
});

check('a unit that is lost cannot be asked', async (network) => {
  const { dialer, unit } = await network.pair();
  const destination = dialer.destination('nobody');
  const lost = once(unit, 'close');
  unit.close();
  await lost;
  assert.throws(() => destination.request({ event: 'e', unit }, null), noUnits);
  assert.throws(() => destination.Readable({ event: 'e', unit }, null), noUnits);
  assert.throws(() => destination.Writable({ event: 'e', unit }, null), noUnits);
  assert.equal(destination.send({ event: 'e', unit }, null), undefined);
});

check('broadcast reaches every unit once', async (network) => {
  const { destination, listeners } = await several(network, 3);
  const received = listeners.map(
    (listener) => new Promise((resolve) => listener.role('role').onMessage('news', (ctx) => resolve(ctx.data))),
  );
  assert.equal(destination.broadcast('news', { a: 1 }), undefined);
  assert.deepEqual(await Promise.all(received), [{ a: 1 }, { a: 1 }, { a: 1 }]);
  const again = listeners.map((listener) => once(listener.role('role'), 'message'));
  destination.broadcast({ event: 'news' }, 2);
  assert.deepEqual((await Promise.all(again)).map(([ctx]) => ctx.data), [2, 2, 2]);
});

check('survey asks every unit, calls back for each answer, and returns their number', async (network) => {
  const { destination, listeners, units } = await several(network, 3);
  listeners[1].role('role').onRequest('mood', (ctx, cb) => cb(new Error('bad')));
  for (const n of [0, 2]) listeners[n].role('role').onRequest('mood', (ctx, cb) => cb(null, ctx.data + n));
  const answers = await new Promise((resolve) => {
    const collected = [];
    const count = destination.survey('mood', 10, (error, ctx) => {
      collected.push([ctx.unit.name, error === null ? ctx.data : error.message]);
      if (collected.length === 3) resolve(collected);
    });
    assert.equal(count, units.length);
  });
  assert.deepEqual(answers.sort(), [
    ['1', 10],
    ['2', 'bad'],
    ['3', 12],
  ]);
});

check('survey honours the timeout for each unit', async (network) => {
  const clock = network.clock();
  const { destination, listeners } = await several(network, 2);
  listeners[0].role('role').onRequest('slow', (ctx, cb) => cb(null, 'fast'));
  listeners[1].role('role').onRequest('slow', () => {});
  const answers = await new Promise((resolve) => {
    const collected = [];
    destination.survey({ event: 'slow', timeout: 50 }, null, (error, ctx) => {
      collected.push(error === null ? ctx.data : error.message);
      if (collected.length === 2) resolve(collected);
      else clock.advance(60);
    });
  });
  assert.deepEqual(answers, ['fast', 'Request timeout exceeded (50 ms)']);
});

check('request resolves to the context of the answer', async (network) => {
  const { destination, role, unit } = await network.service();
  role.onRequest('e', (ctx, cb) => cb(null, { got: ctx.data }));
  const ctx = await destination.request('e', 'x');
  assert.deepEqual(ctx.data, { got: 'x' });
  assert.equal(ctx.type, 'object');
  assert.equal(ctx.unit, unit);
  assert.deepEqual([ctx.origin.type, String(ctx.origin.raw)], ['object', '{"got":"x"}']);
  assert.ok(Number.isInteger(ctx.rtt) && ctx.rtt >= 0 && ctx.rtt < 10_000, `${ctx.rtt}`);
});

check('request with a callback calls it and returns nothing', async (network) => {
  const { destination, role, unit } = await network.service();
  role.onRequest('good', (ctx, cb) => cb(null, 5));
  role.onRequest('bad', (ctx, cb) => cb(new Error('no')));
  const call = (event) =>
    new Promise((resolve) => {
      assert.equal(
        destination.request(event, null, (error, ctx) => resolve({ error, ctx })),
        undefined,
      );
    });
  const good = await call('good');
  assert.equal(good.error, null);
  assert.equal(good.ctx.data, 5);
  assert.equal(good.ctx.unit, unit);
  const bad = await call('bad');
  assert.ok(bad.error instanceof Error);
  assert.equal(bad.error.message, 'no');
  assert.equal(bad.ctx.unit, unit);
  assert.equal(bad.ctx.data, 'no');
  assert.ok(bad.ctx.rtt >= 0);
});

check('answers may come in any order', async (network) => {
  const { destination, role } = await network.service();
  const waiting = [];
  role.onRequest('e', (ctx, cb) => {
    waiting.push(() => cb(null, ctx.data));
    if (waiting.length === 300) for (const answer of waiting.reverse()) answer();
  });
  const asked = Array.from({ length: 300 }, (_, n) => n);
  const answers = await Promise.all(asked.map((n) => destination.request('e', n)));
  assert.deepEqual(answers.map(({ data }) => data), asked);
});

check('requests can be made within handlers and callbacks', async (network) => {
  const { listener, dialer, destination, role, dialerUnit } = await network.service();
  dialer.role('role').onRequest('inner', (ctx, cb) => cb(null, ctx.data + 1));
  role.onRequest('outer', async (ctx, cb) => {
    const inner = await listener.destination('role').request({ event: 'inner', unit: dialerUnit }, ctx.data);
    cb(null, inner.data * 2);
  });
  assert.equal((await destination.request('outer', 20)).data, 42);
  const nested = await new Promise((resolve) =>
    destination.request('outer', 1, (error, { data }) =>
      destination.request('outer', data, (error, ctx) => resolve(ctx.data)),
    ),
  );
  assert.equal(nested, 10);
});

check('names and properties', async (network) => {
  const { dialer, destination } = await network.service();
  assert.ok(destination instanceof roletalk.Destination);
  assert.equal(destination.name, 'role');
  assert.equal(destination.peer, dialer);
  assert.deepEqual(dialer.destinations, [destination]);
});

check('a destination may have any name', (network) => {
  const peer = network.peer();
  for (const name of [undefined, '', 5]) {
    const destination = peer.destination(name);
    assert.deepEqual([destination.name, destination.ready], [name, false]);
    assert.equal(peer.destination(name), destination);
  }
});
