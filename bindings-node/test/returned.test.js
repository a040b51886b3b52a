'use strict';

// Handlers that answer with what they return, beside those that call back, whose outcome is their own affair.

const assert = require('node:assert/strict');
const { beyond, check } = require('./support/subject');

const VALUES = ['text', '', 0, 7, true, false, null, { a: 1 }, [1, 2], Buffer.from('bytes')];

const turns = async (count) => {
  for (let n = 0; n < count; n++) await new Promise(setImmediate);
};

// Handlers that answer with their data.
const RETURNING = {
  'returns a value': (ctx) => ctx.data,
  'returns a promise': (ctx) => Promise.resolve(ctx.data),
  'is async': async (ctx) => ctx.data,
  'is async, and waits': async ({ data }) => {
    await turns(2);
    return data;
  },
  'is a function with its own this': function (ctx) {
    return ctx.data;
  },
  'takes all arguments': (...args) => args[0].data,
  'has a default': async (ctx = {}) => ctx.data,
};

for (const [what, handler] of Object.entries(RETURNING)) {
  beyond(`a handler that ${what} answers with it`, async (network) => {
    const { destination, role } = await network.service();
    role.onRequest('e', handler);
    for (const value of VALUES) assert.deepEqual((await destination.request('e', value)).data, value);
  });
}

// Without a word, a promise that resolves to nothing is an answer where nobody could call back later.
const SILENT = {
  'async, with a context': async (ctx) => void ctx,
  'async, with a part of it': async ({ data }) => void data,
  'async, without anything': async () => {},
  'an async function': async function () {},
  'an async function with a name': async function named() {},
  'a method': { async method() {} }.method,
  'not async': () => Promise.resolve(),
};

for (const [what, handler] of Object.entries(SILENT)) {
  beyond(`a promise of nothing is null: ${what}`, async (network) => {
    const { destination, role } = await network.service();
    role.onRequest('e', handler);
    const { data, type } = await destination.request('e', 'x');
    assert.deepEqual([data, type], [null, 'null']);
  });
}

const later = (cb, value) => void setImmediate(() => setImmediate(cb, null, value));

function wrapped(handler) {
  return async (...args) => {
    await handler(...args);
  };
}

// Handlers that were written for the original: what they return means nothing.
const CALLING = {
  'returns a timer': (ctx, cb) => setTimeout(cb, 1, null, 'called back'),
  'returns a number': (ctx, cb) => later(cb, 'called back') ?? 5,
  'is async and calls back after its end': async (ctx, cb) => later(cb, 'called back'),
  'is async, calls back after its end, and returns something': async (ctx, cb) => later(cb, 'called back') ?? 5,
  'returns a promise of something else': (ctx, cb) =>
    Promise.resolve().then(() => {
      later(cb, 'called back');
      return 'something else';
    }),
  'calls back, and returns something': (ctx, cb) => {
    cb(null, 'called back');
    return 'something else';
  },
  'is wrapped by an async function': wrapped((ctx, cb) => later(cb, 'called back')),
  'is wrapped by a function that has all arguments': async function () {
    later(arguments[1], 'called back');
  },
  'is bound': async function (self, ctx, cb) {
    later(cb, 'called back');
  }.bind(null, 1),
  'has a default for everything': async (ctx = {}, cb = () => {}) => later(cb, ctx.data ?? 'called back'),
};

for (const [what, handler] of Object.entries(CALLING)) {
  check(`a handler that ${what} answers when it calls back`, async (network) => {
    const { destination, role } = await network.service();
    role.onRequest('e', handler);
    assert.equal((await destination.request('e', null)).data, 'called back');
  });
}

check('what middleware returns is no answer', async (network) => {
  const { destination, role, listener } = await network.service();
  const seen = [];
  for (const target of [listener, role]) {
    target.onRequest((ctx) => seen.push(ctx));
    target.onData(async (ctx) => seen.push(ctx));
    target.onRequest(async () => {});
  }
  role.onRequest('e', (ctx, cb) => later(cb, 'called back'));
  assert.equal((await destination.request('e', null)).data, 'called back');
  assert.equal(seen.length, 4);
});

check('nor what one handler of an event returns, where another one has a callback', async (network) => {
  const { destination, role } = await network.service();
  const seen = [];
  role.onRequest('e', (ctx) => seen.push(ctx));
  role.onRequest('e', async (ctx) => seen.push(ctx));
  role.onRequest('e', (ctx, cb) => later(cb, 'called back'));
  assert.equal((await destination.request('e', null)).data, 'called back');
});

beyond('of several handlers, the first that returns something answers', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', () => {});
  role.onRequest('e', async () => {});
  role.onRequest('e', async () => {
    await turns(2);
    return 'second';
  });
  assert.equal((await destination.request('e')).data, 'second');
  role.onRequest('e', () => 'first');
  assert.equal((await destination.request('e')).data, 'first');
});

beyond('middleware that waits sees what was returned, and may change it', async (network) => {
  const { destination, role, listener } = await network.service();
  listener.onRequest(async (ctx) => {
    await ctx.next();
    ctx.response = [ctx.response];
  });
  role.onRequest('e', async (ctx) => ctx.data);
  assert.deepEqual((await destination.request('e', 5)).data, [5]);
});

beyond('what is returned and cannot be sent rejects the request, as what is called back with', async (network) => {
  const { destination, role, listener } = await network.service();
  let failures = 0;
  listener.on('handler_error', () => failures++);
  const circular = {};
  circular.self = circular;
  role.onRequest('value', () => circular);
  role.onRequest('promise', async () => circular);
  role.onRequest('frozen', async (ctx) => {
    Object.freeze(ctx);
    return 1;
  });
  for (const event of ['value', 'promise', 'frozen']) {
    await assert.rejects(destination.request(event), { code: 'REJECTED' });
  }
  assert.equal(failures, 3);
  assert.equal(listener.stats().busy, 0);
});

beyond('a handler of streams has no answer but by its callback', async (network) => {
  const { destination, role } = await network.service();
  role.onWritable('e', async ({ writable }, cb) => {
    cb(null, 'go ahead');
    writable.end('all');
    return 'something else';
  });
  let text = '';
  for await (const chunk of destination.Readable('e')) text += chunk;
  assert.equal(text, 'all');
});
