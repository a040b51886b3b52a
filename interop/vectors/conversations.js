'use strict';

// The conversations: those of conversations.json, with the peer in the place of either side, and those
// that a script leads.

const { decode, toWire } = require('./frames');
const RECORDINGS = require('./conversations.json');
const { Replay } = require('./replay');
const scripted = require('./scripted');

const VECTORS = require('../../tests/data/vectors.json');

/**
 * A recording with the peer as the dialer and as the listener, unless only one of them does what our
 * peers do. `disabled` are roles that were.
 */
function recorded(name, { sides = ['c', 's'], disabled = [], needs = [] } = {}) {
  return sides.map((we) => ({
    name: `${name}, ${we === 'c' ? 'we dial' : 'we listen'}`,
    needs: ['handler', ...needs],
    async run(table) {
      const replay = new Replay(RECORDINGS[name], we);
      await table.player.ask('start', replay.start);
      await replay.prepare(table.player, disabled);
      await replay.run(await table.connect(we), table.player);
    },
  }));
}

/**
 * How the recorded readers granted, and how the recorded writers wrote and what quota they started
 * with. Where the two originals waited for each other for ever, ours must not.
 */
const READERS = {
  'stream-5mb-writable-default-1k': { size: 5_000_000, after: 17_000, quota: 17_000 },
  'stream-5mb-writable-default-16384': { size: 5_000_000, after: 16_384, quota: 16_384 },
  'stream-5mb-writable-default-64k': { size: 5_000_000, after: 65_536, quota: 65_536 },
  'stream-5mb-writable-hwm-100k-writer': { size: 1_000_000, after: 10_000, quota: 10_000 },
  'stream-5mb-readable-hwm-1-reader': { size: 50_000, after: 10, quota: 10 },
  'stream-5mb-readable-hwm-1000-reader': { size: 200_000, after: 500, quota: 500 },
  'stream-5mb-readable-hwm-64k-reader': { size: 1_000_000 },
};
const WRITERS = {
  'stream-5mb-readable-default': { size: 5_000_000, chunks: [1000, 16_000], start: 16_384 },
  'stream-5mb-writable-default-16384': { size: 5_000_000, chunks: [16_384], start: 16_384 },
  'stream-5mb-writable-default-64k': { size: 5_000_000, chunks: [65_536], start: 16_384 },
  'stream-5mb-writable-hwm-100k-writer': { size: 1_000_000, chunks: [10_000, 90_000], start: 100_000 },
  'stream-5mb-writable-hwm-1000-writer': { size: 5_000_000, chunks: [1000], start: 1000 },
  'stream-slow-reader': { size: 100_000, chunks: [1000, 99_000], start: 16_384 },
};

/** A stream, asked for by our peer and by the other side. */
function streams(does, table, run) {
  return Object.entries(table).flatMap(([name, how]) => [
    { name: `${name}, we ask and ${does}`, run: run(how, true) },
    { name: `${name}, we are asked and ${does}`, run: run(how, false) },
  ]);
}

/** What roletalk 1.1.3 has sent as payload, each once. */
function recordedPayloads() {
  const written = VECTORS.filter(({ from, hex, decoded }) => {
    return from === 'js-1.1.3' && hex !== undefined && decoded.payload !== undefined;
  }).map(({ hex }) => decode(Buffer.from(hex, 'hex')).payload.toString('hex'));
  const payloads = [...new Set(written)].map((hex) => Buffer.from(hex, 'hex'));
  // A text as JSON is a string in most languages, and travels back as that.
  return payloads.filter((payload) => {
    const { type, value } = toWire(payload);
    return type !== 'object' || typeof value === 'object';
  });
}

const CONVERSATIONS = [
  ...recorded('handshake-nokeys'),
  ...recorded('handshake-defaults'),
  ...recorded('handshake-onekey'),
  ...recorded('handshake-later-id'),
  ...recorded('handshake-two-common-ids'),
  ...recorded('handshake-first-common-wrong-second-right'),
  ...recorded('handshake-id-mismatch'),
  ...recorded('handshake-key-mismatch'),
  ...recorded('handshake-client-keys-server-none'),
  ...recorded('handshake-server-keys-client-none'),
  ...recorded('data-oneway'),
  ...recorded('data-request'),
  ...recorded('responses-and-rejects', { sides: ['c'], needs: ['stray'] }),
  ...recorded('responses-and-rejects', { sides: ['s'] }),
  ...recorded('pending-many-and-order'),
  ...recorded('roles-update'),
  ...recorded('roles-update, counters'),
  ...recorded('stream-rejects', { sides: ['c'] }),
  ...recorded('close-unit-by-dialer'),
  ...recorded('close-unit-by-listener'),
  ...recorded('close-peer-dialer'),
  ...recorded('close-peer-listener'),
  ...recorded('go-dials-nokeys', { sides: ['s'] }),
  ...recorded('go-dials-keys', { sides: ['s'] }),
  ...recorded('go-listens-nokeys', { sides: ['c'] }),
  ...recorded('go-listens-keys', { sides: ['c'] }),
  ...recorded('go-messages-requests', { sides: ['c'] }),
  ...recorded('go-roles', { sides: ['c'] }),
  { name: 'every recorded payload', run: scripted.payloads(recordedPayloads()) },
  { name: 'correlations', run: scripted.correlations },
  ...streams('write', READERS, scripted.weWrite),
  ...streams('read', WRITERS, scripted.weRead),
  { name: 'acquaintance, we are told', run: scripted.isAcquainted },
  { name: 'acquaintance, we are not friendly', run: scripted.isNotFriendly },
  { name: 'acquaintance, we tell', run: scripted.acquaints },
  { name: 'close codes', run: scripted.closeCodes },
  { name: 'closed by the listener, we dial again', run: scripted.redials },
  { name: 'no pongs', run: scripted.noPong, long: true },
];

module.exports = { CONVERSATIONS };
