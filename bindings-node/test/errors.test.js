'use strict';

// What requests fail with: what is printed, and when.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { beyond, check, differs } = require('./support/subject');
const { until } = require('./support/network');
const { FRAME } = require('./support/raw');

/** What a request is rejected with. */
const rejection = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return assert.fail('the request was answered');
};

// What a handler hands over as error, and the text that the requester sees.
const REASONS = {
  'an Error': [new Error('boom'), 'boom'],
  'an Error of another class': [new TypeError('boom'), 'boom'],
  'an Error without a text': [new Error(''), ''],
  'a string': ['no', 'no'],
  'a number': [5, '5'],
  'a boolean': [true, 'true'],
  'an object': [{ a: 1 }, '[object Object]'],
  'an array': [[1, 2], '1,2'],
  'text beyond ASCII': ['нет 🔑', 'нет 🔑'],
};

for (const [name, [reason, text]] of Object.entries(REASONS)) {
  check(`a request rejected with ${name}`, async (network) => {
    const { destination, role, unit } = await network.service();
    role.onRequest('e', (ctx, cb) => cb(reason, 'ignored'));
    const error = await rejection(destination.request('e', null));
    assert.ok(error instanceof Error);
    assert.equal(error.message, text);
    assert.equal(String(error), String(new Error(text)));
    const called = await new Promise((resolve) => destination.request('e', null, (...args) => resolve(args)));
    assert.equal(called[0].message, text);
    assert.deepEqual([called[1].data, called[1].type], [text, 'string']);
    assert.equal(called[1].unit, unit);
  });
}

/** The error and the context of a request that a peer rejects with this payload. */
const rejectedWith = async (network, payload) => {
  const listener = await network.listener();
  const accepted = once(listener, 'unit');
  const raw = await network.raw(listener);
  await raw.handshake();
  const [unit] = await accepted;
  const outcome = new Promise((resolve) => {
    listener.destination('r').request({ event: 'e', unit }, null, (...args) => resolve(args));
  });
  await raw.message(FRAME.request);
  raw.binary(Buffer.concat([Buffer.from([FRAME.reject, 1, 0]), Buffer.from(payload, 'latin1')]));
  return outcome;
};

check('the context of a rejected request has what it was rejected with', async (network) => {
  // The last one is the text that refusals of streams have.
  for (const text of ['', 'no', '{"data":"no"}']) {
    const [error, ctx] = await rejectedWith(network, `\x03${text}`);
    assert.equal(String(error), String(new Error(text)));
    assert.deepEqual([ctx.data, ctx.type, String(ctx.origin.raw)], [text, 'string', text]);
    assert.equal(typeof ctx.rtt, 'number');
  }
  const [, ctx] = await rejectedWith(network, '\x05{"a":1}');
  assert.deepEqual([ctx.data, ctx.type], [{ a: 1 }, 'object']);
});

differs('a reject that is not text is an Error', 'it is the bare value, or a success', async (network) => {
  for (const [payload, text, data] of [
    ['\x05{}', '{}', {}],
    ['\x04-7', '-7', -7],
    ['\x02\x00', 'false', false],
    ['\x00bytes', 'bytes', Buffer.from('bytes')],
    ['\x01', 'null', null],
  ]) {
    const [error, ctx] = await rejectedWith(network, payload);
    assert.deepEqual([String(error), error.code, ctx.data], [`Error: ${text}`, 'REJECTED', data]);
  }
});

for (const falsy of [null, undefined, '', 0, false, NaN]) {
  check(`${String(falsy) || 'an empty string'} as error is none`, async (network) => {
    const { destination, role } = await network.service();
    role.onRequest('e', (ctx, cb) => cb(falsy, 'data'));
    assert.equal((await destination.request('e', null)).data, 'data');
  });
}

check('a request that is not answered in time', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', () => {});
  const began = performance.now();
  const error = await rejection(destination.request({ event: 'e', timeout: 100 }, null));
  assert.ok(performance.now() - began >= 99);
  assert.equal(String(error), 'Error: Request timeout exceeded (100 ms)');
  const called = await new Promise((resolve) =>
    destination.request({ event: 'e', timeout: 1 }, null, (...args) => resolve(args)),
  );
  assert.equal(String(called[0]), 'Error: Request timeout exceeded (1 ms)');
  assert.equal(called[1].data, null);
});

check('an answer after the time is ignored', async (network) => {
  const { destination, role } = await network.service();
  let late;
  role.onRequest('late', (ctx, cb) => (late = cb));
  role.onRequest('next', (ctx, cb) => {
    late(null, 'late');
    cb(null, 'next');
  });
  let calls = 0;
  const error = await new Promise((resolve) =>
    destination.request({ event: 'late', timeout: 20 }, null, (error) => {
      calls++;
      resolve(error);
    }),
  );
  assert.equal(error.message, 'Request timeout exceeded (20 ms)');
  assert.equal((await destination.request('next', null)).data, 'next');
  assert.equal((await destination.request('next', null)).data, 'next');
  assert.equal(calls, 1);
});

check('timeout: 0 is the default, not none', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', (ctx, cb) => setTimeout(() => cb(null, 'answered'), 30));
  assert.equal((await destination.request({ event: 'e', timeout: 0 }, null)).data, 'answered');
});

check('timeouts come in the order of their times', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', () => {});
  const order = [];
  await Promise.all(
    [300, 100, 200].map((timeout) =>
      rejection(destination.request({ event: 'e', timeout }, null)).then(() => order.push(timeout)),
    ),
  );
  assert.deepEqual(order, [100, 200, 300]);
});

check('a waiting request fails when the last connection closes, whoever closes it', async (network) => {
  const { destination, role, unit, dialerUnit } = await network.service();
  const asked = once(role, 'request');
  role.onRequest('e', () => {});
  const waiting = [rejection(destination.request('e', null))];
  waiting.push(new Promise((resolve) => destination.request('e', null, resolve)));
  await asked;
  const lost = once(unit, 'close');
  dialerUnit.close();
  await lost;
  for (const error of await Promise.all(waiting)) {
    assert.equal(String(error), "Error: All unit's sockets have been closed");
  }
});

check('waiting requests fail, in their order, on a close by the requester', async (network) => {
  const { destination, role, unit } = await network.service();
  const asked = once(role, 'request');
  role.onRequest('e', () => {});
  const order = [];
  const waiting = [0, 1, 2, 3].map(
    (n) => new Promise((resolve) => destination.request('e', null, (error) => resolve(order.push([n, error.message])))),
  );
  await asked;
  unit.close();
  await Promise.all(waiting);
  assert.deepEqual(order, [0, 1, 2, 3].map((n) => [n, "All unit's sockets have been closed"]));
});

check('the answered part of many requests is kept when the connection closes', async (network) => {
  const { destination, role, unit } = await network.service();
  let waiting = 0;
  const allAsked = new Promise((resolve) =>
    role.onRequest('e', (ctx, cb) => {
      if (ctx.data % 2 === 0) cb(null, ctx.data);
      if (++waiting === 100) resolve();
    }),
  );
  const requests = Array.from({ length: 100 }, (_, n) => destination.request('e', n));
  const settled = Promise.allSettled(requests);
  await allAsked;
  await Promise.all(requests.filter((_, n) => n % 2 === 0));
  unit.close();
  (await settled).forEach(({ status, value, reason }, n) => {
    if (n % 2 === 0) assert.deepEqual([status, value.data], ['fulfilled', n]);
    else assert.deepEqual([status, reason.message], ['rejected', "All unit's sockets have been closed"]);
  });
});

check('on a unit that is closing, requests fail', async (network) => {
  const { destination, unit } = await network.service();
  const lost = once(unit, 'close');
  unit.close();
  const error = await rejection(destination.request({ event: 'e', unit }, null));
  assert.equal(String(error), 'Error: No open sockets left');
  await lost;
});

check('on a unit that is closing, the callback of a message is told', async (network) => {
  const { destination, unit } = await network.service();
  const lost = once(unit, 'close');
  unit.close();
  const error = await new Promise((resolve) => destination.send({ event: 'e', unit }, null, resolve));
  assert.equal(String(error), 'Error: No open sockets left');
  await lost;
});

check('a message or a request to a unit that is gone', async (network) => {
  const { unit } = await network.service();
  const closed = once(unit, 'close');
  unit.close();
  await closed;
  const target = { role: 'role', event: 'e' };
  const text = 'Missing underlying sockets to send data';
  assert.equal(String(await new Promise((resolve) => unit.send(target, null, resolve))), text);
  assert.equal(String(await rejection(unit.request(target, null))), text);
});

const CODES = {
  REJECTED: ({ destination, role }) => {
    role.onRequest('e', (ctx, cb) => cb('no'));
    return destination.request('e', null);
  },
  TIMEOUT: ({ destination, role }) => {
    role.onRequest('e', () => {});
    return destination.request({ event: 'e', timeout: 1 }, null);
  },
  CONNECTION_LOST: ({ destination, role, unit }) => {
    role.onRequest('e', () => unit.close());
    return destination.request('e', null);
  },
  NO_UNIT: async ({ dialer }) => dialer.destination('nobody').request('e', null),
};

for (const [code, ask] of Object.entries(CODES)) {
  differs(`an error has its code: ${code}`, 'its errors have no code', async (network) => {
    const error = await rejection(ask(await network.service()));
    assert.ok(error instanceof Error);
    assert.equal(error.code, code);
    assert.equal(error.name, 'RoletalkError');
    assert.equal(error.constructor.name, 'RoletalkError');
    assert.ok(error.stack.startsWith(`RoletalkError: ${error.message}`));
    // As the original prints it.
    assert.equal(String(error), `Error: ${error.message}`);
  });
}

differs('more than 100 MiB are refused at once', 'the receiver dies of it', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', (ctx, cb) => cb(null, 'here'));
  const large = Buffer.alloc(100 * 1024 * 1024);
  await assert.rejects(async () => destination.request('e', large), { code: 'TOO_LARGE' });
  const error = await new Promise((resolve) => destination.send('e', large, resolve));
  assert.equal(error.code, 'TOO_LARGE');
  assert.equal((await destination.request('e', null)).data, 'here');
});

differs('names that are too long are refused at once', 'it sends them with a wrong length', async (network) => {
  const { destination, unit } = await network.service();
  const long = 'x'.repeat(65_536);
  assert.throws(() => destination.send(long, null), { code: 'INVALID_ARGUMENT' });
  await assert.rejects(async () => destination.request(long, null), { code: 'INVALID_ARGUMENT' });
  assert.equal(unit._sockets.length, 1);
});

differs('what cannot be taken is told to each callback, and all the rest arrives', 'it buffers without bound', async (network) => {
  const { destination, role } = await network.service();
  let received = 0;
  role.onMessage('e', () => received++);
  role.onRequest('end', (ctx, cb) => cb(null, received));
  const large = Buffer.alloc(1024 * 1024);
  const outcomes = await Promise.all(
    Array.from({ length: 300 }, () => new Promise((resolve) => destination.send('e', large, resolve))),
  );
  const failed = outcomes.filter(Boolean);
  assert.ok(failed.length > 0);
  assert.ok(failed.every(({ code }) => code === 'OVERLOADED'));
  assert.equal((await destination.request('end', null)).data, 300 - failed.length);
});

differs('what cannot be taken and has no callback is told by the peer', 'it buffers without bound', async (network) => {
  const { dialer, destination, role, unit } = await network.service();
  let received = 0;
  role.onMessage('e', () => role.emit('received', ++received));
  role.onRequest('end', (ctx, cb) => cb(null, received));
  const slow = once(dialer, 'slow_consumer');
  const large = Buffer.alloc(1024 * 1024);
  for (let n = 0; n < 300; n++) destination.send('e', large);
  const [told] = await slow;
  assert.equal(told.unit, unit);
  assert.ok(told.dropped > 0);
  assert.ok(told.queued > 0);
  while (received < 300 - told.dropped) await once(role, 'received');
  assert.equal((await destination.request('end', null)).data, 300 - told.dropped);
});

check('all callbacks of what a program sends in one turn are called', async (network) => {
  const { destination } = await network.service();
  const count = 150_000;
  let called = 0;
  await new Promise((resolve, reject) => {
    const done = (error) => {
      if (error) reject(error);
      else if (++called === count) resolve();
    };
    for (let n = 0; n < count; n++) destination.send('e', null, done);
  });
});

check('what a program sends in one turn all arrives', async (network) => {
  const { destination, role } = await network.service();
  let received = 0;
  role.onMessage('e', () => received++);
  role.onRequest('end', (ctx, cb) => cb(null, received));
  const count = 150_000;
  const data = 'x'.repeat(1000);
  for (let n = 0; n < count; n++) destination.send('e', data);
  assert.equal((await destination.request('end', null)).data, count);
});

beyond('what unanswered requests hold is bounded', async (network) => {
  const { destination, role, unit } = await network.service();
  const answers = [];
  role.onRequest('large', (ctx, answer) => answers.push(answer));
  role.onRequest('small', (ctx, answer) => answer(null, 'served'));
  const large = Buffer.alloc(90 << 20);
  const waiting = [];
  for (let n = 1; n <= 3; n++) {
    waiting.push(destination.request({ event: 'large', unit }, large));
    await until(() => answers.length === n);
  }
  const refused = await destination.request({ event: 'small', unit }, null).catch((error) => error);
  assert.equal(refused.code, 'REJECTED');
  assert.match(refused.message, /too many/i);
  answers.pop()(null);
  await waiting.pop();
  assert.equal((await destination.request({ event: 'small', unit }, null)).data, 'served');
  for (const answer of answers) answer('no');
  for (const request of waiting) await assert.rejects(request, { code: 'REJECTED' });
});

check('null stands for no callback', async (network) => {
  const { destination, role } = await network.service();
  const received = new Promise((resolve) => role.onMessage('e', resolve));
  role.onRequest('e', (ctx, cb) => cb(null, 'answer'));
  destination.send('e', null, null);
  await received;
  assert.equal((await destination.request('e', null, null)).data, 'answer');
});

differs('what is no callback is thrown at', 'it calls it later, which ends the process', async (network) => {
  const { destination, role, unit } = await network.service();
  role.onRequest('e', (ctx, cb) => cb(null, 'answer'));
  const wrong = { message: 'Argument should be a function (if provided)' };
  for (const callback of [{}, 'text', 1]) {
    assert.throws(() => destination.send('e', null, callback), wrong);
    assert.throws(() => unit.send({ role: 'role', event: 'e' }, null, callback), wrong);
    assert.throws(() => destination.request('e', null, callback), wrong);
    assert.throws(() => destination.survey('e', null, callback), wrong);
  }
  assert.equal((await destination.request('e', null)).data, 'answer');
});
