// The uses that the original's guide shows, in a program of our own: connecting with keys, requests
// with middleware, publishing to subscribers, and streams.

import { randomBytes } from 'crypto';
import { createReadStream, createWriteStream } from 'fs';
import { Peer } from 'roletalk';

async function authentication(): Promise<string[]> {
  const office = new Peer({ name: 'Office' });
  office.addPresharedKey('front door', 'qwerty').addPresharedKey('back door', 'asdfgh');
  office.on('unit', (unit) => console.log(`came in: ${unit.name} ${unit.id}`));
  await office.listen(9000);

  const guest = new Peer({ name: 'Guest' });
  guest.addPresharedKey('front door', 'wrong');
  guest.connect('ws://localhost:9000').catch((error) => console.log(`stays outside: ${error}`));
  return office.units.map((unit) => unit.name ?? 'nobody');
}

function middleware(): void {
  const worker = new Peer({ name: 'worker' });
  let count = 0;
  worker.onRequest(async () => {
    count++;
  });
  worker.role('wrapper').onRequest(async (ctx) => {
    await ctx.next!();
    ctx.response = JSON.stringify(ctx.response);
  });
  worker.role('wrapper').onRequest('wrap', (ctx, cb) => {
    cb(null, { count, data: ctx.data, by: worker.name });
  });

  const asker = new Peer();
  setInterval(async () => {
    const data = randomBytes(10).toString('hex');
    const ctx = await asker.destination('wrapper').request('wrap', data);
    const text: string = ctx.data;
    console.log(text.length, ctx.rtt ?? 0);
  }, 1_000);
}

function publishing(): void {
  const publisher = new Peer({ name: 'clock' });
  const subscribers = [new Peer({ name: 'a' }), new Peer({ name: 'b' })];
  publisher.listen({ port: 9001, host: '127.0.0.1', path: '/clock' });
  subscribers.forEach(async (subscriber: Peer) => {
    subscriber.role('display').onMessage('time', (ctx) => {
      console.log(new Date(ctx.data).toISOString(), ctx.unit.name);
      subscriber.destination('clock').send({ unit: ctx.unit, event: 'thanks' }, 5);
    });
    const { unit } = await subscriber.connect('ws://localhost:9001/clock');
    console.log(unit.meta.protocol, unit.getRoles().join());
  });
  publisher.role('clock').onMessage('thanks', (ctx) => console.log(ctx.unit.name, ctx.data));
  publisher.destination('display').broadcast('time', Date.now());
}

function streams(): void {
  const storage = new Peer();
  storage.role('files').onReadable('put', (ctx, cb) => {
    ctx.readable.pipe(createWriteStream(ctx.data.name));
    cb(null, null);
  });
  storage.role('files').onWritable('get', (ctx, cb) => {
    createReadStream(ctx.data.name).pipe(ctx.writable);
    cb(null, { length: 1 });
  });

  const user = new Peer();
  const files = user.destination('files');
  if (!files.ready) return;
  createReadStream('a').pipe(files.Writable('put', { name: 'a' }, { highWaterMark: 100_000 }));
  files.Readable({ event: 'get', timeout: 1_000 }, { name: 'a' }).pipe(process.stdout);
}

export { authentication, middleware, publishing, streams };
