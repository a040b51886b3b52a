'use strict';

// prepareWSServer and handleUpgrade: a server of the application's that hands over connections.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const http = require('node:http');
const { HOST, addressOf } = require('./support/network');
const { check } = require('./support/subject');

/** A server that hands what wants to upgrade to the peer for its path. */
async function routed(network, peers) {
  const server = http.createServer();
  server.on('upgrade', (request, socket, head) => {
    const peer = peers[request.url];
    if (peer) peer.handleUpgrade(request, socket, head);
    else socket.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n');
  });
  await network.serve(server);
  return (path) => addressOf(server.address().port, path);
}

check('handleUpgrade needs prepareWSServer or listen', async (network) => {
  const peer = network.peer();
  const { promise, address } = await (async () => {
    let thrown;
    const promise = new Promise((resolve) => (thrown = resolve));
    const server = http.createServer((request, response) => response.end());
    server.on('upgrade', (request, socket, head) => {
      try {
        peer.handleUpgrade(request, socket, head);
      } catch (error) {
        thrown(error);
      }
      socket.destroy();
    });
    await network.serve(server);
    return { promise, address: addressOf(server.address().port) };
  })();
  await assert.rejects(network.peer().connect(address));
  assert.equal(
    (await promise).message,
    'Cannot handle upgrade: instantiate websocket server (use .prepareWSServer or .listen)',
  );
});

check('several peers share a server', async (network) => {
  const [a, b] = [network.peer({ name: 'a' }), network.peer({ name: 'b' })];
  assert.equal(a.prepareWSServer(), undefined);
  b.prepareWSServer();
  const address = await routed(network, { '/a': a, '/b': b });
  for (const [path, peer] of [
    ['/a', a],
    ['/b', b],
  ]) {
    const dialer = network.peer();
    const accepted = once(peer, 'unit');
    const { unit } = await dialer.connect(address(path));
    assert.equal(unit.id, peer.id);
    assert.equal((await accepted)[0].id, dialer.id);
  }
  await assert.rejects(network.peer().connect(address('/c')), (error) => {
    assert.equal(String(error), 'Socket errored: Error: Unexpected server response: 404');
    return true;
  });
});

check('keys are asked for there, too', async (network) => {
  const peer = network.peer().addPresharedKey('a', '1');
  peer.prepareWSServer();
  const address = await routed(network, { '/': peer });
  await assert.rejects(network.peer().connect(address('/')));
  const { unit } = await network.peer().addPresharedKey('a', '1').connect(address('/'));
  assert.equal(unit.id, peer.id);
});

check('bytes that came with the upgrade are not lost', async (network) => {
  const peer = network.peer();
  peer.prepareWSServer();
  const server = http.createServer();
  const upgraded = once(server, 'upgrade');
  await network.serve(server);
  const { RawConnection, FRAME } = require('./support/raw');
  const dialing = RawConnection.dial(server.address().port, HOST);
  const [request, socket] = await upgraded;
  // A confirm as one masked frame, as it arrives when the dialer does not wait for the answer.
  const body = Buffer.concat([
    Buffer.from([FRAME.confirm]),
    Buffer.from(JSON.stringify({ id: 'early', roles: [], friendly: true, name: 'early', meta: {}, tags: {} })),
  ]);
  assert.ok(body.length < 126);
  const head = Buffer.concat([Buffer.from([0x82, 0x80 | body.length, 0, 0, 0, 0]), body]);
  const accepted = once(peer, 'unit');
  peer.handleUpgrade(request, socket, head);
  network.keep(await dialing);
  assert.equal((await accepted)[0].id, 'early');
});

check('a listening peer takes upgrades of other servers, too', async (network) => {
  const peer = await network.listener();
  const address = await routed(network, { '/': peer });
  const { unit } = await network.peer().connect(address('/'));
  assert.equal(unit.id, peer.id);
});
