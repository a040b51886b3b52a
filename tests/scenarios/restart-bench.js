'use strict';

// A rolling restart under a fixed rate of requests: what fails, how long answers take, how long a peer with nothing
// to do takes to leave. `node tests/scenarios/restart-bench.js [options] [PATTERN…]`; see ../README.md.

const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');

const { find } = require('../players');
const { within } = require('./deadline');
const { required } = require('./options');
const { sha256 } = require('./pattern');
const { Fleet } = require('./restarts');
const { ROLE, Stage } = require('./stage');
const { Steady } = require('./steady');

/** Milliseconds that a single wait may take: only there to fail. */
const LIMIT = 120_000;
/** Milliseconds that each way takes longer. */
const DELAYS = [0, 20, 200];
/** Peers that leave with nothing to do, and the milliseconds that they may take besides a round trip. */
const IDLE = 5;
const IDLE_BOUND = 50;
/** Milliseconds that an original is given for its last answers. */
const GRACE = 2_000;
/** Twice the window of a stream: its writer waits when its reader does. */
const STREAM = { size: 2 << 20, piece: 1 << 16, pauses: true };

const USAGE = `usage: node FILE [options] [PATTERN…]
  --all               every pair of languages, instead of each with itself and with the next
  --rate N            requests a second (default: 1000)
  --replacements N    services that are replaced (default: 20)
  --list              print the names, and run nothing
  PATTERN…            only what has all of these in its name`;

const COLUMNS = [
  'clients → services',
  'delay',
  'TLS',
  'requests',
  'a second',
  'failed',
  'twice',
  'streams',
  'p50',
  'p99',
  'max',
  'idle drain, median, max',
  'round trip',
];

function options() {
  const text = { type: 'string' };
  const flag = { type: 'boolean', default: false };
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        all: flag,
        list: flag,
        rate: { ...text, default: '1000' },
        replacements: { ...text, default: '20' },
      },
    });
    const [rate, replacements] = ['rate', 'replacements'].map((name) => {
      const number = Number(values[name]);
      if (Number.isInteger(number) && number > 0) return number;
      throw new Error(`--${name} takes a whole number from 1 on, not "${values[name]}"`);
    });
    return { ...values, rate, replacements, patterns: positionals };
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
    process.exit(2);
  }
}

/** Each language with itself and with the next as services, or all with all. */
function ourPairs(present, all) {
  if (all) return present.flatMap((dialer) => present.map((listener) => ({ dialer, listener })));
  const own = present.map((one) => ({ dialer: one, listener: one }));
  const next = present.map((dialer, n) => ({ dialer, listener: present[(n + 1) % present.length] }));
  return [...own, ...next];
}

/** Each original as client of all of ours, and of itself. */
function originalPairs(present) {
  const ours = present.filter(({ original }) => !original);
  const originals = present.filter(({ original }) => original);
  return originals.flatMap((dialer) => [...ours, dialer].map((listener) => ({ dialer, listener })));
}

function cells(pairs, patterns) {
  return pairs
    .flatMap((pair) => DELAYS.flatMap((delay) => [false, true].map((tls) => ({ pair, delay, tls }))))
    .map((cell) => ({ ...cell, name: title(cell) }))
    .filter(({ name }) => patterns.every((one) => name.includes(one)));
}

function title({ pair, delay, tls }) {
  return `${pair.dialer.name} → ${pair.listener.name}, ${delay} ms, ${tls ? 'TLS' : 'plain'}`;
}

/** What is measured in a cell. */
async function measure(cell, { rate, replacements }) {
  const { pair, delay, tls } = cell;
  const stage = new Stage(pair, LIMIT);
  try {
    const fleet = new Fleet(stage, { delay, tls });
    await fleet.start();
    const idle = pair.listener.original ? {} : await leaveIdle(fleet);
    const steady = new Steady(fleet.asker, rate);
    const ended = [];
    for (let n = 0; n < replacements; n++) {
      const how = streams(cell) ? leaveInStream : leave;
      const [failure] = await Promise.all([how(fleet, fleet.services[n], steady), fleet.begin()]);
      await fleet.services.at(-1).observe('counted');
      ended.push(failure);
    }
    const { twice, unhandled } = await within(LIMIT, 'the last answers', steady.end(fleet.services));
    const { numbers, seconds, failed, times, errors } = steady;
    return {
      asked: numbers.length,
      rate: numbers.length / seconds,
      failed: failed.size,
      errors,
      twice,
      unhandled,
      ended,
      times: times.sort((a, b) => a - b),
      ...idle,
    };
  } finally {
    await stage.end();
  }
}

/** Peers leave that have a connection and nothing to do. */
async function leaveIdle(fleet) {
  const data = { type: 'null', value: null };
  const trips = [];
  const drains = [];
  for (let n = 0; n < IDLE; n++) {
    const name = `idle ${n}`;
    const one = await fleet.add(name, name);
    trips.push(await timed(fleet.asker.ask('request', { role: name, event: 'name', data })));
    drains.push(await timed(one.ask('drain')));
    await one.kill();
  }
  return { drains: drains.sort((a, b) => a - b), trip: median(trips.sort((a, b) => a - b)) };
}

async function timed(promise) {
  const began = performance.now();
  await promise;
  return performance.now() - began;
}

/**
 * roletalk 1.1.3 waits for an answer only when its socket has told that the request is written. TLS does so later, and
 * an answer that was faster is dropped: a stream would never begin, and its service wait for it.
 */
const streams = ({ pair, tls }) => !pair.listener.original && !(pair.dialer.original && tls);

/** A service leaves. */
async function leave(fleet, service, steady) {
  if (service.implementation.original) {
    // It has no drain: the best that it can do is to withdraw the role and to wait. Some answers never come.
    await service.ask('disable', { role: ROLE });
    await fleet.left(service);
    await Promise.race([steady.settled(), sleep(GRACE)]);
  } else {
    await service.ask('drain');
  }
  await service.kill();
}

/** It leaves in the middle of a stream. Result: why the stream has not ended well; undefined when it has. */
async function leaveInStream(fleet, service) {
  const tag = `to ${service.name}`;
  const plan = { ...STREAM, tag };
  const written = fleet.asker.ask('upload', { role: ROLE, event: 'up', plan, to: service.name });
  written.catch(() => {});
  await Promise.race([service.observe('paused', (line) => line.tag === tag), written.catch(() => {})]);
  const drained = service.ask('drain');
  await fleet.left(service);
  await fleet.stage.settles(service.ask('resume', { tag }));
  const failure = await fails(written, service, tag);
  await drained;
  await service.kill();
  return failure;
}

async function fails(written, service, tag) {
  try {
    const { sha256: sent } = await written;
    const { result, error } = await service.observe('received', (line) => line.tag === tag);
    if (error !== undefined) return error;
    const wanted = sha256(STREAM.size);
    return sent === wanted && result.sha256 === wanted ? undefined : 'other bytes than were written';
  } catch (error) {
    if (!error.answered) throw error;
    return error.message;
  }
}

function median(sorted) {
  return quantile(sorted, 0.5);
}

function quantile(sorted, part) {
  return sorted[Math.min(Math.floor(sorted.length * part), sorted.length - 1)];
}

function row(cell) {
  const { pair, delay, tls, measured } = cell;
  const { asked, rate, failed, twice, ended, times, drains, trip } = measured;
  const finished = ended.filter((failure) => failure === undefined).length;
  const late = drains && median(drains) > trip + IDLE_BOUND ? ', missed' : '';
  return [
    `${pair.dialer.name} → ${pair.listener.name}`,
    delay,
    tls ? 'yes' : 'no',
    asked,
    Math.round(rate),
    failed,
    twice,
    streams(cell) ? `${finished} of ${ended.length}` : '–',
    ...[0.5, 0.99, 1].map((part) => millis(quantile(times, part))),
    drains ? `${millis(median(drains))}, ${millis(drains.at(-1))}${late}` : '–',
    drains ? millis(trip) : '–',
  ];
}

function millis(time) {
  if (time === undefined) return '–';
  return time.toFixed(time < 100 ? 1 : 0);
}

const line = (values) => console.log(`| ${values.join(' | ')} |`);

/** What must not be; an original among itself may do as it likes, and with our services no worse than that. */
function faults({ pair, delay, tls, measured }, done) {
  if (pair.listener.original) return [];
  const { failed, errors, twice, unhandled, ended } = measured;
  const alike = done.find((one) => {
    const itself = one.pair.listener === pair.dialer && one.pair.dialer === pair.dialer;
    return pair.dialer.original && itself && one.delay === delay && one.tls === tls;
  });
  const allowed = alike?.measured.failed ?? 0;
  const broken = ended.filter((failure) => failure !== undefined);
  return [
    failed > allowed && `${failed} failed: ${JSON.stringify(errors)}${allowed ? `, ${allowed} among originals` : ''}`,
    twice > 0 && `${twice} were handled twice`,
    unhandled > 0 && `${unhandled} were answered, and not handled`,
    broken.length > 0 && `streams under way: ${broken.join('; ')}`,
  ].filter(Boolean);
}

/**
 * Measures, and prints a table; a row that says what must not be makes the exit code 1.
 *
 * @param found the implementations, as `find` of ../players gives them
 * @param withOriginals whether the originals are the clients
 */
async function main({ present, absent }, withOriginals = false) {
  const chosen = options();
  const pairs = withOriginals ? originalPairs(present) : ourPairs(present, chosen.all);
  const all = cells(pairs, chosen.patterns);
  if (chosen.list) {
    for (const { name } of all) console.log(name);
    return;
  }
  for (const { name, version } of present) console.log(`${name}: ${version}`);
  for (const { name, reason } of absent) console.log(`left out: ${name}: ${reason}`);
  console.log(`\n${chosen.rate} requests a second, ${chosen.replacements} replacements; times in milliseconds\n`);
  line(COLUMNS);
  line(COLUMNS.map((_, n) => (n === 0 ? '---' : '---:')));
  for (const cell of all) {
    try {
      cell.measured = await measure(cell, chosen);
      line(row(cell));
    } catch (error) {
      cell.failure = error.message;
      line([title(cell), error.message]);
    }
  }
  console.log();
  for (const cell of all) {
    const measured = all.filter((one) => one.measured);
    for (const text of cell.measured ? faults(cell, measured) : [cell.failure]) {
      console.log(`FAIL ${cell.name}: ${text}`);
      process.exitCode = 1;
    }
  }
  for (const { name, reason } of absent) {
    if (!required().includes(name)) continue;
    console.log(`FAIL ${name} is required: ${reason}`);
    process.exitCode = 1;
  }
  if (pairs.length === 0) {
    console.log('There is no original here: nothing was measured');
  } else if (all.length === 0) {
    console.log('FAIL nothing has this name');
    process.exitCode = 1;
  }
}

module.exports = { main };

if (require.main === module) main(find());
