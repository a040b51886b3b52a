'use strict';

// wss, with certificates made here.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const https = require('node:https');
const { makeCertificates } = require('./support/certificates');
const { HOST } = require('./support/network');
const { check, differs } = require('./support/subject');

const { ca, server, client, elsewhere } = makeCertificates({
  server: `DNS:localhost,IP:${HOST}`,
  client: 'DNS:client',
  elsewhere: 'DNS:elsewhere.test',
});

const secure = (listener) => `wss://${HOST}:${listener._port}`;

const printsAs = (expected) => (error) => {
  assert.match(String(error), expected);
  return true;
};

check('listen takes ssl, and connect takes ca', async (network) => {
  const listener = await network.listener({ ssl: server });
  listener.role('role').onRequest('echo', (ctx, cb) => cb(null, ctx.data));
  const dialer = network.peer();
  const { unit } = await dialer.connect(secure(listener), { ca, rejectUnauthorized: true });
  assert.equal(unit.id, listener.id);
  const large = Buffer.alloc(300_000, 'x');
  assert.deepEqual((await dialer.destination('role').request('echo', large)).data, large);
});

check('what is asked while something is written goes out behind it, and waits for nothing else', async (network) => {
  const listener = await network.listener({ ssl: server });
  listener.role('role').onMessage('note', () => {});
  listener.role('role').onRequest('echo', (ctx, cb) => cb(null, ctx.data));
  const dialer = network.peer();
  const { ws } = await dialer.connect(secure(listener), { ca, rejectUnauthorized: true });
  // What sends the rest otherwise: one comes every two seconds.
  let heartbeats = 0;
  ws.on('ping', () => heartbeats++);
  ws.on('pong', () => heartbeats++);
  const destination = dialer.destination('role');
  const ROUNDS = 12;
  for (let n = 0; n < ROUNDS; n++) {
    destination.send('note', n);
    // The message is given to the socket, which tells of it later.
    await new Promise(process.nextTick);
    await destination.request('echo', n);
  }
  assert.ok(heartbeats < ROUNDS / 2, `${heartbeats} heartbeats during ${ROUNDS} requests`);
});

check('an https address is dialed as a wss one', async (network) => {
  const listener = await network.listener({ ssl: server });
  const address = secure(listener).replace('wss', 'https');
  const { unit, ws } = await network.peer().connect(address, { ca, rejectUnauthorized: true });
  assert.equal(unit.id, listener.id);
  assert.equal(ws.url, address);
});

check('listen takes an https server', async (network) => {
  const given = https.createServer(server);
  const listener = await network.listener({ server: given });
  assert.equal(given.address().port, listener._port);
  const { unit } = await network.peer().connect(secure(listener), { ca, rejectUnauthorized: true });
  assert.equal(unit.id, listener.id);
  assert.equal(listener.close(), given);
});

check('a listener with ssl makes an https server', async (network) => {
  const listener = await network.listener({ ssl: server });
  assert.ok(listener.close() instanceof https.Server);
});

check('rejectUnauthorized: false connects to anyone', async (network) => {
  const listener = await network.listener({ ssl: elsewhere });
  const { unit } = await network.peer().connect(secure(listener), { rejectUnauthorized: false });
  assert.equal(unit.id, listener.id);
});

check('rejectUnauthorized: true refuses an unknown authority', async (network) => {
  const listener = await network.listener({ ssl: server });
  await assert.rejects(
    network.peer().connect(secure(listener), { rejectUnauthorized: true }),
    printsAs(/^Socket errored: Error: (self-signed certificate|unable to (get local issuer|verify the first) certificate)/),
  );
  assert.deepEqual(listener.units, []);
});

check('a certificate for another name is refused, unless it is the servername asked for', async (network) => {
  const listener = await network.listener({ ssl: elsewhere });
  const options = { ca, rejectUnauthorized: true };
  await assert.rejects(
    network.peer().connect(secure(listener), options),
    printsAs(/^Socket errored: Error.*Hostname\/IP does not match certificate's altnames/),
  );
  const { unit } = await network.peer().connect(secure(listener), { ...options, servername: 'elsewhere.test' });
  assert.equal(unit.id, listener.id);
});

check('client certificates are asked for and given', async (network) => {
  const ssl = { ...server, ca, requestCert: true, rejectUnauthorized: true };
  const listener = await network.listener({ ssl });
  const options = { ca, rejectUnauthorized: true };
  await assert.rejects(network.peer().connect(secure(listener), options), printsAs(/^Socket errored: Error/));
  assert.deepEqual(listener.units, []);
  const { unit } = await network.peer().connect(secure(listener), { ...options, ...client });
  assert.equal(unit.id, listener.id);
});

check('ws to a wss listener, and wss to a ws listener, reject', async (network) => {
  const [plain, tls] = [await network.listener(), await network.listener({ ssl: server })];
  await assert.rejects(network.peer().connect(network.address(tls)), printsAs(/^Socket errored: Error/));
  await assert.rejects(network.peer().connect(secure(plain), { ca }), printsAs(/^Socket errored: Error/));
  assert.deepEqual([plain.units, tls.units], [[], []]);
});

check('a wss connection comes back with its options', async (network) => {
  const listener = await network.listener({ ssl: server });
  const dialer = network.peer();
  const { peerUnit } = await (async () => {
    const accepted = once(listener, 'unit');
    await dialer.connect(secure(listener), { ca, rejectUnauthorized: true });
    return { peerUnit: (await accepted)[0] };
  })();
  const back = once(dialer, 'unit');
  peerUnit.close();
  assert.equal((await back)[0].id, listener.id);
});

differs('certificates are verified unless told otherwise', 'it accepts every certificate', async (network) => {
  const listener = await network.listener({ ssl: server });
  await assert.rejects(
    network.peer().connect(secure(listener)),
    printsAs(/^Socket errored: Error: (self-signed certificate|unable to (get local issuer|verify the first) certificate)/),
  );
  assert.deepEqual(listener.units, []);
});
