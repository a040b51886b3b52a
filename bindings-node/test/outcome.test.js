'use strict';

// Whatever a handler does to end, whoever has asked gets exactly one outcome, the handler counts as ended, and what
// else was asked is answered.

const assert = require('node:assert/strict');
const { differs } = require('./support/subject');

const DIES = 'it ends the process, or nobody hears of it';

const getter = (thrown) => ({
  get a() {
    throw thrown;
  },
});

class TwicePromise extends Promise {
  then(onFulfilled, onRejected) {
    onRejected?.(new Error('from outside'));
    onRejected?.(new Error('from outside'));
    return super.then(onFulfilled, onRejected);
  }
}

class Species extends Promise {
  static get [Symbol.species]() {
    throw new Error('no species');
  }
}

const twice = {
  then(resolve, reject) {
    resolve('first');
    reject(new Error('second'));
    throw new Error('third');
  },
};

const twiceRejected = {
  then(resolve, reject) {
    reject(new Error('first'));
    reject(new Error('second'));
    resolve('third');
  },
};

/** An error whose every property throws. */
const hostile = new Proxy(new Error('hidden'), {
  get() {
    throw new Error('a trap');
  },
  getPrototypeOf() {
    throw new Error('a trap');
  },
});

function refuseToSet() {
  raise(new Error('set'));
}

async function turns(count) {
  for (let n = 0; n < count; n++) await new Promise(setImmediate);
}

const raise = (thrown) => {
  throw thrown;
};

// A handler, what the request comes to (an answer, or the text of a rejection), and how many failures are counted.
const HANDLERS = {
  'throws null': [() => raise(null), { rejected: 'null' }, 1],
  'throws undefined': [() => raise(undefined), { rejected: 'undefined' }, 1],
  'throws false': [() => raise(false), { rejected: 'false' }, 1],
  'throws what cannot be looked at': [() => raise(hostile), { rejected: 'an error that cannot be printed' }, 1],
  'rejects with undefined': [async () => raise(undefined), { rejected: 'undefined' }, 1],
  'rejects with null, later': [
    async () => {
      await null;
      raise(null);
    },
    { rejected: 'null' },
    1,
  ],
  'returns a rejected promise of undefined': [() => Promise.reject(), { rejected: 'undefined' }, 1],
  'is async and returns a thenable that calls back twice': [
    async (ctx, cb) => {
      cb(null, await twice);
      return twice;
    },
    { answered: 'first' },
    0,
  ],
  'is async and returns a thenable that rejects twice': [async () => twiceRejected, { rejected: 'first' }, 1],
  'returns a promise whose then calls back twice': [
    (ctx, cb) => {
      setImmediate(cb, null, 'answered');
      return TwicePromise.resolve();
    },
    { answered: 'answered' },
    0,
  ],
  'returns a rejected promise whose then calls back twice': [
    () => TwicePromise.reject(new Error('inside')),
    { rejected: 'inside' },
    1,
  ],
  'returns a promise that cannot be waited for': [() => Species.resolve(), { rejected: 'no species' }, 1],
  'answers, and throws': [
    (ctx, cb) => {
      cb(null, 'answered');
      raise(new Error('after'));
    },
    { answered: 'answered' },
    1,
  ],
  'answers, and rejects': [
    async (ctx, cb) => {
      cb(null, 'answered');
      raise(null);
    },
    { answered: 'answered' },
    1,
  ],
  'answers twice, in turns of their own': [
    (ctx, cb) => {
      cb(null, 'answered');
      // Behind those who wait for the answer: until then, the last one counts.
      turns(10).then(() => cb(new Error('again')));
    },
    { answered: 'answered' },
    0,
  ],
  'answers with a getter that throws': [(ctx, cb) => cb(null, getter(new Error('got'))), { rejected: 'got' }, 1],
  'answers with a getter that throws null': [(ctx, cb) => cb(null, getter(null)), { rejected: 'null' }, 1],
  'answers with a toJSON that throws undefined': [
    (ctx, cb) => cb(null, { toJSON: () => raise(undefined) }),
    { rejected: 'undefined' },
    1,
  ],
  'answers with an error that cannot be looked at': [
    (ctx, cb) => cb(hostile),
    { rejected: 'an error that cannot be printed' },
    0,
  ],
  'freezes the context, and answers': [
    (ctx, cb) => {
      Object.freeze(ctx);
      cb(null, 'never');
    },
    { rejected: /object is not extensible/ },
    1,
  ],
  'freezes the context, and throws': [
    (ctx) => {
      Object.freeze(ctx);
      raise(null);
    },
    { rejected: 'null' },
    1,
  ],
  'freezes the context, and answers later': [
    (ctx, cb) => {
      Object.freeze(ctx);
      return new Promise((resolve) => setImmediate(resolve)).then(() => cb(null, 'never'));
    },
    { rejected: /object is not extensible/ },
    1,
  ],
  'answers, where the context throws when it is read': [
    (ctx, cb) => {
      cb(null, 'answered');
      Object.defineProperty(ctx, 'error', { get: () => raise(new Error('read')) });
    },
    { rejected: 'read' },
    1,
  ],
  'throws, where the context throws when it is read': [
    (ctx) => {
      for (const name of ['role', 'event', 'unit', 'error', 'response']) {
        Object.defineProperty(ctx, name, { get: () => raise(new Error('read')), set: refuseToSet });
      }
      raise(new Error('thrown'));
    },
    { rejected: 'thrown' },
    1,
  ],
};

const MIDDLEWARE = {
  none: () => {},
  plain: (listener, role) => {
    listener.onRequest(() => {});
    role.onRequest(async () => {});
  },
  'that waits for the answer': (listener, role) => {
    role.onRequest(async (ctx) => {
      await ctx.next();
    });
  },
};

for (const [what, [handler, expected, failures]] of Object.entries(HANDLERS)) {
  for (const [kind, use] of Object.entries(MIDDLEWARE)) {
    differs(`a handler that ${what}, with middleware: ${kind}`, DIES, async (network) => {
      const { listener, role, destination } = await network.service();
      const unhandled = [];
      const onUnhandled = (reason) => unhandled.push(reason);
      process.on('unhandledRejection', onUnhandled);
      use(listener, role);
      let failed = 0;
      listener.on('handler_error', () => failed++);
      role.onRequest('e', handler);
      role.onRequest('good', (ctx, cb) => cb(null, ctx.data));
      const outcomes = [];
      // In one batch with what is well, which must not suffer.
      const well = [destination.request('good', 1), destination.request('good', 2)];
      await new Promise((resolve) => {
        destination.request('e', null, (error, ctx) => {
          outcomes.push(error === null ? { answered: ctx.data } : { rejected: error.message });
          resolve();
        });
      });
      well.push(destination.request('good', 3));
      assert.deepEqual((await Promise.all(well)).map(({ data }) => data), [1, 2, 3]);
      // Turns for what comes late.
      await turns(15);
      assert.equal((await destination.request('good', 4)).data, 4);
      assert.equal(outcomes.length, 1);
      const [[key, value]] = Object.entries(expected);
      if (value instanceof RegExp) assert.match(outcomes[0][key], value);
      else assert.deepEqual(outcomes[0], expected);
      assert.equal(failed, failures);
      assert.equal(listener.stats().handlerErrors, failures);
      assert.equal(listener.stats().busy, 0);
      process.off('unhandledRejection', onUnhandled);
      assert.deepEqual(unhandled, []);
    });
  }
}

const MESSAGE_HANDLERS = ['throws null', 'rejects with undefined', 'throws what cannot be looked at'];

for (const what of MESSAGE_HANDLERS) {
  differs(`a handler of messages that ${what} is told of once`, DIES, async (network) => {
    const { listener, role, destination } = await network.service();
    const [handler] = HANDLERS[what];
    let failed = 0;
    listener.on('handler_error', () => failed++);
    role.onMessage('e', handler);
    role.onMessage('e', (ctx) => {
      ctx.unit = undefined;
      return handler();
    });
    role.onRequest('good', (ctx, cb) => cb(null, ctx.data));
    for (let n = 0; n < 3; n++) destination.send('e', n);
    assert.equal((await destination.request('good', 1)).data, 1);
    assert.ok(failed >= 3 && failed === listener.stats().handlerErrors, `${failed}`);
  });

  differs(`a handler of streams that ${what} refuses the stream once`, DIES, async (network) => {
    const { listener, role, destination } = await network.service();
    const [handler] = HANDLERS[what];
    let failed = 0;
    listener.on('handler_error', () => failed++);
    role.onReadable('e', handler);
    role.onWritable('e', handler);
    const errors = [];
    const refused = [destination.Writable('e', null), destination.Readable('e', null)].map((stream) => {
      stream.on('error', ({ code }) => errors.push(code));
      return new Promise((resolve) => stream.on('close', resolve));
    });
    await Promise.all(refused);
    assert.deepEqual(errors, ['REJECTED', 'REJECTED']);
    assert.equal(failed, 2);
  });
}

differs('a rejection that is too large to be sent', DIES, async (network) => {
  const { listener, role, destination } = await network.service();
  role.onRequest('text', (ctx, cb) => cb('x'.repeat(101 << 20)));
  role.onRequest('data', (ctx, cb) => cb(null, Buffer.alloc(101 << 20)));
  role.onRequest('good', (ctx, cb) => cb(null, ctx.data));
  for (const event of ['text', 'data']) {
    const well = destination.request('good', 1);
    await assert.rejects(destination.request(event, null), { code: 'REJECTED' });
    assert.equal((await well).data, 1);
  }
  assert.equal(listener.stats().busy, 0);
});
