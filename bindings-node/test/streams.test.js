'use strict';

// Streams: whoever asks for a Writable writes, and the role's onReadable reads; and the reverse.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const stream = require('node:stream');
const { pipeline } = require('node:stream/promises');
const { FRAME } = require('./support/raw');
const { check, differs } = require('./support/subject');

const pattern = (length) => {
  const bytes = Buffer.allocUnsafe(length);
  for (let at = 0; at < length; at++) bytes[at] = (at * 31 + (at >> 8)) & 0xff;
  return bytes;
};

/** Everything that a readable gives until its end. */
const collect = async (readable) => {
  const chunks = [];
  readable.on('data', (chunk) => chunks.push(chunk));
  await once(readable, 'end');
  return Buffer.concat(chunks);
};

/** Waits for the end of a stream, whether it fails or not. */
const closing = (end) => new Promise((resolve) => end.once('close', resolve));

/** Has the role read for `event`, accept, and returns its stream. */
const reading = (role, event = 'e') =>
  new Promise((resolve) =>
    role.onReadable(event, ({ readable }, cb) => {
      cb(null, null);
      resolve(readable);
    }),
  );

/** Has the role write for `event`, accept, and returns its stream. */
const writing = (role, event = 'e') =>
  new Promise((resolve) =>
    role.onWritable(event, ({ writable }, cb) => {
      cb(null, null);
      resolve(writable);
    }),
  );

/** Both ends of a stream that the requester writes. */
async function upload(network, options) {
  const service = await network.service();
  const accepted = reading(service.role);
  const writable = service.destination.Writable('e', null, options);
  const ready = once(writable, 'ready');
  const readable = await accepted;
  await ready;
  return { ...service, writable, readable };
}

/** Both ends of a stream that the requester reads. */
async function download(network, options) {
  const service = await network.service();
  const accepted = writing(service.role);
  const readable = service.destination.Readable('e', null, options);
  const ready = once(readable, 'ready');
  const writable = await accepted;
  await ready;
  return { ...service, writable, readable };
}

const WAYS = { 'written by the requester': upload, 'read by the requester': download };

for (const [way, open] of Object.entries(WAYS)) {
  check(`both ends are streams of Node (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    assert.ok(writable instanceof stream.Writable);
    assert.ok(readable instanceof stream.Readable);
    writable.end();
    await once(readable.resume(), 'end');
  });

  for (const length of [0, 1, 16_384, 16_385, 5 << 20]) {
    check(`${length} bytes arrive (${way})`, async (network) => {
      const { writable, readable } = await open(network);
      const collected = collect(readable);
      const finished = once(writable, 'finish');
      writable.end(pattern(length));
      assert.ok(pattern(length).equals(await collected));
      await finished;
    });
  }

  check(`chunks of every size arrive in their order (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    const whole = pattern(1 << 20);
    const collected = collect(readable);
    for (let at = 0, n = 0; at < whole.length; n++) {
      const size = [1, 7, 100, 3_000, 20_000, 70_000][n % 6];
      if (!writable.write(whole.subarray(at, at + size))) await once(writable, 'drain');
      at += size;
    }
    writable.end();
    assert.ok(whole.equals(await collected));
  });

  check(`a pipeline from any source (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    const collected = collect(readable);
    const chunks = Array.from({ length: 200 }, (_, n) => Buffer.alloc(10_000, n));
    await pipeline(stream.Readable.from(chunks), writable);
    assert.ok(Buffer.concat(chunks).equals(await collected));
  });

  check(`an error of the writer is felt by the reader (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    writable.on('error', () => {});
    const failed = once(readable, 'error');
    writable.write('some');
    writable.destroy(new Error('boom'));
    const [error] = await failed;
    assert.equal(String(error), 'Error: Remote writable stream emitted error: Error: boom');
  });

  check(`an error of the reader is felt by the writer (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    readable.on('error', () => {});
    const failed = once(writable, 'error');
    readable.destroy(new Error('boom'));
    const [error] = await failed;
    // The original's writer fails once more when the connection closes.
    writable.on('error', () => {});
    assert.equal(String(error), 'Error: Remote readable stream sent error: boom');
  });

  check(`a writer fails when the connection is lost (${way})`, async (network) => {
    const { writable, readable, unit } = await open(network);
    readable.on('error', () => {});
    const failed = once(writable, 'error');
    const closed = closing(writable);
    writable.write('some');
    unit.close();
    assert.equal(String((await failed)[0]), 'Error: Socket closed');
    await closed;
    assert.equal(writable.destroyed, true);
  });

  for (const [loss, lose] of Object.entries({
    'unit.close() here': ({ unit }) => unit.close(),
    'unit.close() there': ({ dialerUnit }) => dialerUnit.close(),
    'ws.terminate()': ({ ws }) => ws.terminate(),
  })) {
    check(`an idle writer fails when the connection is lost by ${loss} (${way})`, async (network) => {
      const ends = await open(network);
      ends.readable.on('error', () => {});
      const failed = once(ends.writable, 'error');
      lose(ends);
      assert.equal(String((await failed)[0]), 'Error: Socket closed');
    });
  }

  check(`strings are written in their encoding (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    const collected = collect(readable);
    writable.write('é', 'latin1');
    writable.write('6162', 'hex');
    writable.end('事');
    assert.equal((await collected).toString('hex'), 'e96162' + Buffer.from('事').toString('hex'));
  });

  check(`a Uint8Array can be written (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    const collected = collect(readable);
    writable.end(new Uint8Array([1, 2, 3]));
    assert.deepEqual([...(await collected)], [1, 2, 3]);
  });

  check(`callbacks of write and end are called (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    const collected = collect(readable);
    const order = [];
    writable.write('a', () => order.push('a'));
    writable.write('b', () => order.push('b'));
    await new Promise((resolve) => writable.end('c', resolve));
    assert.deepEqual(order, ['a', 'b']);
    assert.equal(String(await collected), 'abc');
  });

  check(`cork and uncork (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    const collected = collect(readable);
    writable.cork();
    for (const text of ['a', 'b', 'c']) writable.write(text);
    writable.uncork();
    writable.end();
    assert.equal(String(await collected), 'abc');
  });

  check(`a reader may pause and read on (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    const whole = pattern(200_000);
    writable.end(whole);
    const chunks = [];
    for await (const [chunk] of eventsUntilEnd(readable)) {
      chunks.push(chunk);
      readable.pause();
      setImmediate(() => readable.resume());
    }
    assert.ok(whole.equals(Buffer.concat(chunks)));
  });

  check(`a reader may read by hand (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    const whole = pattern(50_000);
    const chunks = [];
    const ended = once(readable, 'end');
    readable.on('readable', () => {
      for (let chunk; (chunk = readable.read()) !== null; ) chunks.push(chunk);
    });
    for (let at = 0; at < whole.length; at += 1_000) {
      if (!writable.write(whole.subarray(at, at + 1_000))) await once(writable, 'drain');
    }
    writable.end();
    await ended;
    assert.ok(whole.equals(Buffer.concat(chunks)));
  });

  check(`messages and requests get through beside a stream (${way})`, async (network) => {
    const { writable, readable, role, destination } = await open(network);
    role.onRequest('echo', (ctx, cb) => cb(null, ctx.data));
    const whole = pattern(2 << 20);
    const collected = collect(readable);
    writable.end(whole);
    for (let n = 0; n < 50; n++) assert.equal((await destination.request('echo', n)).data, n);
    assert.ok(whole.equals(await collected));
  });
}

async function* eventsUntilEnd(readable) {
  const queue = [];
  let wake = () => {};
  readable.on('data', (...args) => {
    queue.push(args);
    wake();
  });
  let ended = false;
  readable.on('end', () => {
    ended = true;
    wake();
  });
  for (;;) {
    while (queue.length > 0) yield queue.shift();
    if (ended) return;
    await new Promise((resolve) => (wake = resolve));
  }
}

check("'ready' tells the requester of the answer", async (network) => {
  const { destination, role, unit } = await network.service();
  role.onReadable('e', (ctx, cb) => {
    ctx.readable.resume();
    cb(null, { accepted: ctx.data });
  });
  const writable = destination.Writable('e', 'please');
  const [ctx] = await once(writable, 'ready');
  assert.deepEqual(ctx.data, { accepted: 'please' });
  assert.equal(ctx.type, 'object');
  assert.equal(ctx.unit, unit);
  assert.ok(ctx.rtt >= 0);
  await new Promise((resolve) => writable.end(resolve));
});

check("'ready' tells the responder of the unit", async (network) => {
  const { destination, role, dialerUnit } = await network.service();
  const told = [];
  const both = new Promise((resolve) => {
    const note = (ctx) => told.push(ctx.unit) === 2 && resolve();
    role.onReadable('e', ({ readable }, cb) => {
      readable.resume().on('ready', note);
      cb(null, null);
    });
    role.onWritable('e', ({ writable }, cb) => {
      writable.on('ready', note).end();
      cb(null, null);
    });
  });
  const finished = new Promise((resolve) => destination.Writable('e', null).end(resolve));
  await once(destination.Readable('e', null).resume(), 'end');
  await finished;
  await both;
  assert.deepEqual(told.map((unit) => unit === dialerUnit), [true, true]);
});

check('the context of a request for a stream', async (network) => {
  const { destination, role, dialerUnit } = await network.service();
  const asked = new Promise((resolve) =>
    role.onWritable('e', (ctx, cb) => {
      ctx.writable.end();
      cb(null, null);
      resolve(ctx);
    }),
  );
  await once(destination.Readable('e', 5).resume(), 'end');
  const ctx = await asked;
  assert.deepEqual([ctx.data, ctx.type, ctx.role, ctx.event], [5, 'number', 'role', 'e']);
  assert.equal(ctx.unit, dialerUnit);
  assert.ok(ctx.writable instanceof stream.Writable);
  assert.equal(ctx.readable, undefined);
});

check('what is written before the stream is accepted arrives first', async (network) => {
  const { destination, role } = await network.service();
  const asked = new Promise((resolve) => role.onReadable('e', (ctx, cb) => resolve({ ...ctx, cb })));
  const writable = destination.Writable('e', null);
  for (const text of ['a', 'b', 'c']) writable.write(text);
  const { readable, cb } = await asked;
  const collected = collect(readable);
  const ready = once(writable, 'ready');
  cb(null, null);
  await ready;
  writable.end('d');
  assert.equal(String(await collected), 'abcd');
});

check('a responder may write before it accepts', async (network) => {
  const { destination, role } = await network.service();
  role.onWritable('e', ({ writable }, cb) => {
    writable.write('before ');
    writable.end('the answer');
    setImmediate(() => cb(null, null));
  });
  assert.equal(String(await collect(destination.Readable('e', null))), 'before the answer');
});

check('options of the streams are honoured', async (network) => {
  const { destination, role } = await network.service();
  role.onWritable('text', ({ writable }, cb) => {
    cb(null, null);
    writable.write(Buffer.from('é').subarray(0, 1));
    writable.end(Buffer.from('é').subarray(1));
  });
  const readable = destination.Readable('text', null, { encoding: 'utf8', highWaterMark: 100 });
  assert.equal(readable.readableHighWaterMark, 100);
  let text = '';
  readable.on('data', (chunk) => (text += chunk));
  await once(readable, 'end');
  assert.equal(text, 'é');

  const accepted = reading(role);
  const writable = destination.Writable('e', null, { highWaterMark: 20_000, defaultEncoding: 'latin1' });
  assert.equal(writable.writableHighWaterMark, 20_000);
  const collected = collect(await accepted);
  assert.equal(writable.write('é'.repeat(19_999)), true);
  assert.equal(writable.write('é'), false);
  writable.end();
  assert.equal((await collected).toString('latin1'), 'é'.repeat(20_000));
});

for (const highWaterMark of [0, 1, 1_000]) {
  check(`a reader with a high-water mark of ${highWaterMark} gets everything`, async (network) => {
    const { writable, readable } = await download(network, { highWaterMark });
    const whole = pattern(100_000);
    const collected = collect(readable);
    writable.end(whole);
    assert.ok(whole.equals(await collected));
  });
}

check('a writer with a high-water mark of 100 000 gets everything through', async (network) => {
  const { writable, readable } = await upload(network, { highWaterMark: 100_000 });
  const whole = pattern(1 << 20);
  const collected = collect(readable);
  await pipeline(stream.Readable.from([whole]), writable);
  assert.ok(whole.equals(await collected));
});

check('many streams at once', async (network) => {
  const { destination, role } = await network.service();
  role.onReadable('up', ({ readable, data }, cb) => {
    const length = collect(readable).then(({ length }) => length);
    lengths.push(length.then((length) => [data, length]));
    cb(null, null);
  });
  role.onWritable('down', ({ writable, data }, cb) => {
    cb(null, null);
    writable.end(Buffer.alloc(data * 100, data));
  });
  const lengths = [];
  const numbers = Array.from({ length: 100 }, (_, n) => n);
  const downloads = numbers.map((n) => collect(destination.Readable('down', n)));
  const uploads = numbers.map((n) => {
    const writable = destination.Writable('up', n);
    writable.end(Buffer.alloc(n * 100, n));
    return once(writable, 'finish');
  });
  await Promise.all(uploads);
  assert.deepEqual((await Promise.all(lengths)).sort(([a], [b]) => a - b), numbers.map((n) => [n, n * 100]));
  (await Promise.all(downloads)).forEach((bytes, n) => assert.ok(bytes.equals(Buffer.alloc(n * 100, n)), `${n}`));
});

check('streams take turns over the units, and can be asked of one', async (network) => {
  const dialer = network.peer();
  const units = [];
  for (const name of ['a', 'b']) {
    const listener = await network.listener({ name });
    listener.role('role').onWritable('who', ({ writable }, cb) => {
      cb(null, null);
      writable.end(name);
    });
    units.push((await network.join(dialer, listener)).unit);
  }
  const destination = dialer.destination('role');
  const read = async (event) => String(await collect(destination.Readable(event, null)));
  assert.deepEqual([await read('who'), await read('who'), await read('who')], ['a', 'b', 'a']);
  const named = { event: 'who', unit: units[0] };
  assert.deepEqual([await read(named), await read(named), await read('who')], ['a', 'a', 'b']);
});

// What a refused Writable fails with: the text of the refusal is JSON within the text of an Error.
const REFUSALS = {
  'refused with a string': { event: 'string', text: '{"data":"no"}' },
  'refused with an Error': { event: 'error', text: '{"data":"Error: boom"}' },
  'for an event that nobody handles': { event: 'x', text: '{"data":"The event \\"x\\" is not handled"}' },
  'for an unknown role': { role: 'nope', event: 'x', text: '{"data":"The role \\"nope\\" is not registered"}' },
  'for a disabled role': { role: 'off', event: 'x', text: '{"data":"The role \\"off\\" is disabled"}' },
  'that is not answered in time': { event: 'silent', timeout: 20, text: 'Request timeout exceeded (20 ms)' },
};

for (const [name, { role: roleName = 'role', event, timeout, text }] of Object.entries(REFUSALS)) {
  const ask = async (network, method) => {
    const { listener, dialer, role, unit } = await network.service();
    listener.role('off', false);
    for (const on of ['onReadable', 'onWritable']) {
      role[on]('string', (ctx, cb) => cb('no'));
      role[on]('error', (ctx, cb) => cb(new Error('boom')));
      role[on]('silent', () => {});
    }
    return dialer.destination(roleName)[method]({ event, unit, timeout }, null);
  };

  check(`a Writable ${name}`, async (network) => {
    const writable = await ask(network, 'Writable');
    let ready = 0;
    writable.on('ready', () => ready++);
    const [error] = await once(writable, 'error');
    assert.equal(String(error), `Error: Unit rejected request for writable stream: Error: ${text}`);
    assert.equal(writable.destroyed, true);
    assert.equal(ready, 0);
  });

  differs(`a Readable ${name}`, 'it is destroyed in silence', async (network) => {
    const readable = await ask(network, 'Readable');
    const closed = closing(readable);
    const [error] = await once(readable, 'error');
    assert.equal(String(error), `Error: Unit rejected request for readable stream: Error: ${text}`);
    assert.equal(readable.destroyed, true);
    await closed;
  });
}

differs('a handler that destroys its stream and accepts', 'the requester waits', async (network) => {
  const { dialer, role, unit } = await network.service();
  for (const [on, end] of Object.entries({ onReadable: 'readable', onWritable: 'writable' })) {
    role[on]('e', (ctx, cb) => {
      ctx[end].on('error', () => {});
      ctx[end].destroy(new Error('boom'));
      cb(null, null);
    });
  }
  for (const method of ['Writable', 'Readable']) {
    const [error] = await once(dialer.destination('role')[method]({ event: 'e', unit }, null), 'error');
    assert.match(error.message, /boom/);
  }
});

/** What a Writable fails with that a peer refuses with this frame. */
const refusedWith = async (network, ...frame) => {
  const listener = await network.listener();
  const accepted = once(listener, 'unit');
  const raw = await network.raw(listener);
  await raw.handshake();
  const [unit] = await accepted;
  const writable = listener.destination('r').Writable({ event: 'e', unit }, null);
  const failed = once(writable, 'error');
  await raw.message(FRAME.writableRequest);
  raw.binary(Buffer.concat(frame.map((part) => Buffer.from(part))));
  const [{ message }] = await failed;
  return message;
};

check('a Writable that is rejected as if it were a request, or refused with plain text', async (network) => {
  for (const head of [[FRAME.reject, 1, 0, 3], [FRAME.streamReject, 1, 1, 0, 0, 3]]) {
    for (const reason of ['plain', '{"data":"JSON"}', '{"data":5}']) {
      const message = await refusedWith(network, head, reason);
      assert.equal(message, `Unit rejected request for writable stream: Error: ${reason}`);
    }
  }
});

differs('a Writable that is rejected with something else than text', 'only [object Object] is seen', async (network) => {
  for (const [payload, reason] of [['\x05{}', '{}'], ['\x05{"toString":1}', '{"toString":1}'], ['\x01', 'null']]) {
    const message = await refusedWith(network, [FRAME.reject, 1, 0], payload);
    assert.equal(message, `Unit rejected request for writable stream: ${reason}`);
  }
});

check('an unsendable value as data of a stream is refused at once', async (network) => {
  const { destination } = await network.service();
  const circular = {};
  circular.self = circular;
  assert.throws(() => destination.Writable('e', circular), TypeError);
  assert.throws(() => destination.Readable('e', circular), TypeError);
});

check('a Buffer may be changed once its write has called back', async (network) => {
  const { writable, readable } = await upload(network);
  const collected = collect(readable);
  const bytes = Buffer.alloc(10_000);
  for (let n = 0; n < 50; n++) {
    bytes.fill(n);
    await new Promise((resolve) => writable.write(bytes, resolve));
  }
  writable.end();
  const expected = Buffer.concat(Array.from({ length: 50 }, (_, n) => Buffer.alloc(10_000, n)));
  assert.ok(expected.equals(await collected));
});

check('chunks that were read stay as they were', async (network) => {
  const { writable, readable } = await upload(network);
  const chunks = [];
  readable.on('data', (chunk) => chunks.push(chunk));
  const whole = pattern(3 << 20);
  const ended = once(readable, 'end');
  writable.end(whole);
  await ended;
  chunks.reduce((at, chunk) => {
    assert.ok(whole.subarray(at, at + chunk.length).equals(chunk));
    return at + chunk.length;
  }, 0);
});

const NEVER_CLOSES = "its Readable never emits 'close', for which these wait";

for (const [way, open] of Object.entries(WAYS)) {
  differs(`a reader can be iterated (${way})`, NEVER_CLOSES, async (network) => {
    const { writable, readable } = await open(network);
    const whole = pattern(300_000);
    writable.end(whole);
    const chunks = [];
    for await (const chunk of readable) chunks.push(chunk);
    assert.ok(whole.equals(Buffer.concat(chunks)));
    assert.equal(readable.destroyed, true);
  });

  differs(`a pipeline to any sink (${way})`, NEVER_CLOSES, async (network) => {
    const { writable, readable } = await open(network);
    const whole = pattern(300_000);
    const chunks = [];
    const sink = new stream.Writable({
      write(chunk, encoding, callback) {
        chunks.push(chunk);
        setImmediate(callback);
      },
    });
    writable.end(whole);
    await pipeline(readable, sink);
    assert.ok(whole.equals(Buffer.concat(chunks)));
  });

  differs(`both ends close after the end (${way})`, NEVER_CLOSES, async (network) => {
    const { writable, readable } = await open(network);
    const closed = Promise.all([once(writable, 'close'), once(readable, 'close')]);
    writable.end('x');
    readable.resume();
    await closed;
    assert.deepEqual([readable.errored, writable.errored], [null, null]);
  });

  differs(`a reader that stops iterating ends the writer (${way})`, NEVER_CLOSES, async (network) => {
    const { writable, readable } = await open(network);
    const failed = once(writable, 'error');
    writable.write('x');
    for await (const chunk of readable) {
      assert.equal(String(chunk), 'x');
      break;
    }
    assert.ok((await failed)[0] instanceof Error);
    assert.equal(writable.destroyed, true);
  });

  differs(`a writer destroyed without an error is felt, too (${way})`, 'it sends nothing', async (network) => {
    const { writable, readable } = await open(network);
    const failed = once(readable.resume(), 'error');
    writable.write('some');
    writable.destroy();
    assert.ok((await failed)[0] instanceof Error);
    assert.equal(readable.destroyed, true);
  });

  differs(`a reader fails when the connection is lost (${way})`, 'it is silent', async (network) => {
    const { writable, readable, unit } = await open(network);
    writable.on('error', () => {});
    const failed = once(readable.resume(), 'error');
    const closed = closing(readable);
    unit.close();
    assert.equal(String((await failed)[0]), 'Error: Underlying socket closed');
    await closed;
  });

  differs(`a reader that is not reading fails, too (${way})`, 'it is silent', async (network) => {
    const { writable, readable, unit } = await open(network);
    writable.on('error', () => {});
    const failed = once(readable, 'error');
    unit.close();
    assert.equal(String((await failed)[0]), 'Error: Underlying socket closed');
  });

  differs(`nobody buffers what nobody reads (${way})`, 'it has no back-pressure', async (network) => {
    const { writable, readable, role, destination } = await open(network);
    role.onRequest('echo', (ctx, cb) => cb(null, null));
    const chunk = Buffer.alloc(10_000, 'x');
    const count = 1_000;
    let written = 0;
    const write = async () => {
      for (; written < count; written++) {
        if (!writable.write(chunk)) await once(writable, 'drain');
      }
      writable.end();
    };
    const done = write();
    // As long as anything moves, the next round trips give it time.
    for (let before = -1; before !== written; ) {
      before = written;
      for (let n = 0; n < 20; n++) await destination.request('echo', null);
    }
    assert.ok(written * chunk.length < 2 << 20, `${written} chunks`);
    assert.ok((await collect(readable)).equals(Buffer.alloc(count * chunk.length, 'x')));
    await done;
  });
}

for (const [writerMark, readerMark] of [
  [1_000, undefined],
  [1, undefined],
  [0, undefined],
  [undefined, 65_536],
  [undefined, 1 << 20],
]) {
  differs(
    `high-water marks of ${writerMark ?? 'the default'} and ${readerMark ?? 'the default'} do not wait for each other`,
    'they do, for ever',
    async (network) => {
      const { writable, readable } =
        writerMark === undefined
          ? await download(network, { highWaterMark: readerMark })
          : await upload(network, { highWaterMark: writerMark });
      const whole = pattern(500_000);
      const collected = collect(readable);
      await pipeline(stream.Readable.from([whole.subarray(0, 1), whole.subarray(1)]), writable);
      assert.ok(whole.equals(await collected));
    },
  );
}

for (const [way, open] of Object.entries(WAYS)) {
  check(`finish does not wait for the reader (${way})`, async (network) => {
    const { writable, readable } = await open(network);
    writable.end('x');
    await once(writable, 'finish');
    assert.equal(readable.readableEnded, false);
  });

  check(`a connection that is lost after finish is no error of the writer (${way})`, async (network) => {
    const { writable, unit, role, destination } = await open(network);
    role.onRequest('echo', (ctx, cb) => cb(null, null));
    const errors = [];
    writable.on('error', (error) => errors.push(error));
    writable.end('x');
    await once(writable, 'finish');
    await destination.request('echo', null);
    const lost = once(unit, 'close');
    unit.close();
    await lost;
    assert.deepEqual([errors, writable.writableFinished, writable.errored], [[], true, null]);
  });

  differs(`what arrived whole can be read after the connection is lost (${way})`, 'it is dropped', async (network) => {
    const { writable, readable, unit, role, destination } = await open(network);
    role.onRequest('echo', (ctx, cb) => cb(null, null));
    const whole = pattern(200_000);
    writable.end(whole);
    await once(writable, 'finish');
    await destination.request('echo', null);
    const lost = once(unit, 'close');
    unit.close();
    await lost;
    assert.ok(whole.equals(await collect(readable)));
  });
}
