'use strict';

// Units that keep failing are left out, and there are bounds of what is in flight and of what waits for a unit.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { until } = require('./support/network');
const { beyond, roletalk } = require('./support/subject');

/** Services with these names, a client that is connected to them in this order, and what they do with requests. */
async function field(network, names, options, destinationOptions) {
  const client = network.peer(options);
  const destination = client.destination('role', destinationOptions);
  const services = {};
  for (const name of names) {
    const peer = await network.listener({ name });
    const service = { peer, asked: 0, held: [], handle: () => name };
    peer.role('role').onRequest('who', (ctx, cb) => {
      service.asked++;
      if (service.handle === null) service.held.push(cb);
      else {
        try {
          cb(null, service.handle());
        } catch (error) {
          cb(error.message);
        }
      }
    });
    peer.role('role').onReadable('up', ({ readable }, cb) => {
      cb(null, name);
      readable.resume();
    });
    service.unit = (await network.join(client, peer)).unit;
    services[name] = service;
  }
  return { client, destination, services };
}

const fails = () => {
  throw new Error('no');
};

const outcome = (promise) =>
  promise.then(
    ({ data }) => data,
    ({ code }) => code,
  );

/** The outcomes of so many requests, one after the other. */
async function outcomes(destination, times, options = 'who') {
  const all = [];
  for (let n = 0; n < times; n++) all.push(await outcome(destination.request(options)));
  return all;
}

const standing = (destination, name) => destination.standings().find(({ unit }) => unit.name === name);

/** Nothing is left of requests. */
async function empty(peer) {
  const { slots, freeSlots } = peer._core;
  await until(() => peer.stats().busy === 0 && slots.length === freeSlots.length);
  assert.equal(peer._core.parked, 0);
  assert.ok(peer.destinations.every(({ _ways: ways }) => ways.size === 0));
}

const REJECTIONS = { failures: 3, rejections: true };

beyond('a unit that keeps rejecting is left out if that counts', async (network) => {
  const { client, destination, services } = await field(network, ['a', 'b', 'c'], undefined, { eject: REJECTIONS });
  const clock = network.clock();
  const events = [];
  for (const event of ['unit_ejected', 'unit_restored']) {
    client.on(event, ({ role, unit }) => events.push(`${event} ${role} ${unit.name}`));
  }
  services.b.handle = fails;
  const first = await outcomes(destination, 30);
  assert.equal(first.filter((one) => one === 'REJECTED').length, 3);
  const { rejected, unanswered, ejected, waiting } = standing(destination, 'b');
  assert.deepEqual([rejected, unanswered, waiting], [3, 0, 0]);
  assert.ok(ejected > 0 && ejected <= 5_000, `${ejected} ms`);
  assert.equal(standing(destination, 'a').ejected, undefined);
  // It is asked once when its time is over, and left out for longer.
  await clock.advance(5_001);
  const second = await outcomes(destination, 30);
  assert.equal(second.filter((one) => one === 'REJECTED').length, 1);
  assert.ok(standing(destination, 'b').ejected > 5_000);
  services.b.handle = () => 'b';
  await clock.advance(10_001);
  assert.equal((await outcomes(destination, 30)).filter((one) => one === 'b').length, 10);
  assert.deepEqual([standing(destination, 'b').rejected, standing(destination, 'b').ejected], [0, undefined]);
  assert.deepEqual(events, ['unit_ejected role b', 'unit_restored role b']);
  await empty(client);
});

beyond('requests of one turn of the loop do not all go to a unit that is being tried', async (network) => {
  const { client, destination, services } = await field(network, ['a', 'b'], undefined, { eject: REJECTIONS });
  const clock = network.clock();
  services.b.handle = fails;
  await outcomes(destination, 10);
  await clock.advance(5_001);
  const asked = services.b.asked;
  await Promise.all(Array.from({ length: 10 }, () => outcome(destination.request('who'))));
  assert.equal(services.b.asked - asked, 1);
  await empty(client);
});

beyond('a unit that does not answer in time is left out', async (network) => {
  const eject = { failures: 2, time: 1_000, most: 1_500 };
  const { client, destination, services } = await field(network, ['a', 'b'], { eject });
  const clock = network.clock();
  services.b.handle = null;
  const late = Array.from({ length: 4 }, () => outcome(destination.request({ event: 'who', timeout: 100 })));
  await until(() => services.b.held.length === 2);
  await clock.advance(200);
  assert.deepEqual((await Promise.all(late)).sort(), ['TIMEOUT', 'TIMEOUT', 'a', 'a']);
  const { unanswered, ejected } = standing(destination, 'b');
  assert.equal(unanswered, 2);
  assert.ok(ejected > 0 && ejected <= 1_000, `${ejected} ms`);
  assert.deepEqual(await outcomes(destination, 4), ['a', 'a', 'a', 'a']);
  await empty(client);
});

beyond('rejections do not count unless so told, and never more than half are left out', async (network) => {
  const { client, destination, services } = await field(network, ['a', 'b'], { eject: true });
  services.b.handle = fails;
  const all = await outcomes(destination, 20);
  assert.equal(all.filter((one) => one === 'REJECTED').length, 10);
  services.a.handle = fails;
  client.destination('role', { eject: REJECTIONS });
  await outcomes(destination, 10);
  assert.equal(destination.standings().filter(({ ejected }) => ejected !== undefined).length, 1);
  await empty(client);
});

beyond('which units are left out is an option of its own', async (network) => {
  const { client, destination, services } = await field(network, ['a', 'b', 'c'], { eject: REJECTIONS });
  network.clock();
  services.b.handle = fails;
  await outcomes(destination, 9);
  const isOut = () => standing(destination, 'b').ejected !== undefined;
  assert.ok(isOut());
  // The balance of a call or a destination changes nothing, nor do tags, keys and functions.
  const offered = [];
  const balance = (candidates) => {
    offered.push(candidates.map(({ unit }) => unit.name));
    return candidates[0].unit;
  };
  for (const options of [{ balance: 'round-robin' }, { balance: 'least-loaded' }, { prefer: {} }, { balance }]) {
    assert.ok(!(await outcomes(destination, 6, { event: 'who', ...options })).includes('REJECTED'));
  }
  assert.deepEqual(new Set(offered.map(String)), new Set(['a,c']));
  for (let n = 0; n < 20; n++) assert.notEqual(destination.send({ event: 'm', key: `${n}` }).name, 'b');
  client.destination('role', { balance: 'least-loaded' });
  assert.ok(isOut());
  client.destination('role', { eject: undefined, prefer: { zone: 'a' } });
  client.destination('role', { eject: null });
  assert.ok(isOut());
  // A unit that is given is asked all the same.
  assert.deepEqual(await outcomes(destination, 1, { event: 'who', unit: services.b.unit }), ['REJECTED']);
  // Another destination has its own say.
  const other = client.destination('other', { eject: false });
  services.b.peer.role('other');
  await until(() => other.units.length === 1);
  client.destination('role', { eject: false, balance: 'round-robin' });
  assert.ok(!isOut());
  assert.ok((await outcomes(destination, 3)).includes('REJECTED'));
  client.destination('role', { eject: REJECTIONS });
  assert.ok(isOut());
  await empty(client);
});

beyond('how units stand', async (network) => {
  const { client, destination, services } = await field(network, ['a', 'b']);
  assert.deepEqual(client.destination('nobody').standings(), []);
  const nothing = { waiting: 0, answerTime: 0, unanswered: 0, rejected: 0, ejected: undefined };
  assert.deepEqual(destination.standings(), destination.units.map((unit) => ({ unit, ...nothing })));
  services.a.handle = null;
  const asked = destination.request('who');
  assert.equal(standing(destination, 'a').waiting, 1);
  assert.equal(await outcome(destination.request('who')), 'b');
  assert.ok(standing(destination, 'b').answerTime > 0);
  await until(() => services.a.held.length === 1);
  services.a.held[0](null, 'a');
  await asked;
  assert.equal(standing(destination, 'a').waiting, 0);
  await empty(client);
});

// The bound of requests in flight.

beyond('so many are in flight to a destination and no more', async (network) => {
  const { client, destination, services } = await field(network, ['a', 'b'], undefined, { maxInFlight: 2 });
  services.a.handle = services.b.handle = null;
  const slow = [];
  client.on('slow_consumer', (event) => slow.push(event));
  const controller = new AbortController();
  const first = destination.request({ event: 'who', signal: controller.signal }).catch((error) => error);
  const second = outcome(destination.request('who'));
  const text = 'Too many requests to this destination are in flight (the limit is 2)';
  for (const options of ['who', { event: 'who', timeout: 5_000 }, { event: 'who', unit: services.a.unit }]) {
    await assert.rejects(destination.request(options), { code: 'OVERLOADED', message: text, hint: /bound/ });
  }
  const [error] = await once(destination.Writable('up'), 'error');
  assert.equal(error.code, 'OVERLOADED');
  // Messages, surveys and other destinations have nothing to do with it.
  await new Promise((resolve, reject) => destination.send('m', null, (e) => (e ? reject(e) : resolve())));
  let surveyed = 0;
  destination.survey('who', null, () => surveyed++);
  await until(() => services.a.held.length + services.b.held.length === 4);
  // One that is given up leaves room for another, and so does one that is answered.
  controller.abort();
  assert.equal(await first, controller.signal.reason);
  services.a.handle = services.b.handle = () => 'now';
  assert.deepEqual(await outcomes(destination, 3), ['now', 'now', 'now']);
  for (const { held } of [services.a, services.b]) for (const cb of held) cb(null, 'then');
  assert.equal(await second, 'then');
  await until(() => surveyed === 2);
  const [ctx] = await once(destination.Writable('up').end(), 'ready');
  assert.equal(ctx.type, 'string');
  assert.deepEqual(slow, []);
  await empty(client);
});

beyond('the bound stays until it is taken off', async (network) => {
  const { client, destination, services } = await field(network, ['a']);
  client.destination('role', { maxInFlight: 1 });
  client.destination('role', { maxInFlight: undefined, prefer: {} });
  services.a.handle = null;
  const asked = destination.request({ event: 'who', headers: { h: 'x' } });
  client.destination('role', { maxInFlight: 1 });
  await assert.rejects(destination.request('who'), { code: 'OVERLOADED' });
  await assert.rejects(destination.request({ event: 'who', headers: { 'not a name': 'x' } }), { code: 'INVALID_ARGUMENT' });
  client.destination('role', { maxInFlight: Infinity });
  const more = Array.from({ length: 5 }, () => destination.request('who'));
  await until(() => services.a.held.length === 6);
  client.destination('role', { maxInFlight: 0 });
  await assert.rejects(destination.request('who'), { code: 'OVERLOADED' });
  for (const cb of services.a.held) cb(null, 'a');
  await Promise.all([asked, ...more]);
  await empty(client);
});

beyond('what goes on to another unit counts once', async (network) => {
  const { client, destination, services } = await field(network, ['b'], undefined, { maxInFlight: 1 });
  const first = await network.listener({ name: '0' });
  first.role('role');
  const { unit } = await network.join(client, first);
  const balance = (candidates) => candidates.at(-1).unit;
  assert.deepEqual(await outcomes(destination, 3, { event: 'who', balance }), ['b', 'b', 'b']);
  assert.equal(services.b.asked, 3);
  // Who has chosen the unit meant that one.
  const asked = destination.request({ event: 'who', unit });
  await assert.rejects(asked, { code: 'REJECTED', failure: { unhandled: true } });
  const [error] = await once(destination.Readable({ event: 'none', unit }), 'error');
  assert.equal(error.code, 'REJECTED');
  await empty(client);
});

// The bound of what waits for a unit.

beyond('so many wait for a unit and no more', async (network) => {
  const client = network.peer();
  client._core.mostParked = 2;
  const destination = client.destination('role', { waitForUnit: true });
  const other = client.destination('other', { waitForUnit: true });
  const first = destination.request('who');
  const controller = new AbortController();
  const second = outcome(other.request({ event: 'who', signal: controller.signal }));
  const error = { code: 'OVERLOADED', message: 'Too many requests wait for a unit (the limit is 2)', hint: /outcomes/ };
  for (const how of ['request', 'Readable', 'Writable']) {
    assert.throws(() => destination[how]('who'), error);
    assert.throws(() => other[how]('who'), error);
  }
  controller.abort();
  await second;
  const third = destination.request('who');
  const service = await network.listener({ name: 'a' });
  service.role('role').onRequest('who', () => 'a');
  await network.join(client, service);
  assert.deepEqual(await Promise.all([outcome(first), outcome(third)]), ['a', 'a']);
  await empty(client);
});

beyond('what waits for another unit counts as well, and is told why it waited in vain', async (network) => {
  const { client, destination } = await field(network, ['a'], undefined, { waitForUnit: true });
  client._core.mostParked = 1;
  const late = destination.request({ event: 'none', timeout: 100 });
  await until(() => client._core.parked === 1);
  await assert.rejects(destination.request('none'), { code: 'OVERLOADED', message: 'Too many requests wait for a unit (the limit is 1)' });
  const [error] = await once(destination.Readable('none'), 'error');
  assert.equal(error.code, 'OVERLOADED');
  await assert.rejects(late, {
    code: 'TIMEOUT',
    message: 'Request timeout exceeded (100 ms)',
    hint: /^It waited for another unit after one that did not handle it: .*none/s,
  });
  await empty(client);
});

beyond('as many may wait as in the engine', async (network) => {
  const { _core: core } = network.peer();
  assert.ok(core.mostParked >= 65_536);
});

// Mistakes.

const WRONG = {
  'an ejection that is a number': [{ eject: 5 }, /"eject" should be true, false or an object/],
  'no failures': [{ eject: { failures: 0 } }, /"eject.failures" should be a whole number from 1 to 4294967295, and is 0/],
  'half a failure': [{ eject: { failures: 1.5 } }, /"eject.failures"/],
  'failures as text': [{ eject: { failures: '3' } }, /"eject.failures"/],
  'a negative time': [{ eject: { time: -1 } }, /"eject.time" should be a number from 0 on, and is -1/],
  'a time that is none': [{ eject: { most: NaN } }, /"eject.most"/],
  'rejections as a number': [{ eject: { rejections: 1 } }, /"eject.rejections" should be true or false/],
};

const WRONG_BOUNDS = {
  'a negative bound': [{ maxInFlight: -1 }, /"maxInFlight" should be a whole number from 0 on, and is -1/],
  'half a bound': [{ maxInFlight: 0.5 }, /"maxInFlight"/],
  'a bound as text': [{ maxInFlight: '5' }, /"maxInFlight"/],
  'a bound that cannot be printed': [{ maxInFlight: Object.create(null) }, /"maxInFlight"/],
};

for (const [what, [options, message]] of Object.entries({ ...WRONG, ...WRONG_BOUNDS })) {
  beyond(`${what} is told of where it is given, and changes nothing`, async (network) => {
    const { client, destination } = await field(network, ['a']);
    const error = { code: 'INVALID_ARGUMENT', message };
    assert.throws(() => client.destination('role', options), error);
    assert.throws(() => client.destination('new', options), error);
    if (what in WRONG) assert.throws(() => new roletalk.Peer(options), error);
    assert.deepEqual(client.destinations, [destination]);
    assert.deepEqual(await outcomes(destination, 2), ['a', 'a']);
    await empty(client);
  });
}
