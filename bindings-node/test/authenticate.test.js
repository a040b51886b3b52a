'use strict';

// The application's judgement of whoever asks for an upgrade.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const http = require('node:http');
const net = require('node:net');
const { makeCertificates } = require('./support/certificates');
const { HOST, until } = require('./support/network');
const { WAYS, askForUpgrade } = require('./support/upgrade');
const { beyond } = require('./support/subject');

const { ca, server, client } = makeCertificates({
  server: `DNS:localhost,IP:${HOST}`,
  client: 'DNS:client.example,URI:spiffe://prod/client',
});

/** A listener that lets in whoever has a token, and knows by that who it is. */
function guarded(network, options) {
  return network.peer({
    authenticate: async ({ headers }) => {
      const [, sub] = /^Bearer (\S+)$/.exec(headers.authorization) ?? [];
      if (sub === undefined) throw Object.assign(new Error('no token'), { status: 401 });
      return { sub, groups: ['staff'] };
    },
    ...options,
  });
}

const bearer = (token) => ({ headers: { authorization: `Bearer ${token}` } });

for (const [way, prepare] of Object.entries(WAYS)) {
  beyond(`${way}: claims reach the identity and the policy`, async (network) => {
    const policy = { rules: [{ who: { claim: { groups: 'staff', sub: 'ann' } }, call: ['role'] }] };
    const listener = guarded(network, { policy });
    listener.role('role').onRequest('e', ({ unit }) => unit.identity.claims);
    const port = await prepare(network, listener, server);
    const isSecure = way.includes('ssl');
    const address = `${isSecure ? 'wss' : 'ws'}://${HOST}:${port}`;
    const dialing = async (token) => {
      const dialer = network.peer();
      await dialer.connect(address, { ca, ...bearer(token) });
      return (await dialer.destination('role').whenReady()).request('e');
    };
    assert.deepEqual((await dialing('ann')).data, { sub: 'ann', groups: ['staff'] });
    await assert.rejects(dialing('bob'), { message: 'Not allowed by the policy of the peer' });
    const { status, headers, socket } = await askForUpgrade(network, { port, ssl: isSecure });
    assert.equal(status, 401);
    assert.equal(headers['www-authenticate'], 'Bearer');
    if (!socket.closed) await once(socket, 'close');
    assert.equal(listener.units.length, 2);
    await assert.rejects(network.peer().connect(address, { ca, permanent: false }), {
      message: 'Socket errored: Error: Unexpected server response: 401',
    });
  });
}

const failing = (status) => Object.assign(new Error('no'), { status });
const thenable = (value) => ({ then: (resolve) => resolve(value) });

/** What the function does, and the status of the answer. */
const VERDICTS = {
  'returns claims': [() => ({}), 101],
  'returns a promise of claims': [async () => ({ sub: 'a' }), 101],
  'returns something that is like a promise': [() => thenable({ sub: 'a' }), 101],
  'returns false': [() => false, 403],
  'returns a promise of false': [async () => false, 403],
  'throws': [() => { throw new Error('no'); }, 403],
  'rejects': [async () => { throw new Error('no'); }, 403],
  'throws nothing': [() => { throw undefined; }, 403],
  'throws with 401': [() => { throw failing(401); }, 401],
  'rejects with 404': [async () => { throw failing(404); }, 404],
  'rejects with 503': [async () => { throw failing(503); }, 503],
  'rejects with a status without a name': [async () => { throw failing(499); }, 499],
  'rejects with 200': [async () => { throw failing(200); }, 403],
  'rejects with a status that is a text': [async () => { throw failing('401'); }, 403],
  'rejects with something without texts': [async () => { throw Object.create(null, { status: { get() { throw new Error('no'); } } }); }, 403],
};

/** What it should not do. */
const MISTAKES = {
  'returns nothing': [() => {}, /has returned undefined: it should return an object of claims/],
  'returns a promise of nothing': [async () => {}, /has returned undefined/],
  'returns true': [() => true, /has returned true/],
  'returns null': [() => null, /has returned null/],
  'returns a text': [() => 'ann', /has returned string/],
  'returns a list': [() => ['ann'], /claims are no JSON object/],
  'returns too much': [() => ({ sub: 'x'.repeat(10_000) }), /claims have \d+ bytes of JSON, 8192 are allowed/],
  'returns what JSON does not have': [() => ({ sub: 5n }), /cannot be written as JSON/],
  'returns something whose then cannot be had': [() => ({ get then() { throw failing(500); } }), null],
};

beyond('what the function does is how the upgrade is answered', async (network) => {
  for (const [name, [authenticate, expected]] of Object.entries(VERDICTS)) {
    const peer = network.peer({ authenticate });
    await peer.listen({ port: 0, host: HOST });
    const { status } = await askForUpgrade(network, { port: peer.port });
    assert.equal(status, expected, name);
  }
});

for (const [name, [authenticate, message]] of Object.entries(MISTAKES)) {
  beyond(`a function that ${name} lets nobody in`, async (network) => {
    const peer = network.peer({ authenticate });
    await peer.listen({ port: 0, host: HOST });
    const warned = message === null ? null : once(process, 'warning');
    const { status } = await askForUpgrade(network, { port: peer.port });
    assert.equal(status, 500);
    if (warned === null) return;
    const [warning] = await warned;
    assert.equal(warning.name, 'RoletalkAuthenticateWarning');
    assert.match(warning.message, message);
  });
}

beyond('the function is given path, headers, address, certificate and the request', async (network) => {
  const given = [];
  const listener = network.peer({
    authenticate: (request) => {
      given.push(request);
      return { sub: 'a' };
    },
  });
  await listener.listen({ port: 0, host: HOST, ssl: { ...server, ca, requestCert: true, rejectUnauthorized: false } });
  const join = async (path, options) => {
    const accepted = once(listener, 'unit');
    await network.peer().connect(`wss://${HOST}:${listener.port}${path}`, { ca, headers: { 'x-a': '1' }, ...options });
    return (await accepted)[0];
  };
  const known = await join('/a/b?c=d', client);
  const [first] = given;
  assert.equal(first.path, '/a/b');
  assert.equal(first.headers['x-a'], '1');
  assert.equal(first.request.url, '/a/b?c=d');
  assert.match(first.address, /^127\.0\.0\.1:\d+$/);
  assert.equal(first.address, known.identity.address);
  const { subject, names, fingerprint, expires } = first.certificate;
  assert.deepEqual([subject, names], ['CN=client', ['dns:client.example', 'uri:spiffe://prod/client']]);
  assert.match(fingerprint, /^[0-9a-f]{64}$/);
  assert.ok(expires > Date.now() / 1e3 && expires < Date.now() / 1e3 + 3 * 86_400);
  assert.deepEqual(known.identity.certificate, first.certificate);
  assert.throws(() => (first.certificate.names[0] = 'dns:other'), TypeError);
  // Without a certificate.
  const unknown = await join('/', {});
  assert.deepEqual([given[1].certificate, unknown.identity.certificate], [null, null]);
  // One that no authority has signed says nothing: anybody can make it.
  const { client: forged } = makeCertificates({ client: 'DNS:client.example,URI:spiffe://prod/client' });
  const forger = await join('/', forged);
  assert.deepEqual([given[2].certificate, forger.identity.certificate], [null, null]);
});

beyond('the dialer knows the certificate of the listener', async (network) => {
  const listener = await network.listener({ ssl: server });
  const address = `wss://${HOST}:${listener.port}`;
  const { unit } = await network.peer().connect(address, { ca });
  assert.deepEqual(unit.identity.certificate.names, ['dns:localhost', `ip:${HOST}`]);
  const { unit: unverified } = await network.peer().connect(address, { rejectUnauthorized: false });
  assert.equal(unverified.identity.certificate, null);
});

beyond('all connections of a unit have the same sub', async (network) => {
  const listener = guarded(network);
  await listener.listen({ port: 0, host: HOST });
  const address = network.address(listener);
  const dialer = network.peer();
  const { peerUnit } = await network.join(dialer, listener, bearer('ann'));
  const refused = once(listener, 'auth_error');
  // Without keys the dialer has nothing to wait for: it may hear of the refusal behind the connection.
  const connecting = dialer.connect(`${address}/2`, { ...bearer('bob'), permanent: false }).catch(() => {});
  assert.equal(String((await refused)[0]), 'A unit with this id has shown another identity');
  await connecting;
  assert.equal(peerUnit._sockets.length, 1);
  await dialer.connect(`${address}/3`, bearer('ann'));
  await until(() => peerUnit._sockets.length === 2);
  assert.equal(peerUnit.identity.claims.sub, 'ann');
});

/** A peer whose function waits: `asked` has a function for each call, which decides. */
async function waiting(network, prepare = WAYS.listen) {
  const asked = [];
  const peer = network.peer({
    authenticate: () => new Promise((resolve, reject) => asked.push({ resolve, reject })),
  });
  const port = await prepare(network, peer, server);
  return { asked, peer, port };
}

for (const way of ['listen', 'handleUpgrade']) {
  beyond(`${way}: a function that takes too long is a refusal, and nobody hears of what it brings`, async (network) => {
    const clock = network.clock();
    const { asked, peer, port } = await waiting(network, WAYS[way]);
    for (const late of [({ resolve }) => resolve({ sub: 'late' }), ({ reject }) => reject(new Error('late'))]) {
      let answer;
      const answered = askForUpgrade(network, { port }).then((told) => (answer = told));
      await until(() => asked.length === 1);
      await clock.advance(3_900);
      assert.equal(answer, undefined);
      await clock.advance(200);
      const { status, socket } = await answered;
      assert.equal(status, 503);
      late(asked.pop());
      if (!socket.closed) await once(socket, 'close');
      assert.deepEqual(peer.units, []);
      assert.equal(peer._judgings.size, 0);
    }
  });
}

beyond('with more time for upgrades, the function has more time', async (network) => {
  const clock = network.clock();
  const listen = (_network, peer) => peer.listen({ port: 0, host: HOST, handshakeTimeout: 60_000 });
  const { asked, peer } = await waiting(network, listen);
  const joined = once(peer, 'unit');
  const connecting = network.peer().connect(network.address(peer), { handshakeTimeout: 120_000 });
  await until(() => asked.length === 1);
  await clock.advance(50_000);
  asked[0].resolve({ sub: 'patient' });
  await connecting;
  assert.equal((await joined)[0].identity.claims.sub, 'patient');
});

for (const way of ['listen', 'listen with ssl', 'handleUpgrade']) {
  for (const how of ['end', 'destroy', 'resetAndDestroy']) {
    if (way.includes('ssl') && how === 'resetAndDestroy') continue;
    beyond(`${way}: whoever goes meanwhile (${how}) is gone, and the verdict is for nobody`, async (network) => {
      // No limit of time ends it.
      network.clock();
      const { asked, peer, port } = await waiting(network, WAYS[way]);
      for (const decide of [({ resolve }) => resolve({ sub: 'a' }), ({ reject }) => reject(new Error('no'))]) {
        const ssl = way.includes('ssl');
        const request = (ssl ? require('node:https') : http).get({
          host: HOST,
          port,
          agent: false,
          rejectUnauthorized: false,
          headers: {
            Connection: 'Upgrade',
            Upgrade: 'websocket',
            'Sec-WebSocket-Version': 13,
            'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
          },
        });
        request.on('error', () => {});
        await until(() => asked.length === 1);
        assert.equal(peer._judgings.size, 1);
        request.socket[how]();
        // Nobody has decided.
        await until(() => peer._judgings.size === 0);
        decide(asked.pop());
        await new Promise(setImmediate);
        assert.deepEqual(peer.units, []);
      }
    });
  }
}

beyond('bytes that come before the answer are not lost', async (network) => {
  const { FRAME } = require('./support/raw');
  const { asked, peer, port } = await waiting(network);
  const socket = net.connect(port, HOST);
  network.keep({ close: () => socket.destroy() });
  socket.write(
    'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  );
  await until(() => asked.length === 1);
  const [{ resolve }] = asked;
  const confirm = { id: 'early', roles: [], friendly: true, name: 'early', meta: {}, tags: {} };
  const body = Buffer.concat([Buffer.from([FRAME.confirm]), Buffer.from(JSON.stringify(confirm))]);
  socket.write(Buffer.concat([Buffer.from([0x82, 0x80 | body.length, 0, 0, 0, 0]), body]));
  const [judging] = peer._judgings;
  assert.ok(judging);
  const unit = once(peer, 'unit');
  resolve({ sub: 'early' });
  assert.equal((await unit)[0].identity.claims.sub, 'early');
});

beyond('close refuses those who are being judged, and waits for their sockets', async (network) => {
  const { asked, peer, port } = await waiting(network, WAYS.handleUpgrade);
  const answered = askForUpgrade(network, { port });
  answered.catch(() => {});
  await until(() => asked.length === 1);
  await new Promise((resolve) => peer.close(resolve));
  assert.equal(peer._judgings.size, 0);
  await assert.rejects(answered, { code: 'ECONNRESET' });
  // Also when it opens again before the verdict.
  peer.prepareWSServer();
  asked[0].resolve({ sub: 'a' });
  await new Promise(setImmediate);
  assert.deepEqual(peer.units, []);
});

beyond('a function that closes the peer lets nobody in', async (network) => {
  for (const wait of [false, true]) {
    const peer = network.peer({
      authenticate: () => {
        peer.close();
        return wait ? Promise.resolve({}) : {};
      },
    });
    peer.prepareWSServer();
    const refused = new Promise((resolve) => {
      const server = http.createServer();
      server.on('upgrade', (request, socket, head) => {
        socket.on('close', resolve);
        peer.handleUpgrade(request, socket, head);
      });
      network.serve(server).then(() => askForUpgrade(network, { port: server.address().port }).catch(() => {}));
    });
    await refused;
    assert.deepEqual(peer.units, []);
  }
});

beyond('only so many are judged at a time', async (network) => {
  const { asked, peer } = await waiting(network, async (_network, peer) => peer.prepareWSServer());
  const { PassThrough } = require('node:stream');
  const upgrade = () => {
    const socket = new PassThrough();
    const headers = {
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
    };
    peer.handleUpgrade({ method: 'GET', url: '/', headers }, socket, Buffer.alloc(0));
    return socket;
  };
  const { mostHandshakes: most } = peer._core.native;
  const sockets = Array.from({ length: most }, upgrade);
  assert.ok(sockets.every((socket) => !socket.destroyed));
  assert.ok(upgrade().destroyed);
  assert.equal(asked.length, most);
  await new Promise((resolve) => peer.close(resolve));
  assert.ok(sockets.every((socket) => socket.destroyed));
});

beyond('refusals are in the log, with their reason, which nobody else hears', async (network) => {
  const source = `
    const peer = new Peer({
      authenticate: async () => { throw Object.assign(new Error('no \\u001b[2Jtoken'), { status: 401 }); },
    });
    await peer.listen({ port: 0, host: '127.0.0.1' });
    const address = 'ws://127.0.0.1:' + peer.port;
    const dial = (options) => new Peer().connect(address, { permanent: false, ...options }).catch(() => {});
    await dial();
    await dial({ origin: 'https://evil.example' });
    process.exit();
  `;
  const program = network.program(source, { env: { NODE_DEBUG: 'roletalk' } });
  await program.end();
  assert.match(program.stderr, /warn: upgrade from 127\.0\.0\.1:\d+ refused with 401: "no \\u001b\[2Jtoken"/);
  assert.match(program.stderr, /warn: upgrade from 127\.0\.0\.1:\d+ refused with 403: "its origin https:\/\/evil\.example is foreign, and not among/);
});
