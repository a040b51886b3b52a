'use strict';

// Requests that may be handled more than once are made again, others are not.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { until } = require('./support/network');
const { beyond, roletalk } = require('./support/subject');

/** What a service does with a request. */
const DOES = {
  answers: () => (ctx, cb) => cb(null, 'yes'),
  rejects: () => (ctx, cb) => cb('no'),
  rejectsForNow: () => () => {
    throw new roletalk.HandlerError('not now', { retryAfter: 5 });
  },
  breaks: ({ peer }) => () => {
    peer.close();
    return new Promise(() => {});
  },
  hangs: (service) => ({ signal }) =>
    new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => {
        service.cancelled++;
        reject(signal.reason);
      });
    }),
};

/** Services that do as they are told, a client that is connected to them in this order, and who was asked. */
async function field(network, does) {
  const client = network.peer();
  const destination = client.destination('role');
  const asked = [];
  const services = {};
  for (const [name, what] of Object.entries(does)) {
    const peer = await network.listener({ name });
    const service = { peer, cancelled: 0 };
    const role = peer.role('role');
    if (what !== 'nothing') {
      const handle = DOES[what](service);
      role.onRequest('do', (ctx, cb) => {
        asked.push(name);
        return handle.length === 2 ? void handle(ctx, cb) : handle(ctx);
      });
    }
    service.unit = (await network.join(client, peer, { permanent: false })).unit;
    services[name] = service;
  }
  return { client, destination, asked, services };
}

const failure = (promise) =>
  promise.then(
    () => assert.fail('it was answered'),
    (error) => error,
  );

/** Nothing is left of requests. */
async function empty(peer) {
  const { slots, freeSlots } = peer._core;
  await until(() => peer.stats().busy === 0 && slots.length === freeSlots.length);
  assert.equal(peer._core.parked, 0);
  assert.ok(peer.destinations.every(({ _ways: ways }) => ways.size === 0));
}

const counters = ({ retried, hedged, refused }) => [retried, hedged, refused];

beyond('what may have begun is not made again where that was not said', async (network) => {
  const { client, destination, asked } = await field(network, { a: 'breaks', b: 'answers' });
  assert.equal((await failure(destination.request('do'))).code, 'CONNECTION_LOST');
  assert.deepEqual(asked, ['a']);
  await empty(client);
});

for (const how of ['a request', 'a destination']) {
  beyond(`what may have begun is made again where ${how} says so`, async (network) => {
    const { client, destination, asked, services } = await field(network, { a: 'breaks', b: 'answers' });
    const retry = new roletalk.Retry();
    if (how === 'a destination') client.destination('role', { retry });
    const options = how === 'a request' ? { event: 'do', retry } : 'do';
    const { data, unit } = await destination.request(options);
    assert.deepEqual([data, unit], ['yes', services.b.unit]);
    assert.deepEqual(asked, ['a', 'b']);
    assert.deepEqual(counters(retry), [1, 0, 0]);
    await empty(client);
  });
}

beyond('who chooses the unit means that one, and streams are not made again', async (network) => {
  const { client, destination, asked, services } = await field(network, { a: 'breaks', b: 'answers' });
  const retry = new roletalk.Retry();
  client.destination('role', { retry });
  const options = { event: 'do', unit: services.a.unit, retry };
  assert.equal((await failure(destination.request(options))).code, 'CONNECTION_LOST');
  assert.deepEqual(asked, ['a']);
  const [error] = await once(destination.Readable('none'), 'error');
  assert.equal(error.code, 'REJECTED');
  assert.deepEqual(counters(retry), [0, 0, 0]);
  await empty(client);
});

beyond('a call may say that it is not made again', async (network) => {
  const { client, destination } = await field(network, { a: 'breaks', b: 'answers' });
  client.destination('role', { retry: new roletalk.Retry() });
  client.destination('role', { retry: undefined });
  assert.equal((await failure(destination.request({ event: 'do', retry: false }))).code, 'CONNECTION_LOST');
  await empty(client);
});

beyond('an answer is an answer even if it is a rejection', async (network) => {
  const { client, destination, asked } = await field(network, { a: 'rejects', b: 'answers' });
  const error = await failure(destination.request({ event: 'do', retry: new roletalk.Retry() }));
  assert.deepEqual([error.code, error.message], ['REJECTED', 'no']);
  assert.deepEqual(asked, ['a']);
  await empty(client);
});

beyond('who says when to try again is asked again after the others', async (network) => {
  const { client, destination, asked } = await field(network, { a: 'rejectsForNow', b: 'rejectsForNow' });
  const retry = new roletalk.Retry({ attempts: 4, backoff: 1, longest: 1 });
  const told = new Promise((resolve) => destination.request({ event: 'do', retry }, null, (...args) => resolve(args)));
  const [error, ctx] = await told;
  assert.deepEqual([error.code, error.failure.retryAfter, ctx.unit.name], ['REJECTED', 5, 'b']);
  // Never the same one twice in a row.
  assert.deepEqual(asked, ['a', 'b', 'a', 'b']);
  assert.deepEqual(counters(retry), [3, 0, 0]);
  await empty(client);
});

beyond('a slow answer is overtaken and its handler given up', async (network) => {
  const { client, destination, asked, services } = await field(network, { slow: 'hangs', quick: 'answers' });
  const retry = new roletalk.Retry({ hedge: { after: 10 } });
  const slowFirst = (candidates) => (candidates.find(({ unit }) => unit.name === 'slow') ?? candidates[0]).unit;
  for (let n = 1; n <= 2; n++) {
    const { unit } = await destination.request({ event: 'do', retry, balance: slowFirst });
    assert.equal(unit.name, 'quick');
    await until(() => services.slow.cancelled === n);
    assert.deepEqual(asked.splice(0), ['slow', 'quick']);
  }
  assert.deepEqual(counters(retry), [0, 2, 0]);
  await empty(client);
});

beyond('all attempts have one time limit', async (network) => {
  const { client, destination } = await field(network, { a: 'hangs', b: 'hangs' });
  const retry = new roletalk.Retry({ attempts: 9, hedge: { after: 5 } });
  const error = await failure(destination.request({ event: 'do', timeout: 100, retry }));
  assert.deepEqual([error.code, error.message], ['TIMEOUT', 'Request timeout exceeded (100 ms)']);
  assert.deepEqual(counters(retry), [0, 1, 0]);
  await empty(client);
});

beyond('what is given up is given up wherever it is', async (network) => {
  const { client, destination, asked, services } = await field(network, { a: 'hangs', b: 'hangs' });
  const retry = new roletalk.Retry({ hedge: { after: 1 } });
  const controller = new AbortController();
  const asking = failure(destination.request({ event: 'do', signal: controller.signal, retry }));
  await until(() => asked.length === 2);
  controller.abort();
  assert.equal(await asking, controller.signal.reason);
  await until(() => services.a.cancelled === 1 && services.b.cancelled === 1);
  await empty(client);
});

beyond('what is given up, or whose peer is closed, before a further attempt is made no more', async (network) => {
  const { client, destination, asked } = await field(network, { a: 'rejectsForNow' });
  const retry = new roletalk.Retry({ backoff: 60_000, longest: 60_000 });
  const controller = new AbortController();
  const asking = failure(destination.request({ event: 'do', signal: controller.signal, retry }));
  await until(() => retry.retried === 1);
  controller.abort();
  assert.equal(await asking, controller.signal.reason);
  const closed = failure(destination.request({ event: 'do', retry }));
  await until(() => retry.retried === 2);
  client.close();
  assert.equal((await closed).message, 'not now');
  assert.deepEqual(asked, ['a', 'a']);
  await empty(client);
});

beyond('what was not begun goes on and costs nothing', async (network) => {
  const { client, destination, asked } = await field(network, { a: 'nothing', b: 'answers' });
  const retry = new roletalk.Retry({ budget: 0, attempts: 1 });
  for (let n = 0; n < 4; n++) assert.equal((await destination.request({ event: 'do', retry })).data, 'yes');
  assert.equal(asked.length, 4);
  assert.equal((await failure(destination.request({ event: 'none', retry }))).code, 'REJECTED');
  assert.deepEqual(counters(retry), [0, 0, 0]);
  await empty(client);
});

beyond('with nowhere to go the outcome is the first error', async (network) => {
  const { client, destination } = await field(network, { a: 'nothing', b: 'nothing' });
  const retry = new roletalk.Retry({ attempts: 1 });
  const balance = ([{ unit }]) => unit;
  const told = new Promise((resolve) => {
    destination.request({ event: 'none', retry, balance }, null, (...args) => resolve(args));
  });
  const [error, ctx] = await told;
  assert.deepEqual([error.code, error.failure, ctx.unit.name], ['REJECTED', { unhandled: true }, 'a']);
  await empty(client);
});

beyond('what fails since its peer is closed is not made again', async (network) => {
  const { client, destination, asked } = await field(network, { a: 'hangs' });
  const retry = new roletalk.Retry({ backoff: 60_000, longest: 60_000 });
  const failed = failure(destination.request({ event: 'do', retry }));
  await until(() => asked.length === 1);
  const closed = new Promise((resolve) => client.close(() => resolve({ code: 'not before the peer is closed' })));
  assert.equal((await Promise.race([failed, closed])).code, 'CONNECTION_LOST');
  assert.deepEqual(asked, ['a']);
  await empty(client);
});

for (const [when, does, options] of [
  ['before a further attempt', { a: 'rejectsForNow', b: 'answers' }, { backoff: 1, longest: 1 }],
  ['besides a slow one', { a: 'hangs', b: 'answers' }, { hedge: { after: 1 } }],
]) {
  beyond(`a function that is asked again ${when} may throw, or give up the request`, async (network) => {
    const { client, destination, asked } = await field(network, does);
    const controller = new AbortController();
    const { signal } = controller;
    for (const again of [() => assert.fail('no more'), () => controller.abort()]) {
      let calls = 0;
      const balance = (candidates) => {
        if (++calls === 2) again();
        return candidates[0].unit;
      };
      const retry = new roletalk.Retry(options);
      const error = await failure(destination.request({ event: 'do', retry, signal, balance }));
      if (signal.aborted) assert.equal(error, signal.reason);
      else assert.deepEqual([error.code, error.cause.message], ['INVALID_ARGUMENT', 'no more']);
      assert.equal(calls, 2);
      await empty(client);
    }
    assert.deepEqual(asked, ['a', 'a']);
  });
}

beyond('there is a budget, which requests without a failure fill', async (network) => {
  const { client, destination } = await field(network, { a: 'rejectsForNow' });
  const retry = new roletalk.Retry({ attempts: 2, backoff: 0, longest: 0, budget: 0 });
  for (let n = 0; n < 12; n++) await failure(destination.request({ event: 'do', retry }));
  assert.deepEqual(counters(retry), [10, 0, 2]);
  await empty(client);
});

beyond('a request with a retry waits for a unit, too', async (network) => {
  const client = network.peer();
  const destination = client.destination('role', { waitForUnit: true, retry: new roletalk.Retry() });
  const bytes = Buffer.from('bytes');
  const asking = destination.request('do', bytes);
  bytes.fill(0);
  const late = failure(destination.request({ event: 'do', timeout: 1 }));
  assert.equal((await late).code, 'TIMEOUT');
  const service = await network.listener();
  service.role('role').onRequest('do', ({ data }, cb) => cb(null, data.toString()));
  await network.join(client, service);
  assert.equal((await asking).data, 'bytes');
  await empty(client);
});

const WRONG = [
  [5, /options of Retry/],
  [null, /options of Retry/],
  [{ attempts: 0 }, /"attempts"/],
  [{ backoff: -1 }, /"backoff"/],
  [{ longest: '1' }, /"longest"/],
  [{ budget: 1.5 }, /"budget" should be a number from 0 to 1, and is 1.5/],
  [{ hedge: 5 }, /"hedge"/],
  [{ hedge: {} }, /either "after" or "quantile"/],
  [{ hedge: { after: 1, quantile: 0.5 } }, /either "after" or "quantile"/],
  [{ hedge: { quantile: 95 } }, /"hedge.quantile"/],
];

beyond('options that make no sense are told of', async (network) => {
  for (const [options, message] of WRONG) {
    assert.throws(() => new roletalk.Retry(options), { code: 'INVALID_ARGUMENT', message });
  }
  const { client, destination, asked } = await field(network, { a: 'answers' });
  for (const retry of [5, true, {}]) {
    const error = { code: 'INVALID_ARGUMENT', message: /"retry" should be a Retry, or false/ };
    assert.throws(() => destination.request({ event: 'do', retry }), error);
    assert.throws(() => client.destination('role', { retry }), error);
  }
  assert.deepEqual(asked, []);
  await empty(client);
});
