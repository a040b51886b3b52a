'use strict';

// Channel binding: a preshared key is not proved to somebody who passes on what two peers say to each other.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const https = require('node:https');
const tls = require('node:tls');
const { makeCertificates } = require('./support/certificates');
const { HOST } = require('./support/network');
const { beyond } = require('./support/subject');

const { ca, server, relay } = makeCertificates({ server: `IP:${HOST}`, relay: `IP:${HOST}` });

/** A pair with the same key, whose listener is on TLS, and the address of that. */
async function keyed(network, modes, ssl = server) {
  const [listener, dialer] = modes.map((channelBinding) => network.peer({ channelBinding }));
  for (const peer of [listener, dialer]) peer.addPresharedKey('k', 'secret');
  await listener.listen({ port: 0, host: HOST, ssl });
  return { listener, dialer, address: `${ssl ? 'wss' : 'ws'}://${HOST}:${listener.port}` };
}

/** Ends TLS with a certificate that is as good as the listener's, and passes on what it reads. */
async function relaying(network, port, certificate = relay) {
  const between = tls.createServer(certificate, (inner) => {
    const outer = tls.connect({ port, host: HOST, rejectUnauthorized: false });
    inner.pipe(outer).pipe(inner);
    for (const socket of [inner, outer]) {
      socket.on('error', () => {}).on('close', () => [inner, outer].forEach((other) => other.destroy()));
    }
  });
  await network.serve(between);
  return `wss://${HOST}:${between.address().port}`;
}

const DIRECT = [
  ['prefer', 'prefer'],
  ['require', 'require'],
  ['disable', 'disable'],
  ['disable', 'prefer'],
  [undefined, 'require'],
];

for (const versions of ['TLSv1.2', 'TLSv1.3']) {
  for (const modes of DIRECT) {
    beyond(`${versions}, with ${modes.join(' and ')}: peers with the same key connect`, async (network) => {
      const ssl = { ...server, minVersion: versions, maxVersion: versions };
      const { listener, dialer, address } = await keyed(network, modes, ssl);
      const accepted = once(listener, 'unit');
      const { unit, ws } = await dialer.connect(address, { ca });
      assert.equal(ws._socket.getProtocol(), versions);
      assert.equal(unit.identity.key, 'k');
      assert.equal((await accepted)[0].identity.key, 'k');
    });
  }

  for (const modes of [['prefer', 'prefer'], ['require', 'require'], [undefined, undefined]]) {
    beyond(`${versions}, with ${modes.join(' and ')}: no key is proved to a relay`, async (network) => {
      const ssl = { ...server, minVersion: versions, maxVersion: versions };
      const { listener, dialer, address } = await keyed(network, modes, ssl);
      const told = [];
      for (const peer of [listener, dialer]) peer.on('auth_error', (error) => told.push(String(error)));
      const relayed = await relaying(network, listener.port);
      await assert.rejects(dialer.connect(relayed, { ca, permanent: false }), { code: 'AUTH_REFUSED' });
      assert.ok(told.some((text) => text.includes('The challenge is for another TLS connection')), told.join('\n'));
      assert.deepEqual([listener.units, dialer.units], [[], []]);
      // It is not for another reason.
      await dialer.connect(address, { ca });
    });
  }

  beyond(`${versions}: nor is it to a relay that has the key of the certificate`, async (network) => {
    const ssl = { ...server, minVersion: versions, maxVersion: versions };
    const { listener, dialer } = await keyed(network, ['prefer', 'prefer'], ssl);
    const relayed = await relaying(network, listener.port, server);
    await assert.rejects(dialer.connect(relayed, { ca, permanent: false }), { code: 'AUTH_REFUSED' });
  });

  beyond(`${versions}, with disable: a proxy may end TLS`, async (network) => {
    const ssl = { ...server, minVersion: versions, maxVersion: versions };
    const { listener, dialer } = await keyed(network, ['disable', 'disable'], ssl);
    const { unit } = await dialer.connect(await relaying(network, listener.port), { ca });
    assert.equal(unit.id, listener.id);
  });
}

beyond("a relay in front of somebody's own server is seen, too", async (network) => {
  const listener = network.peer();
  const dialer = network.peer();
  for (const peer of [listener, dialer]) peer.addPresharedKey('k', 'secret');
  listener.prepareWSServer();
  const own = https.createServer(server);
  own.on('upgrade', (request, socket, head) => listener.handleUpgrade(request, socket, head));
  await network.serve(own);
  const { port } = own.address();
  await assert.rejects(dialer.connect(await relaying(network, port), { ca, permanent: false }), { code: 'AUTH_REFUSED' });
  const { unit } = await dialer.connect(`wss://${HOST}:${port}`, { ca });
  assert.equal(unit.id, listener.id);
});

beyond('without TLS there is nothing to bind to', async (network) => {
  const required = await keyed(network, ['require', 'require'], null);
  const told = once(required.dialer, 'auth_error');
  await assert.rejects(required.dialer.connect(required.address, { permanent: false }), { code: 'AUTH_REFUSED' });
  assert.match(String((await told)[0]), /The challenge does not name the TLS connection/);
  const preferred = await keyed(network, ['prefer', 'prefer'], null);
  await preferred.dialer.connect(preferred.address);
});

beyond("over TLS, a peer's id belongs to its own key, and nobody else can claim it", async (network) => {
  const { listener, address } = await keyed(network, ['prefer', 'prefer']);
  const peerKey = Buffer.alloc(32, 7);
  const units = [];
  for (const channelBinding of ['prefer', 'disable']) {
    const dialer = network.peer({ peerKey, channelBinding });
    dialer.addPresharedKey('k', 'secret');
    const accepted = once(listener, 'unit');
    await dialer.connect(address, { ca });
    units.push((await accepted)[0]);
    assert.ok(dialer.id.startsWith('key-e50a7f8568aaf6101bdc247ab2137e3d52f6158e-'));
  }
  // The same key, two processes.
  const [one, other] = units;
  assert.equal(one.identity.peer, 'key-e50a7f8568aaf6101bdc247ab2137e3d52f6158e');
  assert.equal(other.identity.peer, one.identity.peer);
  assert.notEqual(one.id, other.id);
});
