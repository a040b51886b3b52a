'use strict';

// Processes that die, hang and come back, and networks that break, delay and stop, all while requests go
// both ways: see traffic.js for what has to come of them.

const assert = require('assert/strict');

const { EVENTS, plan } = require('./streams');
const { ROLE } = require('./stage');
const { sha256 } = require('./pattern');
const { within } = require('./deadline');
const { Traffic, take } = require('./traffic');

/** Milliseconds that a process may hang, or a network: the answer to a ping may take twice as long. */
const HARMLESS = 1_000;
/** How often a player has to show the same to stand still. */
const STANDSTILL = 10;
/** Milliseconds after which connections are replaced, and how many are to be. */
const AGE = 300;
const REPLACED = 4;
/** More than sockets, the proxy and queues take up before a writer is held up. */
const LARGE = { size: 16 << 10, inFlight: 200 };

/** The two are connected through a proxy, and each asks the other all the while. */
async function flows(stage, options) {
  const { proxy } = await stage.meet({ through: true });
  const both = [stage.dialer, stage.listener];
  const traffics = both.map((player) => new Traffic(player, options));
  await areServed(both);
  return { proxy, both, traffics };
}

/** Each of them handles a request from now on. */
async function areServed(players) {
  await Promise.all(players.map((player) => player.observe('counted')));
}

async function endAll(stage, traffics) {
  await Promise.all(traffics.map((traffic) => traffic.end(stage.players)));
}

/** What happens to a peer: see the command `events`. */
function happens(player, what, wanted = () => true) {
  return player.observe('peer', (one) => one.what === what && wanted(one));
}

/** The connection breaks in the middle of a frame, of each side, in its header and in its payload. */
async function cutInFrames(stage) {
  const { proxy, both, traffics } = await flows(stage);
  for (const side of ['client', 'server']) {
    for (const part of ['header', 'payload']) {
      const again = proxy.accepted + 1;
      await within(stage.limit, `a frame of the ${side}`, proxy.cutInFrame(side, part));
      await stage.until('to be dialed again', proxy, 'accepted', () => proxy.accepted >= again);
      await areServed(both);
    }
  }
  await endAll(stage, traffics);
}

/** Everything takes 20 ms longer, both ways, and nothing fails. */
async function delays(stage) {
  const { proxy, both, traffics } = await flows(stage);
  proxy.delay = 20;
  await areServed(both);
  await endAll(stage, traffics);
  for (const traffic of traffics) traffic.assertNoneFailed();
  assert.equal(proxy.accepted, 1, 'the connection was lost');
}

/** One side's data is not read until it gets no further; then everything goes on. */
function stopsReading(side) {
  return async (stage) => {
    const { proxy, traffics } = await flows(stage, LARGE);
    const writer = side === 'client' ? stage.dialer : stage.listener;
    const began = performance.now();
    proxy.stopReading(side);
    await standsStill(stage, writer);
    proxy.readAgain();
    // A slow machine makes it longer, and worse.
    const harmless = performance.now() - began < HARMLESS;
    await endAll(stage, traffics);
    if (harmless) for (const traffic of traffics) traffic.assertNoneFailed();
  };
}

/** Until its requests wait and no others are handled, or the other one was given up. */
async function standsStill(stage, player) {
  let before;
  for (let times = 0; times < STANDSTILL; times++) {
    const [unit] = await player.ask('stats');
    if (!unit) return;
    const handled = stage.players.map(({ counted }) => counted.size);
    const now = JSON.stringify([unit.waiting, handled]);
    if (now !== before || unit.waiting === 0) times = 0;
    before = now;
  }
}

/** A process stops for less than a heartbeat and goes on: nobody notices but by the time it takes. */
function stopsBriefly(part, other) {
  return async (stage) => {
    const { proxy, traffics } = await flows(stage);
    const began = performance.now();
    stage[part].stop();
    await standsStill(stage, stage[other]);
    stage[part].resume();
    const harmless = performance.now() - began < HARMLESS;
    await endAll(stage, traffics);
    if (!harmless) return;
    for (const traffic of traffics) traffic.assertNoneFailed();
    assert.equal(proxy.accepted, 1, 'the connection was lost');
  };
}

/** A process dies and is started anew, on the same port if it listens, more than once. */
function restarts(part) {
  return async (stage) => {
    await stage.meet({ host: stage.ownHost() });
    const { hostname, port } = new URL(stage.url);
    const traffics = [stage.dialer, stage.listener].map((player) => new Traffic(player));
    for (const name of ['second', 'third']) {
      const other = part === 'listener' ? stage.dialer : stage.listener;
      await areServed([stage.dialer, stage.listener]);
      await stage[part].kill();
      await stage.replace(part, name);
      if (part === 'listener') await stage.listener.ask('listen', { host: hostname, port: Number(port) });
      else await stage.dialer.ask('connect', { url: stage.url });
      await other.until('units', { role: ROLE }, (units) => units.join() === name);
      await stage[part].until('units', { role: ROLE }, (units) => units.length === 1);
      traffics.push(new Traffic(stage[part]));
    }
    await areServed([stage.dialer, stage.listener]);
    await endAll(stage, traffics);
  };
}

/** A client with two units, `lost` and `kept`: the first is what happens to. */
async function threeMeet(stage) {
  const client = await stage.add(stage.pair.dialer, 'client');
  const [lost, kept] = await Promise.all(
    ['lost', 'kept'].map((name) => stage.add(stage.pair.listener, name)),
  );
  await client.ask('events');
  const ids = {};
  const host = stage.ownHost();
  for (const server of [lost, kept]) {
    await server.ask('role', { role: ROLE });
    server.port = await server.ask('listen', { host });
    await client.ask('connect', { url: `ws://${host}:${server.port}` });
    ids[server.name] = (await happens(client, 'unit-opened', ({ unit }) => unit === server.name)).unitId;
  }
  await client.until('units', { role: ROLE }, (units) => units.length === 2);
  return { client, lost, kept, ids, host };
}

/** Everything is open to the unit, and a reader pauses: requests, an upload, a download. */
async function openTo(client, server) {
  const requests = client.ask('flow', { role: ROLE, event: 'never', count: 20, to: server.name });
  const streams = [];
  for (const command of ['upload', 'download']) {
    const wanted = plan({ size: 16 << 20, piece: 16384, pauses: true });
    const parameters = { role: ROLE, event: EVENTS[command], plan: wanted, to: server.name };
    streams.push({ command, wanted, near: client.ask(command, parameters) });
    const reader = command === 'upload' ? server : client;
    await reader.observe('paused', ({ tag }) => tag === wanted.tag);
  }
  await client.until('stats', {}, (units) => {
    return units.some(({ unit, waiting }) => unit === server.name && waiting === 20);
  });
  return { requests, streams };
}

/** What was open fails: requests because the connection is lost, streams with some error. */
async function isLost(stage, client, { requests, streams }) {
  const { errors } = await requests;
  assert.deepEqual(errors, { CONNECTION_LOST: 20 });
  for (const { command, wanted, near } of streams) {
    // A reader may read what it has before it is told.
    if (command === 'download') await client.ask('resume', { tag: wanted.tag });
    await stage.failure(near);
  }
}

/** What was open goes on as if nothing were. */
async function isKept(client, server, { streams }) {
  for (const { command, wanted, near } of streams) {
    const reader = command === 'upload' ? server : client;
    await reader.ask('resume', { tag: wanted.tag });
    assert.deepEqual(await near, { bytes: wanted.size, sha256: sha256(wanted.size) });
  }
}

/** The unit answers every one of some requests. */
async function isServedBy(client, to) {
  const { by, failed } = await client.ask('flow', { role: ROLE, from: take(50), count: 50, to });
  assert.deepEqual({ by, failed }, { by: { [to]: 50 }, failed: [] });
}

/** One of two units dies with everything open, and comes back on its port. */
async function isKilled(stage) {
  const { client, lost, kept, ids, host } = await threeMeet(stage);
  const gone = await openTo(client, lost);
  const others = await openTo(client, kept);
  const traffic = new Traffic(client);
  await areServed([lost, kept]);
  await lost.kill();
  await happens(client, 'unit-closed', ({ unit }) => unit === 'lost');
  await isLost(stage, client, gone);
  await isServedBy(client, 'kept');
  assert.deepEqual(await client.ask('units', { role: ROLE }), ['kept']);

  const again = await stage.add(stage.pair.listener, 'again');
  await again.ask('role', { role: ROLE });
  await again.ask('listen', { host, port: lost.port });
  await happens(client, 'reconnected', ({ address }) => new URL(address).port === String(lost.port));
  const { unitId } = await happens(client, 'unit-opened', ({ unit }) => unit === 'again');
  assert.ok(unitId && unitId !== ids.lost, 'a new process has an id of its own');
  await client.until('units', { role: ROLE }, (units) => units.length === 2);
  await isServedBy(client, 'again');
  await isServedBy(client, 'kept');
  await isKept(client, kept, others);
  await traffic.end(stage.players);
}

/** One of two units hangs: heartbeats give it up, and it is found again when it goes on. */
async function isStopped(stage) {
  const { client, lost, kept, ids } = await threeMeet(stage);
  const gone = await openTo(client, lost);
  const others = await openTo(client, kept);
  const traffic = new Traffic(client);
  await areServed([lost, kept]);
  lost.stop();
  traffic.isEnough();
  await happens(client, 'unit-closed', ({ unit }) => unit === 'lost');
  // Not every package tells why.
  if (client.implementation.abilities.includes('closings')) {
    await happens(client, 'connection-closed', ({ kind }) => kind === 'HEARTBEAT_TIMEOUT');
  }
  await isLost(stage, client, gone);
  await isServedBy(client, 'kept');
  lost.resume();
  // The same process has the same id, but is a new unit.
  const { unitId } = await happens(client, 'unit-opened', ({ unit }) => unit === 'lost');
  assert.equal(unitId, ids.lost);
  await client.until('units', { role: ROLE }, (units) => units.length === 2);
  await isServedBy(client, 'lost');
  await isServedBy(client, 'kept');
  await isKept(client, kept, others);
  await traffic.end(stage.players);
}

/**
 * Nothing more comes, and nobody is told: both sides give the connection up, and another is made, which for
 * the listener may be the second one for a while.
 */
async function goesSilent(stage) {
  const { proxy, both, traffics } = await flows(stage);
  proxy.stopReading('client', 'server');
  for (const traffic of traffics) traffic.isEnough();
  await stage.until('to be dialed again', proxy, 'accepted', () => proxy.accepted > 1);
  traffics.push(...both.map((player) => new Traffic(player)));
  await areServed(both);
  for (const traffic of traffics) traffic.isEnough();
  for (const player of both) {
    await player.until('stats', {}, ([unit]) => unit?.connections === 1);
  }
  await endAll(stage, traffics);
}

/**
 * The dialer's connections are replaced by new ones at their age, under traffic both ways (originals cannot ask for so
 * much): nothing fails, and the unit stays.
 */
async function areReplaced(stage) {
  const { proxy } = await stage.meet({ dialer: { connectionAge: AGE }, through: true });
  const { dialer, listener } = stage;
  await dialer.ask('events');
  const askers = listener.implementation.original ? [dialer] : [dialer, listener];
  const traffics = askers.map((player) => new Traffic(player));
  const replaced = () => proxy.accepted - proxy.pairs.size;
  await stage.until('the end of several connections', proxy, 'accepted', () => replaced() >= REPLACED);
  await endAll(stage, traffics);
  for (const traffic of traffics) traffic.assertNoneFailed();
  const closed = dialer.seen.filter(({ what }) => what === 'unit-closed');
  assert.deepEqual(closed, []);
}

/** What the listener has asked, and goes on on the dialer after its connection was replaced, can be given up. */
async function givenUpAfterReplacement(stage) {
  const { proxy } = await stage.meet({ dialer: { connectionAge: AGE }, through: true });
  const { dialer, listener } = stage;
  const wait = { role: ROLE, event: 'wait', data: { type: 'null', value: null } };
  const { id, result } = listener.begin('ask', wait);
  await dialer.observe('waiting');
  const before = [...proxy.pairs];
  const replaced = () => !before.some((pair) => proxy.pairs.has(pair));
  await stage.until('the end of the connections of now', proxy, 'accepted', replaced);
  await listener.ask('cancel', { target: id });
  await stage.settles(result);
  await dialer.observe('cancelled', ({ reason }) => reason === 'requester');
}

module.exports = {
  areReplaced,
  cutInFrames,
  delays,
  givenUpAfterReplacement,
  goesSilent,
  isKilled,
  isStopped,
  restarts,
  stopsBriefly,
  stopsReading,
};
