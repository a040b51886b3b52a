'use strict';

// listen, in every form, and its errors.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const http = require('node:http');
const net = require('node:net');
const { HOST } = require('./support/network');
const { RawConnection } = require('./support/raw');
const { beyond, check, differs } = require('./support/subject');

const get = (port, path = '/') =>
  new Promise((resolve, reject) => {
    const request = http.get({ host: HOST, port, path, agent: false }, async (response) => {
      let body = '';
      for await (const chunk of response.setEncoding('utf8')) body += chunk;
      resolve({ status: response.statusCode, headers: response.headers, body });
    });
    request.on('error', reject);
  });

const bothConnected = async (network, listener, path) => {
  const dialer = network.peer();
  const accepted = once(listener, 'unit');
  const { unit } = await dialer.connect(network.address(listener, path));
  const [dialerUnit] = await accepted;
  assert.equal(unit.id, listener.id);
  assert.equal(dialerUnit.id, dialer.id);
};

check('listen(port) resolves to the peer, with the port that was given', async (network) => {
  const peer = network.peer();
  assert.equal(await peer.listen(0), peer);
  assert.ok(Number.isInteger(peer._port) && peer._port > 0);
  await bothConnected(network, peer);
});

check('listen({ port, host }) listens on that host only', async (network) => {
  const port = await network.unusedPort();
  const peer = network.peer();
  assert.equal(await peer.listen({ port, host: HOST }), peer);
  assert.equal(peer._port, port);
  await bothConnected(network, peer);
  const other = net.connect(port, '127.0.0.2');
  const [error] = await once(other, 'error');
  assert.equal(error.code, 'ECONNREFUSED');
});

check('listen(port, cb) returns nothing and calls back with null', async (network) => {
  const peer = network.peer();
  const error = await new Promise((resolve) => {
    assert.equal(peer.listen(0, resolve), undefined);
  });
  assert.equal(error, null);
  await bothConnected(network, peer);
});

check('listen(options, cb) does the same', async (network) => {
  const peer = network.peer();
  const error = await new Promise((resolve) => peer.listen({ port: 0, host: HOST }, resolve));
  assert.equal(error, null);
  await bothConnected(network, peer);
});

check('a port in use is reported, to the promise and to the callback, and listening may be tried again', async (network) => {
  const first = await network.listener();
  const second = network.peer();
  await assert.rejects(second.listen({ port: first._port, host: HOST }), { code: 'EADDRINUSE' });
  const error = await new Promise((resolve) => second.listen({ port: first._port, host: HOST }, resolve));
  assert.equal(error.code, 'EADDRINUSE');
  await second.listen({ port: 0, host: HOST });
  await bothConnected(network, second);
});

check('a second listen is refused', async (network) => {
  const peer = await network.listener();
  const message = '.listen has been called already';
  assert.throws(() => peer.listen(0), { message });
  assert.throws(() => peer.listen(0, () => {}), { message });
  await bothConnected(network, peer);
});

check('wrong arguments are refused at once and change nothing', async (network) => {
  const peer = network.peer();
  const wrong = [
    [[], 'Incorrect type of arguments'],
    [['80'], 'Incorrect type of arguments'],
    [[() => {}], 'Incorrect type of arguments'],
    [[{}], 'Provide options.port'],
    [[{ port: '80' }], 'Provide options.port'],
    [[{ server: http.createServer() }], 'Provide options.port'],
    [[{ port: 0, ssl: {} }], 'Provide correct options.ssl'],
    [[{ port: 0, ssl: { cert: 'x' } }], 'Provide correct options.ssl'],
    [[0, 'cb'], 'Argument should be a function (if provided)'],
    [[{ port: 0 }, {}], 'Argument should be a function (if provided)'],
  ];
  for (const [args, message] of wrong) assert.throws(() => peer.listen(...args), { message });
  assert.throws(() => peer.listen(null), TypeError);
  await peer.listen({ port: 0, host: HOST });
  await bothConnected(network, peer);
});

check('with a path, only that path is served', async (network) => {
  const listener = await network.listener({ path: '/rt' });
  await bothConnected(network, listener, '/rt');
  await bothConnected(network, listener, '/rt?a=1');
  for (const path of ['', '/', '/other', '/rt/']) {
    await assert.rejects(network.peer().connect(network.address(listener, path)), (error) => {
      assert.equal(String(error), 'Socket errored: Error: Unexpected server response: 400');
      return true;
    });
  }
});

check('without a path, every path is served', async (network) => {
  const listener = await network.listener();
  await bothConnected(network, listener);
  await bothConnected(network, listener, '/any/path?and=query');
});

check('a given server is the one that listens, and goes on serving its own requests', async (network) => {
  const server = http.createServer((request, response) => response.end(`page ${request.url}`));
  const peer = await network.listener({ server });
  assert.equal(server.address().port, peer._port);
  await bothConnected(network, peer);
  assert.equal((await get(peer._port, '/x')).body, 'page /x');
});

check('a given server that listens already is refused by the promise', async (network) => {
  const server = http.createServer();
  await network.serve(server);
  await assert.rejects(network.peer().listen({ port: 0, server }), { code: 'ERR_SERVER_ALREADY_LISTEN' });
});

check('a request to upgrade to something else than a WebSocket is refused', async (network) => {
  const listener = await network.listener();
  const request = http.get({
    host: HOST,
    port: listener._port,
    headers: { Connection: 'Upgrade', Upgrade: 'other' },
  });
  const [response] = await once(request, 'response');
  response.resume();
  assert.equal(response.statusCode, 400);
  await bothConnected(network, listener);
});

check('a listening peer is not disturbed by connections that never upgrade', async (network) => {
  const listener = await network.listener();
  const sockets = [1, 2].map(() => net.connect(listener._port, HOST));
  sockets.forEach((socket) => network.keep({ close: () => socket.destroy() }));
  await Promise.all(sockets.map((socket) => once(socket, 'connect')));
  sockets[0].end('nonsense\r\n\r\n');
  await once(sockets[0].resume(), 'end');
  await bothConnected(network, listener);
});

differs('a plain GET is answered with 426', 'it leaves the request without an answer', async (network) => {
  const listener = await network.listener();
  const { status, headers } = await get(listener._port);
  assert.equal(status, 426);
  assert.equal(headers.upgrade?.toLowerCase(), 'websocket');
  await bothConnected(network, listener);
});

beyond('a server that cannot be listened with is left as it was, and the peer closes', async (network) => {
  const busy = await network.listener();
  const server = http.createServer();
  const listeners = () => ['upgrade', 'error'].map((event) => server.listenerCount(event));
  const before = listeners();
  const peer = network.peer();
  await assert.rejects(peer.listen({ port: busy.port, host: HOST, server }), { code: 'EADDRINUSE' });
  assert.deepEqual(listeners(), before);
  await network.serve(server);
  await assert.rejects(peer.listen({ port: 0, server }), { code: 'ERR_SERVER_ALREADY_LISTEN' });
  assert.throws(() => peer.listen({ port: 0, server }, () => {}), { code: 'ERR_SERVER_ALREADY_LISTEN' });
  assert.deepEqual(listeners(), before);
  await new Promise((resolve) => peer.close(resolve));
});

beyond('many peers behind one address may connect at the same time', async (network) => {
  const listener = await network.listener();
  const sockets = await Promise.all(Array.from({ length: 600 }, () => network.raw(listener)));
  assert.ok(sockets.every(({ ended }) => !ended));
});

beyond('a listener of the server that throws keeps only that connection out', async (network) => {
  const program = network.program(`
    process.on('uncaughtException', (error) => tell(error.message));
    const peer = new Peer();
    await peer.listen({ port: 0, host: '${HOST}' });
    peer._server.once('connection', () => {
      throw new Error('on purpose');
    });
    peer.on('unit', () => tell('unit'));
    tell(peer._port);
  `);
  const port = await program.told();
  const first = net.connect(port, HOST);
  network.keep({ close: () => first.destroy() });
  assert.equal(await program.told(), 'on purpose');
  for (let count = 0; count < 4; count++) {
    const raw = network.keep(await RawConnection.dial(port, HOST));
    await raw.handshake({ id: `unit ${count}` });
    assert.equal(await program.told(), 'unit');
  }
});
