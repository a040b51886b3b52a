'use strict';

// Every type of data, in each direction, and what becomes of values that have no type of their own.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { check, differs } = require('./support/subject');

const finish = (writable) => new Promise((resolve) => writable.end(resolve));

class Point {
  constructor(x) {
    this.x = x;
  }
}

// What is sent, what arrives, and the name of its type.
const VALUES = {
  null: [null, null, 'null'],
  undefined: [undefined, null, 'null'],
  'a function': [() => 1, null, 'null'],
  'a symbol': [Symbol('s'), null, 'null'],
  'a bigint': [5n, null, 'null'],
  true: [true, true, 'boolean'],
  false: [false, false, 'boolean'],
  zero: [0, 0, 'number'],
  'minus zero': [-0, 0, 'number'],
  'a fraction': [-1.5, -1.5, 'number'],
  NaN: [NaN, NaN, 'number'],
  Infinity: [Infinity, Infinity, 'number'],
  '-Infinity': [-Infinity, -Infinity, 'number'],
  'a large number': [1e21, 1e21, 'number'],
  'a small number': [1e-7, 1e-7, 'number'],
  'the largest number': [Number.MAX_VALUE, Number.MAX_VALUE, 'number'],
  'the smallest number': [Number.MIN_VALUE, Number.MIN_VALUE, 'number'],
  'the largest safe integer': [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, 'number'],
  'an integer beyond 2^53': [2 ** 63, 2 ** 63, 'number'],
  'a sum that is not exact': [0.1 + 0.2, 0.1 + 0.2, 'number'],
  'an empty string': ['', '', 'string'],
  'a string of ASCII': ['text', 'text', 'string'],
  'a string of Latin 1': ['é', 'é', 'string'],
  'a string beyond ASCII': ['ключ 事件 🔑', 'ключ 事件 🔑', 'string'],
  'a string with NUL': ['a\0b', 'a\0b', 'string'],
  'lone surrogates': ['\ud800a\udc00', '\ufffda\ufffd', 'string'],
  'a byte order mark': ['\ufeffa', '\ufeffa', 'string'],
  'a string that looks like JSON': ['{"a":', '{"a":', 'string'],
  'an empty Buffer': [Buffer.alloc(0), Buffer.alloc(0), 'binary'],
  'a Buffer of all bytes': [Buffer.from([...Array(256).keys()]), Buffer.from([...Array(256).keys()]), 'binary'],
  'an empty object': [{}, {}, 'object'],
  'an empty array': [[], [], 'object'],
  'nested objects': [{ a: [1, { b: null }], ü: '🔑' }, { a: [1, { b: null }], ü: '🔑' }, 'object'],
  'undefined within': [{ a: undefined, b: [undefined] }, { b: [null] }, 'object'],
  'a Date': [new Date(0), '1970-01-01T00:00:00.000Z', 'object'],
  'a String object': [new String('s'), 's', 'object'],
  'a Number object': [new Number(5), 5, 'object'],
  'a Boolean object': [new Boolean(false), false, 'object'],
  'another typed array': [new Uint16Array([1, 2]), { 0: 1, 1: 2 }, 'object'],
  'a Uint8ClampedArray': [new Uint8ClampedArray([1, 2]), { 0: 1, 1: 2 }, 'object'],
  'a DataView': [new DataView(new ArrayBuffer(2)), {}, 'object'],
  'an ArrayBuffer': [new ArrayBuffer(2), {}, 'object'],
  'an Error': [new Error('e'), {}, 'object'],
  'a Map': [new Map([[1, 2]]), {}, 'object'],
  'a Set': [new Set([1]), {}, 'object'],
  'a Uint8Array within an object': [{ a: new Uint8Array([7]) }, { a: { 0: 7 } }, 'object'],
  'an instance of a class': [new Point(1), { x: 1 }, 'object'],
  'an object with toJSON': [{ toJSON: () => [1] }, [1], 'object'],
  'a Buffer within an object': [{ b: Buffer.from('a') }, { b: { type: 'Buffer', data: [97] } }, 'object'],
  'a key named __proto__': [JSON.parse('{"__proto__":{"a":1}}'), JSON.parse('{"__proto__":{"a":1}}'), 'object'],
};

for (const [name, [sent, received, type]] of Object.entries(VALUES)) {
  check(`${name}: by message, by request, and in the answer`, async (network) => {
    const { destination, role } = await network.service();
    const message = new Promise((resolve) => role.onMessage('e', resolve));
    const contexts = [];
    role.onRequest('e', (ctx, cb) => {
      contexts.push(ctx);
      cb(null, sent);
    });
    destination.send('e', sent);
    contexts.push(await destination.request('e', sent), await message);
    assert.equal(contexts.length, 3);
    for (const ctx of contexts) {
      assert.deepEqual(ctx.data, received);
      assert.equal(ctx.type, type);
      assert.equal(ctx.origin.type, type);
      assert.ok(Buffer.isBuffer(ctx.origin.raw));
      assert.equal(Buffer.isBuffer(ctx.data), type === 'binary');
      if (type === 'binary') assert.deepEqual(ctx.origin.raw, received);
      if (type === 'object') assert.equal(String(ctx.origin.raw), JSON.stringify(sent));
      if (type === 'string') assert.equal(String(ctx.origin.raw), received);
      if (type === 'number') assert.equal(String(ctx.origin.raw), String(received));
      if (type === 'boolean') assert.deepEqual([...ctx.origin.raw], [received ? 1 : 0]);
      if (type === 'null') assert.equal(ctx.origin.raw.length, 0);
    }
  });
}

check('the data of stream requests and of their answers', async (network) => {
  const { destination, role } = await network.service();
  const asked = [];
  role.onReadable('e', (ctx, cb) => {
    asked.push([ctx.data, ctx.type]);
    ctx.readable.resume();
    cb(null, ctx.data);
  });
  const values = [1, 'text', null, true, { a: 1 }, Buffer.from('b')];
  for (const value of values) {
    const writable = destination.Writable('e', value);
    const [ctx] = await once(writable, 'ready');
    await finish(writable);
    assert.deepEqual(ctx.data, value);
  }
  const types = ['number', 'string', 'null', 'boolean', 'object', 'binary'];
  assert.deepEqual(asked, values.map((value, n) => [value, types[n]]));
});

check('a stream asked for without data gives an empty object', async (network) => {
  const { destination, role } = await network.service();
  const asked = new Promise((resolve) =>
    role.onReadable('e', (ctx, cb) => {
      ctx.readable.resume();
      cb(null);
      resolve(ctx);
    }),
  );
  const writable = destination.Writable('e');
  const [answer] = await once(writable, 'ready');
  await finish(writable);
  const ctx = await asked;
  assert.deepEqual([ctx.data, ctx.type], [{}, 'object']);
  assert.deepEqual([answer.data, answer.type], [null, 'null']);
});

for (const length of [1 << 10, 1 << 16, 1 << 20, 5 << 20]) {
  check(`${length} bytes, and as many characters`, async (network) => {
    const { destination, role } = await network.service();
    role.onRequest('echo', (ctx, cb) => cb(null, ctx.data));
    const bytes = Buffer.allocUnsafe(length);
    for (let at = 0; at < length; at++) bytes[at] = (at * 31 + (at >> 8)) & 0xff;
    const text = 'aé事'.repeat(length / 4);
    assert.ok(bytes.equals((await destination.request('echo', bytes)).data));
    assert.ok((await destination.request('echo', text)).data === text);
    assert.ok((await destination.request('echo', { text })).data.text === text);
  });
}

const circular = {};
circular.self = circular;
const UNSENDABLE = {
  'a circular object': circular,
  'an object with a bigint': { a: 5n },
  'an object whose toJSON gives nothing': { toJSON: () => undefined },
  'an object whose toJSON throws': {
    toJSON() {
      throw new TypeError('not me');
    },
  },
};

for (const [name, value] of Object.entries(UNSENDABLE)) {
  check(`${name} is refused at once, and nothing else is hurt`, async (network) => {
    const { destination, role } = await network.service();
    role.onRequest('echo', (ctx, cb) => cb(null, ctx.data));
    assert.throws(() => destination.send('e', value), TypeError);
    assert.throws(() => destination.broadcast('e', value), TypeError);
    assert.throws(() => destination.request('e', value, () => assert.fail('called')), TypeError);
    await assert.rejects(async () => destination.request('e', value), TypeError);
    assert.throws(() => destination.survey('e', value, () => assert.fail('called')), TypeError);
    assert.equal((await destination.request('echo', 'still here')).data, 'still here');
  });
}

for (const length of [4, 1 << 20]) {
  check(`a Buffer of ${length} bytes may be changed as soon as it was handed over`, async (network) => {
    const { destination, role } = await network.service();
    const messages = [];
    role.onMessage('e', (ctx) => messages.push(ctx.data));
    role.onRequest('echo', (ctx, cb) => {
      const answer = Buffer.from(ctx.data);
      cb(null, answer);
      setImmediate(() => setImmediate(() => setImmediate(() => answer.fill('z'))));
    });
    const bytes = Buffer.alloc(length, 'a');
    destination.send('e', bytes);
    const answer = destination.request('echo', bytes);
    bytes.fill('b');
    assert.ok((await answer).data.equals(Buffer.alloc(length, 'a')));
    assert.ok(messages[0].equals(Buffer.alloc(length, 'a')));
  });
}

check('what was received stays as it was, however long it is kept', async (network) => {
  const { destination, role } = await network.service();
  const kept = [];
  role.onMessage('e', (ctx) => kept.push(ctx));
  role.onRequest('echo', (ctx, cb) => cb(null, ctx.data));
  const content = (n) => Buffer.alloc(1 + ((n * 37) % 5_000), n % 256);
  const answers = [];
  for (let n = 0; n < 2_000; n++) {
    destination.send('e', content(n));
    answers.push(await destination.request('echo', content(n)));
  }
  assert.deepEqual([kept.length, answers.length], [2_000, 2_000]);
  for (const contexts of [kept, answers]) {
    contexts.forEach((ctx, n) => {
      assert.ok(content(n).equals(ctx.data) && content(n).equals(ctx.origin.raw), `${n}`);
    });
  }
});

check('received data belongs to its handler: changing it changes nothing else', async (network) => {
  const { destination, role } = await network.service();
  const received = [];
  role.onMessage('e', (ctx) => {
    received.push(String(ctx.data));
    ctx.data.fill('!');
  });
  role.onRequest('end', (ctx, cb) => cb(null, null));
  for (let n = 0; n < 100; n++) destination.send('e', Buffer.from(`${n}`));
  await destination.request('end', null);
  assert.deepEqual(received, Array.from({ length: 100 }, (_, n) => `${n}`));
});

check('an object is parsed anew for each receiver, and no receiver gets a shared one', async (network) => {
  const { destination, role } = await network.service();
  const seen = [];
  role.onMessage('e', (ctx) => {
    seen.push({ ...ctx.data });
    ctx.data.changed = true;
  });
  role.onRequest('end', (ctx, cb) => cb(null, null));
  const sent = { a: 1 };
  destination.send('e', sent);
  destination.send('e', sent);
  await destination.request('end', null);
  assert.deepEqual(seen, [{ a: 1 }, { a: 1 }]);
  assert.deepEqual(sent, { a: 1 });
});

const LOSES_ANSWERS = 'answers that come before the system has taken the whole burst are lost';

differs('all of a burst that fills every buffer is answered', LOSES_ANSWERS, async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('echo', (ctx, cb) => cb(null, ctx.data));
  const content = (n) => Buffer.alloc(5_000, n % 256);
  const answers = await Promise.all(Array.from({ length: 4_000 }, (_, n) => destination.request('echo', content(n))));
  answers.forEach((ctx, n) => assert.ok(content(n).equals(ctx.data), `${n}`));
});

differs('a Uint8Array is binary, as a Buffer is', 'it is an object with a key for each byte', async (network) => {
  const { destination, role } = await network.service();
  const message = new Promise((resolve) => role.onMessage('e', resolve));
  const data = new Promise((resolve) => {
    role.onWritable('e', (ctx, cb) => {
      resolve(ctx);
      cb(null, new Uint8Array([3]));
    });
  });
  role.onRequest('e', (ctx, cb) => cb(null, ctx.data.length > 5 ? new Uint8Array(ctx.data) : ctx.data.subarray(1)));
  // A part of its memory, what fits into a batch, and what is handed over.
  const part = new Uint8Array([0, 1, 2, 3]).subarray(1, 3);
  destination.send('e', part);
  const contexts = [await message, await destination.request('e', part)];
  for (const [ctx, bytes] of contexts.map((ctx, n) => [ctx, n === 0 ? [1, 2] : [2]])) {
    assert.deepEqual([ctx.type, ctx.data], ['binary', Buffer.from(bytes)]);
  }
  for (const length of [10, 50_000]) {
    const bytes = new Uint8Array(length).fill(length);
    assert.deepEqual((await destination.request('e', bytes)).data, Buffer.from(bytes));
  }
  const [ready] = await once(destination.Readable('e', new Uint8Array([9])), 'ready');
  assert.deepEqual([(await data).data, ready.data], [Buffer.from([9]), Buffer.from([3])]);
});
