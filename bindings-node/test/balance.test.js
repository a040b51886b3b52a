'use strict';

// Which unit gets what: round robin, by load, by key, by tag, or as a function says; for a peer, a destination, a call.

const assert = require('node:assert/strict');
const { AsyncLocalStorage } = require('node:async_hooks');
const { once } = require('node:events');
const { readFileSync } = require('node:fs');
const path = require('node:path');
const { lossOf, until } = require('./support/network');
const { beyond, roletalk } = require('./support/subject');

/** Services of the role, with these names and tags. */
async function services(network, wanted) {
  const listeners = [];
  for (const { name, tags = {}, handle = () => name } of wanted) {
    const listener = await network.listener({ name });
    for (const [tag, value] of Object.entries(tags)) listener.setTag(tag, value);
    if (handle !== null) listener.role('role').onRequest('who', handle);
    else listener.role('role');
    listener.role('role').onReadable('up', ({ readable }, cb) => {
      cb(null, name);
      readable.resume();
    });
    listeners.push(listener);
  }
  return listeners;
}

/** A client that is connected to services in this order. */
async function clientOf(network, listeners, options) {
  const client = network.peer(options);
  const destination = client.destination('role');
  const units = [];
  for (const listener of listeners) units.push((await network.join(client, listener)).unit);
  assert.deepEqual(destination.units, units);
  return { client, destination, units };
}

/** Both. Names are numbers from 1 on. */
async function several(network, count, options, more = {}) {
  const names = Array.from({ length: count }, (_, n) => `${n + 1}`);
  const listeners = await services(
    network,
    names.map((name) => ({ name, ...more[name] })),
  );
  return { listeners, ...(await clientOf(network, listeners, options)) };
}

/** Who answers, one request after the other. */
async function answers(destination, times, options = 'who') {
  let names = '';
  for (let n = 0; n < times; n++) names += (await destination.request(options)).unit.name;
  return names;
}

const rejection = (promise) =>
  promise.then(
    () => assert.fail('it was answered'),
    (error) => error,
  );

/** Nothing is left of requests. */
async function empty(peer) {
  const { slots, freeSlots } = peer._core;
  await until(() => peer.stats().busy === 0 && slots.length === freeSlots.length);
  assert.ok(peer.destinations.every(({ _ways: ways }) => ways.size === 0));
}

const sent = (units) => units.map((unit) => unit.stats().requestsSent + unit.stats().messagesSent);

// Round robin.

beyond('one unit after the other, unless something else is said', async (network) => {
  const { destination } = await several(network, 3);
  assert.equal(await answers(destination, 7), '1231231');
  assert.equal(destination.send('m').name, '2');
  assert.equal(await answers(destination, 1, { event: 'who', balance: null, prefer: undefined, key: null }), '3');
});

// By load.

/** A client of three services, the first of which does not answer before it is told. */
async function withSlow(network, options) {
  const held = [];
  const handle = (ctx, cb) => held.push(cb);
  return { held, ...(await several(network, 3, options, { 1: { handle } })) };
}

/** Asks so many times, whenever the request before is answered or held. */
async function many(destination, held, times, options = 'who') {
  const asked = [];
  let answered = 0;
  for (let n = 1; n <= times; n++) {
    asked.push(destination.request(options).then(() => answered++));
    await until(() => answered + held.length === n);
  }
  return () => {
    for (const cb of held) cb(null);
    return Promise.all(asked);
  };
}

beyond('a unit that does not answer gets few requests where it goes by load', async (network) => {
  const { client, destination, held, units } = await withSlow(network, { balance: 'least-loaded' });
  network.clock();
  const end = await many(destination, held, 100);
  assert.equal(held.length, 1);
  const [, second, third] = sent(units);
  assert.ok(second > 30 && third > 30, `${second} and ${third}`);
  await end();
  await empty(client);
});

beyond('requests of one turn of the loop count', async (network) => {
  const { client, units } = await several(network, 2);
  const destination = client.destination('role', { balance: 'least-loaded' });
  network.clock();
  const first = Array.from({ length: 10 }, () => destination.request({ event: 'who', unit: units[0] }));
  const others = Array.from({ length: 4 }, () => destination.request('who'));
  const names = (await Promise.all(others)).map(({ unit }) => unit.name);
  assert.deepEqual(names, ['2', '2', '2', '2']);
  await Promise.all(first);
});

beyond('a unit has an answer time once it has answered', async (network) => {
  const { destination, units } = await several(network, 1);
  assert.equal(units[0].stats().answerTime, null);
  await destination.request('who');
  const { answerTime } = units[0].stats();
  assert.ok(answerTime > 0 && answerTime <= 1_000, `${answerTime} ms`);
});

// By key.

beyond('keys go where they go in every language', async (network) => {
  const file = path.join(__dirname, '../../tests/data/key-placement.txt');
  const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
  const table = lines.filter((line) => !line.startsWith('#')).map((line) => line.split(' -> '));
  assert.equal(table.length, 100);
  const listeners = await services(
    network,
    [1, 2, 3, 4].map((n) => ({ name: `math-${n}` })),
  );
  const one = await clientOf(network, listeners);
  const other = await clientOf(network, [...listeners].reverse(), { balance: 'least-loaded' });
  for (const [key, name] of table) {
    assert.equal((await one.destination.request({ event: 'who', key })).unit.name, name, key);
    assert.equal(other.destination.send({ event: 'm', key: Buffer.from(key) }).name, name, key);
  }
});

beyond('only the keys of a unit that has left go elsewhere', async (network) => {
  const { destination, listeners, units } = await several(network, 3);
  const keys = Array.from({ length: 60 }, (_, n) => `key ${n}`);
  const places = () => keys.map((key) => destination.send({ event: 'm', key }).name);
  const before = places();
  assert.deepEqual(new Set(before), new Set(['1', '2', '3']));
  const lost = once(units[1], 'close');
  listeners[1].close();
  await lost;
  const after = places();
  for (const [n, name] of before.entries()) {
    if (name === '2') assert.notEqual(after[n], '2');
    else assert.equal(after[n], name);
  }
});

beyond('streams go by key as well', async (network) => {
  const { destination } = await several(network, 4);
  for (const key of ['a', 'b', 'c', new Uint8Array([0, 255])]) {
    const { name } = destination.send({ event: 'm', key });
    const [ctx] = await once(destination.Writable({ event: 'up', key }).end(), 'ready');
    assert.deepEqual([ctx.data, ctx.unit.name], [name, name]);
  }
});

beyond('bytes that are changed after the call are the key that they were', async (network) => {
  // Nobody handles it but the unit that the key goes to when all others were asked.
  const { client, destination } = await several(network, 3, undefined, { 1: { handle: null }, 2: { handle: null } });
  const bytes = Buffer.from('some key');
  const answer = destination.request({ event: 'who', key: bytes });
  bytes.fill(0);
  assert.equal((await answer).data, '3');
  await empty(client);
});

// By tag.

const ZONES = { 1: { tags: { zone: 'a', disk: 'fast' } }, 2: { tags: { zone: 'b' } }, 3: { tags: { zone: 'a' } } };

beyond('units with the preferred tag come first, and all others after them', async (network) => {
  const { client, listeners, units, destination } = await several(network, 3, undefined, ZONES);
  assert.equal(client.destination('role', { prefer: { zone: 'a' } }), destination);
  assert.equal(await answers(destination, 4), '1313');
  assert.equal(await answers(destination, 2, { event: 'who', prefer: { zone: 'a', disk: 'fast' } }), '11');
  assert.equal(await answers(destination, 2, { event: 'who', prefer: { zone: 'b' } }), '22');
  const turns = await answers(destination, 3, { event: 'who', prefer: { zone: 'c' } });
  assert.deepEqual([...turns].sort(), ['1', '2', '3']);
  const all = await answers(destination, 3, { event: 'who', prefer: {} });
  assert.deepEqual([...all].sort(), ['1', '2', '3']);
  for (const n of [0, 2]) {
    const lost = once(units[n], 'close');
    listeners[n].close();
    await lost;
  }
  assert.equal(await answers(destination, 2), '22');
});

beyond('a key stays among the preferred units', async (network) => {
  const { client, destination } = await several(network, 3, undefined, ZONES);
  client.destination('role', { prefer: { zone: 'a' } });
  const names = Array.from({ length: 40 }, (_, n) => destination.send({ event: 'm', key: `${n}` }).name);
  assert.deepEqual(new Set(names), new Set(['1', '3']));
  const others = Array.from({ length: 4 }, (_, n) => destination.send({ event: 'm', key: `${n}`, prefer: { zone: 'b' } }).name);
  assert.deepEqual(new Set(others), new Set(['2']));
});

// Functions.

beyond('a function is given those that can be asked, and says which', async (network) => {
  const { destination, units } = await several(network, 3);
  const seen = [];
  const balance = (candidates) => {
    seen.push(candidates);
    return candidates.at(-1).unit;
  };
  assert.equal(await answers(destination, 2, { event: 'who', balance }), '33');
  assert.equal(destination.send({ event: 'm', balance }), units[2]);
  const [ctx] = await once(destination.Writable({ event: 'up', balance }).end(), 'ready');
  assert.equal(ctx.data, '3');
  assert.equal(seen.length, 4);
  for (const candidates of seen) {
    assert.deepEqual(
      candidates.map(({ unit, waiting }) => [unit, waiting]),
      units.map((unit) => [unit, 0]),
    );
  }
  assert.equal(seen[0][2].answerTime, 0);
  assert.ok(seen[1][2].answerTime > 0);
  const asked = destination.request('who');
  const waiting = [];
  destination.send({
    event: 'm',
    balance(candidates) {
      for (const candidate of candidates) waiting.push(candidate.waiting);
      // What it does with them is its own affair.
      const [{ unit }] = candidates.splice(0);
      return unit;
    },
  });
  assert.deepEqual(waiting, [1, 0, 0]);
  await asked;
});

beyond('a function is asked about a single unit, and never about none', async (network) => {
  const { destination, client } = await several(network, 1);
  const balance = () => undefined;
  assert.throws(() => destination.request({ event: 'who', balance }), { code: 'NO_UNIT' });
  const fail = () => assert.fail('called');
  assert.throws(() => client.destination('nobody').request({ event: 'e', balance: fail }), { code: 'NO_UNIT' });
});

beyond('where a function wants none, it is as if there were none', async (network) => {
  const { client, destination, units } = await several(network, 2);
  for (const nothing of [undefined, null]) {
    const options = { event: 'who', balance: () => nothing, requireHeaders: true };
    for (const how of ['request', 'Readable', 'Writable']) {
      assert.throws(() => destination[how](options), { code: 'NO_UNIT' }, how);
    }
    assert.equal(destination.send(options), undefined);
    const told = await new Promise((resolve) => destination.send(options, null, resolve));
    assert.equal(told.code, 'NO_UNIT');
  }
  assert.deepEqual(sent(units), [0, 0]);
  await empty(client);
});

beyond('where a function wants none, requests and streams wait for a unit that it wants', async (network) => {
  const { client, destination, units } = await several(network, 1);
  let calls = 0;
  const balance = (candidates) => {
    calls++;
    return candidates.find(({ unit }) => unit.name === 'wanted')?.unit;
  };
  const options = { event: 'who', balance, waitForUnit: true };
  const answer = destination.request(options);
  const ready = once(destination.Writable({ ...options, event: 'up' }).end(), 'ready');
  const late = rejection(destination.request({ ...options, timeout: 1, balance: () => null }));
  assert.equal(calls, 2);
  const listeners = await services(network, [{ name: 'unwanted' }, { name: 'wanted' }]);
  for (const listener of listeners) await network.join(client, listener);
  assert.equal((await answer).data, 'wanted');
  assert.equal((await ready)[0].data, 'wanted');
  assert.equal(calls, 6);
  assert.deepEqual(sent(units), [0]);
  assert.equal((await late).code, 'TIMEOUT');
  await empty(client);
});

const JUNK = {
  'another unit': (_, [unit]) => unit,
  'a candidate': (candidates) => candidates[0],
  'a place': () => 0,
  'false': () => false,
  'a name': (candidates) => candidates[0].unit.name,
  'a promise': async (candidates) => candidates[0].unit,
};

for (const [what, choose] of Object.entries(JUNK)) {
  beyond(`a function that returns ${what}: the caller is told, and nothing is sent`, async (network) => {
    const { client, destination, units } = await several(network, 2);
    const [other] = await services(network, [{ name: 'other' }]);
    other.role('role').disable();
    const { unit } = await network.join(client, other);
    const balance = (candidates) => choose(candidates, [unit]);
    const error = {
      code: 'INVALID_ARGUMENT',
      message: 'The function that chooses a unit returned something that is no candidate',
      hint: /`unit` of one of its candidates/,
    };
    for (const how of ['request', 'send', 'Readable', 'Writable']) {
      assert.throws(() => destination[how]({ event: 'who', balance, waitForUnit: true }, null, () => {}), error, how);
    }
    assert.deepEqual(sent([...units, unit]), [0, 0, 0]);
    await empty(client);
  });
}

for (const thrown of [new Error('no'), 'no', undefined, null]) {
  beyond(`a function that throws ${thrown}: the caller is told, and nothing is sent`, async (network) => {
    const { client, destination, units } = await several(network, 2);
    const balance = () => {
      throw thrown;
    };
    const text = thrown instanceof Error ? 'no' : String(thrown);
    const check = (error) => {
      assert.deepEqual([error.code, error.cause], ['INVALID_ARGUMENT', thrown]);
      assert.equal(error.message, `The function that chooses a unit failed: ${text}`);
      return true;
    };
    for (const how of ['request', 'send', 'Readable', 'Writable']) {
      assert.throws(() => destination[how]({ event: 'who', balance, waitForUnit: true }), check, how);
    }
    assert.deepEqual(sent(units), [0, 0]);
    // All is as before.
    assert.equal(await answers(destination, 2), '12');
    await empty(client);
  });
}

beyond('a function may send, ask and declare interest', async (network) => {
  const { client, destination, units } = await several(network, 3);
  const within = [];
  const balance = (candidates) => {
    within.push(destination.send('m').name);
    within.push(destination.request('who').then(({ data }) => data));
    within.push(destination.request({ event: 'who', balance: ([{ unit }]) => unit }).then(({ data }) => data));
    client.destination('another', { balance: 'least-loaded' });
    return candidates[2].unit;
  };
  assert.equal((await destination.request({ event: 'who', balance })).data, '3');
  assert.equal(destination.send({ event: 'm', balance }), units[2]);
  assert.deepEqual(await Promise.all(within), ['1', '2', '1', '3', '1', '1']);
  await empty(client);
});

beyond('a function that asks itself without end is told so', async (network) => {
  const { client, destination } = await several(network, 2);
  const balance = () => destination.send({ event: 'm', balance });
  assert.throws(() => destination.send({ event: 'm', balance }), (error) => {
    assert.ok(error.cause instanceof RangeError);
    assert.ok(error.message.length < 200, error.message);
    return true;
  });
  assert.equal(await answers(destination, 1), '1');
  await empty(client);
});

beyond('what a function has chosen and closed goes to another unit', async (network) => {
  const { client, destination, units } = await several(network, 4);
  const offered = [];
  const closing = (candidates) => {
    offered.push(candidates.map(({ unit }) => unit.name).join(''));
    const [{ unit }] = candidates;
    if (offered.length === 1) unit.close();
    return unit;
  };
  const told = new Promise((resolve) => {
    assert.equal(destination.send({ event: 'm', balance: closing }, null, resolve), units[1]);
  });
  assert.equal((await told) ?? null, null);
  assert.deepEqual(offered.splice(0), ['1234', '234']);
  assert.equal((await destination.request({ event: 'who', balance: closing })).data, '3');
  assert.deepEqual(offered.splice(0), ['234', '34']);
  const [ctx] = await once(destination.Writable({ event: 'up', balance: closing }).end(), 'ready');
  assert.equal(ctx.data, '4');
  assert.deepEqual(offered.splice(0), ['34', '4']);
  const failed = new Promise((resolve) => destination.send({ event: 'm', balance: closing }, null, resolve));
  assert.equal((await failed).code, 'CONNECTION_LOST');
  assert.deepEqual(offered, ['4']);
  await empty(client);
});

beyond('a function may close the peer', async (network) => {
  for (const how of ['request', 'send', 'Readable']) {
    const { client, destination } = await several(network, 2);
    const balance = ([{ unit }]) => {
      client.close();
      return unit;
    };
    const outcome = new Promise((resolve) => {
      const result = destination[how]({ event: 'who', balance }, null, how === 'Readable' ? undefined : resolve);
      if (how === 'Readable') result.on('error', resolve);
    });
    assert.equal((await outcome).code, 'CONNECTION_LOST', how);
    await empty(client);
  }
});

// Going on to another unit.

/** Of two services only the second one handles anything. */
const FIRST_HAS_NONE = { 1: { handle: null } };

beyond('a function is asked again, without the unit that has not begun', async (network) => {
  const { client, destination } = await several(network, 2, undefined, FIRST_HAS_NONE);
  const storage = new AsyncLocalStorage();
  const offered = [];
  const balance = (candidates) => {
    offered.push([storage.getStore(), ...candidates.map(({ unit }) => unit.name)]);
    return candidates[0].unit;
  };
  const { data } = await storage.run('caller', () => destination.request({ event: 'who', balance }));
  assert.equal(data, '2');
  assert.deepEqual(offered, [
    ['caller', '1', '2'],
    ['caller', '2'],
  ]);
  await empty(client);
});

beyond('a function of the destination is asked again, too', async (network) => {
  const { client, destination } = await several(network, 2, undefined, FIRST_HAS_NONE);
  let calls = 0;
  client.destination('role', { balance: (candidates) => [candidates[0].unit, calls++][0] });
  assert.equal((await destination.request('who')).data, '2');
  assert.equal(calls, 2);
  await empty(client);
});

for (const [what, again, expected] of [
  ['wants none', () => undefined, { code: 'REJECTED', failure: { unhandled: true } }],
  ['throws', () => assert.fail('no more'), { code: 'INVALID_ARGUMENT', message: /^The function .* failed: no more$/ }],
  ['returns junk', () => 5, { code: 'INVALID_ARGUMENT', message: /no candidate$/ }],
]) {
  beyond(`a function that ${what} when it is asked again`, async (network) => {
    const { client, destination, units } = await several(network, 2, undefined, FIRST_HAS_NONE);
    const choose = () => {
      let calls = 0;
      return ([{ unit }]) => (calls++ === 0 ? unit : again());
    };
    await assert.rejects(destination.request({ event: 'who', balance: choose() }), expected);
    const told = new Promise((resolve) => destination.request({ event: 'who', balance: choose() }, null, resolve));
    assert.equal((await told).code, expected.code);
    const [error] = await once(destination.Readable({ event: 'none', balance: choose() }), 'error');
    assert.match(error.message, /^Unit rejected request for readable stream: /);
    assert.equal(error.code, expected.code);
    assert.deepEqual(sent(units), [3, 0]);
    await empty(client);
  });
}

beyond('a function may give up the request that it is asked about again', async (network) => {
  const { client, destination, units } = await several(network, 2, undefined, FIRST_HAS_NONE);
  for (const wants of [true, false]) {
    const controller = new AbortController();
    const { signal } = controller;
    let calls = 0;
    const balance = ([{ unit }]) => {
      if (++calls === 2) controller.abort();
      return calls === 1 || wants ? unit : undefined;
    };
    const error = await rejection(destination.request({ event: 'who', signal, balance, waitForUnit: true }));
    assert.equal(error, signal.reason);
    assert.equal(calls, 2);
    await empty(client);
  }
  assert.deepEqual(sent(units), [2, 0]);
});

beyond('a function that closes the peer when it is asked again', async (network) => {
  for (const wants of [true, false]) {
    const { client, destination } = await several(network, 2, undefined, FIRST_HAS_NONE);
    let calls = 0;
    const balance = ([{ unit }]) => {
      if (++calls === 2) client.close();
      return calls === 1 || wants ? unit : undefined;
    };
    const error = await rejection(destination.request({ event: 'who', balance, waitForUnit: true }));
    // It waits, and the end of the waiting is its outcome.
    assert.equal(error.code, 'CLOSED');
    await empty(client);
  }
});

beyond('a function that fails while a request waits ends the wait', async (network) => {
  const { client, destination } = await several(network, 1);
  let calls = 0;
  const balance = () => {
    if (++calls > 1) throw new Error('no more');
  };
  const failed = rejection(destination.request({ event: 'who', balance, waitForUnit: true }));
  const [listener] = await services(network, [{ name: '2' }]);
  await network.join(client, listener);
  assert.equal((await failed).message, 'The function that chooses a unit failed: no more');
  await empty(client);
});

beyond('it is chosen anew when a unit leaves while a request waits', async (network) => {
  const { client, destination, listeners } = await several(network, 2);
  // It wants to be asked about one only.
  const balance = (candidates) => (candidates.length === 1 ? candidates[0].unit : undefined);
  const answer = destination.request({ event: 'who', balance, waitForUnit: true });
  listeners[0].close();
  assert.equal((await answer).data, '2');
  await empty(client);
});

beyond('a request goes on to the next unit by its key, and by the preferred tag', async (network) => {
  const more = { 1: { handle: null }, 2: {}, 3: { handle: null, tags: { zone: 'a' } }, 4: { tags: { zone: 'a' } } };
  const { client, destination, units } = await several(network, 4, undefined, more);
  assert.equal((await destination.request({ event: 'who', prefer: { zone: 'a' } })).data, '4');
  assert.deepEqual(sent(units), [0, 0, 1, 1]);
  const key = Array.from({ length: 100 }, (_, n) => `${n}`).find((key) => {
    return destination.send({ event: 'm', key }) === units[0];
  });
  const { unit } = await destination.request({ event: 'who', key });
  assert.ok(unit === units[1] || unit === units[3]);
  await empty(client);
});

beyond('a request is not sent to more units than in the other languages', async (network) => {
  const more = Object.fromEntries(Array.from({ length: 9 }, (_, n) => [n + 1, { handle: null }]));
  const { client, destination, units } = await several(network, 10, undefined, more);
  assert.equal((await rejection(destination.request({ event: 'who', waitForUnit: true }))).code, 'REJECTED');
  assert.deepEqual(sent(units).sort(), [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
  await empty(client);
});

beyond('a message whose unit has just gone goes where the destination chooses', async (network) => {
  const more = { 3: { tags: { zone: 'a' } } };
  const { client, destination, listeners, units } = await several(network, 3, undefined, more);
  const heard = new Promise((resolve) => {
    for (const listener of listeners) listener.role('role').onMessage('m', () => resolve(listener.name));
  });
  client.destination('role', { prefer: { zone: 'a' } });
  // As when the client has not heard of the others, nor that the first has gone.
  destination._deleteUnit(units[1]);
  destination._deleteUnit(units[2]);
  units[0].close();
  destination.send('m', 'text');
  assert.equal(await heard, '3');
});

// What comes before what.

beyond('a call comes before its destination, and that before the peer', async (network) => {
  const last = (candidates) => candidates.at(-1).unit;
  const second = (candidates) => candidates[1].unit;
  const { client, destination } = await several(network, 3, { balance: last }, ZONES);
  assert.equal(await answers(destination, 2), '33');
  assert.equal(await answers(destination, 2, { event: 'who', balance: second }), '22');
  assert.equal(await answers(destination, 3, { event: 'who', balance: 'round-robin' }), '123');
  assert.equal(await answers(destination, 1, { event: 'who', prefer: { zone: 'b' } }), '2');
  client.destination('role', { balance: second });
  assert.equal(await answers(destination, 2), '22');
  // What is not given stays.
  client.destination('role', { prefer: { zone: 'a' } });
  assert.equal(await answers(destination, 2), '33');
  assert.equal(await answers(destination, 2, { event: 'who', balance: ([{ unit }]) => unit }), '11');
  assert.equal(await answers(destination, 2, { event: 'who', balance: 'round_robin', prefer: { zone: 'b' } }), '22');
  client.destination('role', { balance: 'round-robin', prefer: {} });
  client.destination('role');
  assert.equal([...(await answers(destination, 3))].sort().join(''), '123');
  // A key comes before any function.
  const fail = () => assert.fail('called');
  const { name } = destination.send({ event: 'm', key: 'k' });
  assert.equal(await answers(destination, 2, { event: 'who', key: 'k', balance: fail }), name + name);
});

beyond('another destination of the peer chooses as the peer does', async (network) => {
  const { client, listeners } = await several(network, 2, { balance: (candidates) => candidates.at(-1).unit });
  client.destination('role', { balance: 'round-robin' });
  for (const listener of listeners) listener.role('other').onRequest('who', () => null);
  const other = client.destination('other');
  await until(() => other.units.length === 2);
  assert.equal(await answers(other, 2), '22');
});

beyond('a unit that is given is asked, whatever else is said', async (network) => {
  const { client, destination, units } = await several(network, 2, { balance: () => assert.fail('called') });
  const options = { event: 'who', unit: units[1], balance: () => assert.fail('called'), key: 'k', prefer: { zone: 'a' } };
  assert.equal(await answers(destination, 3, options), '222');
  assert.equal(destination.send(options), units[1]);
  assert.equal(destination.send({ event: 'm', unit: units[0] }), units[0]);
  assert.equal(await units[0].request({ role: 'role', event: 'who' }).then(({ data }) => data), '1');
  await empty(client);
});

beyond('broadcasts and surveys go to all', async (network) => {
  const fail = () => assert.fail('called');
  const { client, destination, listeners } = await several(network, 2, { balance: fail });
  client.destination('role', { balance: fail, prefer: { zone: 'a' } });
  const names = [];
  for await (const { ctx } of destination.survey('who')) names.push(ctx.data);
  assert.deepEqual(names.sort(), ['1', '2']);
  const heard = listeners.map((listener) => new Promise((resolve) => listener.role('role').onMessage('m', resolve)));
  destination.broadcast('m');
  await Promise.all(heard);
});

// Mistakes.

const WRONG = {
  'a balance that there is not': [{ balance: 'fastest' }, /"fastest"/],
  'an empty balance': [{ balance: '' }, /there is no balance ""/],
  'a balance that is no text': [{ balance: 5 }, /"5"/],
  'a balance that is an object': [{ balance: Object.create(null) }, /there is no balance/],
  'a tag that is no text': [{ prefer: { zone: 5 } }, /"prefer" should be an object with a string for each tag/],
  'a tag without a value': [{ prefer: { zone: undefined } }, /"prefer"/],
  'tags that are no object': [{ prefer: 'zone' }, /"prefer"/],
  'tags as a list': [{ prefer: ['zone', 'a'] }, /"prefer"/],
  'tags as a map': [{ prefer: new Map([['zone', 'a']]) }, /"prefer"/],
};

for (const [what, [options, message]] of Object.entries(WRONG)) {
  beyond(`${what} is told of where it is given, and changes nothing`, async (network) => {
    const { client, destination, units } = await several(network, 2);
    const error = { code: 'INVALID_ARGUMENT', message };
    assert.throws(() => client.destination('role', options), error);
    assert.throws(() => client.destination('new', options), error);
    for (const how of ['send', 'request', 'Readable', 'Writable']) {
      assert.throws(() => destination[how]({ event: 'who', ...options }, null), error, how);
    }
    if (options.balance !== undefined) {
      assert.throws(() => new roletalk.Peer(options), error);
      if (options.balance === 'fastest') assert.throws(() => new roletalk.Peer(options), { hint: /"least_loaded"/ });
    }
    assert.deepEqual(client.destinations, [destination]);
    assert.deepEqual(sent(units), [0, 0]);
    assert.equal(await answers(destination, 3), '121');
    await empty(client);
  });
}

for (const key of [5, {}, [], true, new Float64Array(1)]) {
  beyond(`a key that is ${Object.prototype.toString.call(key)} is told of`, async (network) => {
    const { destination, units } = await several(network, 2);
    const error = { code: 'INVALID_ARGUMENT', message: 'The option "key" should be a string or bytes' };
    for (const how of ['send', 'request', 'Readable', 'Writable']) {
      assert.throws(() => destination[how]({ event: 'who', key }, null), error, how);
    }
    assert.deepEqual(sent(units), [0, 0]);
  });
}

beyond('headers that cannot be sent are told of, with a key as well', async (network) => {
  const { client, destination, units } = await several(network, 2);
  const error = { code: 'INVALID_ARGUMENT' };
  for (const balance of [undefined, ([{ unit }]) => unit]) {
    const options = { event: 'm', key: balance ? undefined : 'k', balance, headers: { 'not a name': 'x' } };
    assert.throws(() => destination.send(options, null, () => assert.fail('called')), error);
    assert.throws(() => destination.send({ ...options, headers: {}, signal: AbortSignal.abort() }), { name: 'AbortError' });
  }
  assert.deepEqual(sent(units), [0, 0]);
  await empty(client);
});

// Messages that are sent at once.

beyond('messages with a key keep their order among those without, and their callbacks hear of them', async (network) => {
  const { client, destination, listeners } = await several(network, 1);
  const heard = [];
  const all = new Promise((resolve) => {
    listeners[0].role('role').onMessage('m', ({ data, headers }) => {
      heard.push([data.length, headers.h]);
      if (heard.length === 400) resolve();
    });
  });
  const told = [];
  const expected = [];
  for (let n = 0; n < 400; n++) {
    // Some of them are too large for the memory that commands share.
    const data = 'x'.repeat(n % 50 === 0 ? 100_000 + n : n);
    const headers = n % 3 === 0 ? { h: `${n}` } : undefined;
    expected.push([data.length, headers?.h]);
    told.push(
      new Promise((resolve, reject) => {
        const options = { event: 'm', key: n % 2 === 0 ? `${n}` : undefined, headers };
        destination.send(options, data, (error) => (error ? reject(error) : resolve()));
      }),
    );
  }
  await Promise.all([all, ...told]);
  assert.deepEqual(heard, expected);
  await empty(client);
});

beyond('a message with a key that its unit cannot take is an error of its callback', async (network) => {
  const { client, destination } = await several(network, 1);
  const told = new Promise((resolve) => {
    destination.send({ event: 'm', key: 'k' }, Buffer.alloc(101 << 20), resolve);
  });
  assert.equal((await told).code, 'TOO_LARGE');
  await empty(client);
});

beyond('a unit that drains is no candidate', async (network) => {
  const { destination, listeners, units } = await several(network, 2);
  const lost = lossOf(units[0]._sockets[0]);
  const drained = listeners[0].drain();
  await until(() => destination.units.length === 1);
  const seen = [];
  const balance = (candidates) => {
    seen.push(candidates.length);
    return candidates[0].unit;
  };
  assert.equal((await destination.request({ event: 'who', balance })).data, '2');
  assert.deepEqual(seen, [1]);
  await drained;
  await lost;
});
