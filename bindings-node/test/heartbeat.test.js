'use strict';

// Heartbeats. The timers are the subject here, so these tests take as long as they do, side by side.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { until } = require('./support/network');
const { OPCODE } = require('./support/raw');
const { beyond, check, concurrently } = require('./support/subject');

concurrently(() => {
  check('a ping is answered with its own bytes', async (network) => {
    const listener = await network.listener();
    const raw = await network.raw(listener);
    await raw.handshake();
    raw.frame(OPCODE.ping, Buffer.from('beat'));
    assert.equal(String(await raw.frameOf(OPCODE.pong)), 'beat');
  });

  check('a peer pings after 5 s, and keeps a connection that answers', async (network) => {
    const listener = await network.listener();
    listener.role('r').onRequest('e', (ctx, cb) => cb(null, 'alive'));
    const raw = await network.raw(listener);
    await raw.handshake();
    const began = performance.now();
    for (const time of [5_000, 10_000]) {
      raw.frame(OPCODE.pong, await raw.frameOf(OPCODE.ping));
      const passed = performance.now() - began;
      assert.ok(passed > time - 500 && passed < time + 1_500, `${passed} ms`);
    }
    assert.equal(await raw.request('r', 'e', ''), 'alive');
    assert.equal(listener.units.length, 1);
  });

  for (const side of ['listener', 'dialer']) {
    check(`a connection whose ping is not answered within 2 s is closed with 4001 (${side})`, async (network) => {
      let raw;
      if (side === 'listener') {
        raw = await network.raw(await network.listener());
        await raw.handshake();
      } else {
        const rawListener = await network.rawListener();
        const connecting = network.peer().connect(rawListener.address);
        raw = await rawListener.connection();
        await Promise.all([raw.handshake(), connecting]);
      }
      await raw.frameOf(OPCODE.ping);
      const began = performance.now();
      assert.deepEqual(await raw.closed(), { code: 4001, reason: 'PING TIMEOUT' });
      const passed = performance.now() - began;
      assert.ok(passed > 1_500 && passed < 4_000, `${passed} ms`);
    });
  }

  check('two peers stay connected for more than two heartbeats', async (network) => {
    const { destination, role, unit, ws } = await network.service();
    role.onRequest('e', (ctx, cb) => cb(null, 'alive'));
    let lost = 0;
    unit.on('close', () => lost++);
    for (let beats = 0; beats < 2; beats++) await once(ws, 'ping');
    assert.equal((await destination.request('e', null)).data, 'alive');
    assert.equal(lost, 0);
  });

  check('a handler that blocks the loop for 3 s between two heartbeats costs no connection', async (network) => {
    const listener = await network.listener();
    const blocking = network.program(`
      const peer = new Peer();
      peer.role('role').onRequest('block', (ctx, cb) => {
        for (const end = Date.now() + 3_000; Date.now() < end; );
        cb(null, 'done');
      });
      await peer.connect(process.env.ADDRESS);
    `, { env: { ADDRESS: network.address(listener) } });
    const [unit] = await once(listener, 'unit');
    let lost = 0;
    unit.on('close', () => lost++);
    const destination = listener.destination('role');
    assert.equal((await destination.request('block', null)).data, 'done');
    // The next two heartbeats of both sides come and go.
    const [socket] = unit._sockets;
    for (let beats = 0; beats < 2; beats++) await once(socket, 'ping');
    assert.equal(lost, 0);
    blocking.kill();
    await once(unit, 'close');
  });

  check('a handler that blocks the loop for 1.5 s across a heartbeat costs no connection', async (network) => {
    const listener = await network.listener();
    network.program(`
      const peer = new Peer();
      await peer.connect(process.env.ADDRESS);
      // The pings of both sides are due after 5 s.
      setTimeout(() => {
        for (const end = Date.now() + 1_500; Date.now() < end; );
        peer.role('role');
      }, 4_500);
    `, { env: { ADDRESS: network.address(listener) } });
    const opened = once(listener.destination('role'), 'open');
    const [unit] = await once(listener, 'unit');
    let lost = 0;
    unit.on('close', () => lost++);
    await opened;
    await once([...unit._sockets][0], 'ping');
    assert.equal(lost, 0);
  });

  check('a process that is stopped is given up', async (network) => {
    const listener = await network.listener();
    const program = network.program(`
      const peer = new Peer();
      peer.role('role');
      await peer.connect(process.env.ADDRESS);
    `, { env: { ADDRESS: network.address(listener) } });
    const [unit] = await once(listener, 'unit');
    const [socket] = unit._sockets;
    const lost = once(unit, 'close');
    program.kill('SIGSTOP');
    await until(() => socket.readyState !== 1);
    // The original waits for the closing handshake.
    program.kill('SIGCONT');
    await lost;
  });
});
