'use strict';

// connect, in every form: what it resolves to, what it rejects with, and the options of the socket.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const http = require('node:http');
const { setImmediate: turn } = require('node:timers/promises');
const { HOST, addressOf } = require('./support/network');
const { beyond, check, differs, roletalk } = require('./support/subject');

const printsAs = (expected) => (error) => {
  assert.match(String(error), expected);
  return true;
};

/** A server that answers requests to upgrade with `answer(request, socket)`. */
async function httpServer(network, answer) {
  const server = http.createServer().on('upgrade', answer);
  await network.serve(server);
  return addressOf(server.address().port);
}

check('connect resolves to the unit and its socket', async (network) => {
  const listener = await network.listener({ name: 'L' });
  const dialer = network.peer();
  const resolved = await dialer.connect(network.address(listener));
  assert.deepEqual(Object.keys(resolved).sort(), ['unit', 'ws']);
  const { unit, ws } = resolved;
  assert.ok(unit instanceof roletalk.Unit);
  assert.equal(unit.id, listener.id);
  assert.deepEqual(dialer.units, [unit]);
  assert.equal(ws.readyState, 1);
  assert.deepEqual([...unit._sockets], [ws]);
});

check("the event 'unit' comes before the promise resolves, and once on each side", async (network) => {
  const listener = await network.listener();
  const dialer = network.peer();
  const order = [];
  dialer.on('unit', (unit) => order.push(['unit', unit.id]));
  const accepted = [];
  listener.on('unit', (unit) => accepted.push(unit.id));
  const acceptedOne = once(listener, 'unit');
  const { unit } = await dialer.connect(network.address(listener));
  order.push(['resolved', unit.id]);
  await acceptedOne;
  assert.deepEqual(order, [
    ['unit', listener.id],
    ['resolved', listener.id],
  ]);
  assert.deepEqual(accepted, [dialer.id]);
});

check('connect(address, options, cb) and connect(address, cb) call back and return nothing', async (network) => {
  const listener = await network.listener();
  for (const between of [[], [{}], [undefined]]) {
    const dialer = network.peer();
    const [error, result] = await new Promise((resolve) => {
      assert.equal(dialer.connect(network.address(listener), ...between, (...args) => resolve(args)), undefined);
    });
    assert.equal(error, null);
    assert.equal(result.unit.id, listener.id);
    assert.equal(result.ws.readyState, 1);
  }
});

check('an address that is not a string is refused at once', (network) => {
  for (const address of [undefined, null, 5, {}, new URL('ws://127.0.0.1')]) {
    assert.throws(() => network.peer().connect(address), { message: 'address should be a string' });
  }
});

check('an address that is none rejects', async (network) => {
  for (const address of ['', 'nonsense', '127.0.0.1:80', 'ws://', 'ws://127.0.0.1:99999']) {
    await assert.rejects(network.peer().connect(address), printsAs(/^TypeError: Invalid URL$/));
  }
});

check('a refused connection rejects, and calls back once', async (network) => {
  const port = await network.unusedPort();
  const text = new RegExp(`^Socket errored: Error: connect ECONNREFUSED ${HOST}:${port}$`);
  await assert.rejects(network.peer().connect(addressOf(port)), printsAs(text));
  const dialer = network.peer();
  let calls = 0;
  const failedAgain = once(dialer, 'reconnect_fail');
  const error = await new Promise((resolve) =>
    dialer.connect(addressOf(port), (error) => {
      calls++;
      resolve(error);
    }),
  );
  assert.match(String(error), text);
  await failedAgain;
  await turn();
  assert.equal(calls, 1);
});

check('a server that does not upgrade rejects with its status', async (network) => {
  const address = await httpServer(network, (request, socket) => {
    socket.end('HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n');
  });
  await assert.rejects(
    network.peer().connect(address),
    printsAs(/^Socket errored: Error: Unexpected server response: 503$/),
  );
});

check('a server that accepts with a wrong key rejects', async (network) => {
  const address = await httpServer(network, (request, socket) => {
    socket.end(
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
        'Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n',
    );
  });
  await assert.rejects(
    network.peer().connect(address),
    printsAs(/^Socket errored: Error: Invalid Sec-WebSocket-Accept header$/),
  );
});

check('a connection that ends within the handshake rejects', async (network) => {
  const listener = await network.rawListener();
  const rejected = assert.rejects(network.peer().connect(listener.address), printsAs(/^Socket closed$/));
  const connection = await listener.connection();
  connection.close();
  await rejected;
});

check('headers are sent', async (network) => {
  const server = http.createServer();
  const requested = once(server, 'upgrade');
  // The original takes every origin.
  const listener = network.peer({ origins: ['http://example.test'] });
  await listener.listen({ port: 0, host: HOST, server });
  await network.peer().connect(network.address(listener, '/p?q=1'), {
    headers: { Authorization: 'Bearer t', 'X-Own': 'é' },
    origin: 'http://example.test',
  });
  const [request] = await requested;
  assert.equal(request.url, '/p?q=1');
  assert.equal(request.headers.authorization, 'Bearer t');
  assert.equal(request.headers['x-own'], 'é');
  assert.equal(request.headers.origin, 'http://example.test');
  assert.equal(request.headers.host, `${HOST}:${listener._port}`);
});

check('credentials in the address are sent as basic authorization', async (network) => {
  const server = http.createServer();
  const requested = once(server, 'upgrade');
  const listener = await network.listener({ server });
  await network.peer().connect(`ws://me:secret@${HOST}:${listener._port}`);
  const [request] = await requested;
  assert.equal(request.headers.authorization, `Basic ${Buffer.from('me:secret').toString('base64')}`);
});

check('an agent is used', async (network) => {
  const listener = await network.listener();
  class CountingAgent extends http.Agent {
    made = 0;
    createConnection(...args) {
      this.made++;
      return super.createConnection(...args);
    }
  }
  const agent = new CountingAgent();
  await network.peer().connect(network.address(listener), { agent });
  assert.equal(agent.made, 1);
});

check('localAddress is dialed from', async (network) => {
  const server = http.createServer();
  const from = new Promise((resolve) => server.on('connection', (socket) => resolve(socket.remoteAddress)));
  const listener = await network.listener({ server });
  await network.peer().connect(network.address(listener), { localAddress: '127.0.0.2' });
  assert.equal(await from, '127.0.0.2');
});

check('a server that does not answer is given up after handshakeTimeout', async (network) => {
  const address = await httpServer(network, () => {});
  await assert.rejects(
    network.peer().connect(address, { handshakeTimeout: 50 }),
    printsAs(/^Socket errored: Error: Opening handshake has timed out$/),
  );
});

check('a peer may connect to itself', async (network) => {
  const peer = await network.listener();
  const { unit } = await peer.connect(network.address(peer));
  assert.equal(unit.id, peer.id);
  assert.deepEqual(peer.units, [unit]);
  peer.role('self').onRequest('who', (ctx, cb) => cb(null, ctx.unit.id));
  const answer = await peer.destination('self').request({ event: 'who', unit }, null);
  assert.equal(answer.data, peer.id);
});

check('the socket closes with the code and reason given, and both sides lose the unit', async (network) => {
  const { unit, ws, dialerUnit } = await network.pair();
  const closed = Promise.all([once(ws, 'close'), once(unit, 'close'), once(dialerUnit, 'close')]);
  const remote = [...dialerUnit._sockets][0];
  const remoteClosed = once(remote, 'close');
  ws.close(4500, 'enough');
  assert.equal(ws.readyState, 2);
  assert.equal(remote.readyState, 1);
  const [[code, reason]] = await closed;
  assert.deepEqual([code, String(reason)], [4500, 'enough']);
  const [remoteCode, remoteReason] = await remoteClosed;
  assert.deepEqual([remoteCode, String(remoteReason)], [4500, 'enough']);
  assert.deepEqual([ws.readyState, remote.readyState], [3, 3]);
});

check('an http address is dialed as a ws one, and told as it was given', async (network) => {
  const port = await network.unusedPort();
  const address = `http://${HOST}:${port}`;
  const dialer = network.peer();
  const failed = once(dialer, 'reconnect_fail');
  const succeeded = once(dialer, 'reconnect_success');
  await assert.rejects(dialer.connect(address));
  assert.equal((await failed)[0].address, address);
  await network.listener({ port });
  assert.equal((await succeeded)[0].address, address);
  assert.equal(dialer.units[0]._sockets[0].url, address);
});

check('a socket that is closed without a code has 1005', async (network) => {
  const { ws, dialerUnit } = await network.pair();
  const closed = Promise.all([once(ws, 'close'), once(dialerUnit._sockets[0], 'close')]);
  ws.close();
  for (const [code, reason] of await closed) assert.deepEqual([code, String(reason)], [1005, '']);
});

differs('a socket is not closed with a code or a reason that cannot be sent', 'it is closing all the same', async (network) => {
  const { ws } = await network.pair();
  for (const code of [0, 999, 1004, 1005, 1006, 2000, 5000, NaN, 'x', null]) {
    assert.throws(() => ws.close(code), { name: 'TypeError', message: 'First argument must be a valid error code number' });
  }
  assert.throws(() => ws.close(1000, 'é'.repeat(62)), {
    name: 'RangeError',
    message: 'The message must not be greater than 123 bytes',
  });
  assert.equal(ws.readyState, 1);
});

check('the socket can be terminated', async (network) => {
  // An address that is dialed again at once may be back before the listener sees that the socket is gone.
  const [dialer, listener] = [network.peer(), await network.listener()];
  const { unit, ws, peerUnit: dialerUnit } = await network.join(dialer, listener, { permanent: false });
  const closed = Promise.all([once(ws, 'close'), once(unit, 'close'), once(dialerUnit, 'close')]);
  ws.terminate();
  const [[code]] = await closed;
  assert.equal(code, 1006);
});

check('the socket pings, and tells of pings and pongs and what they carry', async (network) => {
  const { ws, dialerUnit } = await network.pair();
  const [remote] = dialerUnit._sockets;
  const longest = Buffer.alloc(125, 7);
  for (const [from, to] of [[ws, remote], [remote, ws]]) {
    for (const [data, bytes] of [
      [undefined, ''],
      ['text', 'text'],
      [5, '5'],
      [Uint8Array.of(104, 105), 'hi'],
      [longest, longest],
    ]) {
      const heard = Promise.all([once(to, 'ping'), once(from, 'pong')]);
      await new Promise((resolve, reject) => from.ping(data, (error) => (error ? reject(error) : resolve())));
      for (const [payload] of await heard) assert.deepEqual(payload, Buffer.from(bytes));
    }
  }
  assert.throws(() => ws.ping(Buffer.alloc(126)), {
    name: 'RangeError',
    message: 'The data size must not be greater than 125 bytes',
  });
  const closed = once(ws, 'close');
  ws.close();
  await new Promise((resolve) => {
    ws.ping('late', (error) => {
      assert.equal(error.message, 'WebSocket is not open: readyState 2 (CLOSING)');
      resolve();
    });
  });
  await closed;
});

differs('permanent: false does not dial again', 'it ignores the option', async (network) => {
  const listener = await network.listener();
  const dialer = network.peer();
  const { unit, peerUnit } = await network.join(dialer, listener, { permanent: false });
  let again = 0;
  listener.on('unit', ({ id }) => (again += id === dialer.id));
  const lost = Promise.all([once(unit, 'close'), once(peerUnit, 'close')]);
  peerUnit.close();
  await lost;
  // A permanent one that is closed later has come back by then.
  const other = await network.join(network.peer(), listener);
  const back = once(listener, 'unit');
  other.peerUnit.close();
  await back;
  assert.equal(again, 0);
  assert.deepEqual(dialer.units, []);
});

differs('permanent: false rejects once and for all', 'it ignores the option', async (network) => {
  const port = await network.unusedPort();
  const dialer = network.peer();
  let events = 0;
  dialer.on('reconnect_fail', () => events++);
  await assert.rejects(dialer.connect(addressOf(port), { permanent: false }));
  const other = network.peer();
  const failed = once(other, 'reconnect_fail');
  await assert.rejects(other.connect(addressOf(port)));
  await failed;
  assert.equal(events, 0);
});

differs('what connect rejects with is an Error with a code', 'it rejects with strings', async (network) => {
  const port = await network.unusedPort();
  await assert.rejects(network.peer().connect(addressOf(port)), (error) => {
    assert.ok(error instanceof Error);
    assert.equal(error.code, 'CONNECT_FAILED');
    assert.equal(error.name, 'RoletalkError');
    assert.deepEqual([error.cause.code, error.cause.syscall, error.cause.port], ['ECONNREFUSED', 'connect', port]);
    return true;
  });
});

differs('what was the cause of a failure is its cause, in events, too', 'it has strings', async (network) => {
  const port = await network.unusedPort();
  const dialer = network.peer();
  const failed = once(dialer, 'reconnect_fail');
  const first = await new Promise((resolve) => dialer.connect(addressOf(port), resolve));
  const [{ error }] = await failed;
  for (const { cause } of [first, error]) assert.equal(cause.code, 'ECONNREFUSED');
  assert.notEqual(first.cause, error.cause, 'each attempt has its own');
  const unknown = await network.peer().connect('ws://unknown.invalid').catch((error) => error);
  assert.match(unknown.cause.code, /^(ENOTFOUND|EAI_AGAIN)$/);
  const wrong = await network.peer().connect('nonsense').catch((error) => error);
  assert.equal(wrong.cause.code, 'ERR_INVALID_URL');
  // What is no failure of the system's has none.
  const listener = network.peer().addPresharedKey('a', 'b');
  await listener.listen({ port: 0, host: HOST });
  const refused = await network.peer().connect(network.address(listener)).catch((error) => error);
  assert.deepEqual([refused.code, refused.cause], ['AUTH_REFUSED', undefined]);
});

beyond('connections are replaced at their age, and nothing is lost', async (network) => {
  assert.throws(() => network.peer({ connectionAge: 0 }), { code: 'INVALID_ARGUMENT' });
  const listener = await network.listener();
  listener.role('role').onRequest('echo', (ctx, cb) => cb(null, ctx.data));
  const dialer = network.peer({ connectionAge: 300 });
  const { unit, ws } = await network.join(dialer, listener);
  let closed = false;
  unit.once('close', () => (closed = true));
  const destination = dialer.destination('role');
  await destination.whenReady();
  let replaced = 0;
  const watch = (socket) => {
    socket.once('close', () => {
      replaced++;
      if (!closed) watch(unit._sockets[0]);
    });
  };
  watch(ws);
  while (replaced < 3) {
    assert.ok(!closed);
    const numbers = Array.from({ length: 16 }, (_, number) => number);
    const answers = await Promise.all(numbers.map((number) => destination.request('echo', number)));
    assert.deepEqual(answers.map(({ data }) => data), numbers);
  }
  assert.deepEqual(dialer.units, [unit]);
});
