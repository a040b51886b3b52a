'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { pipeline } = require('node:stream/promises');
const { after, before, test } = require('node:test');
const { Peer } = require('..');

let service;
let client;
let math;

before(async () => {
  service = new Peer({ name: 'service' });
  client = new Peer({ name: 'client' });
  service.role('math').onRequest('add', (ctx, answer) => answer(null, ctx.data.a + ctx.data.b));
  service.role('math').onRequest('fail', () => {
    throw new Error('boom');
  });
  await service.listen({ port: 0, host: '127.0.0.1' });
  math = client.destination('math');
  await client.connect(`ws://127.0.0.1:${service.port}`);
});

after(async () => {
  client.close();
  await new Promise((resolve) => service.close(resolve));
});

test('a request is answered', async () => {
  const ctx = await math.request('add', { a: 2, b: 3 });
  assert.equal(ctx.data, 5);
  assert.equal(ctx.type, 'number');
  assert.equal(ctx.unit.name, 'service');
});

test('a handler that throws rejects its request and is reported', async () => {
  const reported = once(service, 'handler_error');
  await assert.rejects(math.request('fail'), { message: 'boom', code: 'REJECTED' });
  const [error, ctx] = await reported;
  assert.equal(error.message, 'boom');
  assert.equal(ctx.event, 'fail');
});

test('messages arrive in order, whatever they hold', async () => {
  const values = ['text', 'ü\u0000', 1.5, true, null, { deep: [1, null] }, Buffer.alloc(100_000, 7), 'x'.repeat(50_000)];
  const received = [];
  const done = new Promise((resolve) => {
    service.role('math').onMessage('note', (ctx) => {
      received.push(ctx.data);
      if (received.length === values.length) resolve();
    });
  });
  for (const value of values) math.send('note', value);
  await done;
  assert.deepEqual(received, values);
});

test('units that are sent to and closed in one turn get all of it', async () => {
  const extra = Array.from({ length: 5 }, () => new Peer());
  const text = 'x'.repeat(10_000);
  const received = extra.map(async (peer) => {
    const message = new Promise((resolve) => peer.role('extra').onMessage('note', (ctx) => resolve(ctx.data)));
    const { unit, ws } = await peer.connect(`ws://127.0.0.1:${service.port}`, { permanent: false });
    const closed = once(ws, 'close');
    unit.on('error', (error) => assert.fail(error));
    return [await message, (await closed)[0]];
  });
  const destination = service.destination('extra');
  while (destination.units.length < extra.length) await once(destination, 'unit');
  destination.broadcast('note', text);
  for (const unit of destination.units) unit.close();
  assert.deepEqual(await Promise.all(received), extra.map(() => [text, 4000]));
});

test('streams carry everything, in both directions', async () => {
  const bytes = Buffer.alloc(1_000_000, 'roletalk');
  const collect = async (stream) => Buffer.concat(await stream.toArray());
  const uploaded = new Promise((resolve) => {
    service.role('math').onReadable('upload', (ctx, answer) => {
      answer(null, 'go ahead');
      resolve(collect(ctx.readable));
    });
  });
  const downloaded = new Promise((resolve) => {
    service.role('math').onWritable('download', (ctx, answer) => {
      answer(null);
      resolve(pipeline([bytes], ctx.writable));
    });
  });
  await pipeline([bytes], math.Writable('upload', null));
  assert.ok((await uploaded).equals(bytes));
  assert.ok((await collect(math.Readable('download', null))).equals(bytes));
  await downloaded;
});
