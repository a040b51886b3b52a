'use strict';

// Flat memory over a million requests, a hundred thousand connections and ten thousand streams:
//
//   npm run soak [-- scale [rss]]
//
// A scale of 0.01 does a hundredth. The resident size may grow by `rss` MiB, 16 unless told: until a
// few hundred thousand requests are done, the allocators still settle. Exits with 1 when memory grows.

const { once } = require('node:events');
const { setImmediate: turn } = require('node:timers/promises');
const { roletalk } = require('../support/subject');

const SCALE = Number(process.argv[2] ?? 1);
/** What memory may grow by after the first parts of a load, in MiB. */
const ALLOWED = { rss: Number(process.argv[3] ?? 16), heap: 4, external: 4 };
const PARTS = 10;
const MIB = 1024 * 1024;

/* global gc */
if (typeof gc !== 'function') throw new Error('to be run with --expose-gc, as npm run soak does');

async function memory() {
  // Finalizers run between turns.
  for (let n = 0; n < 4; n++) {
    gc();
    await turn();
  }
  const { rss, heapUsed, external } = process.memoryUsage();
  return { rss: rss / MIB, heap: heapUsed / MIB, external: external / MIB };
}

/** Runs a load in parts, and tells how memory went. Returns whether it stayed flat. */
async function soak(name, total, width, operation) {
  const count = Math.ceil((total * SCALE) / PARTS);
  const samples = [];
  for (let part = 0; part < PARTS; part++) {
    let left = count;
    const worker = async () => {
      while (left-- > 0) await operation(left);
    };
    await Promise.all(Array.from({ length: width }, worker));
    samples.push(await memory());
    const { rss, heap, external } = samples.at(-1);
    const done = `${((part + 1) * count).toLocaleString('en')} ${name}`.padEnd(26);
    console.log(`${done} rss ${rss.toFixed(1)}  heap ${heap.toFixed(1)}  external ${external.toFixed(1)} MiB`);
  }
  // The first parts fill pools and compile code.
  const [before, after] = [samples[3], samples.at(-1)];
  const grown = Object.keys(ALLOWED).filter((kind) => after[kind] - before[kind] > ALLOWED[kind]);
  for (const kind of grown) console.log(`${name}: ${kind} grew by more than ${ALLOWED[kind]} MiB`);
  return grown.length === 0;
}

async function main() {
  const listener = new roletalk.Peer({ friendly: false });
  const role = listener.role('role');
  role.onRequest('echo', (ctx, cb) => cb(null, ctx.data));
  role.onReadable('up', ({ readable }, cb) => {
    readable.resume();
    cb(null, null);
  });
  await listener.listen({ port: 0, host: '0.0.0.0' });
  const address = `ws://127.0.0.1:${listener._port}`;
  const dialer = new roletalk.Peer({ friendly: false });
  await dialer.connect(address);
  const destination = dialer.destination('role');

  const kinds = ['text', 1.5, { a: [1, 2, 3] }, Buffer.alloc(1_000), null, 'x'.repeat(20_000)];
  const requests = await soak('requests', 1_000_000, 64, (n) => destination.request('echo', kinds[n % kinds.length]));

  const chunk = Buffer.alloc(50_000);
  const streams = await soak('streams', 10_000, 16, async () => {
    const writable = destination.Writable('up', null);
    writable.write(chunk);
    await new Promise((resolve) => writable.end(resolve));
  });

  const connections = await soak('connections', 100_000, 8, async (n) => {
    const peer = new roletalk.Peer({ friendly: false });
    // Enough addresses for the ports that the system keeps waiting after a close.
    const { unit } = await peer.connect(address, { localAddress: `127.0.0.${2 + (n % 200)}` });
    const lost = once(unit, 'close');
    peer.close();
    await lost;
  });

  dialer.close();
  listener.close();
  if (!(requests && streams && connections)) process.exitCode = 1;
}

main();
