'use strict';

// What users do wrong, and what they are told: the rows of tests/data/mistakes.json, one test each. The other
// languages have the same.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { readFileSync } = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { test } = require('node:test');
const { Peer } = require('..');

const DATA = path.join(__dirname, '../../tests/data');
const rows = JSON.parse(readFileSync(path.join(DATA, 'mistakes.json'), 'utf8'));
const pem = (name) => readFileSync(path.join(DATA, 'tls', `${name}.pem`));
const trusting = { ca: pem('ca') };
const serving = (certificate = 'localhost') => ({ cert: pem(certificate), key: pem('key') });

function own(t, options) {
  const peer = new Peer(options);
  t.after(() => peer.close());
  return peer;
}

async function listening(t, options, peerOptions) {
  const service = own(t, { name: 'service', ...peerOptions });
  await service.listen({ port: 0, host: '127.0.0.1', ...options });
  return service;
}

function dial(t, address, options, client = own(t, { name: 'client' })) {
  return client.connect(address, { permanent: false, ...options });
}

async function overTls(t, server, client, scheme = 'wss') {
  const service = await listening(t, { ssl: server });
  await dial(t, `${scheme}://localhost:${service._port}`, client);
}

async function withKeys(t, service, client) {
  const one = await listening(t);
  const two = own(t, { name: 'client' });
  for (const [id, key] of Object.entries(service)) one.addPresharedKey(id, key);
  for (const [id, key] of Object.entries(client)) two.addPresharedKey(id, key);
  await dial(t, `ws://127.0.0.1:${one._port}`, {}, two);
}

/** Dials a listener that answers the upgrade with this, or with nothing. */
async function answering(t, answer) {
  const server = net.createServer((socket) => {
    t.after(() => socket.destroy());
    socket.on('error', () => {});
    if (answer) socket.once('data', () => socket.end(answer));
  });
  t.after(() => server.close());
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  await dial(t, `ws://127.0.0.1:${server.address().port}`, { handshakeTimeout: 50 });
}

async function asking(t) {
  const service = await listening(t);
  const math = service.role('math');
  math.onRequest('add', (_ctx, answer) => answer(null, null));
  math.onRequest('slow', () => {});
  const client = own(t, { name: 'client' });
  await client.connect(`ws://127.0.0.1:${service._port}`);
  const destination = client.destination('math');
  await destination.whenReady();
  return { service, client, destination };
}

const mistakes = {
  'port closed': async (t) => {
    const server = net.createServer();
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address();
    await new Promise((resolve) => server.close(resolve));
    await dial(t, `ws://127.0.0.1:${port}`);
  },
  'name unknown': (t) => dial(t, 'ws://no..name:9000'),
  'silent port': (t) => answering(t),
  'TLS against a plain port': async (t) => {
    const service = await listening(t);
    await dial(t, `wss://localhost:${service._port}`, trusting);
  },
  'plain against a TLS port': (t) => overTls(t, serving(), {}, 'ws'),
  'certificate of an unknown authority': (t) => overTls(t, serving(), {}),
  'certificate expired': (t) => overTls(t, serving('expired'), trusting),
  'certificate of another host': (t) => overTls(t, serving('other-name'), trusting),
  'client certificate missing': (t) =>
    overTls(t, { ...serving(), ca: pem('ca'), requestCert: true, rejectUnauthorized: true }, trusting),
  'no key': (t) => withKeys(t, { k: 'secret' }, {}),
  'wrong key': (t) => withKeys(t, { k: 'secret' }, { k: 'other' }),
  'no common key': (t) => withKeys(t, { k: 'secret' }, { l: 'secret' }),
  'path refused': async (t) => {
    const service = await listening(t, { path: '/mesh' });
    await dial(t, `ws://127.0.0.1:${service._port}/other`);
  },
  'origin refused': (t) => answering(t, 'HTTP/1.1 403 Forbidden\r\n\r\n'),
  'address without a scheme': (t) => dial(t, 'localhost'),
  'port out of range': (t) => dial(t, 'ws://localhost:99999'),
  'empty address': (t) => dial(t, ''),
  'role not served': async (t) => (await asking(t)).client.destination('meth').request('add'),
  'event mistyped': async (t) => (await asking(t)).destination.request('ad'),
  'not serializable': async (t) => {
    const loop = {};
    loop.loop = loop;
    await (await asking(t)).destination.request('add', loop);
  },
  'too large': async (t) => (await asking(t)).destination.request('add', Buffer.alloc(101 << 20)),
  timeout: async (t) => (await asking(t)).destination.request({ event: 'slow', timeout: 10 }),
  'unit lost': async (t) => {
    const { service, destination } = await asking(t);
    const request = destination.request('slow');
    service.close();
    await request;
  },
  'closed peer': async (t) => {
    const { client, destination } = await asking(t);
    client.close();
    await destination.request('add');
  },
  'port in use': async (t) => {
    const service = await listening(t);
    await listening(t, { port: service._port });
  },
};

/** Those that 1.1.3 leaves to Node, and a peer that was closed: it can listen and connect again. */
const OTHERWISE = {
  'port in use': { code: 'EADDRINUSE' },
  'not serializable': { code: undefined },
  'closed peer': { code: 'CONNECTION_LOST', text: 'this peer, was closed' },
};

for (const { mistake, kind, hint } of rows) {
  test(mistake, async (t) => {
    const error = await mistakes[mistake](t).then(
      () => assert.fail('nothing went wrong'),
      (error) => error,
    );
    const { code, text = hint } = OTHERWISE[mistake] ?? {};
    const codes = mistake in OTHERWISE ? [code] : kind.split('|');
    assert(codes.includes(error.code), `${error.code}: ${error}`);
    assert(
      text.split('|').some((part) => error.hint?.includes(part)),
      `${error.hint} (${error})`,
    );
  });
}

test("the system's error is the cause", async (t) => {
  const refused = await mistakes['port closed'](t).catch((error) => error);
  assert.equal(refused.cause.code, 'ECONNREFUSED');
  const expired = await mistakes['certificate expired'](t).catch((error) => error);
  assert.equal(expired.cause.code, 'CERT_HAS_EXPIRED');
});

test('who waits in vain is told of the units there are', async (t) => {
  const { client } = await asking(t);
  const error = await client
    .destination('meth')
    .whenReady({ timeout: 10 })
    .catch((error) => error);
  assert.equal(error.code, 'TIMEOUT');
  assert.match(error.hint, /service \(math\)/);
});

test('a rejection says what was asked', async (t) => {
  const { service, destination } = await asking(t);
  service.role('math').onRequest('fail', (_ctx, answer) => answer('no'));
  const error = await destination.request('fail').catch((error) => error);
  assert.equal(error.hint, 'The request was for the event "fail" of the role "math" at the unit service.');
});

test('a mistyped stream is told the streams there are', async (t) => {
  const { service, destination } = await asking(t);
  service.role('math').onReadable('upload', () => {});
  service.role('math').onWritable('uploaded', () => {});
  const [error] = await once(destination.Writable('uplod'), 'error');
  assert.match(error.hint, /Did you mean "upload"\? Events of this kind: "upload"\.$/);
});

test('limits that are none leave whenReady waiting', async (t) => {
  const { client, service } = await asking(t);
  const waits = [undefined, 0, NaN, Infinity].map((timeout) => client.destination('later').whenReady({ timeout }));
  // Behind the timers of 1 ms that Node makes of what it cannot hold.
  await new Promise((resolve) => setTimeout(resolve, 5));
  service.role('later');
  await Promise.all(waits);
});
