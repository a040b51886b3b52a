'use strict';

// What a peer has of the system is gone when `close` has called back, and what a stranger may have of it is bounded.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { existsSync, readdirSync } = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const net = require('node:net');
const tls = require('node:tls');
const { HOST, addressOf } = require('./support/network');
const { makeCertificates } = require('./support/certificates');
const { beyond, differs } = require('./support/subject');

const count = (what) => readdirSync(`/proc/self/${what}`).length;
const closed = (peer) => new Promise((resolve) => peer.close(resolve));

/** What this process has of the system that a peer may leave behind. */
const held = () => ({ descriptors: count('fd'), threads: count('task') });

/** A hundred pairs, each with traffic, each closed, after which nothing of it is left. */
async function pairs(network, end) {
  const before = held();
  for (let n = 0; n < 100; n++) {
    const { listener, dialer, role, destination } = await network.service();
    role.onRequest('e', (ctx, cb) => cb(null, ctx.data));
    role.onRequest('never', () => {});
    role.onReadable('sink', (ctx, cb) => cb(null, null));
    await destination.request('e', 'data');
    dialer.connect(`ws://${HOST}:1`);
    destination.request('never', null).catch(() => {});
    const writable = destination.Writable('sink', null);
    await once(writable, 'ready');
    writable.write(Buffer.alloc(1 << 18));
    await end(listener, dialer);
    for (const peer of [listener, dialer]) {
      assert.deepEqual([peer._core.timer, peer._core.immediate, peer.units], [null, null, []]);
    }
    assert.deepEqual(held(), before, `pair ${n}`);
  }
}

const ENDS = {
  'close, the dialer first': async (listener, dialer) => {
    await closed(dialer);
    await closed(listener);
  },
  'close, the listener first': async (listener, dialer) => {
    await closed(listener);
    await closed(dialer);
  },
  'close of both': (listener, dialer) => Promise.all([closed(listener), closed(dialer)]),
  drain: (listener, dialer) => Promise.all([listener.drain(1), dialer.drain(1)]),
};

for (const [how, end] of Object.entries(ENDS)) {
  const skipped = !existsSync('/proc/self/fd');
  (skipped ? () => {} : differs)(`after ${how}, nothing of a hundred pairs is left`, 'close tells too early', async (network) => {
    // The thread that stands in for a blocked loop is one for all peers of a thread, from the first connection on.
    const first = await network.pair();
    await Promise.all([closed(first.listener), closed(first.dialer)]);
    await pairs(network, end);
  });
}

differs('close calls back when the connections are closed, on a peer that only dials, too', 'it never does', async (network) => {
  const { dialer, ws } = await network.pair();
  let gone = false;
  ws.on('close', () => (gone = true));
  await closed(dialer);
  assert.ok(gone);
});

// Strangers.

/** Whether a connection is open in the end. */
async function dialRaw(port) {
  const socket = net.connect(port, HOST);
  await once(socket, 'connect');
  socket.on('error', () => {});
  socket.resume();
  return socket;
}

/** What strangers do in place of an upgrade. */
const STRANGERS = {
  'says nothing': () => {},
  'says a part': (socket) => socket.write('GET / HTTP/1.1\r\nHost: a\r\n'),
  'asks for something else': (socket) => socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n'),
  'is refused and stays': (socket) => {
    socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  },
};

for (const [what, act] of Object.entries(STRANGERS)) {
  differs(`a connection that ${what} is closed after four seconds`, 'it stays for ever', async (network) => {
    const listener = await network.listener();
    const { unit } = await network.join(network.peer(), listener);
    const clock = network.clock();
    const accepted = once(listener._server, 'connection');
    const socket = net.connect({ port: listener.port, host: HOST, allowHalfOpen: true });
    network.keep({ close: () => socket.destroy() });
    socket.on('error', () => {});
    socket.resume();
    const [remote] = await accepted;
    act(socket);
    const gone = once(remote, 'close');
    await clock.advance(3_900);
    if (!what.includes('refused')) assert.equal(remote.destroyed, false);
    await clock.advance(200);
    await gone;
    // Those who are upgraded stay.
    assert.equal(unit._sockets.length, 1);
  });
}

differs('the time and the number of those who are not upgraded can be set', 'there are no bounds', async (network) => {
  const listener = await network.listener({ handshakeTimeout: 1_000, maxHandshakes: 2 });
  const clock = network.clock();
  const server = listener._server;
  const stranger = async () => {
    const accepted = once(server, 'connection');
    const socket = await dialRaw(listener.port);
    network.keep({ close: () => socket.destroy() });
    return [socket, (await accepted)[0]];
  };
  const [, first] = await stranger();
  const [second] = await stranger();
  assert.equal(first.destroyed, false);
  const crowded = once(listener, 'accept_error');
  const [third] = await stranger();
  // The oldest one is evicted.
  const [error] = await crowded;
  assert.equal(error.code, 'OVERLOADED');
  assert.equal(first.destroyed, true);
  // There is a place again when one of them goes.
  third.destroy();
  while (await new Promise((resolve) => server.getConnections((_, all) => resolve(all > 1)))) await new Promise(setImmediate);
  await network.join(network.peer(), listener);
  const gone = once(second, 'close');
  await clock.advance(1_100);
  await gone;
  for (const wrong of [0, -1, NaN, '5', Infinity]) {
    for (const name of ['handshakeTimeout', 'maxHandshakes', 'maxHandshakesPerAddress']) {
      assert.throws(() => network.peer().listen({ port: 0, [name]: wrong }), { code: 'INVALID_ARGUMENT' });
    }
  }
});

differs('a TLS connection has four seconds for the handshake and the upgrade', 'it stays for ever', async (network) => {
  const { ca, server } = makeCertificates({ server: `DNS:localhost,IP:${HOST}` });
  const listener = await network.listener({ ssl: server });
  assert.ok(listener._server instanceof https.Server);
  const dialer = network.peer();
  const { unit } = await dialer.connect(`wss://${HOST}:${listener.port}`, { ca });
  const clock = network.clock();
  const raw = once(listener._server, 'connection');
  const silent = await dialRaw(listener.port);
  const secured = tls.connect({ port: listener.port, host: HOST, ca, servername: 'localhost' });
  network.keep({ close: () => (silent.destroy(), secured.destroy()) });
  secured.on('error', () => {}).resume();
  await Promise.all([raw, once(secured, 'secureConnect')]);
  const gone = Promise.all([once(silent, 'close'), once(secured, 'close')]);
  await clock.advance(4_100);
  await gone;
  assert.equal(unit._sockets.length, 1);
});

beyond('close does not wait for strangers', async (network) => {
  const listener = await network.listener();
  const accepted = once(listener._server, 'connection');
  const socket = await dialRaw(listener.port);
  await accepted;
  const gone = once(socket, 'close');
  await closed(listener);
  await gone;
});

differs('a server that says a little now and then is given up all the same', 'it waits for ever', async (network) => {
  const server = net.createServer();
  const accepted = once(server, 'connection');
  await network.serve(server);
  const clock = network.clock();
  const dialing = network.peer().connect(addressOf(server.address().port), { permanent: false });
  const rejected = assert.rejects(dialing, /Opening handshake has timed out/);
  const [socket] = await accepted;
  socket.on('error', () => {});
  socket.write('HTTP/1.1 101 Switching Protocols\r\n');
  for (let n = 0; n < 31; n++) {
    socket.write(`X-${n}: x\r\n`);
    await clock.advance(1_000);
  }
  await rejected;
});

beyond('a stranger who is refused by somebody else’s server is closed after two seconds', async (network) => {
  const server = http.createServer();
  const peer = network.peer();
  peer.prepareWSServer();
  const refused = new Promise((resolve) => {
    server.on('upgrade', (request, socket, head) => {
      peer.handleUpgrade(request, socket, head);
      resolve(socket);
    });
  });
  await network.serve(server);
  const clock = network.clock();
  const socket = net.connect({ port: server.address().port, host: HOST, allowHalfOpen: true });
  network.keep({ close: () => socket.destroy() });
  socket.on('error', () => {});
  socket.resume();
  socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  const remote = await refused;
  const gone = once(remote, 'close');
  await clock.advance(1_900);
  assert.equal(remote.destroyed, false);
  await clock.advance(200);
  await gone;
});
