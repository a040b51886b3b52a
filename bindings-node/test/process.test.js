'use strict';

// What keeps a process alive and what does not, and how it ends: in processes of their own.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { HOST, addressOf } = require('./support/network');
const { check, concurrently, differs, roletalk, subject } = require('./support/subject');
const { Worker } = require('node:worker_threads');

const EXITED = { code: 0, signal: null };

const address = (listener, network) => ({ env: { ADDRESS: network.address(listener) } });

concurrently(() => {
  check('a peer that does nothing keeps no process alive', async (network) => {
    const program = network.program(`
      const peer = new Peer({ name: 'idle' });
      peer.role('a').onRequest('e', () => {});
      peer.destination('b').on('open', () => {});
    `);
    assert.deepEqual(await program.end(), EXITED);
  });

  const ENDS = 'nothing keeps its process alive while it waits to dial again';

  differs('a peer that dials keeps its process alive until it is connected, and is back, and is closed', ENDS, async (network) => {
    const port = await network.unusedPort();
    const address = addressOf(port);
    const program = network.program(`
      const peer = new Peer({ name: 'dialer' });
      peer.on('reconnect_fail', ({ count }) => tell(count));
      peer.role('role').onRequest('close', (ctx, cb) => {
        cb(null, null);
        ctx.unit.once('close', () => peer.close());
      });
      peer.connect('${address}');
    `);
    // Later attempts are seconds apart.
    for (let count = 1; count <= 2; count++) assert.equal(await program.told(), count);
    for (const last of [false, true]) {
      const listener = network.peer();
      const connected = once(listener, 'unit');
      await listener.listen({ port, host: HOST });
      const [unit] = await connected;
      if (last) await listener.destination('role').request('close', null);
      const lost = once(unit, 'close');
      await new Promise((resolve) => listener.close(resolve));
      await lost;
    }
    assert.deepEqual(await program.end(), EXITED);
    assert.equal(program.stderr, '');
  });

  differs('a peer whose permanent address is given up keeps no process alive', ENDS, async (network) => {
    const listener = await network.listener();
    const port = await network.unusedPort();
    const program = network.program(`
      const peer = new Peer();
      peer.connect('${addressOf(port)}', { permanent: false }).catch((error) => tell(error.code));
      const { unit } = await peer.connect('${network.address(listener)}');
      unit.close();
    `);
    assert.equal(await program.told(), 'CONNECT_FAILED');
    assert.deepEqual(await program.end(), EXITED);
  });

  differs('whoever waits for a unit keeps the process alive, until that is given up', ENDS, async (network) => {
    const program = network.program(
      `const controller = new AbortController();
       process.on('message', () => controller.abort());
       process.channel.unref();
       const ready = new Peer().destination('role').whenReady({ signal: controller.signal });
       ready.catch((error) => tell(error.name));
       setTimeout(() => tell('waits'), 1).unref();`,
      { ipc: true },
    );
    assert.equal(await program.told(), 'waits');
    program.process.send('give up');
    assert.equal(await program.told(), 'AbortError');
    assert.deepEqual(await program.end(), EXITED);
  });

  differs('a peer that is unreferenced keeps no process alive by dialing and waiting', ENDS, async (network) => {
    // Nobody listens there, and nobody gets it when they ask for any.
    const port = 1;
    const program = network.program(`
      const peer = new Peer();
      if (peer.unref() !== peer) throw new Error('it returns the peer');
      peer.destination('role').whenReady();
      await peer.connect('${addressOf(port)}').catch((error) => tell(String(error)));
    `);
    assert.match(await program.told(), /ECONNREFUSED/);
    assert.deepEqual(await program.end(), EXITED);
    const again = network.program(`
      const peer = new Peer().unref();
      peer.on('reconnect_fail', ({ count }) => (count === 2 ? peer.unref() : tell(count)));
      peer.connect('${addressOf(port)}').catch(() => {});
      peer.ref();
    `);
    assert.equal(await again.told(), 1);
    assert.deepEqual(await again.end(), EXITED);
  });

  check('a listening peer keeps its process alive, until it is closed', async (network) => {
    const program = network.program(`
      const peer = new Peer();
      peer.role('role').onRequest('close', (ctx, cb) => {
        cb(null, null);
        ctx.unit.once('close', () => peer.close());
      });
      await peer.listen({ port: 0, host: '${HOST}' });
      tell(peer._port);
    `);
    const port = await program.told();
    const dialer = network.peer();
    // It is still there after the first connection has come and gone.
    for (const last of [false, true]) {
      const { unit } = await dialer.connect(addressOf(port));
      if (last) await dialer.destination('role').request('close', null);
      const lost = once(unit, 'close');
      unit.close();
      await lost;
    }
    assert.deepEqual(await program.end(), EXITED);
  });

  check('a connection keeps the process of its dialer alive, until it is lost for good', async (network) => {
    const listener = await network.listener();
    const program = network.program(
      `const peer = new Peer();
       peer.role('role').onRequest('e', (ctx, cb) => cb(null, 'alive'));
       peer.role('role').onMessage('wait', (ctx) => clock.advance(5_020));
       peer.unref?.();
       await peer.connect(process.env.ADDRESS);`,
      { ...address(listener, network), clock: true },
    );
    const [unit] = await once(listener, 'unit');
    const destination = listener.destination('role');
    assert.equal((await destination.request('e', null)).data, 'alive');
    const beat = once([...unit._sockets][0], 'ping');
    destination.send('wait', null);
    await beat;
    assert.equal((await destination.request('e', null)).data, 'alive');
    listener.close();
    assert.deepEqual(await program.end(), EXITED);
  });

  check('a unit that is closed by its dialer lets the process end', async (network) => {
    const listener = await network.listener();
    const program = network.program(
      `const peer = new Peer();
       const { unit } = await peer.connect(process.env.ADDRESS);
       unit.close();
       await once(unit, 'close');
       tell('closed');`,
      address(listener, network),
    );
    assert.equal(await program.told(), 'closed');
    assert.deepEqual(await program.end(), EXITED);
  });

  const LEAVING = {
    'process.exit()': ['process.exit(3)', { code: 3, signal: null }],
    'process.exit() within a handler': [
      `peer.role('role').onMessage('leave', () => process.exit(4));
       peer.destination('role').send({ event: 'leave', unit }, null);`,
      { code: 4, signal: null },
    ],
    'process.exit() within a callback': [
      `peer.destination('role').request({ event: 'x', unit }, null, () => process.exit(5));`,
      { code: 5, signal: null },
    ],
    'an uncaught exception': [`setImmediate(() => { throw new Error('mine'); })`, { code: 1, signal: null }],
    SIGTERM: [`process.kill(process.pid, 'SIGTERM')`, { code: null, signal: 'SIGTERM' }],
  };

  for (const [name, [leave, expected]] of Object.entries(LEAVING)) {
    check(`a process with open peers, requests and streams ends by ${name}`, async (network) => {
      const program = network.program(`
        const peer = new Peer();
        const role = peer.role('role');
        role.onRequest('never', () => {});
        role.onReadable('sink', ({ readable }, cb) => cb(null, null));
        await peer.listen({ port: 0, host: '${HOST}' });
        const { unit } = await peer.connect('ws://${HOST}:' + peer._port);
        const destination = peer.destination('role');
        destination.request('never', null);
        const writable = destination.Writable('sink', null);
        await once(writable, 'ready');
        writable.write(Buffer.alloc(1 << 20));
        ${leave};
      `);
      assert.deepEqual(await program.end(), expected, program.stderr);
    });
  }

  check('several peers of one process talk to each other', async (network) => {
    const peers = await Promise.all(Array.from({ length: 10 }, (_, n) => network.listener({ name: `${n}` })));
    for (const peer of peers) peer.role('role').onRequest('who', (ctx, cb) => cb(null, peer.name));
    const [first, ...others] = peers;
    for (const other of others) await network.join(first, other);
    const names = await new Promise((resolve) => {
      const collected = [];
      first.destination('role').survey('who', null, (error, ctx) => {
        if (collected.push(ctx.data) === others.length) resolve(collected);
      });
    });
    assert.deepEqual(names.sort(), others.map(({ name }) => name).sort());
  });

  check('a peer works in a worker thread, which ends with it', async (network) => {
    const worker = new Worker(
      `const { parentPort, workerData } = require('node:worker_threads');
       const { Peer } = require(workerData.subject);
       const peer = new Peer({ name: 'worker' });
       peer.role('role').onRequest('close', (ctx, cb) => {
         cb(null, ctx.data);
         ctx.unit.once('close', () => peer.close());
       });
       peer.listen({ port: 0, host: '${HOST}' }).then(() => parentPort.postMessage(peer._port));`,
      { eval: true, workerData: { subject } },
    );
    const exited = once(worker, 'exit');
    const [port] = await once(worker, 'message');
    const dialer = network.peer();
    const { unit } = await dialer.connect(addressOf(port));
    assert.equal(unit.name, 'worker');
    const large = Buffer.alloc(100_000, 'x');
    assert.ok(large.equals((await dialer.destination('role').request('close', large)).data));
    unit.close();
    assert.deepEqual(await exited, [0]);
  });

  check('a worker thread can be terminated in the middle of its traffic', async (network) => {
    for (let n = 0; n < 3; n++) {
      const listener = await network.listener();
      listener.role('role').onRequest('e', (ctx, cb) => cb(null, ctx.data));
      const worker = new Worker(
        `const { workerData } = require('node:worker_threads');
         const { Peer } = require(workerData.subject);
         const peer = new Peer();
         const destination = peer.destination('role');
         const ask = () => destination.request('e', Buffer.alloc(1000)).then(ask, () => {});
         peer.connect(workerData.address).then(() => { for (let n = 0; n < 32; n++) ask(); });`,
        { eval: true, workerData: { subject, address: network.address(listener) } },
      );
      const [unit] = await once(listener, 'unit');
      let requests = 0;
      await new Promise((resolve) => listener.on('request', () => ++requests === 500 && resolve()));
      const lost = once(unit, 'close');
      await worker.terminate();
      await lost;
      listener.close();
    }
  });

  check('worker threads and the main thread use the module at the same time', async (network) => {
    const listener = await network.listener();
    const count = 4;
    const workers = Array.from({ length: count }, (_, n) =>
      new Worker(
        `const { workerData } = require('node:worker_threads');
         const { Peer } = require(workerData.subject);
         const peer = new Peer({ name: workerData.name });
         peer.role('role').onRequest('who', (ctx, cb) => cb(null, peer.name));
         peer.unref?.();
         peer.connect(workerData.address);`,
        { eval: true, workerData: { subject, name: `${n}`, address: network.address(listener) } },
      ),
    );
    const exited = workers.map((worker) => once(worker, 'exit'));
    await new Promise((resolve) => listener.on('unit', () => listener.units.length === count && resolve()));
    const names = await Promise.all(
      listener.units.map((unit) => listener.destination('role').request({ event: 'who', unit }, null)),
    );
    assert.deepEqual(names.map(({ data }) => data).sort(), ['0', '1', '2', '3']);
    listener.close();
    assert.deepEqual(await Promise.all(exited), Array(count).fill([0]));
  });

  check('the module can be loaded again, and both copies work with each other', async (network) => {
    const listener = await network.listener();
    listener.role('role').onRequest('e', (ctx, cb) => cb(null, 'first'));
    const cached = Object.keys(require.cache);
    for (const file of cached) {
      if (!file.includes('/test/') && !file.endsWith('.node')) delete require.cache[file];
    }
    const again = require(subject);
    assert.notEqual(again.Peer, roletalk.Peer);
    const dialer = new again.Peer();
    network.peers.push(dialer);
    const { unit } = await network.join(dialer, listener);
    assert.ok(unit instanceof again.Unit);
    assert.equal((await dialer.destination('role').request('e', null)).data, 'first');
  });

  check('a peer that nobody holds any more goes on serving', async (network) => {
    const program = network.program(
      `(function () {
         const peer = new Peer();
         peer.role('role').onRequest('e', (ctx, cb) => {
           for (let n = 0; n < 3; n++) gc();
           cb(null, 'alive');
         });
         peer.listen({ port: 0, host: '${HOST}' }).then(() => tell(peer._port));
       })();`,
      { env: { NODE_OPTIONS: '--expose-gc' } },
    );
    const port = await program.told();
    const dialer = network.peer();
    await dialer.connect(addressOf(port));
    for (let n = 0; n < 5; n++) assert.equal((await dialer.destination('role').request('e', null)).data, 'alive');
  });
});
