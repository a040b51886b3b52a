'use strict';

// What a handler's error says beside its text, and what the requester has of it.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { FRAME } = require('./support/raw');
const { beyond, roletalk } = require('./support/subject');

const { HandlerError, RoletalkError } = roletalk;

const raise = (error) => {
  throw error;
};

const ALL = { code: 'QUOTA', data: { left: [0, 'Ж'] }, retryAfter: 1_500 };

// How a handler fails.
const WAYS = {
  throws: (error) => () => raise(error),
  rejects: (error) => async () => raise(error),
  'rejects, later': (error) => async () => {
    await null;
    raise(error);
  },
  'calls back': (error) => (ctx, cb) => cb(error),
  'calls back, later': (error) => (ctx, cb) => void setImmediate(cb, error),
};

for (const [way, fail] of Object.entries(WAYS)) {
  beyond(`code, data and time of a handler's error come back, when it ${way}`, async (network) => {
    const { destination, role, listener } = await network.service();
    listener.on('handler_error', () => assert.fail('it is an answer'));
    role.onRequest('e', fail(new HandlerError('no more', ALL)));
    const expected = { code: 'REJECTED', message: 'no more', failure: { ...ALL, unhandled: false } };
    const promised = await destination.request('e').catch((error) => error);
    assert.ok(promised instanceof RoletalkError);
    const called = await new Promise((resolve) => destination.request('e', null, resolve));
    const surveyed = [];
    for await (const { error } of destination.survey('e')) surveyed.push(error);
    for (const { code, message, failure } of [promised, called, ...surveyed]) {
      assert.deepEqual({ code, message, failure }, expected);
    }
    for (const on of ['onReadable', 'onWritable']) role[on]('e', fail(new HandlerError('no more', ALL)));
    for (const kind of ['Readable', 'Writable']) {
      const [{ code, message, failure }] = await once(destination[kind]('e'), 'error');
      assert.deepEqual([code, failure], ['REJECTED', expected.failure]);
      assert.match(message, /"no more"/);
    }
    assert.equal(listener.stats().handlerErrors, 0);
  });
}

beyond('each part may be left out', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', ({ data }) => raise(new HandlerError('no', data ?? undefined)));
  for (const parts of [{ code: 'A' }, { data: 0 }, { data: '' }, { retryAfter: 0 }]) {
    await assert.rejects(destination.request('e', parts), { message: 'no', failure: { ...parts, unhandled: false } });
  }
  const plain = await destination.request('e').catch((error) => error);
  assert.ok(!('failure' in plain), 'nothing was said');
});

beyond('only errors that are made for it tell more than their text', async (network) => {
  const { destination, role, listener } = await network.service();
  listener.on('handler_error', () => {});
  const system = Object.assign(new Error('open failed'), { code: 'ENOENT', errno: -2, data: 'secret', retryAfter: 1 });
  const forwarded = new RoletalkError('REJECTED', 'from elsewhere', { failure: { code: 'INNER', unhandled: true } });
  for (const error of [system, forwarded, { code: 'A', message: 'b' }, 'text']) {
    role.onRequest('e', WAYS.rejects(error));
    const { code, failure } = await destination.request('e').catch((rejected) => rejected);
    assert.deepEqual([code, failure], ['REJECTED', undefined]);
    role._reqHandler.removeAllListeners('e');
  }
});

beyond('errors of one\'s own, and of another copy of the package, do so', async (network) => {
  const { destination, role } = await network.service();
  class QuotaError extends HandlerError {
    constructor(left) {
      super('no quota', { code: 'QUOTA', data: { left } });
    }
  }
  const foreign = Object.assign(new Error('foreign'), { [Symbol.for('roletalk.failure')]: true, code: 'F' });
  role.onRequest('own', () => raise(new QuotaError(0)));
  role.onRequest('foreign', () => raise(foreign));
  await assert.rejects(destination.request('own'), { failure: { code: 'QUOTA', data: { left: 0 }, unhandled: false } });
  await assert.rejects(destination.request('foreign'), { failure: { code: 'F', unhandled: false } });
});

beyond('a handler\'s error is one', () => {
  const cause = new Error('why');
  const error = new HandlerError('no', { ...ALL, cause });
  assert.ok(error instanceof Error);
  assert.deepEqual([error.name, error.message, error.cause, String(error)], ['HandlerError', 'no', cause, 'HandlerError: no']);
  assert.deepEqual({ ...error }, ALL);
  assert.deepEqual({ ...new HandlerError('no') }, {});
});

const circular = {};
circular.self = circular;

// What cannot be sent leaves the text, and is told of where it happened.
const UNFIT = {
  'data that is too large': [{ code: 'A', data: 'x'.repeat(9_000) }, { code: 'TOO_LARGE' }],
  'a code that is too long': [{ code: 'x'.repeat(9_000) }, { code: 'TOO_LARGE' }],
  'data without a JSON form': [{ code: 'A', data: circular }, { name: 'TypeError' }],
};

for (const [what, [parts, fault]] of Object.entries(UNFIT)) {
  beyond(`an error with ${what} still has its text and the answer's headers`, async (network) => {
    const { destination, role, listener } = await network.service();
    role.onRequest('e', (ctx) => {
      ctx.setHeader('a', 'b');
      raise(new HandlerError('no', parts));
    });
    const told = once(listener, 'handler_error');
    const [error, ctx] = await new Promise((resolve) => destination.request('e', null, (...args) => resolve(args)));
    assert.deepEqual([error.message, error.failure, ctx.headers.a], ['no', undefined, 'b']);
    const [[key, value]] = Object.entries(fault);
    assert.equal((await told)[0][key], value);
  });
}

beyond('an error that is thrown after the answer is a failure', async (network) => {
  const { destination, role, listener } = await network.service();
  role.onRequest('e', (ctx, cb) => {
    cb(null, 'fine');
    raise(new HandlerError('after'));
  });
  const told = once(listener, 'handler_error');
  assert.equal((await destination.request('e')).data, 'fine');
  assert.equal((await told)[0].message, 'after');
});

beyond('what no handler was begun for says so', async (network) => {
  const { destination, role, dialer, unit } = await network.service();
  const unhandled = { code: 'REJECTED', failure: { unhandled: true } };
  await assert.rejects(destination.request('nothing'), { ...unhandled, message: 'The event "nothing" is not handled' });
  const nowhere = dialer.destination('nowhere');
  await assert.rejects(nowhere.request({ event: 'e', unit }), { ...unhandled, message: 'The role "nowhere" is not registered' });
  const [error] = await once(destination.Readable('nothing'), 'error');
  assert.deepEqual(error.failure, unhandled.failure);
  role.onRequest('e', (ctx, cb) => cb('no'));
  const handled = await destination.request('e').catch((rejected) => rejected);
  assert.equal(handled.failure, undefined);
});

beyond('a peer that knows nothing of it has the text as ever', async (network) => {
  const listener = await network.listener();
  listener.role('r').onRequest('e', () => raise(new HandlerError('no more', ALL)));
  const raw = await network.raw(listener);
  await raw.handshake();
  raw.ask('r', 'e', 'x');
  assert.equal(String((await raw.message(FRAME.reject)).subarray(4)), 'no more');
});
