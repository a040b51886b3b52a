'use strict';

// Response times of units while a peer is under siege, next to those without an attack, and to those while another
// process on the same machine is attacked; see ../README.md.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const { parseArgs } = require('node:util');

const { find } = require('../players');
const { Besieged } = require('./siege');

const USAGE = `node tests/hostile/siege-bench.js [options] [PATTERN…]

Measures the sieges that have all the patterns in their names, such as "python" or "pings".

  --seconds N   seconds of each attack (default: 60)
  --quiet N     seconds of each measurement without an attack on the peer (default: 10)
  --factor N    the largest ratio of the 99th percentile under an attack by strangers to that without an attack, or
                with an attack on another process, whichever is larger (default: 3)
  --list        prints only the names
`;

/** Milliseconds within which a newcomer must be served. */
const ENTRY = 2_000;
/** The number of newcomers during an attack. */
const NEWCOMERS = 10;

/** `strict`: the bounds on the 99th percentile and on newcomers apply. `median`: its upper bound, in milliseconds. */
const SIEGES = [
  { what: '2,000 strangers', attack: ['strangers', { count: 2_000 }], strict: true },
  { what: '2,000 strangers, 256 descriptors', attack: ['strangers', { count: 2_000 }], descriptors: 256, strict: true },
  { what: '250 strangers, 256 descriptors', attack: ['strangers', { count: 250 }], descriptors: 256, strict: true },
  { what: '40,000 roles', attack: ['roles', {}], median: 1 },
  { what: 'pings', attack: ['pings', {}], median: 1 },
  { what: 'messages', attack: ['messages', {}], median: 1 },
  { what: 'messages over TLS', attack: ['messages', {}], secure: true, median: 1 },
  { what: 'never reads', attack: ['deaf', {}] },
];

const sorted = (times) => [...times].sort((a, b) => a - b);
const at = (times, share) => times[Math.min(times.length - 1, Math.floor(times.length * share))];
const millis = (value) => value.toFixed(value < 10 ? 2 : 0);

/** The response times of a unit while a bare listener in another process is attacked: attackers take CPU time, too. */
async function beside(peer, friend, [kind, options], millis) {
  const bare = spawn(process.execPath, [path.join(__dirname, 'bare.js')], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    const [port] = await once(bare.stdout, 'data');
    const assault = await peer.attack(kind, { ...options, keyed: false, secure: false }, Number(port));
    const times = await friend.askFor(millis);
    await assault.stop();
    return times;
  } finally {
    bare.kill();
  }
}

async function measure(implementation, siege, { seconds, quiet }) {
  const { attack } = siege;
  const peer = await Besieged.start(implementation, siege);
  try {
    const friend = await peer.join('friend');
    await friend.askOften(2_000);
    const calm = sorted(await friend.askFor(quiet * 1e3));
    const others = siege.strict ? sorted(await beside(peer, friend, attack, quiet * 1e3)) : [];
    const before = peer.memory();
    const assault = await peer.attack(...attack);
    const entries = [];
    let over = false;
    const coming = (async () => {
      for (let number = 0; number < NEWCOMERS && !over; number++) {
        const begun = Date.now();
        const newcomer = await peer.join(`newcomer ${number}`);
        await newcomer.ask();
        entries.push(Date.now() - begun);
        newcomer.leave();
        await new Promise((resolve) => setTimeout(resolve, (seconds * 1e3) / (NEWCOMERS + 1)));
      }
    })();
    const times = sorted(await friend.askFor(seconds * 1e3));
    over = true;
    const held = peer.memory() - before;
    await coming;
    await assault.stop();
    await peer.settles(['friend']);
    const after = sorted(await friend.askFor(2_000));
    return { calm, others, times, after, entry: Math.max(...entries), held };
  } finally {
    await peer.end();
  }
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seconds: { type: 'string', default: '60' },
      quiet: { type: 'string', default: '10' },
      factor: { type: 'string', default: '3' },
      list: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
  if (values.help) return console.log(USAGE);
  const { present } = find();
  const all = present.flatMap((implementation) => SIEGES.map((siege) => ({ implementation, siege })));
  const wanted = all
    .map((one) => ({ ...one, name: `${one.implementation.name}: ${one.siege.what}` }))
    .filter(({ name }) => positionals.every((pattern) => name.includes(pattern)));
  if (values.list) return wanted.forEach(({ name }) => console.log(name));
  const numbers = { seconds: Number(values.seconds), quiet: Number(values.quiet) };
  console.log(
    '| siege | quiet p50, p99 (ms) | another is besieged | besieged | times quiet | times another | newcomers in (ms) | ' +
      'held (MiB) | after p50 |',
  );
  console.log('|---|---|---|---|---|---|---|---|---|');
  let failed = 0;
  for (const { name, implementation, siege } of wanted) {
    const { calm, others, times, after, entry, held } = await measure(implementation, siege, numbers);
    const [p50, p99] = [at(times, 0.5), at(times, 0.99)];
    const [c50, c99] = [at(calm, 0.5), at(calm, 0.99)];
    const [o50, o99] = [at(others, 0.5) ?? 0, at(others, 0.99) ?? 0];
    const good =
      (!siege.strict || (p99 <= Number(values.factor) * Math.max(c99, o99) && entry <= ENTRY)) &&
      (siege.median === undefined || p50 < siege.median);
    if (!good) failed++;
    const cells = [
      `${name}${good ? '' : ' **missed**'}`,
      `${millis(c50)}, ${millis(c99)}`,
      others.length > 0 ? `${millis(o50)}, ${millis(o99)}` : '',
      `${millis(p50)}, ${millis(p99)}`,
      `${(p50 / c50).toFixed(1)}, ${(p99 / c99).toFixed(1)}`,
      others.length > 0 ? `${(p50 / o50).toFixed(1)}, ${(p99 / o99).toFixed(1)}` : '',
      String(entry),
      String(Math.round(held / (1 << 20))),
      millis(at(after, 0.5)),
    ];
    console.log(`| ${cells.join(' | ')} |`);
  }
  process.exitCode = failed === 0 ? 0 : 1;
}

main();
