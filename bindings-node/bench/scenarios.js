'use strict';

/**
 * What is measured. Each runs on the client for about `millis` and resolves to how many operations
 * (or bytes) it did, and the latency of each when it was asked one by one.
 */

const TEXT = 'x'.repeat(32);
const BLOCK = Buffer.alloc(4096, 7);
const CHUNK = Buffer.alloc(65536, 7);
const turn = () => new Promise((resolve) => setImmediate(resolve));

function requests(inFlight, data) {
  return async (destination, millis) => {
    const end = performance.now() + millis;
    let count = 0;
    const latencies = inFlight === 1 ? [] : undefined;
    const one = async () => {
      while (performance.now() < end) {
        const start = performance.now();
        await destination.request('echo', data);
        latencies?.push(performance.now() - start);
        count++;
      }
    };
    await Promise.all(Array.from({ length: inFlight }, one));
    return { count, latencies };
  };
}

async function messages(destination, millis) {
  const end = performance.now() + millis;
  const { data: before } = await destination.request('received', null);
  let count = 0;
  while (performance.now() < end) {
    for (let i = 0; i < 1000; i++) destination.send('note', TEXT);
    count += 1000;
    // What is sent must not pile up: wait until half of it has arrived.
    await destination.request('echo', null);
    await turn();
  }
  const { data: after } = await destination.request('received', null);
  if (after - before !== count) throw new Error(`${count} messages sent, ${after - before} received`);
  return { count };
}

async function stream(destination, millis) {
  const end = performance.now() + millis;
  const writable = destination.Writable('upload', null);
  let count = 0;
  while (performance.now() < end) {
    count += CHUNK.length;
    if (!writable.write(CHUNK)) await new Promise((resolve) => writable.once('drain', resolve));
  }
  await new Promise((resolve, reject) => {
    writable.on('error', reject);
    writable.end(resolve);
  });
  for (;;) {
    const { data } = await destination.request('uploaded', null);
    if (data === count) return { count };
    await turn();
  }
}

const scenarios = {
  'one request in flight, 32 B': { run: requests(1, TEXT), unit: 'requests/s' },
  '16 in flight, 32 B': { run: requests(16, TEXT), unit: 'requests/s' },
  '64 in flight, 32 B': { run: requests(64, TEXT), unit: 'requests/s' },
  '256 in flight, 32 B': { run: requests(256, TEXT), unit: 'requests/s' },
  '64 in flight, 4 KiB': { run: requests(64, BLOCK), unit: 'requests/s' },
  'messages, 32 B': { run: messages, unit: 'messages/s' },
  'stream, chunks of 64 KiB': { run: stream, unit: 'bytes/s' },
};

/** The other side. */
function serve(peer) {
  const role = peer.role('bench');
  let received = 0;
  let uploaded = 0;
  role.onRequest('echo', (ctx, answer) => answer(null, ctx.data));
  role.onRequest('received', (ctx, answer) => answer(null, received));
  role.onRequest('uploaded', (ctx, answer) => answer(null, uploaded));
  role.onMessage('note', () => {
    received++;
  });
  role.onReadable('upload', (ctx, answer) => {
    uploaded = 0;
    ctx.readable.on('data', (chunk) => {
      uploaded += chunk.length;
    });
    ctx.readable.on('error', () => {});
    answer(null);
  });
}

module.exports = { scenarios, serve };
