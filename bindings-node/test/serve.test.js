'use strict';

// A service until the signal: `await peer.serve()`.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { HOST, addressOf } = require('./support/network');
const { beyond, concurrently } = require('./support/subject');

const SERVICE = `
  const peer = new Peer({ name: 'service' });
  let reply;
  peer.role('role').onRequest('held', (ctx, cb) => { reply = cb; tell('asked'); });
  process.on('message', () => reply(null, 'held'));
  process.channel.unref();
  await peer.listen({ port: 0, host: '${HOST}' });
  tell(peer.port);
`;

/** A program that serves, with a request under way. */
async function service(network, options) {
  const program = network.program(`${SERVICE} await peer.serve(${options}); tell('served');`, { ipc: true });
  const dialer = network.peer();
  await dialer.connect(addressOf(await program.told()));
  const destination = dialer.destination('role');
  const held = destination.request('held', null);
  assert.equal(await program.told(), 'asked');
  return { program, destination, held };
}

concurrently(() => {
  for (const signal of ['SIGINT', 'SIGTERM']) {
    beyond(`${signal}: what is under way is answered, then the process ends by itself`, async (network) => {
      const { program, destination, held } = await service(network, '');
      const withdrawn = once(destination, 'close');
      program.kill(signal);
      await withdrawn;
      program.process.send('answer');
      assert.equal((await held).data, 'held');
      assert.equal(await program.told(), 'served');
      assert.deepEqual(await program.end(), { code: 0, signal: null });
    });
  }

  beyond('draining ends at its limit', async (network) => {
    const { program, held } = await service(network, '{ drain: 1 }');
    const failed = assert.rejects(held, { code: 'CONNECTION_LOST' });
    program.kill('SIGTERM');
    assert.equal(await program.told(), 'served');
    await failed;
    assert.deepEqual(await program.end(), { code: 0, signal: null });
    assert.equal(program.stderr, '');
  });

  beyond('a second signal ends the process at once', async (network) => {
    const { program, destination, held } = await service(network, '{ drain: 1_000_000 }');
    const failed = assert.rejects(held, { code: 'CONNECTION_LOST' });
    const withdrawn = once(destination, 'close');
    program.kill('SIGTERM');
    await withdrawn;
    program.kill('SIGINT');
    assert.deepEqual(await program.end(), { code: 130, signal: null });
    await failed;
  });

  beyond('a Ctrl-C that npm passes on as well is one, and a later one the second', async (network) => {
    const program = network.program(
      `const peer = new Peer();
       process.on('SIGINT', () => tell('interrupted'));
       process.on('message', () => clock.advance(501).then(() => tell('later')));
       process.channel.unref();
       await peer.listen({ port: 0, host: '${HOST}' });
       peer.role('role').onRequest('never', () => void tell('serves'));
       const { unit } = await peer.connect('ws://${HOST}:' + peer.port);
       peer.destination('role').request({ event: 'never', unit }, null);
       peer.serve({ drain: 1_000_000 });`,
      { ipc: true, clock: true },
    );
    assert.equal(await program.told(), 'serves');
    for (let n = 0; n < 2; n++) {
      program.kill('SIGINT');
      assert.equal(await program.told(), 'interrupted');
    }
    program.process.send('wait');
    assert.equal(await program.told(), 'later');
    program.kill('SIGINT');
    assert.equal(await program.told(), 'interrupted');
    assert.deepEqual(await program.end(), { code: 130, signal: null });
  });

  beyond('several peers are drained by one signal, and their listeners are gone', async (network) => {
    const program = network.program(`
      process.on('warning', (warning) => tell(String(warning)));
      const peers = Array.from({ length: 12 }, () => new Peer());
      for (const peer of peers) await peer.listen({ port: 0, host: '${HOST}' });
      const served = Promise.all(peers.map((peer) => peer.serve()));
      tell(process.listenerCount('SIGTERM'));
      await served;
      tell(process.listenerCount('SIGTERM') + process.listenerCount('SIGINT'));
    `);
    assert.equal(await program.told(), 1);
    program.kill('SIGTERM');
    assert.equal(await program.told(), 0);
    assert.deepEqual(await program.end(), { code: 0, signal: null });
  });

  beyond('a peer that only dials serves, too', async (network) => {
    const port = await network.unusedPort();
    const program = network.program(`
      const peer = new Peer().unref();
      peer.connect('${addressOf(port)}');
      peer.ref();
      setImmediate(tell, 'serves');
      await peer.serve();
      tell('served');
    `);
    assert.equal(await program.told(), 'serves');
    program.kill('SIGTERM');
    assert.equal(await program.told(), 'served');
    assert.deepEqual(await program.end(), { code: 0, signal: null });
  });

  beyond('it ends when the peer is closed, and does not begin when it was', async (network) => {
    const peer = await network.listener();
    const before = process.listenerCount('SIGTERM');
    const served = peer.serve();
    assert.equal(process.listenerCount('SIGTERM'), before + 1);
    peer.close();
    await served;
    assert.equal(process.listenerCount('SIGTERM'), before);
    await peer.serve();
  });
});
