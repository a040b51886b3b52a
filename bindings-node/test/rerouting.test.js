'use strict';

// What a unit has surely not begun goes on to the next one; requests and streams can wait for a unit; a peer that
// drains leaves without loss.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { until } = require('./support/network');
const { OPCODE } = require('./support/raw');
const { beyond, roletalk } = require('./support/subject');

/** A client, and services that it is connected to in this order. */
async function services(network, count) {
  const client = network.peer({ name: 'client' });
  const destination = client.destination('role');
  const roles = [];
  const units = [];
  for (let n = 0; n < count; n++) {
    const listener = await network.listener({ name: `${n}` });
    roles.push(listener.role('role'));
    units.push((await network.join(client, listener)).unit);
  }
  assert.deepEqual(destination.units, units);
  return { client, destination, roles, units };
}

/** Two of them, of which only the second has handlers. The first is asked first. */
async function pair(network) {
  const { client, destination, roles, units } = await services(network, 2);
  return { client, destination, role: roles[1], first: units[0], second: units[1] };
}

const rerouted = (units) => units.map((unit) => unit.stats().requestsRerouted);

/** Nothing is left of requests, once the engine has said so of those that were given up. */
async function empty(peer) {
  const { slots, freeSlots, streams } = peer._core;
  await until(() => peer.stats().busy === 0 && slots.length === freeSlots.length);
  assert.ok(streams.every((stream) => stream === undefined));
  assert.ok(peer.destinations.every(({ _ways: ways }) => ways.size === 0));
}

/** What a promise is rejected with. */
const rejection = (promise) =>
  promise.then(
    () => assert.fail('it was answered'),
    (error) => error,
  );

beyond('services are replaced one after the other, and no request fails or is handled twice', async (network) => {
  const client = network.peer();
  const destination = client.destination('role');
  const handled = [];
  const start = async () => {
    const service = await network.listener();
    service.role('role').onRequest('e', async ({ data }) => {
      handled.push(data);
      for (let turns = data % 7; turns > 0; turns--) await new Promise(setImmediate);
      return data;
    });
    const before = destination.units.length;
    await client.connect(network.address(service), { permanent: false });
    await until(() => destination.units.length > before);
    return service;
  };
  const running = [await start(), await start(), await start()];
  let ends = false;
  let asked = 0;
  const ask = async () => {
    while (!ends) {
      const id = asked++;
      assert.equal((await destination.request('e', id)).data, id);
    }
  };
  const asking = Array.from({ length: 32 }, ask);
  for (let n = 0; n < 6; n++) {
    running.push(await start());
    await running.shift().drain();
    const before = handled.length;
    await until(() => handled.length > before + 100);
  }
  ends = true;
  await Promise.all(asking);
  assert.equal(handled.length, asked);
  assert.equal(new Set(handled).size, asked);
  await empty(client);
});

for (const [what, data] of [
  ['text', 'text'],
  ['an object', { a: [1] }],
  ['a number', 1.5],
  ['nothing', null],
  ['true', true],
  ['long text', 'é'.repeat(40_000)],
]) {
  beyond(`${what} goes on as it was given`, async (network) => {
    const { client, destination, role, first, second } = await pair(network);
    role.onRequest('e', (ctx) => ctx.data);
    const ctx = await destination.request('e', data);
    assert.deepEqual([ctx.data, ctx.unit], [data, second]);
    assert.deepEqual(rerouted([first, second]), [1, 0]);
    await empty(client);
  });
}

for (const size of [10, 100_000]) {
  beyond(`${size} bytes that are changed after the call go on as they were`, async (network) => {
    const { destination, role } = await pair(network);
    role.onRequest('e', (ctx) => ctx.data);
    role.onReadable('s', ({ data, readable }, cb) => {
      cb(null, data);
      readable.resume();
    });
    for (const ask of [
      (data) => destination.request('e', data),
      (data) => once(destination.Writable('s', data).end(), 'ready').then(([ctx]) => ctx),
    ]) {
      const bytes = Buffer.alloc(size, 7);
      const answer = ask(bytes);
      bytes.fill(0);
      assert.deepEqual((await answer).data, Buffer.alloc(size, 7));
    }
  });
}

beyond('headers, trace context and time limit go along', async (network) => {
  const { destination, role } = await pair(network);
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  role.onRequest('e', ({ headers, traceparent, remaining, setHeader }) => {
    setHeader('by', 'second');
    return [headers.name, traceparent, remaining() <= 60_000];
  });
  const ctx = await destination.request({ event: 'e', headers: { name: 'value' }, traceparent, timeout: 60_000 });
  assert.deepEqual(ctx.data, ['value', traceparent, true]);
  assert.equal(ctx.headers.by, 'second');
});

beyond('callbacks get the answer of the unit that it came to', async (network) => {
  const { destination, role, second } = await pair(network);
  role.onRequest('e', () => 'answer');
  const ctx = await new Promise((resolve, reject) => {
    destination.request('e', null, (error, ctx) => (error ? reject(error) : resolve(ctx)));
  });
  assert.deepEqual([ctx.data, ctx.unit], ['answer', second]);
});

beyond('what is meant for a unit stays there, and so do surveys', async (network) => {
  const { client, destination, role, first } = await pair(network);
  let handled = 0;
  role.onRequest('e', () => ++handled);
  const error = await rejection(destination.request({ event: 'e', unit: first }));
  assert.deepEqual([error.code, error.failure.unhandled], ['REJECTED', true]);
  const [failure] = await once(destination.Readable({ event: 'e', unit: first }), 'error');
  assert.equal(failure.code, 'REJECTED');
  const codes = [];
  for await (const { error } of destination.survey('e')) codes.push(error?.code);
  assert.deepEqual(codes.sort(), ['REJECTED', undefined]);
  assert.equal(handled, 1);
  await empty(client);
});

beyond('what all reject as not handled fails as it does with one unit', async (network) => {
  const { client, destination, units } = await services(network, 3);
  const alone = await rejection(destination.request({ event: 'e', unit: units[0] }));
  const error = await rejection(destination.request('e'));
  for (const name of ['code', 'message', 'hint', 'failure']) assert.deepEqual(error[name], alone[name]);
  assert.deepEqual(rerouted(units).sort(), [0, 1, 1]);
  assert.deepEqual(
    units.map((unit) => unit.stats().requestsSent),
    [2, 1, 1],
  );
  await empty(client);
});

beyond('what a handler rejects goes nowhere else', async (network) => {
  const { destination, roles } = await services(network, 2);
  let handled = 0;
  for (const role of roles) {
    role.onRequest('e', () => {
      handled++;
      throw new roletalk.HandlerError('no');
    });
  }
  assert.equal((await rejection(destination.request('e'))).message, 'no');
  assert.equal(handled, 1);
});

beyond('streams go on to the next unit', async (network) => {
  const { client, destination, role, second } = await pair(network);
  const read = new Promise((resolve) => {
    role.onReadable('e', async ({ data, readable }, cb) => {
      cb(null, `reads ${data}`);
      const chunks = await readable.toArray();
      resolve(String(Buffer.concat(chunks)));
    });
  });
  role.onWritable('e', ({ data, writable }, cb) => {
    cb(null, `writes ${data}`);
    writable.end('written');
  });
  const writable = destination.Writable('e', 1);
  writable.end('some text');
  const [accepted] = await once(writable, 'ready');
  assert.deepEqual([accepted.data, accepted.unit], ['reads 1', second]);
  assert.equal(await read, 'some text');
  // The turn is the first one's again.
  const readable = destination.Readable('e', 2);
  const [offered] = await once(readable, 'ready');
  assert.deepEqual([offered.data, offered.unit], ['writes 2', second]);
  assert.equal(String(Buffer.concat(await readable.toArray())), 'written');
  await empty(client);
});

beyond('a stream that all reject fails once', async (network) => {
  const { client, destination } = await services(network, 2);
  const [error] = await once(destination.Writable('e'), 'error');
  assert.equal(error.code, 'REJECTED');
  assert.match(error.message, /^Unit rejected request for writable stream: /);
  await empty(client);
});

beyond('who gives up reaches the unit that it went on to', async (network) => {
  const { client, destination, role, second } = await pair(network);
  const reasons = [];
  const asked = [];
  role.onRequest('e', async ({ signal }) => {
    asked.push(signal);
    await once(signal, 'abort');
    reasons.push(signal.reason.reason);
  });
  role.onReadable('e', ({ signal, readable }) => {
    asked.push(signal);
    signal.addEventListener('abort', () => reasons.push(signal.reason.reason));
    readable.on('error', () => {});
  });
  const controller = new AbortController();
  const { signal } = controller;
  const given = new Promise((resolve) => {
    destination.request({ event: 'e', signal }, null, (error, ctx) => resolve([error, ctx.unit]));
  });
  const failed = rejection(destination.request({ event: 'e', signal }));
  const writable = destination.Writable('e');
  await until(() => asked.length === 3);
  controller.abort(new Error('enough'));
  writable.destroy();
  assert.deepEqual(await given, [signal.reason, second]);
  assert.equal(await failed, signal.reason);
  await until(() => reasons.length === 3);
  assert.deepEqual(new Set(reasons), new Set(['requester']));
  await empty(client);
});

beyond('what is given up before it is rejected goes nowhere', async (network) => {
  const { client, destination, role, first, second } = await pair(network);
  role.onRequest('e', () => assert.fail('called'));
  const controller = new AbortController();
  const failed = rejection(destination.request({ event: 'e', signal: controller.signal }));
  await until(() => first.stats()?.requestsSent === 1);
  controller.abort();
  assert.equal(await failed, controller.signal.reason);
  assert.deepEqual([second.stats().requestsSent, first.stats().requestsRerouted], [0, 0]);
  await empty(client);
});

beyond('all attempts have one time limit', async (network) => {
  const { destination, role, first, second } = await pair(network);
  const clock = network.clock();
  const asked = new Promise((resolve) => {
    // Nobody answers.
    role.onRequest('e', ({ remaining }, cb) => resolve([remaining(), cb]));
  });
  const failed = rejection(destination.request({ event: 'e', timeout: 100 }));
  assert.equal(first.stats().requestsSent, 1);
  // It is on its way.
  await clock.jump(60);
  const [remaining] = await asked;
  // Whole milliseconds travel, of a time that goes on meanwhile.
  assert.ok(remaining > 0 && remaining <= 40, `${remaining} ms`);
  await clock.advance(60);
  const error = await failed;
  assert.deepEqual([error.code, error.message], ['TIMEOUT', 'Request timeout exceeded (100 ms)']);
  assert.deepEqual(rerouted([first, second]), [1, 0]);
});

beyond('what is rejected when the time is over goes nowhere', async (network) => {
  const { destination, first, second } = await pair(network);
  const clock = network.clock();
  const [request, stream] = ['request', 'Readable'].map((how) => destination[how]({ event: 'e', timeout: 100 }));
  const failed = rejection(request);
  const broken = once(stream, 'error');
  assert.equal(first.stats().requestsSent + second.stats().requestsSent, 2);
  await clock.jump(200);
  assert.equal((await failed).code, 'TIMEOUT');
  assert.equal((await broken)[0].code, 'TIMEOUT');
  assert.deepEqual(rerouted([first, second]), [0, 0]);
});

beyond('what is sent to a unit that has just gone goes to another one', async (network) => {
  const { client, destination, role, first, second } = await pair(network);
  const heard = new Promise((resolve) => role.onMessage('m', ({ data }) => resolve(data)));
  // As when the client has not heard of it.
  destination._deleteUnit(second);
  first.close();
  const sent = new Promise((resolve) => destination.send('m', 'text', resolve));
  assert.equal(await heard, 'text');
  assert.equal((await sent) ?? null, null);
  await empty(client);
});

// Waiting for a unit.

/** A client that waits for a service, and the way to start that. */
function waiting(network, options) {
  const client = network.peer();
  const start = async (define) => {
    const listener = await network.listener();
    define(listener.role('role'));
    return network.join(client, listener);
  };
  return { client, destination: client.destination('role', options), start };
}

const EVENT = { event: 'e', waitForUnit: true };

beyond('requests and streams wait for a unit', async (network) => {
  const { client, destination, start } = waiting(network);
  const answers = [
    destination.request(EVENT, 1),
    new Promise((resolve) => destination.request({ ...EVENT, timeout: 60_000 }, 2, (error, ctx) => resolve(ctx))),
    destination.request({ ...EVENT, signal: new AbortController().signal, headers: { a: 'b' } }, 3),
    once(destination.Writable(EVENT, 4).end(), 'ready').then(([ctx]) => ctx),
  ];
  const { unit } = await start((role) => {
    role.onRequest('e', ({ data, headers }) => [data, headers.a ?? null]);
    role.onReadable('e', ({ data, readable }, cb) => {
      cb(null, data);
      readable.resume();
    });
  });
  const contexts = await Promise.all(answers);
  assert.deepEqual(
    contexts.map((ctx) => ctx.data),
    [[1, null], [2, null], [3, 'b'], 4],
  );
  for (const ctx of contexts) assert.equal(ctx.unit, unit);
  await empty(client);
});

beyond('a destination can have all wait that does not say otherwise', async (network) => {
  const { client, destination, start } = waiting(network, { waitForUnit: true });
  assert.equal(client.destination('role'), destination);
  const answer = destination.request('e', 1);
  assert.throws(() => destination.request({ event: 'e', waitForUnit: false }), { code: 'NO_UNIT' });
  await start((role) => role.onRequest('e', ({ data }) => data));
  assert.equal((await answer).data, 1);
  client.destination('role', { waitForUnit: false });
  client.destination('role');
  assert.equal(destination._waits, false);
});

beyond('what is meant for a unit does not wait', async (network) => {
  const { listener, dialer } = await network.pair();
  const [unit] = dialer.units;
  const lost = once(unit, 'close');
  listener.close();
  await lost;
  const destination = dialer.destination('role');
  assert.throws(() => destination.request({ ...EVENT, unit }), { code: 'NO_UNIT' });
});

beyond('the wait for a unit has the time of the request', async (network) => {
  const { client, destination } = waiting(network);
  const clock = network.clock();
  const late = rejection(destination.request(EVENT));
  const failed = rejection(destination.request({ ...EVENT, timeout: 100 }));
  const broken = once(destination.Readable({ ...EVENT, timeout: 100 }), 'error');
  await clock.advance(99);
  assert.equal(destination._ways.size, 3);
  await clock.advance(2);
  const error = await failed;
  assert.deepEqual([error.code, error.message], ['TIMEOUT', 'Request timeout exceeded (100 ms)']);
  assert.match(error.hint, /role/);
  assert.equal((await broken)[0].code, 'TIMEOUT');
  await clock.advance(300_000);
  assert.equal((await late).message, 'Request timeout exceeded (300000 ms)');
  await empty(client);
});

beyond('the time that was spent with waiting is over', async (network) => {
  const { destination, start } = waiting(network);
  const clock = network.clock();
  const answer = destination.request({ ...EVENT, timeout: 1_000 });
  await clock.advance(600);
  await start((role) => role.onRequest('e', ({ remaining }) => remaining()));
  assert.equal((await answer).data, 400);
});

beyond('who gives up waits no more', async (network) => {
  const { client, destination, start } = waiting(network);
  const controller = new AbortController();
  const { signal } = controller;
  const failed = rejection(destination.request({ ...EVENT, signal }));
  const stream = destination.Readable({ ...EVENT, signal });
  const broken = once(stream, 'error');
  const closed = destination.Writable(EVENT);
  controller.abort();
  closed.destroy();
  assert.equal(await failed, signal.reason);
  assert.deepEqual(await broken, [signal.reason]);
  await empty(client);
  await assert.rejects(destination.request({ ...EVENT, signal }), signal.reason);
  const { unit } = await start((role) => role.onRequest('e', () => assert.fail('called')));
  assert.equal(unit.stats().requestsSent, 0);
});

beyond('the end of the peer ends the wait', async (network) => {
  const { client, destination } = waiting(network);
  const failed = rejection(destination.request(EVENT));
  let told = false;
  const called = new Promise((resolve) => {
    destination.request(EVENT, null, (error) => {
      told = true;
      resolve(error);
    });
  });
  const broken = once(destination.Readable(EVENT), 'error');
  client.close();
  assert.equal(told, false);
  for (const error of [await failed, await called, (await broken)[0]]) assert.equal(error.code, 'CLOSED');
  assert.equal((await rejection(destination.request(EVENT))).code, 'CLOSED');
  const [error] = await once(destination.Writable(EVENT), 'error');
  assert.equal(error.code, 'CLOSED');
  await empty(client);
});

beyond('what the only unit has not begun waits for another one', async (network) => {
  const { client, destination, start } = waiting(network);
  await start(() => {});
  const answer = destination.request(EVENT, 'text');
  await until(() => destination._ways.size === 1);
  const { unit } = await start((role) => role.onRequest('e', ({ data }) => data));
  const ctx = await answer;
  assert.deepEqual([ctx.data, ctx.unit], ['text', unit]);
  await empty(client);
});

beyond('a request to a unit that has just gone waits for the next one', async (network) => {
  const { client, destination, start } = waiting(network);
  const { unit } = await start(() => {});
  unit.close();
  const answer = destination.request(EVENT, 'text');
  await start((role) => role.onRequest('e', ({ data }) => data));
  assert.equal((await answer).data, 'text');
  await empty(client);
});

beyond('a handler that is given up waits no more for a unit', async (network) => {
  const { listener, dialer, role, destination } = await network.service();
  const back = listener.destination('back', { waitForUnit: true });
  // Without a unit that offers a role, nothing is inherited.
  dialer.role('any');
  await until(() => listener.units[0].getRoles().length === 1);
  const failed = new Promise((resolve) => {
    role.onRequest('e', () => rejection(back.request('e')).then(resolve));
  });
  const controller = new AbortController();
  const given = rejection(destination.request({ event: 'e', signal: controller.signal }));
  await until(() => back._ways.size === 1);
  controller.abort();
  assert.equal((await failed).code, 'CANCELLED');
  await given;
  assert.equal(back._ways.size, 0);
});

// Draining.

beyond('a peer that has nothing to do is drained as soon as its units have answered', async (network) => {
  const { listener } = await network.service();
  const clock = network.clock();
  const drained = listener.drain();
  // The second that it waits at most is not even begun.
  await until(() => listener.stats().busy === 0);
  await clock.advance(20);
  await drained;
});

beyond('a peer whose units have everything is drained although none closes its side', async (network) => {
  const listener = await network.listener();
  const opened = once(listener, 'unit');
  const raw = await network.raw(listener);
  await raw.handshake();
  await opened;
  // It says nothing more, and does not end.
  raw.socket.allowHalfOpen = true;
  const clock = network.clock();
  const drained = listener.drain();
  raw.frame(OPCODE.pong, await raw.frameOf(OPCODE.ping));
  await until(() => listener.stats().busy === 0);
  await clock.advance(20);
  await drained;
  assert.equal((await raw.closed()).code, 4000);
});

beyond('a peer that was drained can begin anew', async (network) => {
  const client = await network.listener();
  const destination = client.destination('role');
  const service = network.peer();
  service.role('role').onRequest('e', () => 'answer');
  await network.join(service, client);
  await service.drain();
  await network.join(service, client);
  assert.equal((await destination.request({ event: 'e', waitForUnit: true })).data, 'answer');
});

beyond('what is running is answered, what was sent is handled, what is sent later is not', async (network) => {
  const { listener, dialer, unit, role, destination } = await network.service();
  const handled = [];
  role.onRequest('e', ({ data }, cb) => handled.push([data, cb]));
  const running = destination.request('e', 1);
  await until(() => handled.length === 1);
  const drained = listener.drain();
  const sent = destination.request('e', 2);
  await until(() => handled.length === 2);
  await until(() => listener.stats().busy === 2 && !destination.ready);
  const late = rejection(destination.request({ event: 'e', unit }, 3));
  const { code, failure } = await late;
  assert.deepEqual([code, failure], ['REJECTED', { unhandled: true }]);
  assert.equal(listener.units[0].stats().requestsTurnedAway, 1);
  for (const [data, cb] of handled) cb(null, data);
  assert.deepEqual([(await running).data, (await sent).data], [1, 2]);
  await drained;
  await empty(dialer);
});

beyond('what was to go on a lost connection ends though another one is left', async (network) => {
  const { listener, dialer, unit, destination, role, ws } = await network.service();
  role.onRequest('e', ({ data }, cb) => cb(null, data));
  await dialer.connect(network.address(listener));
  await until(() => unit._sockets.length === 2);
  const asked = Array.from({ length: 20 }, (_, n) => {
    const how = n % 2 === 0 ? unit : destination;
    return how.request({ role: 'role', event: 'e' }, n).then(
      () => 'answered',
      ({ code }) => code,
    );
  });
  // The engine has them; no output was taken.
  dialer._core.native.run(dialer._core.now());
  ws.terminate();
  const outcomes = await Promise.all(asked);
  assert.ok(outcomes.every((outcome) => outcome === 'answered' || outcome === 'CONNECTION_LOST'));
});
