'use strict';

// Who may do what, with every language: policies, pages of foreign origins, relays. See ../README.md.

const assert = require('node:assert/strict');
const { createHmac, randomBytes } = require('node:crypto');
const { once } = require('node:events');
const net = require('node:net');
const { after, before, describe, test } = require('node:test');

const { certificate } = require('../players');
const { Player } = require('../scenarios/player');
const { relay } = require('../scenarios/relay');
const { present, testAbsent } = require('./languages');
const { FRAME, RawConnection } = require('./raw');

/** Milliseconds that a single wait may take; only there to fail. */
const LIMIT = 60_000;

const KEYS = [
  ['a', 'secret of a'],
  ['b', 'secret of b'],
];
const POLICY = {
  default: 'deny',
  rules: [{ who: { key: 'a' }, call: ['r/ev', { role: 's', event: 'ev', kinds: ['request'] }], serve: ['payments'] }],
};
const NOT_ALLOWED = 'Not allowed by the policy of the peer';

/** Frames that ask for something, each with its number as correlation. */
const CALLS = {
  message: { type: FRAME.message, head: [], rest: [] },
  request: { type: FRAME.request, head: [1], rest: [] },
  // What the requester reads is written by the peer, and the other way round.
  writable: { type: FRAME.readableRequest, head: [1, 1], rest: [1] },
  readable: { type: FRAME.writableRequest, head: [1, 1], rest: [1] },
};

async function start(implementation, options) {
  const player = new Player(implementation, implementation.name, { limit: LIMIT });
  await player.ask('start', { name: implementation.name, friendly: false, keys: [], ...options });
  return player;
}

/** A raw unit that proves a key, and serves these roles. */
async function join(port, id, roles) {
  const raw = await RawConnection.dial(port);
  raw.answersPings = true;
  // It asks for a proof, too: so it has to wait for the other's.
  raw.json(FRAME.challenge, { ids: [id], challenge: randomBytes(32).toString('hex') });
  const { challenge } = JSON.parse((await raw.message(FRAME.challenge)).subarray(1));
  const proof = createHmac('sha256', new Map(KEYS).get(id)).update(challenge).digest('hex');
  raw.json(FRAME.response, { id, proof });
  await raw.handshake({ id: `unit ${id}`, name: id, roles, friendly: false });
  return raw;
}

/** Asks for something of a kind. */
function call(raw, kind, role, event, number) {
  const { type, head, rest } = CALLS[kind];
  const lengths = [0, role.length, 0, event.length, ...head];
  const names = Buffer.from(role + event);
  const correlation = kind === 'message' ? [] : [number];
  const text = Buffer.from('\x03text');
  raw.binary(Buffer.concat([Buffer.from([type, ...lengths]), names, Buffer.from([...correlation, ...rest]), text]));
}

/** What comes back for a correlation: the text of a refusal, or nothing for another answer. */
async function answerTo(raw, number) {
  for (;;) {
    const { payload } = (await raw.next()) ?? assert.fail('the connection has ended');
    const frame = payload[0] === FRAME.fields ? payload.subarray(3 + payload.readUInt16BE(1)) : payload;
    const { [0]: type } = frame;
    if (type === FRAME.answer && frame[2] === number) return undefined;
    if (type === FRAME.reject && frame[2] === number) return frame.toString('utf8', 4);
    if (type === FRAME.streamResponse && frame[3] === number) return undefined;
    if (type === FRAME.streamReject && frame.includes(number, 1)) return frame.toString('utf8');
  }
}

function policies(implementation) {
  const { name } = implementation;
  describe(name, { concurrency: 1 }, () => {
    let player;
    let port;
    before(async () => {
      player = await start(implementation, { keys: KEYS, policy: POLICY });
      await player.ask('events');
      for (const role of ['r', 's']) {
        await player.ask('role', { role });
        await player.ask('handler', { role, event: 'ev' });
      }
      await player.ask('destination', { role: 'payments' });
      port = await player.ask('listen');
    });
    after(() => player?.kill());

    for (const [id, role, allowed] of [
      ['a', 'r', Object.keys(CALLS)],
      ['a', 's', ['request']],
      ['b', 'r', []],
    ]) {
      for (const kind of Object.keys(CALLS)) {
        const may = allowed.includes(kind);
        test(`${name}: ${id} ${may ? 'may' : 'may not'} call ${role}/ev (${kind})`, async () => {
          const raw = await join(port, id, []);
          call(raw, kind, role, 'ev', 7);
          if (kind === 'message') {
            // Nothing comes back for it: it has been looked at when this is answered.
            call(raw, 'request', 'nowhere', 'x', 8);
            assert.match(await answerTo(raw, 8), new RegExp(NOT_ALLOWED));
            const told = await player.observe('peer', ({ what }) => what === 'denied');
            assert.equal(told.kind, may ? 'request' : 'message');
          } else {
            const refusal = await answerTo(raw, 7);
            // The players have no handlers for streams of this event: what is allowed gets that far.
            if (may && kind === 'request') assert.equal(refusal, undefined);
            else assert.equal(refusal?.includes(NOT_ALLOWED), !may, refusal);
          }
          raw.close();
          await player.until('units', {}, (units) => units.length === 0);
          player.seen = [];
        });
      }
    }

    test(`${name}: a role that is announced without permission gets no request`, async () => {
      const stranger = await join(port, 'b', ['payments']);
      await player.until('units', {}, (units) => units.length === 1);
      assert.deepEqual(await player.ask('units', { role: 'payments' }), []);
      const own = await join(port, 'a', ['payments']);
      await player.until('units', { role: 'payments' }, (units) => units.join() === 'a');
      // Also one that is announced later.
      stranger.json(FRAME.roles, { i: 7, roles: ['payments', 'other'] });
      await player.observe('peer', ({ what, role }) => what === 'denied' && role === 'other');
      assert.deepEqual(await player.ask('units', { role: 'payments' }), ['a']);
      stranger.close();
      own.close();
      await player.until('units', {}, (units) => units.length === 0);
    });
  });
}

/** The status line that an upgrade with this origin gets. */
async function upgrade(port, headers) {
  const socket = net.connect(port, '127.0.0.1');
  await once(socket, 'connect');
  const key = randomBytes(16).toString('base64');
  socket.write(
    `GET / HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n${headers.map((line) => `${line}\r\n`).join('')}\r\n`,
  );
  const [head] = await once(socket, 'data');
  socket.destroy();
  return head.toString('latin1').split('\r\n', 1)[0];
}

function origins(implementation) {
  const { name } = implementation;
  test(`${name}: pages of foreign origins get 403`, async () => {
    const player = await start(implementation, { origins: ['https://app.example.org'] });
    const port = await player.ask('listen');
    for (const [headers, status] of [
      [[], 101],
      [['Origin: https://app.example.org'], 101],
      [['Origin: https://evil.example'], 403],
      [['Origin: null'], 403],
      [[`Origin: http://127.0.0.1:${port}`], 403],
      [['Origin: https://app.example.org', 'Origin: https://evil.example'], 403],
    ]) {
      const line = await upgrade(port, headers);
      assert.ok(line.startsWith(`HTTP/1.1 ${status} `), `${headers}: ${line}`);
    }
    assert.deepEqual(await player.ask('units'), []);
    await player.kill();
  });
}

function relays(dialing, listening) {
  const title = `${dialing.name} → ${listening.name}`;
  test(`${title}: keys are not proved to a relay`, async () => {
    // The relay's is another one.
    const [own, other] = [certificate(), certificate()];
    const players = [];
    const betweens = [];
    try {
      for (const [channelBinding, enters] of [
        ['prefer', false],
        ['disable', true],
      ]) {
        const options = { keys: [KEYS[0]], channelBinding };
        const dialer = await start(dialing, options);
        const listener = await start(listening, options);
        players.push(dialer, listener);
        const port = await listener.ask('listen', { tls: { cert: own.cert, key: own.key } });
        const between = await relay(other, port);
        betweens.push(between);
        const connecting = dialer.ask('connect', { url: between.url, ca: other.cert, once: true });
        if (enters) {
          await connecting;
          await listener.until('units', {}, (units) => units.length === 1);
        } else {
          await assert.rejects(connecting);
          assert.deepEqual(await listener.ask('units'), []);
          // Without anybody in between it works.
          await dialer.ask('connect', { url: `wss://localhost:${port}`, ca: own.cert, once: true });
        }
      }
    } finally {
      for (const between of betweens) between.close();
      await Promise.all(players.map((player) => player.kill()));
    }
  });
}

describe('policies', { concurrency: true }, () => present.forEach(policies));
describe('origins', { concurrency: true }, () => present.forEach(origins));
describe('relays', { concurrency: true }, () => {
  for (const dialing of present) for (const listening of present) relays(dialing, listening);
});
testAbsent();
