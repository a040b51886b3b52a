'use strict';

// Who gives up reaches the handler: with a signal, with its time, by closing, by leaving.

const assert = require('node:assert/strict');
const { AsyncLocalStorage } = require('node:async_hooks');
const { once } = require('node:events');
const { until } = require('./support/network');
const { beyond, roletalk } = require('./support/subject');

const GIVEN_UP = 'The requester has given up';
const GONE = 'The unit that has sent the request is gone';

const turns = async (count) => {
  for (let n = 0; n < count; n++) await new Promise(setImmediate);
};

/** Settles when a signal aborts: with its reason. */
const aborted = (signal) =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve(signal.reason);
    signal.addEventListener('abort', () => resolve(signal.reason), { once: true });
  });

/** A service whose event `e` waits for its signal, and what came of each of its calls. */
async function waiting(network) {
  const service = await network.service();
  const reasons = [];
  let asked = 0;
  service.role.onRequest('e', async ({ signal }) => {
    asked++;
    reasons.push(await aborted(signal));
    throw signal.reason;
  });
  return { ...service, reasons, asked: () => asked };
}

/** A chain: the dialer asks `front`, which asks `back`. */
async function chain(network) {
  const back = await network.listener({ name: 'back' });
  const front = await network.listener({ name: 'front' });
  const client = network.peer({ name: 'client' });
  back.role('back');
  front.role('front');
  await network.join(front, back);
  await network.join(client, front);
  const asksBack = front.destination('back');
  const destination = client.destination('front');
  await Promise.all([asksBack.whenReady(), destination.whenReady()]);
  return { back: back.role('back'), front: front.role('front'), asksBack, client, destination, peers: [back, front] };
}

/** Nothing is left of requests, on either side. */
function assertEmpty(...peers) {
  for (const peer of peers) {
    const { exchanges, slots, freeSlots } = peer._core;
    assert.ok(exchanges.every((exchange) => exchange === undefined));
    assert.equal(slots.length, freeSlots.length);
    assert.equal(peer.stats().busy, 0);
  }
}

beyond('100 of 100 requests that are given up are cancelled', async (network) => {
  const { destination, listener, dialer, reasons, asked } = await waiting(network);
  const failures = [];
  listener.on('handler_error', (error) => failures.push(error));
  const controller = new AbortController();
  const { signal } = controller;
  const outcomes = Array.from({ length: 100 }, () => destination.request({ event: 'e', signal }).catch((e) => e));
  await until(() => asked() === 100);
  const reason = new Error('enough');
  controller.abort(reason);
  assert.deepEqual(new Set(await Promise.all(outcomes)), new Set([reason]));
  await until(() => reasons.length === 100);
  for (const { code, name, message } of reasons) {
    assert.deepEqual([code, name, message], ['CANCELLED', 'AbortError', GIVEN_UP]);
  }
  await until(() => listener.stats().busy === 0 && dialer.stats().busy === 0);
  assertEmpty(listener, dialer);
  assert.deepEqual(failures, []);
  assert.equal(dialer.stats().units[0].cancelsSent, 100);
  assert.equal(listener.stats().units[0].cancelsReceived, 100);
});

beyond('100 of 100 requests of a peer that leaves are cancelled', async (network) => {
  const { destination, listener, dialer, reasons, asked } = await waiting(network);
  const outcomes = Array.from({ length: 100 }, () => destination.request('e').catch(({ code }) => code));
  await until(() => asked() === 100);
  dialer.close();
  await until(() => reasons.length === 100);
  for (const { code, message } of reasons) assert.deepEqual([code, message], ['CANCELLED', GONE]);
  assert.deepEqual(new Set(await Promise.all(outcomes)), new Set(['CONNECTION_LOST']));
  await turns(3);
  assertEmpty(listener, dialer);
});

beyond('those of a process that is killed, too', async (network) => {
  const listener = await network.listener();
  const reasons = [];
  let asked = 0;
  listener.role('role').onRequest('e', ({ signal }) => {
    asked++;
    signal.addEventListener('abort', () => reasons.push(signal.reason.message));
  });
  const program = network.program(`
    const peer = new Peer();
    await peer.connect('${network.address(listener)}');
    const destination = await peer.destination('role').whenReady();
    for (let n = 0; n < 100; n++) destination.request('e', n);
    tell('asked');
  `);
  await program.told();
  await until(() => asked === 100);
  program.kill();
  await until(() => reasons.length === 100);
  assert.deepEqual(new Set(reasons), new Set([GONE]));
  assertEmpty(listener);
});

beyond('with a callback, as with a promise', async (network) => {
  const { destination, reasons, asked } = await waiting(network);
  const controller = new AbortController();
  const told = new Promise((resolve) => {
    const done = (error, ctx) => resolve([error, ctx.data, ctx.unit]);
    destination.request({ event: 'e', signal: controller.signal }, null, done);
  });
  await until(() => asked() === 1);
  const reason = { any: 'value' };
  controller.abort(reason);
  assert.deepEqual(await told, [reason, null, destination.units[0]]);
  await until(() => reasons.length === 1);
});

beyond('what is aborted already is not sent', async (network) => {
  const { destination, dialer, role } = await network.service();
  role.onMessage('m', () => assert.fail('a message'));
  const signal = AbortSignal.abort();
  const gone = { name: 'AbortError' };
  await assert.rejects(destination.request({ event: 'e', signal }), gone);
  assert.throws(() => destination.request({ event: 'e', signal }, null, () => {}), gone);
  assert.throws(() => destination.send({ event: 'm', signal }), gone);
  assert.throws(() => destination.broadcast({ event: 'm', signal }), gone);
  assert.throws(() => destination.survey({ event: 'm', signal }), gone);
  const streams = [destination.Readable({ event: 'e', signal }), destination.Writable({ event: 'e', signal })];
  for (const [error] of await Promise.all(streams.map((stream) => once(stream, 'error')))) {
    assert.equal(error, signal.reason);
  }
  const { messagesSent, requestsSent } = dialer.stats().units[0];
  assert.deepEqual([messagesSent, requestsSent], [0, 0]);
  assertEmpty(dialer);
});

beyond('a survey that is given up gives up what it asked', async (network) => {
  const dialer = network.peer();
  const signals = [];
  for (const name of ['a', 'b', 'c']) {
    const listener = await network.listener({ name });
    const role = listener.role('role');
    role.onRequest('e', ({ signal, data }) => {
      signals.push(signal);
      if (name === data) return 'answered';
    });
    await network.join(dialer, listener);
  }
  const destination = dialer.destination('role');
  // Whoever has an answer needs no other.
  for await (const { ctx } of destination.survey('e', 'b')) {
    assert.equal(ctx.data, 'answered');
    await until(() => signals.length === 3);
    break;
  }
  await until(() => signals.filter(({ aborted }) => aborted).length === 2);
  // With a signal.
  const controller = new AbortController();
  const { signal } = controller;
  const answers = [];
  destination.survey({ event: 'e', signal }, null, (error) => answers.push(error));
  await until(() => signals.length === 6);
  controller.abort();
  assert.deepEqual(answers, [signal.reason, signal.reason, signal.reason]);
  await until(() => signals.filter(({ aborted }) => aborted).length === 5);
  assertEmpty(dialer);
});

for (const kind of ['Readable', 'Writable']) {
  beyond(`a ${kind} that is not accepted yet is cancelled`, async (network) => {
    const { destination, role, listener, dialer } = await network.service();
    const on = kind === 'Readable' ? 'onWritable' : 'onReadable';
    const ways = {
      destroyed: (stream) => stream.destroy(),
      'with an error': (stream) => stream.destroy(new Error('no')),
      aborted: (stream, controller) => controller.abort(),
    };
    for (const [way, end] of Object.entries(ways)) {
      const asked = new Promise((resolve) => role[on](way, resolve));
      const controller = new AbortController();
      const stream = destination[kind]({ event: way, signal: controller.signal });
      const ctx = await asked;
      const { signal } = ctx;
      const errored = way === 'aborted' ? once(stream, 'error') : undefined;
      end(stream, controller);
      assert.equal((await aborted(signal)).message, GIVEN_UP);
      if (errored) assert.equal((await errored)[0], controller.signal.reason);
      assert.ok((ctx.readable ?? ctx.writable).destroyed);
    }
    await until(() => listener.stats().busy === 0);
    assertEmpty(listener, dialer);
  });

  beyond(`a ${kind} that is accepted is not cancelled any more`, async (network) => {
    const { destination, role, listener } = await network.service();
    const on = kind === 'Readable' ? 'onWritable' : 'onReadable';
    const asked = new Promise((resolve) => {
      role[on]('e', (ctx, cb) => {
        const { signal } = ctx;
        cb(null);
        resolve([signal, ctx.readable ?? ctx.writable]);
      });
    });
    const controller = new AbortController();
    const stream = destination[kind]({ event: 'e', signal: controller.signal, timeout: 1 << 20 });
    const [signal, accepted] = await asked;
    await once(stream, 'ready');
    controller.abort();
    assert.ok(!stream.destroyed);
    const broken = once(accepted, 'error');
    stream.destroy(new Error('later'));
    await broken;
    assert.ok(!signal.aborted);
    assertEmpty(listener);
  });
}

beyond('a handler that calls back after it was cancelled is not heard, and nobody is warned', async (network) => {
  const { destination, role, listener, dialer } = await network.service();
  listener.on('handler_error', () => assert.fail('a failure'));
  const callbacks = [];
  role.onRequest('e', (ctx, cb) => callbacks.push(cb) && undefined);
  role.onRequest('later', async (ctx, cb) => {
    await aborted(ctx.signal);
    ctx.setHeader('late', 'yes');
    cb(null, 'late');
  });
  const controller = new AbortController();
  const { signal } = controller;
  const asked = ['e', 'e', 'e', 'later'].map((event) => destination.request({ event, signal }).catch(({ name }) => name));
  await until(() => listener.stats().busy === 4);
  controller.abort();
  assert.deepEqual(await Promise.all(asked), Array(4).fill('AbortError'));
  await until(() => listener.stats().busy === 3);
  callbacks[0](null, 'late');
  callbacks[1](new Error('late'));
  callbacks[2]('late');
  await until(() => listener.stats().busy === 0);
  role.onRequest('good', () => 'fine');
  assert.equal((await destination.request('good')).data, 'fine');
  assertEmpty(listener, dialer);
});

beyond('a handler that has the signal need not call back', async (network) => {
  const { destination, role, listener } = await network.service();
  let stopped = 0;
  role.onRequest('early', ({ signal }, cb) => signal.addEventListener('abort', () => stopped++ && cb));
  role.onRequest('polls', (ctx, cb) => {
    const look = () => (ctx.signal.aborted ? stopped++ : setImmediate(look, cb));
    look();
  });
  const controller = new AbortController();
  const { signal } = controller;
  for (const event of ['early', 'polls']) destination.request({ event, signal }).catch(() => {});
  await until(() => listener.stats().busy === 2);
  controller.abort();
  await until(() => listener.stats().busy === 0);
  assert.equal(stopped, 2);
  assertEmpty(listener);
});

beyond('a promise of a cancelled handler counts as running until it settles', async (network) => {
  const { destination, role, listener } = await network.service();
  let finish;
  let cancelled;
  role.onRequest('e', (ctx, cb) => {
    cancelled = aborted(ctx.signal);
    // It is of the old form, and resolves to nothing.
    return new Promise((resolve) => (finish = resolve)).then(() => void cb);
  });
  const controller = new AbortController();
  destination.request({ event: 'e', signal: controller.signal }).catch(() => {});
  await until(() => finish !== undefined);
  controller.abort();
  await cancelled;
  assert.equal(listener.stats().busy, 1);
  finish();
  await until(() => listener.stats().busy === 0);
  assertEmpty(listener);
});

beyond('a detached handler goes on', async (network) => {
  const { destination, role, listener, dialer } = await network.service();
  const asked = [];
  for (const on of ['onRequest', 'onReadable', 'onWritable']) {
    const handler = (ctx, cb) => asked.push([ctx, cb]) && undefined;
    const emitter = role[on]('e', { detached: true }, handler);
    assert.deepEqual(emitter.listeners('e'), [handler]);
  }
  const controller = new AbortController();
  const { signal } = controller;
  destination.request({ event: 'e', signal }).catch(() => {});
  destination.Readable({ event: 'e', signal });
  destination.Writable({ event: 'e', signal });
  destination.request({ event: 'e' }).catch(() => {});
  await until(() => asked.length === 4);
  const signals = asked.map(([ctx]) => ctx.signal);
  controller.abort();
  role.onRequest('good', () => 'fine');
  assert.equal((await destination.request('good')).data, 'fine');
  const lost = once(listener.units[0], 'close');
  dialer.close();
  await lost;
  assert.deepEqual(signals.map(({ aborted }) => aborted), [false, false, false, false]);
  for (const [, cb] of asked) cb(null, null);
  await turns(3);
  assertEmpty(listener);
});

beyond('what a handler asks for is given up with its own request, all the way', async (network) => {
  const { back, front, asksBack, destination, peers, client } = await chain(network);
  const failures = [];
  for (const peer of peers) peer.on('handler_error', (error) => failures.push(error));
  const reasons = [];
  const kinds = {
    promise: async () => {
      await null;
      return (await asksBack.request('slow')).data;
    },
    callback: (ctx, cb) => {
      setImmediate(() => asksBack.request('slow', null, (error) => cb(error)));
    },
    survey: async () => {
      for await (const { error } of asksBack.survey('slow')) if (error) throw error;
    },
    stream: async () => {
      const stream = asksBack.Writable('slow');
      const [error] = await once(stream, 'error');
      throw error;
    },
  };
  const told = [];
  for (const [kind, handler] of Object.entries(kinds)) front.onRequest(kind, handler);
  for (const on of ['onRequest', 'onReadable']) {
    back[on]('slow', ({ signal }) => {
      reasons.push(aborted(signal));
    });
  }
  for (const kind of Object.keys(kinds)) {
    front.onRequest(`watch ${kind}`, async (ctx, cb) => {
      try {
        await kinds[kind](ctx, (error) => told.push(error));
      } catch (error) {
        told.push(error);
        cb(error);
      }
    });
  }
  for (const kind of Object.keys(kinds)) {
    for (const event of [kind, `watch ${kind}`]) {
      const controller = new AbortController();
      const { signal } = controller;
      const asked = reasons.length;
      const outcome = destination.request({ event, signal }).catch((error) => error);
      await until(() => reasons.length > asked);
      controller.abort();
      assert.equal(await outcome, signal.reason);
      assert.equal((await reasons[asked]).message, GIVEN_UP, event);
    }
  }
  await until(() => told.length === 4);
  for (const { code, name, message } of told) {
    assert.deepEqual([code, name, message], ['CANCELLED', 'AbortError', GIVEN_UP]);
  }
  assert.deepEqual(failures, []);
  // That with a callback has not ended its request.
  await until(() => peers[1].stats().busy === 1);
  client.close();
  await until(() => peers.every((peer) => peer.stats().busy === 0));
  await turns(3);
  assertEmpty(client, ...peers);
});

beyond('the end of the first of three ends the last', async (network) => {
  const { back, front, asksBack, client, destination } = await chain(network);
  const asked = new Promise((resolve) => back.onRequest('slow', ({ signal }) => resolve(signal)));
  front.onRequest('e', async () => (await asksBack.request('slow')).data);
  destination.request('e').catch(() => {});
  const signal = await asked;
  client.close();
  assert.equal((await aborted(signal)).message, GIVEN_UP);
});

beyond('what is asked for in a cancelled handler fails at once', async (network) => {
  const { back, front, asksBack, destination } = await chain(network);
  back.onRequest('e', () => 'answered');
  const outcomes = [];
  front.onRequest('e', async ({ signal }) => {
    await aborted(signal);
    const fails = (promise) => promise.then(() => 'answered', (error) => [error === signal.reason, error.code]);
    outcomes.push(await fails(asksBack.request('e')));
    outcomes.push(await fails(new Promise((resolve, reject) => asksBack.request('e', null, reject))));
    outcomes.push(await fails(once(asksBack.Readable('e').on('error', () => {}), 'ready')));
    outcomes.push(await fails(asksBack.request({ event: 'e', inherit: false }).then(() => Promise.reject(signal.reason))));
    outcomes.push('over');
  });
  const controller = new AbortController();
  destination.request({ event: 'e', signal: controller.signal }).catch(() => {});
  await until(() => destination.peer.stats().busy === 1);
  controller.abort();
  await until(() => outcomes.at(-1) === 'over');
  assert.deepEqual(outcomes, [...Array(4).fill([true, 'CANCELLED']), 'over']);
  assert.equal(back.peer.stats().units[0].requestsReceived, 1, 'that which inherits nothing');
});

beyond('a rejection that comes of being cancelled need not be looked at', async (network) => {
  const { back, front, asksBack, destination, peers } = await chain(network);
  back.onRequest('slow', () => {});
  const unhandled = [];
  const onUnhandled = (error) => unhandled.push(error);
  process.on('unhandledRejection', onUnhandled);
  front.onRequest('e', async ({ signal }) => {
    const asked = asksBack.request('slow');
    await aborted(signal);
    await turns(5);
    await asked;
  });
  const controller = new AbortController();
  destination.request({ event: 'e', signal: controller.signal }).catch(() => {});
  await until(() => peers[0].stats().busy === 1);
  controller.abort();
  await until(() => peers[1].stats().busy === 0);
  process.off('unhandledRejection', onUnhandled);
  assert.deepEqual(unhandled, []);
});

beyond('what goes on after the answer is not given up', async (network) => {
  const { back, front, asksBack, destination } = await chain(network);
  let release;
  back.onRequest('slow', () => new Promise((resolve) => (release = resolve)));
  let later;
  front.onRequest('e', (ctx, cb) => {
    const asked = asksBack.request('slow');
    later = asked.then(async ({ data }) => [data, (await asksBack.request('again')).data]);
    cb(null, 'early');
  });
  back.onRequest('again', () => 'again');
  assert.equal((await destination.request('e')).data, 'early');
  const lost = once(front.peer.units.find(({ name }) => name === 'client'), 'close');
  destination.peer.close();
  await lost;
  await until(() => release !== undefined);
  release('late');
  assert.deepEqual(await later, ['late', 'again']);
});

beyond('requests of different handlers do not mix', async (network) => {
  const { back, front, asksBack, destination } = await chain(network);
  const signals = new Map();
  back.onRequest('slow', ({ signal, data }) => void signals.set(data, signal));
  front.onRequest('e', async ({ data }) => {
    await turns(data % 3);
    await asksBack.request('slow', data);
  });
  const controllers = Array.from({ length: 20 }, () => new AbortController());
  const asked = controllers.map(({ signal }, n) => destination.request({ event: 'e', signal }, n).catch(() => {}));
  await until(() => signals.size === 20);
  for (let n = 0; n < 20; n += 2) controllers[n].abort();
  await until(() => [...signals.values()].filter(({ aborted }) => aborted).length === 10);
  for (const [n, { aborted }] of signals) assert.equal(aborted, n % 2 === 0);
  for (const controller of controllers) controller.abort();
  await Promise.all(asked);
});

beyond('a listener of a signal that throws harms nobody else', async (network) => {
  const { destination, role } = await network.service();
  const storage = new AsyncLocalStorage();
  const seen = [];
  role.onRequest('e', ({ signal, data }) => {
    signal.addEventListener('abort', () => {
      seen.push([data, storage.getStore()]);
      storage.enterWith(data);
      if (data === 0) throw new Error('in a listener');
    });
  });
  const uncaught = [];
  const listeners = process.rawListeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (error) => uncaught.push(error.message));
  try {
    const controller = new AbortController();
    const { signal } = controller;
    for (let n = 0; n < 3; n++) destination.request({ event: 'e', signal }, n).catch(() => {});
    await until(() => role.peer.stats().busy === 3);
    controller.abort();
    await until(() => seen.length === 3 && uncaught.length === 1);
  } finally {
    process.removeAllListeners('uncaughtException');
    for (const listener of listeners) process.on('uncaughtException', listener);
  }
  assert.deepEqual(uncaught, ['in a listener']);
  assert.deepEqual(seen, [[0, undefined], [1, undefined], [2, undefined]]);
});

beyond('an answer that came with the loss of its unit is nobody else\'s to give up', async (network) => {
  const { destination, dialer, role, unit } = await network.service();
  const other = await network.listener({ name: 'other' });
  other.role('other').onRequest('e', (ctx) => ctx.data);
  await network.join(dialer, other);
  role.onRequest('never', () => {});
  const controllers = [new AbortController(), new AbortController()];
  let second;
  const first = new Promise((resolve) => {
    destination.request({ event: 'never', signal: controllers[0].signal }, null, resolve);
  });
  // Called before the unit has closed, in the same batch.
  const [ws] = unit._sockets;
  ws.on('close', () => {});
  unit.on('close', () => {
    second = dialer.destination('other').request('e', 'fine');
    controllers[0].abort();
  });
  unit.close();
  await first;
  assert.equal((await second).data, 'fine');
});

beyond('nothing is left of 10,000 requests that were given up', async (network) => {
  const { back, front, asksBack, destination, client, peers } = await chain(network);
  back.onRequest('slow', ({ signal }) => new Promise((resolve) => signal.addEventListener('abort', resolve)));
  front.onRequest('e', async () => (await asksBack.request('slow')).data);
  for (let round = 0; round < 10; round++) {
    const controller = new AbortController();
    const { signal } = controller;
    const outcomes = Array.from({ length: 1_000 }, (_, n) => destination.request({ event: 'e', signal }, n).catch(() => {}));
    await until(() => peers[0].stats().busy === 1_000);
    controller.abort();
    await Promise.all(outcomes);
    await until(() => peers.every((peer) => peer.stats().busy === 0));
  }
  await turns(3);
  assertEmpty(client, ...peers);
  for (const peer of [client, ...peers]) assert.ok(peer._core.slots.length <= 1_000, `${peer._core.slots.length}`);
  assert.equal(back.peer.stats().units[0].cancelsReceived, 10_000);
});

beyond('a message is never given up', async (network) => {
  const { destination, role, listener, dialer } = await network.service();
  const received = new Promise((resolve) => role.onMessage('e', resolve));
  destination.send('e', null);
  const ctx = await received;
  const { signal } = ctx;
  assert.equal(signal, ctx.signal);
  assert.deepEqual([ctx.deadline, ctx.remaining(), signal.aborted], [undefined, Infinity, false]);
  const lost = once(listener.units[0], 'close');
  dialer.close();
  await lost;
  assert.ok(!signal.aborted);
});

beyond('middleware may have members of its own under these names', async (network) => {
  const { destination, role, listener } = await network.service();
  const own = { signal: 1, deadline: 2, headers: 3, traceparent: 4, tracestate: 5, baggage: 6, remaining: 7, setHeader: 8 };
  listener.onData((ctx) => void Object.assign(ctx, own));
  role.onRequest('e', (ctx, cb) => cb(null, Object.fromEntries(Object.keys(own).map((name) => [name, ctx[name]]))));
  const { data } = await destination.request('e');
  assert.deepEqual(data, own);
  assert.ok(roletalk.errorCodes.includes('CANCELLED'));
});
