'use strict';

// The context that handlers share, and middleware: the order of calls, and what next() waits for.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { check } = require('./support/subject');

check('a message tells where it comes from and what it holds', async (network) => {
  const { destination, role, dialerUnit } = await network.service();
  const received = new Promise((resolve) => role.onMessage('e', resolve));
  destination.send('e', 'text');
  const ctx = await received;
  assert.deepEqual([ctx.data, ctx.type, ctx.role, ctx.event], ['text', 'string', 'role', 'e']);
  assert.equal(ctx.unit, dialerUnit);
  assert.ok(Buffer.isBuffer(ctx.origin.raw));
  assert.deepEqual([String(ctx.origin.raw), ctx.origin.type], ['text', 'string']);
  assert.equal(ctx.next, undefined);
});

check('a request does the same, and has next', async (network) => {
  const { destination, role, dialerUnit } = await network.service();
  const received = new Promise((resolve) =>
    role.onRequest('e', (ctx, cb) => {
      resolve({ ctx, next: typeof ctx.next });
      cb(null, null);
    }),
  );
  await destination.request('e', 7);
  const { ctx, next } = await received;
  assert.deepEqual([ctx.data, ctx.type, ctx.role, ctx.event, next], [7, 'number', 'role', 'e', 'function']);
  assert.equal(ctx.unit, dialerUnit);
  assert.deepEqual([String(ctx.origin.raw), ctx.origin.type], ['7', 'number']);
});

const finish = (writable) => new Promise((resolve) => writable.end(resolve));

// How each level is told of each kind of communication.
const KINDS = {
  message: {
    on: 'onMessage',
    begin: (destination) => destination.send('e', null),
  },
  request: {
    on: 'onRequest',
    begin: (destination) => destination.request('e', null),
  },
  readable: {
    on: 'onReadable',
    begin: async (destination) => {
      const writable = destination.Writable('e', null);
      await once(writable, 'ready');
      await finish(writable);
    },
  },
  writable: {
    on: 'onWritable',
    begin: async (destination) => {
      await once(destination.Readable('e', null).resume(), 'end');
    },
  },
};

for (const [event, { on, begin }] of Object.entries(KINDS)) {
  check(`a ${event} passes the peer, then the role, then its event; and data before the kind`, async (network) => {
    const { listener, role, destination } = await network.service();
    const order = [];
    let done;
    const handled = new Promise((resolve) => {
      // Added in the reverse of the order in which they are called.
      role[on]('e', (ctx, cb) => {
        order.push('event');
        ctx.readable?.resume();
        ctx.writable?.end();
        cb?.(null, null);
        resolve();
      });
      role[on](() => order.push('role kind'));
      role.onData(() => order.push('role data'));
      listener[on](() => order.push('peer kind'));
      listener.onData(() => order.push('peer data'));
      done = begin(destination);
    });
    await Promise.all([handled, done]);
    assert.deepEqual(order, ['peer data', 'peer kind', 'role data', 'role kind', 'event']);
  });

  check(`a ${event} is an event of the peer and of the role, too, with the same context`, async (network) => {
    const { listener, role, destination } = await network.service();
    const seen = [];
    let done;
    const handled = new Promise((resolve) => {
      for (const emitter of [listener, role]) {
        for (const name of ['data', event]) {
          emitter.on(name, (ctx, cb) => seen.push([name, ctx, typeof cb]));
        }
      }
      role[on]('e', (ctx, cb) => {
        seen.push(['event', ctx, typeof cb]);
        ctx.readable?.resume();
        ctx.writable?.end();
        cb?.(null, null);
        resolve();
      });
      done = begin(destination);
    });
    await Promise.all([handled, done]);
    assert.deepEqual(seen.map(([name]) => name), ['data', event, 'data', event, 'event']);
    assert.equal(new Set(seen.map(([, ctx]) => ctx)).size, 1);
    const callback = event === 'message' ? 'undefined' : 'function';
    assert.deepEqual(seen.map(([, , type]) => type), Array(5).fill(callback));
  });
}

check('whoever calls back ends the request; the levels below are not called', async (network) => {
  const { listener, role, destination } = await network.service();
  const called = [];
  role.onRequest('e', (ctx, cb) => {
    called.push('event');
    cb(null, 'event');
  });
  let answering;
  const level = (name) => (ctx, cb) => {
    called.push(name);
    if (answering === name) cb(null, name);
  };
  listener.onData(level('peer data'));
  listener.onRequest(level('peer kind'));
  role.onData(level('role data'));
  role.onRequest(level('role kind'));
  const levels = ['peer data', 'peer kind', 'role data', 'role kind', 'event'];
  for (const [index, name] of levels.entries()) {
    answering = name;
    called.length = 0;
    assert.equal((await destination.request('e', null)).data, name);
    assert.deepEqual(called, levels.slice(0, index + 1));
  }
});

check('middleware may change data for the handlers after it', async (network) => {
  const { listener, role, destination } = await network.service();
  listener.onRequest((ctx) => {
    ctx.data = [ctx.data];
    ctx.type = 'mine';
  });
  role.onRequest((ctx) => ctx.data.push('role'));
  role.onRequest('e', (ctx, cb) => cb(null, { data: ctx.data, type: ctx.type, raw: String(ctx.origin.raw) }));
  assert.deepEqual((await destination.request('e', 'x')).data, { data: ['x', 'role'], type: 'mine', raw: 'x' });
});

check('middleware may add properties of its own', async (network) => {
  const { listener, role, destination } = await network.service();
  listener.onData((ctx) => (ctx.user = 'me'));
  role.onRequest('e', (ctx, cb) => cb(null, ctx.user));
  assert.equal((await destination.request('e', null)).data, 'me');
});

check('nobody waits for middleware that does not call next', async (network) => {
  const { listener, role, destination } = await network.service();
  let proceed;
  const stopped = new Promise((resolve) => (proceed = resolve));
  let finished = false;
  listener.onRequest(async () => {
    await stopped;
    finished = true;
  });
  role.onRequest('e', (ctx, cb) => cb(null, finished));
  assert.equal((await destination.request('e', null)).data, false);
  proceed();
});

check('next resumes when the request is answered, the innermost first, before the answer is sent', async (network) => {
  const { listener, role, destination } = await network.service();
  const order = [];
  const around = (name) => async (ctx) => {
    order.push(`${name} before`);
    await ctx.next();
    order.push(`${name} after ${ctx.response}`);
    ctx.response += name;
  };
  listener.onData(around('a'));
  listener.onRequest(around('b'));
  role.onData(around('c'));
  role.onRequest(around('d'));
  role.onRequest('e', around('e'));
  role.onRequest('e', (ctx, cb) => {
    order.push('handler');
    cb(null, '-');
    order.push('called back');
  });
  assert.equal((await destination.request('e', null)).data, '-edcba');
  assert.deepEqual(order, [
    'a before',
    'b before',
    'c before',
    'd before',
    'e before',
    'handler',
    'called back',
    'e after -',
    'd after -e',
    'c after -ed',
    'b after -edc',
    'a after -edcb',
  ]);
});

check('next resumes in a later turn than the answer', async (network) => {
  const { role, destination } = await network.service();
  const order = [];
  role.onRequest(async (ctx) => {
    await ctx.next();
    order.push('resumed');
  });
  role.onRequest('e', (ctx, cb) => {
    cb(null, null);
    queueMicrotask(() => order.push('microtask'));
    process.nextTick(() => order.push('tick'));
  });
  await destination.request('e', null);
  assert.deepEqual(order.slice().sort(), ['microtask', 'resumed', 'tick']);
  assert.equal(order.at(-1), 'resumed');
});

check('next resumes for an answer that comes later, too', async (network) => {
  const { role, destination } = await network.service();
  role.onRequest(async (ctx) => {
    await ctx.next();
    ctx.response = `<${ctx.response}>`;
  });
  role.onRequest('e', (ctx, cb) => setImmediate(() => cb(null, 'later')));
  assert.equal((await destination.request('e', null)).data, '<later>');
});

check('next may be called by some middleware and not by other', async (network) => {
  const { listener, role, destination } = await network.service();
  listener.onRequest((ctx) => void (ctx.count = 1));
  role.onRequest(async (ctx) => {
    await ctx.next();
    ctx.response += ctx.count;
  });
  role.onRequest('e', (ctx, cb) => cb(null, 1));
  assert.equal((await destination.request('e', null)).data, 2);
});

check('after next, an error may be made of an answer, and an answer of an error', async (network) => {
  const { role, destination } = await network.service();
  role.onRequest(async (ctx) => {
    await ctx.next();
    if (ctx.event === 'good') ctx.error = new Error(`not ${ctx.response}`);
    else {
      ctx.response = `saved from ${ctx.error.message}`;
      ctx.error = null;
    }
  });
  role.onRequest('good', (ctx, cb) => cb(null, 'good'));
  role.onRequest('bad', (ctx, cb) => cb(new Error('bad')));
  await assert.rejects(destination.request('good', null), { message: 'not good' });
  assert.equal((await destination.request('bad', null)).data, 'saved from bad');
});

check('response and error are set when next resumes', async (network) => {
  const { role, destination } = await network.service();
  const seen = [];
  role.onRequest(async (ctx) => {
    assert.deepEqual([ctx.response, ctx.error], [undefined, undefined]);
    await ctx.next();
    seen.push([ctx.response, ctx.error]);
  });
  const error = new Error('e');
  role.onRequest('good', (ctx, cb) => cb(null, 1));
  role.onRequest('bad', (ctx, cb) => cb(error, 2));
  await destination.request('good', null);
  await assert.rejects(destination.request('bad', null));
  assert.deepEqual(seen, [
    [1, null],
    [2, error],
  ]);
});

check('streams have next, too', async (network) => {
  const { role, destination } = await network.service();
  role.onReadable('e', (ctx, cb) => {
    ctx.readable.resume();
    cb(null, 'a');
  });
  role.on('readable', async (ctx) => {
    await ctx.next();
    ctx.response += 'b';
  });
  const writable = destination.Writable('e', null);
  const [ctx] = await once(writable, 'ready');
  assert.equal(ctx.data, 'ab');
  await finish(writable);
});

check('two answers in one turn: the second counts', async (network) => {
  const { role, destination } = await network.service();
  role.onRequest('e', (ctx, cb) => {
    cb(null, 1);
    cb(null, 2);
  });
  assert.equal((await destination.request('e', null)).data, 2);
  assert.equal((await destination.request('e', null)).data, 2);
});

check('an answer after the answer is ignored', async (network) => {
  const { role, destination } = await network.service();
  let callback;
  role.onRequest('e', (ctx, cb) => {
    callback = cb;
    cb(null, 'first');
  });
  role.onRequest('again', (ctx, cb) => {
    callback(new Error('late'));
    cb(null, 'good');
  });
  assert.equal((await destination.request('e', null)).data, 'first');
  assert.equal((await destination.request('again', null)).data, 'good');
});

check('an answer for a unit that is lost is ignored', async (network) => {
  const { listener, role, destination, unit, dialerUnit } = await network.service();
  const asked = new Promise((resolve) => role.onRequest('e', (ctx, cb) => resolve(cb)));
  const rejected = assert.rejects(destination.request('e', null));
  const cb = await asked;
  const lost = Promise.all([once(unit, 'close'), once(dialerUnit, 'close')]);
  unit.close();
  await lost;
  await rejected;
  cb(null, 'nobody is there');
  cb(new Error('nobody is there'));
  const { unit: again } = await network.join(network.peer(), listener);
  assert.equal(again.id, listener.id);
});

check('the same handler may serve several peers', async (network) => {
  const echo = (ctx, cb) => cb(null, [ctx.data, ctx.unit.name]);
  const [one, other] = [await network.listener(), await network.listener()];
  const dialer = network.peer({ name: 'd' });
  for (const listener of [one, other]) {
    listener.role(listener.id).onRequest('e', echo);
    await network.join(dialer, listener);
  }
  const ask = async (id, data) => (await dialer.destination(id).request('e', data)).data;
  assert.deepEqual(await Promise.all([ask(one.id, 1), ask(other.id, 2)]), [
    [1, 'd'],
    [2, 'd'],
  ]);
});
