'use strict';

// Heartbeats, and what blocks a loop across them. The clock only goes when a test lets it.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { HOST, addressOf, until } = require('./support/network');
const { FRAME, OPCODE } = require('./support/raw');
const { beyond, check } = require('./support/subject');

const guarded = process.env.ROLETALK_SOCKETS !== 'node' && process.platform !== 'win32' ? beyond : () => {};

/** The time between two pings, and the time in which one must be answered, each with what timers may be late. */
const INTERVAL = 5_000 + 20;
const LIMIT = 2_000 + 20;
/** Somewhat less than these. */
const SOON = 100;

/** A connection of which a ping and its answer have come, when both ends of it sent one. */
const beat = (...sockets) => Promise.all(sockets.flatMap((ws) => [once(ws, 'ping'), once(ws, 'pong')]));

check('a ping is answered with its own bytes', async (network) => {
  const listener = await network.listener();
  const raw = await network.raw(listener);
  await raw.handshake();
  raw.frame(OPCODE.ping, Buffer.from('beat'));
  assert.equal(String(await raw.frameOf(OPCODE.pong)), 'beat');
});

check('a peer pings after 5 s, and keeps a connection that answers', async (network) => {
  const clock = network.clock();
  const listener = await network.listener();
  listener.role('r').onRequest('e', (ctx, cb) => cb(null, 'alive'));
  const raw = await network.raw(listener);
  await Promise.all([raw.handshake(), once(listener, 'unit')]);
  /** How many pings come before the answer to what is asked now. */
  const pinged = async () => {
    raw.ask('r', 'e', '');
    let pings = 0;
    for (;;) {
      const { opcode, payload } = await raw.next();
      if (opcode === OPCODE.ping) pings++;
      else if (payload[0] === FRAME.answer) return pings;
    }
  };
  for (let beats = 0; beats < 2; beats++) {
    await clock.advance(INTERVAL - SOON);
    assert.equal(await pinged(), 0);
    await clock.advance(SOON);
    raw.frame(OPCODE.pong, await raw.frameOf(OPCODE.ping));
    assert.equal(await pinged(), 0);
  }
  assert.equal(await raw.request('r', 'e', ''), 'alive');
  assert.equal(listener.units.length, 1);
});

for (const side of ['listener', 'dialer']) {
  check(`a connection whose ping is not answered within 2 s is closed with 4001 (${side})`, async (network) => {
    const clock = network.clock();
    let peer;
    let raw;
    if (side === 'listener') {
      peer = await network.listener();
      raw = await network.raw(peer);
      await Promise.all([raw.handshake(), once(peer, 'unit')]);
    } else {
      peer = network.peer();
      const rawListener = await network.rawListener();
      const connecting = peer.connect(rawListener.address);
      raw = await rawListener.connection();
      await Promise.all([raw.handshake(), connecting]);
    }
    await clock.advance(INTERVAL);
    await raw.frameOf(OPCODE.ping);
    await clock.advance(LIMIT - 2 * SOON);
    assert.equal(peer.units.length, 1);
    await clock.advance(2 * SOON);
    assert.deepEqual(await raw.closed(), { code: 4001, reason: 'PING TIMEOUT' });
  });
}

check('two peers stay connected for more than two heartbeats', async (network) => {
  const clock = network.clock();
  const { destination, role, unit, ws, dialerUnit } = await network.service();
  role.onRequest('e', (ctx, cb) => cb(null, 'alive'));
  let lost = 0;
  unit.on('close', () => lost++);
  for (let beats = 0; beats < 3; beats++) {
    const both = beat(ws, [...dialerUnit._sockets][0]);
    await clock.advance(INTERVAL);
    await both;
  }
  assert.equal((await destination.request('e', null)).data, 'alive');
  assert.equal(lost, 0);
});

/** A program whose only connection is to `listener`, and whose role blocks its loop until it is let go on. */
const blocking = (network, listener, then = '') =>
  network.program(
    `const peer = new Peer();
     const role = peer.role('role');
     role.onRequest('block', (ctx, cb) => {
       tell('blocked');
       gate();
       clock.jump(ctx.data);
       cb(null, 'done');
     });
     role.onRequest('advance', (ctx, cb) => clock.advance(ctx.data).then(() => cb(null, null)));
     ${then}
     await peer.connect(process.env.ADDRESS);`,
    { env: { ADDRESS: network.address(listener) }, clock: true, gate: true },
  );

check('a handler that blocks the loop for 3 s between two heartbeats costs no connection', async (network) => {
  const clock = network.clock();
  const listener = await network.listener();
  const program = blocking(network, listener);
  const [unit] = await once(listener, 'unit');
  const [socket] = unit._sockets;
  let lost = 0;
  unit.on('close', () => lost++);
  const destination = listener.destination('role');
  const answer = destination.request('block', 3_000);
  assert.equal(await program.told(), 'blocked');
  await clock.advance(3_000);
  program.open();
  assert.equal((await answer).data, 'done');
  // The next two heartbeats of both sides come and go.
  for (const time of [INTERVAL - 3_000, INTERVAL]) {
    const both = beat(socket);
    await Promise.all([clock.advance(time), destination.request('advance', time)]);
    await both;
  }
  assert.equal(lost, 0);
  program.kill();
  await once(unit, 'close');
});

check('a handler that blocks the loop for 1.5 s across a heartbeat costs no connection', async (network) => {
  const clock = network.clock();
  const listener = await network.listener();
  const program = blocking(network, listener);
  const [unit] = await once(listener, 'unit');
  const [socket] = unit._sockets;
  let lost = 0;
  unit.on('close', () => lost++);
  const destination = listener.destination('role');
  // The pings of both sides are due after 5 s.
  await Promise.all([clock.advance(4_500), destination.request('advance', 4_500)]);
  const both = beat(socket);
  const answer = destination.request('block', 1_500);
  assert.equal(await program.told(), 'blocked');
  await clock.advance(1_500);
  program.open();
  await both;
  assert.equal((await answer).data, 'done');
  assert.equal(lost, 0);
});

check('a process that is stopped is given up', async (network) => {
  const clock = network.clock();
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
  await clock.advance(INTERVAL);
  assert.equal(socket.readyState, 1);
  await clock.advance(LIMIT);
  await until(() => socket.readyState !== 1);
  // The original waits for the closing handshake.
  program.kill('SIGCONT');
  await lost;
});

// What comes meanwhile.
const TRAFFIC = {
  nothing: async () => {},
  '300 requests': async (destination) => {
    const texts = Array.from({ length: 300 }, (_, n) => `${n}`.repeat(100));
    const answers = await Promise.all(texts.map((text) => destination.request('echo', text)));
    assert.deepEqual(answers.map(({ data }) => data), texts);
  },
  'a stream': async (destination) => {
    const writable = destination.Writable('sink', null);
    const length = 8 << 20;
    for (let sent = 0; sent < length; sent += 1 << 16) {
      if (!writable.write(Buffer.alloc(1 << 16))) await once(writable, 'drain');
    }
    writable.end();
    await once(writable, 'finish');
    await until(async () => (await destination.request('received', null)).data === length);
  },
};

for (const side of ['listens', 'dials']) {
  for (const [traffic, run] of Object.entries(TRAFFIC)) {
    guarded(`a peer that ${side} is blocked for 3 s across a heartbeat, while ${traffic} arrives`, async (network) => {
      const clock = network.clock();
      const judge = await network.listener();
      const program = network.program(
        `const peer = new Peer();
         const role = peer.role('role');
         let received = 0;
         role.onRequest('echo', (ctx, answer) => answer(null, ctx.data));
         role.onRequest('received', (ctx, answer) => answer(null, received));
         role.onReadable('sink', ({ readable }, answer) => {
           readable.on('data', (chunk) => (received += chunk.length));
           answer(null);
         });
         peer.on('unit', async ({ _sockets: [ws] }) => {
           // The first ping is due after 5 s, and must be answered within 2 s.
           await clock.advance(4_300);
           tell('blocked');
           gate();
           ws.once('ping', () => tell('ping'));
           clock.jump(3_000);
         });
         await ${side === 'dials' ? `peer.connect(process.env.ADDRESS)` : `peer.listen({ port: 0, host: '${HOST}' })`};
         tell(peer._port ?? null);`,
        { env: { ADDRESS: network.address(judge) }, clock: true, gate: true },
      );
      const joined = once(judge, 'unit');
      const told = [await program.told()];
      if (side === 'listens') await judge.connect(addressOf(told[0]));
      const [unit] = await joined;
      const [ws] = unit._sockets;
      let lost = 0;
      unit.on('close', () => lost++);
      if (told[0] !== 'blocked') assert.equal(await program.told(), 'blocked');
      const done = run(judge.destination('role'));
      await clock.advance(INTERVAL);
      // From the guard: the loop is blocked until it is let go on.
      await once(ws, 'pong');
      program.open();
      // The ping was answered already, and is told of nevertheless.
      while ((await program.told()) !== 'ping');
      await done;
      assert.equal((await judge.destination('role').request('echo', 'alive')).data, 'alive');
      assert.equal(lost, 0);
    });
  }
}
