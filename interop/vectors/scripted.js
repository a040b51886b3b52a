'use strict';

// Conversations in which the other side follows a script: what it does is what the recorded originals
// did, what it waits for is what our peer has to do.

const assert = require('assert/strict');
const { randomBytes } = require('crypto');

const { pattern, sha256 } = require('../../tests/scenarios/pattern');
const { FLAG, TYPE, decode, encode, number, toWire } = require('./frames');

const ROLE = 'svc';
/** The number of the other side's streams: two bytes, as the original mostly has. */
const CHANNEL = '2914';
const ACCEPTED = Buffer.from('\x03go on');
const MAX_CHUNK = 64 * 1024;

const of = (type, chan) => (one) => {
  const frame = one.code === undefined ? decode(one) : {};
  return frame.type === type && (chan === undefined || frame.chan === chan);
};

/** Our peer, with a role. */
async function start(table, options = {}) {
  await table.player.ask('start', { name: 'our peer', friendly: false, keys: [], ...options });
  await table.player.ask('role', { role: ROLE });
}

/** Shakes hands on a new connection, for an original without keys. */
async function meet(socket, { name = 'other', roles = [ROLE], friendly = false } = {}) {
  const id = randomBytes(16).toString('hex');
  const meta = { os: 'linux', runtime: 'nodejs v20.20.2', time: Date.now(), uptime: 5 };
  const confirm = { id, roles, friendly, name, meta: { ...meta, protocol: '2.0.0' }, tags: {} };
  socket.binary(encode({ type: TYPE.CONFIRM, json: confirm }));
  await socket.take(of(TYPE.CONFIRM));
  return { id, socket };
}

/** Asks for a string, which has to come back: everything sent before has been dealt with. */
async function echo(socket, corr = '00') {
  const payload = Buffer.from('\x03echo');
  socket.binary(encode({ type: TYPE.REQUEST, role: ROLE, event: 'echo', corr, payload }));
  const answer = decode(await socket.take(of(TYPE.RESPONSE)));
  assert.deepEqual([answer.corr, answer.payload], [corr, payload]);
}

/** Correlations of every length are answered as they came, and ours grow by one from 0. */
async function correlations(table) {
  await start(table);
  const { socket } = await meet(await table.dial());
  const exponents = [8, 16, 24, 32, 40, 48, 53];
  const edges = exponents.flatMap((exponent) => [2 ** exponent - 1, 2 ** exponent]);
  for (const corr of [0, 1, ...edges.slice(0, -1)]) await echo(socket, number(corr));
  const { player } = table;
  await player.until('units', { role: ROLE }, (units) => units.length === 1);
  let next = 0;
  for (const count of [300, 33_000, 33_000]) {
    const held = player.ask('hold', { role: ROLE, count });
    for (let i = 0; i < count; i++) {
      const { corr, payload } = decode(await socket.take());
      assert.equal(corr, number(next++));
      socket.binary(encode({ type: TYPE.RESPONSE, corr, payload }));
    }
    assert.equal(await held, count);
  }
}

/**
 * Our peer writes, the other side grants as the recorded reader did: `quota` bytes for each `after`.
 * Without a quota, a reader that has granted nothing when the recorded writer waited for it for ever.
 */
function weWrite({ size, after = size, quota }, weAsk) {
  return async (table) => {
    await start(table);
    const { socket } = await meet(await table.connect(weAsk ? 'c' : 's'));
    const stream = await open(table, socket, weAsk, 'write', size);
    let received = 0;
    let granted = 0;
    for (;;) {
      const { flag, payload } = decode(await socket.take(of(TYPE.STREAM, CHANNEL)));
      if (flag === FLAG.FINISH) break;
      assert.equal(flag, FLAG.CHUNK);
      assert.ok(payload.length <= MAX_CHUNK, `a chunk of ${payload.length} bytes`);
      assert.ok(payload.equals(pattern(received, payload.length)), 'not the bytes that were written');
      received += payload.length;
      for (; quota && received - granted >= after; granted += after) {
        say(socket, stream.chan, FLAG.QUOTA, Buffer.from(number(quota), 'hex'));
      }
    }
    assert.equal(received, size);
    say(socket, stream.chan, FLAG.ERROR);
    assert.deepEqual(await stream.result(), { bytes: size, sha256: sha256(size) });
  };
}

/**
 * Our peer reads, the other side writes chunks as the recorded writer did, and like it stops when its
 * quota is used up: `start` at first, then what a quota sets it to.
 */
function weRead({ size, chunks, start: quotaAtStart }, weAsk) {
  return async (table) => {
    await start(table);
    const { socket } = await meet(await table.connect(weAsk ? 'c' : 's'));
    const stream = await open(table, socket, weAsk, 'read', size);
    let quota = quotaAtStart;
    let sent = 0;
    const take = async () => {
      const { flag, payload } = decode(await socket.take(of(TYPE.STREAM, CHANNEL)));
      assert.equal(flag, FLAG.QUOTA);
      assert.ok(payload.length > 0, 'an empty quota ends the original');
      quota = parseInt(payload.toString('hex'), 16);
    };
    for (let i = 0; sent < size; i++) {
      while (socket.inbox.some(of(TYPE.STREAM, CHANNEL))) await take();
      while (quota <= 0) await take();
      const chunk = pattern(sent, Math.min(chunks[i % chunks.length], size - sent));
      say(socket, stream.chan, FLAG.CHUNK, chunk);
      quota -= chunk.length;
      sent += chunk.length;
    }
    say(socket, stream.chan, FLAG.FINISH);
    assert.deepEqual(await stream.result(), { bytes: size, sha256: sha256(size) });
  };
}

function say(socket, chan, flag, payload) {
  socket.binary(encode({ type: TYPE.STREAM, chan, flag, payload }));
}

/** Opens a stream in which our peer reads or writes: the number that it has, and how it ends there. */
async function open({ player }, socket, weAsk, weDo, size) {
  const plan = { tag: 'recorded', size, piece: 16384 };
  const command = (weDo === 'write') === weAsk ? 'upload' : 'download';
  const event = command === 'upload' ? 'up' : 'down';
  const type = command === 'upload' ? TYPE.WRITABLE : TYPE.READABLE;
  if (weAsk) {
    await player.until('units', { role: ROLE }, (units) => units.length === 1);
    const result = player.ask(command, { role: ROLE, event, plan });
    const { corr, chan } = decode(await socket.take(of(type)));
    socket.binary(encode({ type: TYPE.ACCEPT, corr, chan: CHANNEL, payload: ACCEPTED }));
    return { chan, result: () => result };
  }
  const payload = Buffer.from(`\x03${JSON.stringify(plan)}`);
  const request = { type, role: ROLE, event, corr: '00', chan: CHANNEL, payload };
  socket.binary(encode(request));
  const accepted = decode(await socket.take(of(TYPE.ACCEPT)));
  assert.deepEqual([accepted.corr, accepted.payload], ['00', ACCEPTED]);
  const observation = weDo === 'read' ? 'received' : 'sent';
  return { chan: accepted.chan, result: async () => (await player.observe(observation)).result };
}

/** Told of a unit with a role that is wanted, our peer dials it; of others, it does not. */
async function isAcquainted(table) {
  await start(table, { friendly: true });
  const { player } = table;
  await player.ask('destination', { role: 'wanted' });
  const { socket } = await meet(await table.dial());
  const [unwanted, wanted] = [await table.listen(), await table.listen()];
  const tell = (address, roles) => {
    const json = { id: randomBytes(16).toString('hex'), address, roles };
    socket.binary(encode({ type: TYPE.ACQUAINT, json }));
  };
  tell(unwanted.url, ['other']);
  tell(wanted.url, ['other', 'wanted']);
  await meet(await wanted.accept(), { name: 'told of', roles: ['other', 'wanted'] });
  await player.until('units', { role: 'wanted' }, (units) => units.join() === 'told of');
  assert.equal(unwanted.accepted.length, 0, 'it has dialed whom nobody wants');
}

/** One that is not friendly dials nobody that it is told of. */
async function isNotFriendly(table) {
  await start(table);
  await table.player.ask('destination', { role: 'wanted' });
  const { socket } = await meet(await table.dial());
  const listener = await table.listen();
  const json = { id: randomBytes(16).toString('hex'), address: listener.url, roles: ['wanted'] };
  socket.binary(encode({ type: TYPE.ACQUAINT, json }));
  await echo(socket, '00');
  await echo(socket, '01');
  assert.equal(listener.accepted.length, 0);
}

/** A newcomer is told of whom our peer has dialed; nobody is told of one whose address is not known. */
async function acquaints(table) {
  await start(table, { friendly: true });
  const { player } = table;
  const listener = await table.listen();
  player.ask('connect', { url: listener.url });
  const roles = ['one', 'two'];
  const dialed = await meet(await listener.accept(), { name: 'dialed', roles, friendly: true });
  await player.until('units', { role: 'one' }, (units) => units.join() === 'dialed');
  const newcomer = await meet(await table.dial(), { name: 'newcomer', roles, friendly: true });
  const told = decode(await newcomer.socket.take(of(TYPE.ACQUAINT))).json;
  assert.deepEqual(told, { id: dialed.id, address: listener.url, roles });
  await echo(dialed.socket);
  assert.equal(dialed.socket.inbox.filter(of(TYPE.ACQUAINT)).length, 0);
}

/** Whatever a connection is closed with, it is closed, and the unit is gone. */
async function closeCodes(table) {
  await start(table);
  const { player } = table;
  for (const code of [1000, 1001, 1011, 4000, 4001, 4002, 4003, 4004, 4005, 4006, 4007, 4999]) {
    const { socket } = await meet(await table.dial());
    await player.until('units', {}, (units) => units.length === 1);
    socket.closeFrame(code, 'recorded');
    const { code: answered } = await socket.take(({ code: one }) => one !== undefined);
    assert.ok(answered === code || answered === 1000, `it answered ${code} with ${answered}`);
    await player.until('units', {}, (units) => units.length === 0);
  }
}

/** The dialer dials again what the other side has closed. */
async function redials(table) {
  await start(table);
  const listener = await table.listen();
  table.player.ask('connect', { url: listener.url });
  const { socket } = await meet(await listener.accept());
  await table.player.until('units', { role: ROLE }, (units) => units.length === 1);
  socket.closeFrame(4000, 'intentionaly closed');
  await meet(await listener.accept());
  await table.player.until('units', { role: ROLE }, (units) => units.length === 1);
}

/** Who does not answer pings is closed with 4001. */
async function noPong(table) {
  await start(table);
  const { socket } = await meet(await table.dial());
  socket.answersPings = false;
  const { code } = await socket.take((one) => one.code !== undefined);
  assert.equal(code, 4001);
}

/** Every payload that was recorded, there and back: what is read is written again as it was. */
function payloads(vectors) {
  return async (table) => {
    await start(table);
    const { socket } = await meet(await table.dial());
    let corr = 0;
    for (const payload of vectors) {
      const request = { type: TYPE.REQUEST, role: ROLE, event: 'echo', corr: number(corr), payload };
      socket.binary(encode(request));
      const answer = decode(await socket.take());
      assert.deepEqual([answer.type, answer.corr], [TYPE.RESPONSE, number(corr)]);
      const where = payload.toString('hex', 0, 60);
      assert.equal(answer.payload.toString('hex'), payload.toString('hex'), where);
      const { data } = await table.player.observe('request');
      const { type, value } = toWire(payload);
      assert.equal(data.type, type);
      const plain = type === 'number' ? Number : (one) => one;
      assert.deepEqual(plain(data.value), plain(value));
      corr++;
    }
  };
}

module.exports = {
  acquaints,
  closeCodes,
  correlations,
  isAcquainted,
  isNotFriendly,
  noPong,
  payloads,
  redials,
  weRead,
  weWrite,
};
