'use strict';

// Headers and trace context: on everything that is sent, on answers, and towards peers that know nothing of them.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { until } = require('./support/network');
const { FRAME } = require('./support/raw');
const { beyond, differs } = require('./support/subject');

const PARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
const OTHER = '00-11111111111111111111111111111111-2222222222222222-00';
const LIMIT = 8 << 10;

/** What a context says beside its payload. */
const told = ({ headers, traceparent, tracestate, baggage }) => ({ ...headers, traceparent, tracestate, baggage });

const NONE = { traceparent: undefined, tracestate: undefined, baggage: undefined };

/** How each kind of communication is begun, and handled: with its context. */
const KINDS = {
  message: ['onMessage', (destination, options, data) => destination.send(options, data)],
  broadcast: ['onMessage', (destination, options, data) => destination.broadcast(options, data)],
  request: ['onRequest', (destination, options, data) => destination.request(options, data).catch(() => {})],
  'request with a callback': ['onRequest', (destination, options, data) => destination.request(options, data, () => {})],
  survey: ['onRequest', (destination, options, data) => destination.survey(options, data)],
  'survey with a callback': ['onRequest', (destination, options, data) => destination.survey(options, data, () => {})],
  Readable: ['onWritable', (destination, options, data) => destination.Readable(options, data)],
  Writable: ['onReadable', (destination, options, data) => destination.Writable(options, data)],
};

for (const [kind, [on, begin]] of Object.entries(KINDS)) {
  beyond(`headers and trace context go with a ${kind}, to middleware, too`, async (network) => {
    const { destination, role, listener } = await network.service();
    const seen = [];
    listener.onData((ctx) => void seen.push(told(ctx)));
    const headers = { tenant: 'blue', raw: Buffer.from([0, 255, 128]), empty: '', 'a.b_c-1': 'Ж' };
    const trace = { traceparent: PARENT, tracestate: 'a=1', baggage: 'k=v' };
    for (const data of ['text', { json: 'Ж' }, Buffer.alloc(100_000, 7), null, 'x'.repeat(40_000)]) {
      const received = new Promise((resolve) => role[on]('e', resolve));
      begin(destination, { event: 'e', headers, ...trace, timeout: 5_000 }, data);
      const ctx = await received;
      assert.deepEqual(ctx.data, data);
      assert.deepEqual({ ...ctx.headers }, headers);
      assert.deepEqual(told(ctx), { ...headers, ...trace });
      assert.ok(Buffer.isBuffer(ctx.headers.raw));
      assert.deepEqual(ctx.getAllHeaders(), Object.entries(headers));
      role[`_${{ onMessage: 'msg', onRequest: 'req', onWritable: 'writable', onReadable: 'readable' }[on]}Handler`].removeAllListeners('e');
    }
    assert.deepEqual(seen, Array(5).fill({ ...headers, ...trace }));
  });

  beyond(`a ${kind} without any has none`, async (network) => {
    const { destination, role } = await network.service();
    const received = new Promise((resolve) => role[on]('e', resolve));
    begin(destination, 'e');
    const ctx = await received;
    assert.deepEqual(told(ctx), NONE);
    assert.equal(Object.getPrototypeOf(ctx.headers), null);
    assert.deepEqual(ctx.getAllHeaders(), []);
  });

  beyond(`a ${kind} with headers that cannot be sent fails at its sender`, async (network) => {
    const { destination, dialer } = await network.service();
    const fails = async (headers, expected) => {
      for (const options of [headers]) {
        if (kind === 'request') await assert.rejects(destination.request({ event: 'e', ...options }), expected);
        else assert.throws(() => begin(destination, { event: 'e', ...options }), expected);
      }
    };
    await fails({ headers: { a: 'x'.repeat(LIMIT) } }, {
      code: 'TOO_LARGE',
      message: `The headers have ${LIMIT + 1} bytes, more than the limit of ${LIMIT}`,
    });
    await fails({ headers: { ['n'.repeat(300)]: '' } }, { code: 'INVALID_ARGUMENT', message: /is too long$/ });
    await fails({ headers: { a: Array(129).fill('') } }, { code: 'TOO_LARGE', message: /more than 128 headers/ });
    for (const name of ['Tenant', '', 'a b', 'rt-x', 'ж']) {
      await fails({ headers: { [name]: 'x' } }, { code: 'INVALID_ARGUMENT', message: /^The header name/ });
    }
    for (const value of [undefined, null, 5, true, {}, Symbol('s'), ['a', 1]]) {
      await fails({ headers: { a: value } }, { code: 'INVALID_ARGUMENT', message: 'The header "a" should be a string or bytes' });
    }
    await fails({ headers: 'a' }, { code: 'INVALID_ARGUMENT' });
    await fails({ baggage: 'a=b' }, { code: 'INVALID_ARGUMENT', message: /need a traceparent/ });
    await fails({ traceparent: 'none' }, { code: 'INVALID_ARGUMENT', message: /^traceparent/ });
    await fails({ traceparent: PARENT, tracestate: 'x'.repeat(513) }, { code: 'TOO_LARGE', message: /^tracestate/ });
    await fails({ traceparent: PARENT, baggage: 'x'.repeat(LIMIT + 1) }, { code: 'TOO_LARGE', message: /^baggage/ });
    const { messagesSent, requestsSent } = dialer.stats().units[0];
    assert.deepEqual([messagesSent, requestsSent], [0, 0]);
    const { slots, freeSlots } = dialer._core;
    assert.equal(slots.length, freeSlots.length);
  });
}

beyond('what contexts have can be taken out of them', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', ({ headers, getAllHeaders, setHeader, remaining, deadline, signal, traceparent }) => {
    setHeader('a', 'b');
    return [headers.a, getAllHeaders(), remaining() > 0, deadline > 0, signal.aborted, traceparent];
  });
  const options = { event: 'e', headers: { a: '1' }, timeout: 60_000, traceparent: PARENT };
  const { data, headers, getAllHeaders } = await destination.request(options);
  assert.deepEqual(data, ['1', [['a', '1']], true, true, false, PARENT]);
  assert.deepEqual([headers.a, getAllHeaders()], ['b', [['a', 'b']]]);
});

beyond('8 KiB of headers arrive', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', (ctx) => {
    ctx.setHeader('b', ctx.headers.a);
    return ctx.headers.a.length;
  });
  const value = 'x'.repeat(LIMIT - 1);
  const { data, headers } = await destination.request({ event: 'e', headers: { a: value } });
  assert.deepEqual([data, headers.b], [value.length, value]);
});

beyond('of headers with one name the first counts, and all can be had', async (network) => {
  const { destination, role } = await network.service();
  role.onRequest('e', (ctx) => ({ headers: { ...ctx.headers }, all: ctx.getAllHeaders() }));
  const forms = [
    { a: ['1', '2'], b: '3' },
    [['a', '1'], ['a', '2'], ['b', '3']],
    new Map([['a', ['1', '2']], ['b', '3']]),
  ];
  for (const headers of forms) {
    const { data } = await destination.request({ event: 'e', headers });
    assert.deepEqual(data, { headers: { a: '1', b: '3' }, all: [['a', '1'], ['a', '2'], ['b', '3']] });
  }
  const { data } = await destination.request({ event: 'e', headers: new Headers({ Tenant: 'blue' }) });
  assert.deepEqual(data.all, [['tenant', 'blue']]);
  // Names that objects have otherwise.
  const odd = { __proto__: null, ['__proto__']: 'x', constructor: 'y' };
  assert.deepEqual((await destination.request({ event: 'e', headers: odd })).data.all, Object.entries(odd));
});

beyond('answers have headers', async (network) => {
  const { destination, role, listener } = await network.service();
  listener.onRequest(async (ctx) => {
    ctx.setHeader('served-by', listener.name);
    await ctx.next();
    ctx.setHeader('cost', '7');
  });
  role.onRequest('e', async (ctx) => {
    ctx.setHeader('cost', '5');
    ctx.setHeader('part', [Buffer.from('a'), 'b']);
    return ctx.data;
  });
  role.onRequest('rejects', (ctx, cb) => cb('no'));
  const all = [['served-by', 'listener'], ['cost', '7']];
  for (const data of ['text', Buffer.alloc(100_000), null]) {
    const ctx = await destination.request('e', data);
    assert.deepEqual(ctx.data, data);
    assert.deepEqual({ ...ctx.headers }, { 'served-by': 'listener', cost: '7', part: Buffer.from('a') });
    assert.deepEqual(ctx.getAllHeaders(), [...all, ['part', Buffer.from('a')], ['part', 'b']]);
  }
  const byCallback = await new Promise((resolve) => destination.request('e', null, (error, ctx) => resolve(ctx)));
  assert.equal(byCallback.headers.cost, '7');
  for await (const { ctx } of destination.survey('e')) assert.equal(ctx.headers.cost, '7');
  const rejected = await new Promise((resolve) => destination.request('rejects', null, (error, ctx) => resolve(ctx)));
  assert.deepEqual(rejected.getAllHeaders(), all);
});

beyond('the acceptance of a stream has headers', async (network) => {
  const { destination, role } = await network.service();
  for (const [on, kind] of [['onWritable', 'Readable'], ['onReadable', 'Writable']]) {
    role[on]('e', (ctx, cb) => {
      ctx.setHeader('length', '12');
      cb(null, 'go ahead');
    });
    const [ctx] = await once(destination[kind]('e'), 'ready');
    assert.deepEqual([ctx.data, ctx.headers.length], ['go ahead', '12']);
  }
});

beyond('headers of an answer that cannot be sent fail where they are set, and change nothing', async (network) => {
  const { destination, role } = await network.service();
  let late;
  role.onRequest('e', (ctx, cb) => {
    ctx.setHeader('a', '1');
    assert.throws(() => ctx.setHeader('a', 'x'.repeat(LIMIT)), { code: 'TOO_LARGE' });
    assert.throws(() => ctx.setHeader('B', '1'), { code: 'INVALID_ARGUMENT' });
    assert.throws(() => ctx.setHeader('b', 1), { code: 'INVALID_ARGUMENT' });
    late = () => ctx.setHeader('c', '1');
    cb(null, 'fine');
  });
  const { data, headers } = await destination.request('e');
  assert.deepEqual([data, { ...headers }], ['fine', { a: '1' }]);
  assert.throws(late, { message: 'The answer is sent already' });
});

beyond('requests inherit the trace, not the headers', async (network) => {
  const back = await network.listener({ name: 'back' });
  const { role, listener, destination } = await network.service();
  back.role('back');
  await network.join(listener, back);
  const asksBack = await listener.destination('back').whenReady();
  const seen = new Map();
  const note = (ctx) => void seen.set(ctx.event, told(ctx));
  for (const on of ['onMessage', 'onRequest', 'onReadable', 'onWritable']) {
    back.role('back')[on]((ctx, cb) => {
      note(ctx);
      cb?.(null, null);
    });
    for (const event of ['plain', 'own', 'apart', 'baggage', 'tracestate']) back.role('back')[on](`${on} ${event}`, () => {});
  }
  const asks = {
    onMessage: (options) => asksBack.send(options, null),
    onRequest: (options) => asksBack.request(options, null),
    onReadable: (options) => once(asksBack.Writable(options, null), 'ready'),
    onWritable: (options) => once(asksBack.Readable(options, null), 'ready'),
  };
  const handler = async ({ traceparent }) => {
    for (const [on, ask] of Object.entries(asks)) {
      await null;
      await ask({ event: `${on} plain` });
      if (traceparent === undefined) continue;
      await ask({ event: `${on} own`, traceparent: OTHER });
      await ask({ event: `${on} apart`, inherit: false });
      await ask({ event: `${on} baggage`, baggage: 'own=1', headers: { a: 'b' } });
      await ask({ event: `${on} tracestate`, tracestate: 'own=2' });
    }
    await asksBack.request('onRequest last');
    return 'done';
  };
  back.role('back').onRequest('onRequest last', () => {});
  const kinds = ['onMessage', 'onRequest', 'onReadable', 'onWritable'];
  const trace = { traceparent: PARENT, tracestate: 'a=1', baggage: 'k=v' };
  const options = { event: 'e', headers: { tenant: 'blue' }, ...trace };
  let handled;
  role.onMessage('e', (ctx) => (handled = handler(ctx)));
  role.onRequest('e', handler);
  for (const begin of [
    () => destination.request(options),
    async () => {
      destination.send(options);
      await until(() => handled !== undefined);
      await handled;
    },
  ]) {
    seen.clear();
    await begin();
    for (const on of kinds) {
      assert.deepEqual(seen.get(`${on} plain`), trace);
      assert.deepEqual(seen.get(`${on} own`), { ...NONE, traceparent: OTHER });
      assert.deepEqual(seen.get(`${on} apart`), NONE);
      assert.deepEqual(seen.get(`${on} baggage`), { ...trace, baggage: 'own=1', a: 'b' });
      assert.deepEqual(seen.get(`${on} tracestate`), { ...trace, tracestate: 'own=2' });
    }
  }
  // What was sent without one.
  seen.clear();
  await destination.request('e');
  assert.deepEqual(seen.get('onRequest plain'), NONE);
});

/** A dialer whose only unit with the role `r` knows no headers. */
async function original(network) {
  const dialer = network.peer();
  const raw = await network.rawListener();
  const connected = dialer.connect(raw.address);
  const connection = await raw.connection();
  await connection.handshake({ id: 'original' });
  await connected;
  return { dialer, connection, destination: dialer.destination('r') };
}

differs('towards a peer that knows no headers they are left out and counted', 'it has none', async (network) => {
  const { dialer, connection, destination } = await original(network);
  const options = { event: 'e', headers: { tenant: 'blue' }, traceparent: PARENT };
  destination.send(options, 'x');
  const message = await connection.message(FRAME.message);
  assert.equal(String(message.subarray(5)), 're\x03x');
  destination.request(options, 'x').catch(() => {});
  await connection.message(FRAME.request);
  destination.Readable(options, 'x');
  await connection.message(FRAME.readableRequest);
  assert.equal(dialer.stats().units[0].fieldsLeftOut, 3);
});

beyond('where they are required, such a peer is sent nothing', async (network) => {
  const { dialer, destination, connection } = await original(network);
  const options = { event: 'e', headers: { tenant: 'blue' }, requireHeaders: true };
  const none = { code: 'UNSUPPORTED', message: 'No connected unit with role [r] takes headers' };
  assert.throws(() => destination.request(options), none);
  assert.throws(() => destination.Readable(options), none);
  assert.equal(destination.send(options), undefined);
  await assert.rejects(new Promise((resolve, reject) => destination.send(options, null, reject)), none);
  const [unit] = dialer.units;
  await assert.rejects(destination.request({ ...options, unit }), { code: 'UNSUPPORTED', message: /takes no headers$/ });
  for await (const { error } of destination.survey(options)) assert.equal(error.code, 'UNSUPPORTED');
  // Without headers there is nothing to require.
  destination.request({ event: 'without' }, 'x').catch(() => {});
  assert.match(String(await connection.message(FRAME.request)), /rwithout/);
  // One that takes them is found.
  const listener = await network.listener({ name: 'new' });
  listener.role('r').onRequest('e', (ctx) => [listener.name, ctx.headers.tenant]);
  await network.join(dialer, listener);
  for (let n = 0; n < 4; n++) assert.deepEqual((await destination.request(options)).data, ['new', 'blue']);
});

beyond('headers of an answer towards a peer that knows none are left out', async (network) => {
  const listener = await network.listener();
  listener.role('r').onRequest('e', (ctx) => {
    ctx.setHeader('a', 'b');
    return 'answered';
  });
  const raw = await network.raw(listener);
  await raw.handshake();
  assert.equal(await raw.request('r', 'e', 'x'), 'answered');
  assert.equal(listener.stats().units[0].fieldsLeftOut, 1);
});
