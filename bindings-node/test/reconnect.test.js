'use strict';

// What happens when a connection is lost, and when one cannot be made yet.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { HOST, addressOf } = require('./support/network');
const { check, roletalk } = require('./support/subject');

check('a dialer that starts first gets through once the listener is there', async (network) => {
  const port = await network.unusedPort();
  const address = addressOf(port);
  const dialer = network.peer();
  const failed = once(dialer, roletalk.PEER_RECONNECT_FAIL_EVENT);
  const succeeded = once(dialer, roletalk.PEER_RECONNECT_SUCCESS_EVENT);
  const connected = once(dialer, 'unit');
  await assert.rejects(dialer.connect(address));

  const [failure, ...none] = await failed;
  assert.deepEqual(none, []);
  assert.deepEqual(Object.keys(failure).sort(), ['address', 'count', 'error']);
  assert.deepEqual([failure.address, failure.count], [address, 1]);
  assert.match(String(failure.error), /^Socket errored: Error: connect ECONNREFUSED/);

  const listener = await network.listener({ port });
  const [unit] = await connected;
  assert.equal(unit.id, listener.id);
  const [success] = await succeeded;
  assert.deepEqual(Object.keys(success).sort(), ['address', 'count']);
  assert.equal(success.address, address);
  assert.ok(success.count >= 2, `${success.count}`);
});

check("'reconnect_fail' counts the attempts", async (network) => {
  const dialer = network.peer();
  const counts = [];
  const three = new Promise((resolve) =>
    dialer.on('reconnect_fail', ({ count }) => counts.push(count) === 3 && resolve()),
  );
  await assert.rejects(dialer.connect(addressOf(await network.unusedPort())));
  await three;
  assert.deepEqual(counts, [1, 2, 3]);
});

check('the first connection is no reconnection', async (network) => {
  const listener = await network.listener();
  const dialer = network.peer();
  let events = 0;
  dialer.on('reconnect_success', () => events++);
  dialer.on('reconnect_fail', () => events++);
  await network.join(dialer, listener);
  await network.join(network.peer(), listener);
  assert.equal(events, 0);
});

check('a lost connection comes back, with a new unit on both sides, and serves again', async (network) => {
  const { listener, dialer, unit, ws, dialerUnit, role, destination } = await network.service();
  role.onRequest('e', (ctx, cb) => cb(null, 'served'));
  const events = [];
  destination.on('close', () => events.push('close'));
  destination.on('open', () => events.push('open'));
  const lost = Promise.all([once(unit, 'close'), once(dialerUnit, 'close')]);
  const back = Promise.all([once(dialer, 'unit'), once(listener, 'unit')]);
  ws.terminate();
  await lost;
  const [[newUnit], [newDialerUnit]] = await back;
  assert.equal(newUnit.id, unit.id);
  assert.notEqual(newUnit, unit);
  assert.equal(newDialerUnit.id, dialer.id);
  assert.notEqual(newDialerUnit, dialerUnit);
  assert.deepEqual(events, ['close', 'open']);
  assert.equal((await destination.request('e', null)).data, 'served');
});

check('roles that changed meanwhile are known after a reconnection, and later changes as well', async (network) => {
  const { listener, dialer, ws, role, destination } = await network.service();
  const back = Promise.all([once(dialer, 'unit'), once(listener, 'unit')]);
  ws.terminate();
  role.disable();
  await back;
  for (const change of ['enable', 'disable', 'enable']) {
    const name = change === 'enable' ? 'open' : 'close';
    if (destination.ready === (change === 'enable')) continue;
    const changed = once(destination, name);
    role[change]();
    await changed;
  }
  assert.equal(destination.ready, true);
});

check('a listener that is restarted as another process is found again', async (network) => {
  const serve = (name, port) =>
    network.program(`
      const peer = new Peer({ name: ${JSON.stringify(name)} });
      peer.role('role').onRequest('who', (ctx, cb) => cb(null, peer.name));
      await peer.listen({ port: ${port}, host: '${HOST}' });
      tell(peer._port);
    `);
  const first = serve('first', 0);
  const port = await first.told();
  const dialer = network.peer();
  const destination = dialer.destination('role');
  await dialer.connect(addressOf(port));
  assert.equal((await destination.request('who', null)).data, 'first');
  const closed = once(destination, 'close');
  first.kill();
  await closed;
  assert.equal(dialer.units.length, 0);
  const opened = once(destination, 'open');
  await serve('second', port).told();
  await opened;
  assert.equal((await destination.request('who', null)).data, 'second');
});

check('a dialer that is restarted as another process is a new unit', async (network) => {
  const listener = await network.listener();
  const dial = () =>
    network.program(
      `const peer = new Peer({ name: 'dialer' });
       peer.role('role').onRequest('pid', (ctx, cb) => cb(null, process.pid));
       await peer.connect(process.env.ADDRESS);`,
      { env: { ADDRESS: network.address(listener) } },
    );
  const destination = listener.destination('role');
  const pids = [];
  const ids = [];
  for (let n = 0; n < 2; n++) {
    const opened = once(destination, 'unit');
    const program = dial();
    const [unit] = await opened;
    ids.push(unit.id);
    pids.push((await destination.request('pid', null)).data === program.process.pid);
    const lost = once(unit, 'close');
    program.kill();
    await lost;
    assert.equal(destination.ready, false);
  }
  assert.deepEqual(pids, [true, true]);
  assert.notEqual(ids[0], ids[1]);
});

check('options of connect are used for every attempt', async (network) => {
  const http = require('node:http');
  const server = http.createServer();
  const seen = [];
  server.on('upgrade', (request) => seen.push(request.headers['x-own']));
  const listener = await network.listener({ server });
  const dialer = network.peer();
  const { peerUnit } = await network.join(dialer, listener, { headers: { 'X-Own': 'mine' } });
  const back = once(listener, 'unit');
  peerUnit.close();
  await back;
  assert.deepEqual(seen, ['mine', 'mine']);
});
