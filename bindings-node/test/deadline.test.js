'use strict';

// A request's time: how it travels, who inherits it, and what it ends. The clock only goes when a test lets it, and it
// is the same for all peers of a test.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { until } = require('./support/network');
const { FRAME } = require('./support/raw');
const { beyond } = require('./support/subject');

const UP = 'The time of the request is up';

/** What a promise is rejected with. */
const failure = (promise) => promise.then(() => assert.fail('it was fulfilled'), (error) => error);

/** A chain of peers, each of which serves the role of its name and knows the next. */
async function chain(network, ...names) {
  const peers = [];
  for (const name of names) {
    const peer = await network.listener({ name });
    peer.role(name);
    peers.push(peer);
  }
  for (let n = 1; n < peers.length; n++) {
    await network.join(peers[n - 1], peers[n]);
    await peers[n - 1].destination(names[n]).whenReady();
  }
  return peers.map((peer, n) => ({
    peer,
    role: peer.role(names[n]),
    next: names[n + 1] && peer.destination(names[n + 1]),
    busy: () => peer.stats().busy,
  }));
}

beyond('a handler knows how long its requester waits', async (network) => {
  const [a, b] = await chain(network, 'a', 'b');
  const clock = network.clock();
  const contexts = [];
  b.role.onRequest('e', (ctx, cb) => contexts.push(ctx) && cb(null));
  b.role.onWritable('e', (ctx, cb) => contexts.push(ctx) && cb(null));
  const before = Date.now();
  await a.next.request({ event: 'e', timeout: 1_000 });
  await once(a.next.Readable({ event: 'e', timeout: 1_000 }), 'ready');
  for (const ctx of contexts) {
    assert.equal(ctx.remaining(), 1_000);
    assert.ok(ctx.deadline >= before + 1_000 && ctx.deadline <= Date.now() + 1_000, `${ctx.deadline}`);
    assert.equal(ctx.deadline, ctx.deadline);
  }
  await clock.advance(400);
  assert.equal(contexts[0].remaining(), 600);
  await clock.advance(700);
  assert.equal(contexts[0].remaining(), 0);
  assert.ok(!contexts[0].signal.aborted, 'it was answered before');
});

beyond('who gives no time tells none', async (network) => {
  const [a, b] = await chain(network, 'a', 'b');
  const told = [];
  b.role.onRequest('e', (ctx) => told.push([ctx.deadline, ctx.remaining()]));
  for (const timeout of [undefined, 0, null]) await a.next.request({ event: 'e', timeout });
  assert.deepEqual(told, Array(3).fill([undefined, Infinity]));
});

for (const form of ['promise', 'callback']) {
  beyond(`a handler whose time is up is told, and the requester has its timeout (${form})`, async (network) => {
    const [a, b] = await chain(network, 'a', 'b');
    const clock = network.clock();
    b.peer.on('handler_error', () => assert.fail('a failure'));
    const asked = new Promise((resolve) => {
      b.role.onRequest('e', ({ signal }) => {
        resolve(signal);
        return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
      });
    });
    const options = { event: 'e', timeout: 100 };
    const outcome =
      form === 'promise' ? failure(a.next.request(options)) : new Promise((resolve) => a.next.request(options, null, resolve));
    const signal = await asked;
    await clock.advance(99);
    assert.ok(!signal.aborted);
    await clock.advance(10);
    assert.ok(signal.aborted);
    assert.deepEqual([signal.reason.code, signal.reason.name, signal.reason.message], ['TIMEOUT', 'TimeoutError', UP]);
    const { code, message } = await outcome;
    assert.deepEqual([code, message], ['TIMEOUT', 'Request timeout exceeded (100 ms)']);
    assert.equal(b.busy(), 0);
  });
}

beyond('a request has no more time than the one that it is made for', async (network) => {
  const [a, b, c, d] = await chain(network, 'a', 'b', 'c', 'd');
  const clock = network.clock();
  const times = [];
  const note = (ctx) => void times.push(ctx.remaining());
  let go;
  const gate = new Promise((resolve) => (go = resolve));
  let begin;
  const begun = new Promise((resolve) => (begin = resolve));
  b.role.onRequest('e', async (ctx) => {
    note(ctx);
    begin();
    await gate;
    const { data } = await b.next.request('e');
    await b.next.request({ event: 'short', timeout: 50 });
    await b.next.request({ event: 'long', timeout: 5_000 });
    await b.next.request({ event: 'apart', inherit: false });
    await b.next.request({ event: 'apart', timeout: 5_000, inherit: false });
    return data;
  });
  c.role.onRequest('e', async (ctx) => {
    note(ctx);
    return (await c.next.request('e')).data;
  });
  for (const event of ['short', 'long', 'apart']) c.role.onRequest(event, (ctx, cb) => cb(note(ctx)));
  d.role.onRequest('e', (ctx, cb) => cb(note(ctx), 'far'));
  const outcome = a.next.request({ event: 'e', timeout: 1_000 });
  await begun;
  await clock.advance(300);
  go();
  assert.equal((await outcome).data, 'far');
  assert.deepEqual(times, [1_000, 700, 700, 50, 700, Infinity, 5_000]);
});

beyond('the time of the first ends them all', async (network) => {
  const [a, b, c] = await chain(network, 'a', 'b', 'c');
  const clock = network.clock();
  const failures = [];
  b.role.onRequest('e', async () => {
    try {
      return (await b.next.request('slow')).data;
    } catch (error) {
      failures.push(error.code);
      throw error;
    }
  });
  const asked = new Promise((resolve) => {
    c.role.onRequest('slow', ({ signal }) => {
      resolve(signal);
    });
  });
  const outcome = failure(a.next.request({ event: 'e', timeout: 100 }));
  const signal = await asked;
  await clock.advance(110);
  assert.equal((await outcome).code, 'TIMEOUT');
  assert.ok(signal.aborted);
  // Whoever has noticed it first.
  assert.ok(['TIMEOUT', 'CANCELLED'].includes(failures[0]) && failures.length === 1, `${failures}`);
  assert.deepEqual([a, b, c].map(({ busy }) => busy()), [0, 0, 0]);
});

beyond('what is asked for when the time is up is not sent', async (network) => {
  const [a, b, c] = await chain(network, 'a', 'b', 'c');
  const clock = network.clock();
  c.role.onRequest('e', () => assert.fail('it was sent'));
  const codes = [];
  b.role.onRequest('e', async () => {
    // It blocks the loop, so that nothing has told it.
    clock.time += 101;
    codes.push((await failure(b.next.request('e'))).code);
    codes.push(await new Promise((resolve) => b.next.request('e', null, ({ code }) => resolve(code))));
    const [{ code }] = await once(b.next.Writable('e'), 'error');
    codes.push(code);
    for await (const { error } of b.next.survey('e')) codes.push(error.code);
  });
  const outcome = failure(a.next.request({ event: 'e', timeout: 100 }));
  await until(() => codes.length === 4);
  await clock.advance(10);
  assert.equal((await outcome).code, 'TIMEOUT');
  assert.deepEqual(codes, Array(4).fill('TIMEOUT'));
  assert.equal(c.peer.stats().units[0].requestsReceived, 0);
});

beyond('a handler is not begun when its time is up before', async (network) => {
  const listener = await network.listener();
  listener.role('r').onRequest('e', () => assert.fail('it was begun'));
  const raw = await network.raw(listener);
  await raw.handshake({ x: { fields: 1 } });
  const request = Buffer.from([FRAME.request, 0, 1, 0, 1, 1, ...Buffer.from('re'), 7, 1]);
  const noTime = Buffer.from([FRAME.fields, 0, 3, 1, 1, 0]);
  raw.binary(Buffer.concat([noTime, request]));
  const answer = await raw.message(FRAME.fields);
  assert.match(String(answer), /"unhandled":true.*The time of the request was up before it was begun$/);
  assert.equal(listener.stats().units[0].requestsExpired, 1);
});

beyond('a requester that is told so has its timeout, and knows that nothing was begun', async (network) => {
  const dialer = network.peer();
  const raw = await network.rawListener();
  const connected = dialer.connect(raw.address);
  const connection = await raw.connection();
  await connection.handshake({ x: { fields: 1 } });
  await connected;
  const outcome = failure(dialer.destination('r').request({ event: 'e', timeout: 60_000 }));
  const request = await connection.message(FRAME.fields);
  const [correlation] = request.subarray(3 + request.readUInt16BE(1) + 8);
  const said = Buffer.from('{"unhandled":true}');
  const fields = [FRAME.fields, 0, 2 + said.length, 5, said.length, ...said];
  const text = Buffer.from('The time of the request was up before it was begun');
  connection.binary(Buffer.from([...fields, FRAME.reject, 1, correlation, 3, ...text]));
  const { code, message, failure: told } = await outcome;
  assert.deepEqual([code, message], ['TIMEOUT', 'Request timeout exceeded (60000 ms)']);
  assert.deepEqual(told, { unhandled: true });
});

beyond('detached handlers give nobody their time', async (network) => {
  const [a, b, c] = await chain(network, 'a', 'b', 'c');
  const clock = network.clock();
  const remaining = new Promise((resolve) => c.role.onRequest('e', (ctx, cb) => cb(resolve(ctx.remaining()))));
  let done;
  const over = new Promise((resolve) => (done = resolve));
  let go;
  const gate = new Promise((resolve) => (go = resolve));
  let begin;
  const begun = new Promise((resolve) => (begin = resolve));
  b.role.onRequest('e', { detached: true }, async (ctx) => {
    begin();
    await gate;
    await b.next.request('e');
    done([ctx.remaining(), ctx.signal.aborted]);
  });
  const outcome = failure(a.next.request({ event: 'e', timeout: 100 }));
  await begun;
  await clock.advance(200);
  assert.equal((await outcome).code, 'TIMEOUT');
  go();
  assert.equal(await remaining, Infinity);
  assert.deepEqual(await over, [0, false]);
});

beyond('a stream that is not accepted in time is given up at both ends', async (network) => {
  const [a, b] = await chain(network, 'a', 'b');
  const clock = network.clock();
  const asked = new Promise((resolve) => b.role.onReadable('e', (ctx) => resolve([ctx, ctx.signal])));
  const stream = a.next.Writable({ event: 'e', timeout: 100 });
  const failed = once(stream, 'error');
  const [ctx, signal] = await asked;
  await clock.advance(110);
  const [{ code }] = await failed;
  assert.equal(code, 'TIMEOUT');
  assert.ok(signal.aborted && ctx.readable.destroyed);
  assert.equal(b.busy(), 0);
});

beyond('towards a peer that knows nothing of it, only the own end has the time', async (network) => {
  const dialer = network.peer();
  const raw = await network.rawListener();
  const connected = dialer.connect(raw.address);
  const connection = await raw.connection();
  await connection.handshake({ roles: ['r'] });
  await connected;
  const clock = network.clock();
  const outcome = failure(dialer.destination('r').request({ event: 'e', timeout: 100 }, 'x'));
  await connection.message(FRAME.request);
  await clock.advance(110);
  assert.equal((await outcome).code, 'TIMEOUT');
  const { cancelsSent, fieldsLeftOut } = dialer.stats().units[0];
  assert.deepEqual([cancelsSent, fieldsLeftOut], [0, 0]);
});
