'use strict';

// Sockets that the addon reads and writes itself, and the guard that stands in for a loop that is
// blocked. With ROLETALK_SOCKETS=node there are none, and only what both kinds have in common is
// tested.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const http = require('node:http');
const { Worker } = require('node:worker_threads');
const { HOST, lossOf, until } = require('./support/network');
const { RawConnection, FRAME, OPCODE } = require('./support/raw');
const { beyond, subject } = require('./support/subject');

const native = process.env.ROLETALK_SOCKETS !== 'node' && process.platform !== 'win32';
const guarded = native ? beyond : () => {};

/** A program that listens and serves, and a connection to it whose request blocks it until it is let go on. */
async function blockedProgram(network, then = '') {
  const program = network.program(
    `const peer = new Peer();
     const role = peer.role('r');
     role.onRequest('echo', (ctx, answer) => answer(null, ctx.data));
     role.onRequest('block', (ctx, answer) => {
       tell('blocked');
       gate();
       answer(null, 'free');
       ${then}
     });
     peer.on('unit', ({ _sockets: [ws] }) => ws.on('ping', () => tell('ping')));
     await peer.listen({ port: 0, host: '${HOST}' });
     tell(peer._port);`,
    { clock: true, gate: true },
  );
  const raw = network.keep(await RawConnection.dial(await program.told(), HOST));
  await raw.handshake();
  raw.ask('r', 'block', '', 1);
  assert.equal(await program.told(), 'blocked');
  return { program, raw };
}

/** A listener and a raw connection to it, which answers no pings: the clock stands still. */
async function served(network) {
  network.clock();
  const listener = await network.listener();
  const raw = await network.raw(listener);
  const joined = once(listener, 'unit');
  await raw.handshake();
  const [unit] = await joined;
  return { listener, raw, unit };
}

/**
 * Has a raw connection look at what comes when so many bytes have, or the end: it would copy what is large
 * again and again.
 */
async function inOnePiece(raw, length = Infinity) {
  const { socket } = raw;
  const readers = socket.listeners('data');
  const chunks = [];
  let come = 0;
  await new Promise((resolve) => {
    socket.once('end', resolve);
    socket.removeAllListeners('data').on('data', (chunk) => {
      chunks.push(chunk);
      come += chunk.length;
      if (come >= length) resolve();
    });
    socket.resume();
  });
  socket.removeAllListeners('data');
  for (const reader of readers) socket.on('data', reader);
  socket.emit('data', Buffer.concat(chunks));
}

/** The text of the next answer. */
async function answer(raw) {
  return (await raw.message(102)).subarray(4).toString();
}

guarded('the guard answers each ping once, wherever it is, and leaves all else in order', async (network) => {
  const { program, raw } = await blockedProgram(network);
  const large = 'x'.repeat(300_000);
  // A request whose end comes with a ping behind it, in the middle of the next request's header.
  const written = [];
  const bytes = raw.bytes;
  raw.bytes = (data) => written.push(data);
  raw.ask('r', 'echo', large, 2);
  raw.frame(OPCODE.ping, Buffer.from('one'));
  raw.ask('r', 'echo', 'second', 3);
  raw.frame(OPCODE.ping, Buffer.from('two'));
  raw.bytes = bytes;
  const all = Buffer.concat(written);
  raw.bytes(all.subarray(0, 100_000));
  raw.bytes(all.subarray(100_000, all.length - 30));
  assert.equal(String(await raw.frameOf(OPCODE.pong)), 'one');
  raw.bytes(all.subarray(all.length - 30));
  assert.equal(String(await raw.frameOf(OPCODE.pong)), 'two');
  program.open();
  assert.equal(await answer(raw), 'free');
  assert.equal(await answer(raw), large);
  assert.equal(await answer(raw), 'second');
  raw.frame(OPCODE.ping, Buffer.from('three'));
  assert.equal(String(await raw.frameOf(OPCODE.pong)), 'three');
  for (let pings = 0; pings < 3; pings++) assert.equal(await program.told(), 'ping');
});

guarded('the guard goes on writing a message that is half out, and answers behind it', async (network) => {
  const program = network.program(
    `const peer = new Peer();
     peer.role('r').onRequest('large', (ctx, answer) => {
       answer(null, Buffer.alloc(24 << 20, 7));
       // Not before it is being written.
       setImmediate(() => setImmediate(() => {
         tell('blocked');
         gate();
       }));
     });
     await peer.listen({ port: 0, host: '${HOST}' });
     tell(peer._port);`,
    { clock: true, gate: true },
  );
  const raw = network.keep(await RawConnection.dial(await program.told(), HOST));
  await raw.handshake();
  raw.socket.pause();
  raw.ask('r', 'large', '');
  assert.equal(await program.told(), 'blocked');
  raw.frame(OPCODE.ping, Buffer.from('behind'));
  const header = 10 + 4;
  const pong = 2 + 'behind'.length;
  await inOnePiece(raw, header + (24 << 20) + pong);
  assert.ok((await raw.message(FRAME.answer)).subarray(4).equals(Buffer.alloc(24 << 20, 7)));
  assert.equal(String((await raw.next()).payload), 'behind');
});

guarded('a program ends although the guard has something for it', async (network) => {
  const { program, raw } = await blockedProgram(network, 'process.exit(7);');
  raw.frame(OPCODE.ping, Buffer.from('x'));
  assert.equal(String(await raw.frameOf(OPCODE.pong)), 'x');
  program.open();
  assert.deepEqual(await program.end(), { code: 7, signal: null });
});

guarded('a worker thread is terminated while the guard stands in for it', async (network) => {
  for (let n = 0; n < 3; n++) {
    const worker = new Worker(
      `const { parentPort, workerData } = require('node:worker_threads');
       const { Peer } = require(workerData);
       const peer = new Peer();
       peer.role('r').onRequest('block', () => {
         parentPort.postMessage('blocked');
         Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
       });
       peer.listen({ port: 0, host: '${HOST}' }).then(() => parentPort.postMessage(peer._port));`,
      { eval: true, workerData: subject },
    );
    const [port] = await once(worker, 'message');
    const raw = network.keep(await RawConnection.dial(port, HOST));
    await raw.handshake();
    const blocked = once(worker, 'message');
    raw.ask('r', 'block', '');
    await blocked;
    raw.frame(OPCODE.ping, Buffer.from('x'));
    assert.equal(String(await raw.frameOf(OPCODE.pong)), 'x');
    await worker.terminate();
    assert.deepEqual(await raw.closed(), { code: 1006, reason: '' });
  }
});

if (process.platform === 'linux') {
  guarded('there is one guard, from the first connection on', async (network) => {
    const program = network.program(`
      const { readdirSync, readFileSync } = require('node:fs');
      const guards = () => readdirSync('/proc/self/task')
        .filter((task) => readFileSync('/proc/self/task/' + task + '/comm', 'utf8') === 'roletalk-guard\\n').length;
      const peer = new Peer();
      await peer.listen({ port: 0, host: '${HOST}' });
      tell(guards());
      for (let n = 0; n < 3; n++) await new Peer().connect('ws://${HOST}:' + peer._port);
      // It gives itself its name.
      while (guards() === 0) await new Promise(setImmediate);
      tell(guards());
      process.exit();
    `);
    assert.equal(await program.told(), 0);
    assert.equal(await program.told(), 1);
    assert.deepEqual(await program.end(), { code: 0, signal: null });
  });

  guarded('each time the module is loaded there is one guard, however its connections alternate', async (network) => {
    const program = network.program(`
      const { readdirSync, readFileSync } = require('node:fs');
      const guards = () => readdirSync('/proc/self/task')
        .filter((task) => readFileSync('/proc/self/task/' + task + '/comm', 'utf8') === 'roletalk-guard\\n').length;
      const { Peer: First } = roletalk;
      for (const file of Object.keys(require.cache)) delete require.cache[file];
      const { Peer: Second } = require(process.env.ROLETALK_SUBJECT);
      tell(First !== Second);
      const peer = new Peer();
      await peer.listen({ port: 0, host: '${HOST}' });
      const connect = (Peer) => new Peer().connect('ws://${HOST}:' + peer._port);
      for (let n = 0; n < 5; n++) for (const Peer of [First, Second]) await connect(Peer);
      while (guards() < 2) await new Promise(setImmediate);
      tell(guards());
      process.exit();
    `);
    assert.equal(await program.told(), true);
    assert.equal(await program.told(), 2);
    assert.deepEqual(await program.end(), { code: 0, signal: null });
  });

  guarded('a guard that could not be started at first stands in for all connections later', async (network) => {
    const program = network.program(
      `const { closeSync, openSync } = require('node:fs');
       const peer = new Peer();
       peer.role('r').onRequest('block', () => {
         tell('blocked');
         gate();
       });
       await peer.listen({ port: 0, host: '${HOST}' });
       // Enough for a connection and its duplicate, not for the guard's pair of sockets.
       const held = [];
       try {
         for (;;) held.push(openSync('/dev/null'));
       } catch {
         for (const descriptor of held.splice(-3)) closeSync(descriptor);
       }
       const [unit] = await Promise.all([once(peer, 'unit').then(([unit]) => unit), tell(peer._port)]);
       for (const descriptor of held) closeSync(descriptor);
       tell(unit._sockets[0]._native);`,
      { clock: true, gate: true, files: 64 },
    );
    const port = await program.told();
    const first = network.keep(await RawConnection.dial(port, HOST));
    await first.handshake();
    assert.equal(await program.told(), true);
    const second = network.keep(await RawConnection.dial(port, HOST));
    await second.handshake({ id: 'second' });
    second.ask('r', 'block', '');
    assert.equal(await program.told(), 'blocked');
    first.frame(OPCODE.ping, Buffer.from('x'));
    assert.equal(String(await first.frameOf(OPCODE.pong)), 'x');
  });

  beyond('a thousand connections that come and go leave no descriptor behind', async (network) => {
    const program = network.program(`
      const { readdirSync } = require('node:fs');
      const descriptors = () => readdirSync('/proc/self/fd').length;
      const peer = new Peer();
      await peer.listen({ port: 0, host: '${HOST}' });
      const dialer = new Peer();
      const visit = async (n) => {
        const joined = once(peer, 'unit');
        const { ws } = await dialer.connect('ws://${HOST}:' + peer._port, { permanent: false });
        const [unit] = await joined;
        const ended = (socket) => new Promise((resolve) => socket.on('error', () => {}).on('close', resolve));
        const gone = Promise.all([ws, ...unit._sockets].map(ended));
        if (n % 2) ws.terminate(); else ws.close();
        await gone;
      };
      // What the first ones open, stays.
      for (let n = 0; n < 4; n++) await visit(n);
      const before = descriptors();
      for (let n = 0; n < 1000; n++) await visit(n);
      while (descriptors() > before) await new Promise((resolve) => setTimeout(resolve, 10));
      tell(peer.units.length);
      process.exit();
    `);
    assert.equal(await program.told(), 0);
    assert.deepEqual(await program.end(), { code: 0, signal: null });
  });
}

beyond('a connection that is closed while a message is half out sends all of it', async (network) => {
  const { listener, raw, unit } = await served(network);
  raw.socket.pause();
  const calls = [];
  const message = Buffer.alloc(24 << 20, 7);
  const destination = listener.destination('r');
  destination.send({ event: 'large', unit }, message, (error) => calls.push(error));
  const [ws] = unit._sockets;
  await until(() => ws.bufferedAmount > 0);
  destination.send({ event: 'small', unit }, 'last');
  unit.close();
  assert.deepEqual(calls, []);
  await inOnePiece(raw);
  const { payload } = await raw.next();
  assert.ok(payload.subarray(-message.length).equals(message));
  assert.ok(String((await raw.next()).payload).endsWith('last'));
  assert.equal((await raw.closed()).code, 4000);
  assert.deepEqual(calls, [null]);
});

beyond('a connection that is reset is told of as Node does', async (network) => {
  const rawListener = await network.rawListener();
  const connecting = network.peer().connect(rawListener.address, { permanent: false });
  const raw = await rawListener.connection();
  const [{ ws }] = await Promise.all([connecting, raw.handshake()]);
  const events = [];
  ws.on('error', ({ code, syscall, message }) => events.push([code, syscall, message]));
  const closed = new Promise((resolve) => ws.on('close', (...args) => resolve(args)));
  raw.socket.resetAndDestroy();
  assert.deepEqual(await closed, [1006, '']);
  assert.deepEqual(events, [['ECONNRESET', 'read', 'read ECONNRESET']]);
});

beyond('a connection that is reset while nothing is read from it is closed', async (network) => {
  const { raw, unit } = await served(network);
  const [ws] = unit._sockets;
  const closed = new Promise((resolve) => ws.on('close', (...args) => resolve(args)));
  // Backpressure: reading stops when the rejections of the requests are not read.
  raw.socket.pause();
  const role = 'x'.repeat(90);
  const request = Buffer.from(`\x65\x00${String.fromCharCode(role.length)}\x00\x01\x01${role}e\x07\x03`, 'latin1');
  const frame = Buffer.concat([Buffer.from([0x82, 0x80 | request.length, 0, 0, 0, 0]), request]);
  raw.bytes(Buffer.alloc(frame.length * 300_000, frame));
  const { host, number } = ws;
  await until(() => host.native.isClogged(number, host.now()) && ws.bufferedAmount > 0);
  assert.ok(raw.socket.writableLength > 0);
  raw.socket.resetAndDestroy();
  assert.deepEqual(await closed, [1006, '']);
});

guarded('a socket that somebody ends while a message is half out fails', async (network) => {
  const { listener, raw, unit } = await served(network);
  const [ws] = unit._sockets;
  raw.socket.pause();
  const events = [];
  ws.on('error', ({ code, syscall }) => events.push([code, syscall]));
  const closed = new Promise((resolve) => ws.on('close', (...args) => resolve(args)));
  const sent = new Promise((resolve) => {
    listener.destination('r').send({ event: 'large', unit }, Buffer.alloc(24 << 20), resolve);
  });
  await until(() => ws.bufferedAmount > 0);
  ws._socket.end();
  assert.deepEqual(await closed, [1006, '']);
  assert.deepEqual(events, [['EPIPE', 'write']]);
  assert.equal((await sent).code, 'CONNECTION_LOST');
});

beyond('a connection that its server does not wait for keeps no process alive', async (network) => {
  const program = network.program(`
    const server = require('node:http').createServer();
    server.on('connection', (socket) => socket.unref());
    const peer = new Peer();
    const alive = setInterval(() => {}, 1000);
    peer.on('unit', () => {
      clearInterval(alive);
      tell('unit');
    });
    await peer.listen({ server, port: 0, host: '${HOST}' });
    server.unref();
    tell(peer._port);
  `);
  const raw = network.keep(await RawConnection.dial(await program.told(), HOST));
  await raw.handshake();
  assert.equal(await program.told(), 'unit');
  // Or the program would be through with the connection soon.
  const answering = assert.rejects(async () => {
    for (;;) raw.frame(OPCODE.pong, await raw.frameOf(OPCODE.ping));
  });
  assert.deepEqual(await program.end(), { code: 0, signal: null });
  await answering;
});

beyond('what is read and written puts off the timeout of a socket', async (network) => {
  const { dialer, ws, dialerUnit } = await network.pair({ roles: ['r'] });
  const [accepted] = dialerUnit._sockets;
  const refreshed = (socket) => {
    socket.setTimeout(60_000);
    const unrefTimer = socket._unrefTimer;
    return new Promise((resolve) => {
      socket._unrefTimer = () => {
        unrefTimer.call(socket);
        resolve();
      };
    });
  };
  const both = Promise.all([refreshed(ws._socket), refreshed(accepted._socket)]);
  dialer.destination('r').send('event', 'x');
  await both;
});

beyond('a process that is killed is told of at once', async (network) => {
  const listener = await network.listener();
  const program = network.program(`await new Peer().connect(process.env.ADDRESS);`, {
    env: { ADDRESS: network.address(listener) },
  });
  const [unit] = await once(listener, 'unit');
  const closed = lossOf([...unit._sockets][0]);
  program.kill();
  assert.deepEqual(await closed, [1006, '']);
});

beyond('connections count for the server they came from, and know their addresses', async (network) => {
  const server = http.createServer();
  const listener = await network.listener({ server, host: HOST, port: 0 });
  const dialer = network.peer();
  const { ws, peerUnit, unit } = await network.join(dialer, listener);
  const count = () =>
    new Promise((resolve, reject) => server.getConnections((error, n) => (error ? reject(error) : resolve(n))));
  assert.equal(await count(), 1);
  const [accepted] = peerUnit._sockets;
  assert.equal(ws._socket.remotePort, listener._port);
  assert.equal(accepted._socket.remotePort, ws._socket.localPort);
  const closed = once(server, 'close');
  server.close();
  assert.equal((await dialer.destination('none').units.length), 0);
  assert.equal(await count(), 1);
  unit.close();
  await closed;
});

beyond('a socket that somebody destroys takes its connection along', async (network) => {
  const { ws, dialerUnit } = await network.pair();
  const lost = once(dialerUnit, 'close');
  const closed = once(ws, 'close');
  ws._socket.destroy();
  assert.deepEqual(await closed, [1006, '']);
  await lost;
});
