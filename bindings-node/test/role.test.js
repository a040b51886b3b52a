'use strict';

// Roles: which handler gets what, what is rejected, and what the other side learns of changes.

const assert = require('node:assert/strict');
const { EventEmitter, once } = require('node:events');
const { check, differs } = require('./support/subject');

const rejectsWith = (promise, message) => assert.rejects(promise, (error) => String(error) === `Error: ${message}`);

check('a handler is called for its event only', async (network) => {
  const { role, destination } = await network.service();
  role.onRequest('a', (ctx, cb) => cb(null, 'A'));
  role.onRequest('b', (ctx, cb) => cb(null, 'B'));
  assert.equal((await destination.request('a', null)).data, 'A');
  assert.equal((await destination.request('b', null)).data, 'B');
});

check('onMessage(event, handler) gets messages, onRequest(event, handler) requests', async (network) => {
  const { role, destination } = await network.service();
  const seen = [];
  role.onMessage('e', (ctx) => seen.push(['message', ctx.data]));
  role.onRequest('e', (ctx, cb) => {
    seen.push(['request', ctx.data]);
    cb(null, null);
  });
  destination.send('e', 1);
  await destination.request('e', 2);
  destination.send('e', 3);
  await destination.request('e', 4);
  assert.deepEqual(seen, [
    ['message', 1],
    ['request', 2],
    ['message', 3],
    ['request', 4],
  ]);
});

check('handlers are called with context and callback, messages without a callback', async (network) => {
  const { role, destination } = await network.service();
  const message = new Promise((resolve) => role.onMessage('e', (...args) => resolve(args)));
  const request = new Promise((resolve) =>
    role.onRequest('e', (...args) => {
      resolve(args);
      args[1](null, null);
    }),
  );
  destination.send('e', null);
  await destination.request('e', null);
  const [, noCallback] = await message;
  assert.equal(noCallback, undefined);
  const [, callback] = await request;
  assert.equal(typeof callback, 'function');
});

check('several handlers of an event are called in the order they were added', async (network) => {
  const { role, destination } = await network.service();
  const seen = [];
  for (const n of [1, 2, 3]) role.onMessage('e', () => seen.push(n));
  role.onRequest('end', (ctx, cb) => cb(null, null));
  destination.send('e', null);
  await destination.request('end', null);
  assert.deepEqual(seen, [1, 2, 3]);
});

check('handlers for an event can be chained; handlers for all events cannot', (network) => {
  const role = network.peer().role('r');
  const ignore = () => {};
  for (const on of ['onMessage', 'onRequest', 'onReadable', 'onWritable']) {
    assert.ok(role[on]('e', ignore) instanceof EventEmitter, on);
    assert.equal(role[on](ignore), undefined, on);
  }
  assert.equal(role.onData(ignore), undefined);
});

check('an unknown role, a disabled role and an unhandled event are rejected', async (network) => {
  const { listener, dialer, role, unit } = await network.service();
  const off = listener.role('off');
  off.onRequest('e', (ctx, cb) => cb(null, null));
  off.disable();
  role.onRequest('e', (ctx, cb) => cb(null, null));
  // A unit that is named is asked, whether it serves the role or not.
  const ask = (name, event) => dialer.destination(name).request({ event, unit }, null);
  await rejectsWith(ask('nope', 'e'), 'The role "nope" is not registered');
  await rejectsWith(ask('off', 'e'), 'The role "off" is disabled');
  await rejectsWith(ask('role', 'other'), 'The event "other" is not handled');
  await rejectsWith(ask('role', ''), 'The event "" is not handled');
  await rejectsWith(ask('r"\n', 'e'), 'The role "r"\n" is not registered');
});

check('a handler for all events alone does not handle a request', async (network) => {
  const { role, destination } = await network.service();
  role.onRequest((ctx, cb) => cb(null, 'anything'));
  await rejectsWith(destination.request('e', null), 'The event "e" is not handled');
});

check('events named like properties of objects are events like others', async (network) => {
  const { role, destination } = await network.service();
  for (const event of ['error', 'newListener', '__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
    await rejectsWith(destination.request(event, null), `The event "${event}" is not handled`);
  }
  for (const event of ['error', '__proto__', 'constructor', '']) {
    role.onRequest(event, (ctx, cb) => cb(null, ctx.event));
    assert.equal((await destination.request(event, null)).data, event);
  }
});

check('roles named like properties of objects are roles like others', async (network) => {
  const { listener, dialer, unit } = await network.pair();
  for (const name of ['__proto__', 'constructor', 'toString']) {
    const request = () => dialer.destination(name).request({ event: 'e', unit }, null);
    await rejectsWith(request(), `The role "${name}" is not registered`);
    const opened = once(dialer.destination(name), 'open');
    listener.role(name).onRequest('e', (ctx, cb) => cb(null, ctx.role));
    await opened;
    assert.equal((await request()).data, name);
  }
});

check('long names and names beyond ASCII are kept', async (network) => {
  const { listener, dialer } = await network.pair();
  const name = 'роль-'.repeat(100);
  const event = '事件'.repeat(5_000);
  const opened = once(dialer.destination(name), 'open');
  listener.role(name).onRequest(event, (ctx, cb) => cb(null, [ctx.role, ctx.event]));
  await opened;
  assert.deepEqual((await dialer.destination(name).request(event, null)).data, [name, event]);
});

check('a disabled role closes the destination, an enabled one opens it, and its handlers stay', async (network) => {
  const { role, destination, unit } = await network.service();
  role.onRequest('e', (ctx, cb) => cb(null, 'served'));
  assert.equal(destination.ready, true);
  const closed = once(destination, 'close');
  role.disable();
  await closed;
  assert.equal(destination.ready, false);
  assert.deepEqual([destination.units.length, unit.getRoles()], [0, []]);
  const opened = once(destination, 'open');
  role.enable();
  await opened;
  assert.equal((await destination.request('e', null)).data, 'served');
});

check('changes of one turn are told once, with their result', async (network) => {
  const { listener, role, destination, dialer } = await network.service();
  let changes = 0;
  destination.on('close', () => changes++);
  const opened = once(dialer.destination('new'), 'open');
  role.disable();
  role.enable();
  listener.role('new');
  await opened;
  assert.equal(changes, 0);
  assert.equal(destination.ready, true);
});

check('handlers can be removed with off, and added for one call with once', async (network) => {
  const { listener, role, destination } = await network.service();
  const seen = [];
  const always = () => seen.push('always');
  role.on('message', always);
  role.once('message', () => seen.push('once'));
  listener.once('message', () => seen.push('peer'));
  role.onRequest('end', (ctx, cb) => cb(null, null));
  destination.send('e', null);
  destination.send('e', null);
  await destination.request('end', null);
  role.off('message', always);
  destination.send('e', null);
  await destination.request('end', null);
  assert.deepEqual(seen, ['peer', 'always', 'once', 'always']);
});

check('a handler added while connected is used', async (network) => {
  const { role, destination } = await network.service();
  await rejectsWith(destination.request('late', null), 'The event "late" is not handled');
  role.onRequest('late', (ctx, cb) => cb(null, 'now'));
  assert.equal((await destination.request('late', null)).data, 'now');
});

check('messages to an unknown role reach nobody', async (network) => {
  const listener = await network.listener();
  let seen = 0;
  listener.onMessage(() => seen++);
  listener.role('role').onRequest('end', (ctx, cb) => cb(null, `${seen}`));
  const raw = await network.raw(listener);
  await raw.handshake();
  raw.send('nope', 'e', 'text');
  assert.equal(await raw.request('role', 'end', ''), '0');
  raw.send('role', 'e', 'text');
  assert.equal(await raw.request('role', 'end', ''), '1');
});

check('messages and requests to one unit arrive in their order', async (network) => {
  const { role, destination } = await network.service();
  const seen = [];
  role.onMessage('m', (ctx) => seen.push(ctx.data));
  role.onRequest('r', (ctx, cb) => {
    seen.push(ctx.data);
    cb(null, null);
  });
  const answers = [];
  for (let n = 0; n < 1_000; n += 2) {
    destination.send('m', n);
    answers.push(destination.request('r', n + 1));
  }
  await Promise.all(answers);
  assert.deepEqual(seen, Array.from({ length: 1_000 }, (_, n) => n));
});

check('messages to one unit arrive in their order, whatever they hold', async (network) => {
  const { role, destination } = await network.service();
  const values = ['text', 'ü\u0000', 1.5, true, null, { deep: [1, null] }, Buffer.alloc(100_000, 7), 'x'.repeat(50_000)];
  const received = [];
  const done = new Promise((resolve) => {
    role.onMessage('note', (ctx) => {
      received.push(ctx.data);
      if (received.length === values.length) resolve();
    });
  });
  for (const value of values) destination.send('note', value);
  await done;
  assert.deepEqual(received, values);
});

check('a handler that is not a function is refused', (network) => {
  const peer = network.peer();
  const role = peer.role('r');
  for (const on of ['onMessage', 'onRequest', 'onReadable', 'onWritable']) {
    assert.throws(() => role[on]('e'), TypeError, on);
    assert.throws(() => role[on]('e', 'x'), TypeError, on);
    assert.throws(() => role[on](), TypeError, on);
    assert.throws(() => peer[on](), TypeError, on);
  }
  assert.throws(() => role.onData('e'), TypeError);
  assert.throws(() => peer.onData('e'), TypeError);
});

differs('messages to a disabled role reach nobody', 'it delivers them, against its README', async (network) => {
  const listener = await network.listener();
  const off = listener.role('off', false);
  let seen = 0;
  off.onMessage('e', () => seen++);
  listener.onMessage(() => seen++);
  listener.role('role').onRequest('end', (ctx, cb) => cb(null, `${seen}`));
  const raw = await network.raw(listener);
  await raw.handshake();
  raw.send('off', 'e', 'text');
  assert.equal(await raw.request('role', 'end', ''), '0');
  off.enable();
  raw.send('off', 'e', 'text');
  assert.equal(await raw.request('role', 'end', ''), '2');
});

check('a handler for everything is called, however and whenever it was added', async (network) => {
  const { listener, role, destination } = await network.service();
  role.onMessage('e', () => {});
  role.onRequest('e', (ctx, cb) => cb(null, null));
  await destination.request('e', null);
  const seen = [];
  for (const emitter of [listener, role]) {
    for (const method of ['on', 'addListener', 'once', 'prependListener', 'prependOnceListener']) {
      for (const event of ['data', 'message', 'request']) {
        seen.length = 0;
        const see = () => seen.push(event);
        assert.equal(emitter[method](event, see), emitter);
        destination.send('e', null);
        await destination.request('e', null);
        emitter.removeListener(event, see);
        const times = event === 'data' && !/once/i.test(method) ? 2 : 1;
        assert.deepEqual(seen, Array(times).fill(event), `${method} ${event}`);
      }
    }
  }
});
