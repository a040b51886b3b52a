'use strict';

// Certificates and keys that change while peers run.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { makeCertificates } = require('./support/certificates');
const { HOST } = require('./support/network');
const { beyond } = require('./support/subject');

const NAMES = ['a', 'b', 'c', 'd'];
const { ca, ...issued } = makeCertificates(Object.fromEntries(NAMES.map((name) => [name, `DNS:localhost,IP:${HOST}`])));
const stranger = makeCertificates({ a: `DNS:localhost,IP:${HOST}` });
const DATA = path.resolve(__dirname, '../../tests/data/tls');
const expired = { cert: fs.readFileSync(path.join(DATA, 'expired.pem')), key: fs.readFileSync(path.join(DATA, 'key.pem')) };

/** A directory whose files take the place of others whole. */
class Files {
  constructor(t) {
    this.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'roletalk-reload-'));
    t.after(() => fs.rmSync(this.directory, { recursive: true }));
    this.certFile = path.join(this.directory, 'tls.crt');
    this.keyFile = path.join(this.directory, 'tls.key');
    this.caFile = path.join(this.directory, 'ca.crt');
  }

  put(file, content) {
    fs.writeFileSync(`${file}.new`, content);
    fs.renameSync(`${file}.new`, file);
  }

  identity({ cert, key }) {
    this.put(this.certFile, cert);
    this.put(this.keyFile, key);
  }

  get options() {
    const { certFile, keyFile, caFile } = this;
    return { certFile, keyFile, caFile };
  }
}

function filesWith(t, identity, authorities = ca) {
  const files = new Files(t);
  files.identity(identity);
  files.put(files.caFile, authorities);
  return files;
}

const secure = (listener) => `wss://${HOST}:${listener._port}`;

/** Connects somebody new, who leaves again. */
async function dial(network, listener, options) {
  const newcomer = network.peer({ friendly: false });
  try {
    await newcomer.connect(secure(listener), { permanent: false, ...options });
  } finally {
    await new Promise((resolve) => newcomer.close(resolve));
  }
}

/** Requests and new connections all the time, until they are ended. */
function load(network, destination, listener, options) {
  const state = { requests: 0, handshakes: 0, ended: false };
  const over = (work) => (async () => {
    while (!state.ended) await work();
  })();
  const tasks = [
    over(async () => {
      assert.equal((await destination.request('echo', 7)).data, 7);
      state.requests++;
    }),
    over(async () => {
      await dial(network, listener, options);
      state.handshakes++;
    }),
  ];
  const failed = Promise.all(tasks);
  return {
    /** Waits until both have gone on. */
    async goOn() {
      const { requests, handshakes } = state;
      while (state.requests === requests || state.handshakes === handshakes) {
        await Promise.race([failed, new Promise((resolve) => setTimeout(resolve, 1))]);
      }
    },
    async end() {
      state.ended = true;
      await failed;
    },
  };
}

beyond('certificates rotate under load, and nothing fails', async (network, t) => {
  const files = filesWith(t, issued.a);
  const listener = await network.listener({ ssl: files.options });
  listener.role('role').onRequest('echo', (ctx, cb) => cb(null, ctx.data));
  const dialer = network.peer({ name: 'dialer', friendly: false });
  await dialer.connect(secure(listener), files.options);
  const destination = dialer.destination('role');
  await destination.whenReady();
  const going = load(network, destination, listener, files.options);
  for (let n = 1; n <= 100; n++) {
    const identity = issued[NAMES[n % NAMES.length]];
    if (n % 2 === 0) {
      files.identity(identity);
      await Promise.all([listener.reloadTls(), dialer.reloadTls()]);
    } else {
      listener.replaceTls(identity);
    }
    await going.goOn();
  }
  await going.end();
  assert.ok(listener.tlsExpires > new Date() && dialer.tlsExpires > new Date());
});

beyond('authorities change on both sides', async (network, t) => {
  const files = filesWith(t, issued.a);
  const listener = await network.listener({ ssl: files.options });
  const dialer = filesWith(t, issued.b);
  await dial(network, listener, dialer.options);
  // The new one is not trusted yet, by anyone.
  await assert.rejects(dial(network, listener, { ...stranger.a, ca }));
  for (const side of [files, dialer]) side.put(side.caFile, Buffer.concat([ca, stranger.ca]));
  files.identity(stranger.a);
  await listener.reloadTls();
  await dial(network, listener, dialer.options);
  files.put(files.caFile, stranger.ca);
  await listener.reloadTls();
  await assert.rejects(dial(network, listener, dialer.options));
  await dial(network, listener, { ...stranger.a, ca: stranger.ca });
});

beyond('files are watched, and what cannot be used changes nothing', async (network, t) => {
  const files = filesWith(t, issued.a);
  const listener = await network.listener({ ssl: { ...files.options, watch: 5 } });
  const dialer = network.peer();
  const trusting = { ...issued.d, ca };
  await dialer.connect(secure(listener), { ...files.options, watch: 5 });
  /** The next event that says this. */
  const told = (peer, event, fits) =>
    new Promise((resolve) => {
      peer.on(event, function heard(info) {
        if (!fits(info)) return;
        peer.removeListener(event, heard);
        resolve(info);
      });
    });
  const bad = {
    'ends within a certificate': { cert: issued.b.cert.subarray(0, 300), key: issued.b.key },
    'has no certificate': { cert: '', key: issued.b.key },
    'has expired on': expired,
    'key values mismatch': { cert: issued.b.cert, key: issued.c.key },
    'None of the authorities is valid': { ...issued.b, ca: expired.cert },
  };
  let good = issued.c;
  for (const [says, { ca: authorities, ...identity }] of Object.entries(bad)) {
    // What is in force already is no change.
    good = good === issued.c ? issued.d : issued.c;
    const before = listener.tlsExpires;
    const failures = [listener, dialer].map((peer) =>
      told(peer, 'tls_reload_fail', ({ error }) => error.message.includes(says)));
    if (authorities) files.put(files.caFile, authorities);
    files.identity(identity);
    for (const { error } of await Promise.all(failures)) {
      assert.equal(error.code, 'TLS');
      assert.ok(error.message.includes(files.certFile), error.message);
      assert.match(error.message, /what was in force stays/);
    }
    await assert.rejects(listener.reloadTls(), (error) => error.code === 'TLS' && error.message.includes(says));
    assert.deepEqual(listener.tlsExpires, before);
    await dial(network, listener, trusting);
    const successes = [listener, dialer].map((peer) => told(peer, 'tls_reload_success', () => true));
    files.put(files.caFile, ca);
    files.identity(good);
    for (const { expires } of await Promise.all(successes)) assert.ok(expires > new Date());
    await dial(network, listener, trusting);
  }
});

beyond('directories behind a link are watched', async (network, t) => {
  const files = new Files(t);
  const version = (name, { cert, key }) => {
    const directory = path.join(files.directory, name);
    fs.mkdirSync(directory);
    fs.writeFileSync(path.join(directory, 'tls.crt'), cert);
    fs.writeFileSync(path.join(directory, 'tls.key'), key);
    fs.symlinkSync(name, path.join(files.directory, '..data.new'));
    fs.renameSync(path.join(files.directory, '..data.new'), path.join(files.directory, '..data'));
  };
  version('1', issued.a);
  for (const file of [files.certFile, files.keyFile]) {
    fs.symlinkSync(path.join('..data', path.basename(file)), file);
  }
  const { certFile, keyFile } = files;
  const listener = await network.listener({ ssl: { certFile, keyFile, watch: 5 } });
  const failures = [];
  listener.on('tls_reload_fail', (info) => failures.push(info));
  const changed = once(listener, 'tls_reload_success');
  version('2', stranger.a);
  await changed;
  await dial(network, listener, { ca: stranger.ca });
  assert.deepEqual(failures, []);
});

beyond('options of connect are taken as they are at each attempt', async (network) => {
  const listener = await network.listener({ ssl: { ...issued.a, ca, requestCert: true, rejectUnauthorized: true } });
  const dialer = network.peer();
  const options = { ca: stranger.ca, ...issued.b };
  const { promise, resolve } = Promise.withResolvers?.() ?? withResolvers();
  dialer.on('reconnect_success', resolve);
  await assert.rejects(dialer.connect(secure(listener), options));
  options.ca = ca;
  await promise;
});

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve) => (made.resolve = resolve));
  return made;
}

beyond('what listens without files is replaced, and not reloaded', async (network) => {
  const listener = await network.listener({ ssl: issued.a });
  await listener.reloadTls();
  assert.ok(listener.tlsExpires > new Date());
  assert.throws(() => listener.replaceTls({ cert: issued.b.cert }), { code: 'TLS', message: /mismatch/ });
  assert.throws(() => listener.replaceTls({ ...issued.b, cert: 'x' }), { code: 'TLS', message: /no certificate/ });
  assert.throws(() => listener.replaceTls(expired), { code: 'TLS', message: /has expired/ });
  await dial(network, listener, { ca });
  const changed = once(listener, 'tls_reload_success');
  listener.replaceTls(stranger.a);
  assert.ok((await changed)[0].expires > new Date());
  await dial(network, listener, { ca: stranger.ca });
  await assert.rejects(dial(network, listener, { ca }));
  assert.throws(() => network.peer().replaceTls(issued.a), { code: 'INVALID_ARGUMENT' });
});

beyond('files that are not there are an error of listen and of connect', async (network, t) => {
  const files = filesWith(t, issued.a);
  const listener = await network.listener({ ssl: files.options });
  const { certFile, keyFile } = files;
  const missing = path.join(files.directory, 'missing');
  const peer = network.peer();
  assert.throws(() => peer.listen({ port: 0, ssl: { certFile: missing, keyFile } }), { code: 'TLS', message: /ENOENT/ });
  await assert.rejects(peer.connect(secure(listener), { caFile: missing }), { code: 'TLS', message: /ENOENT/ });
  assert.throws(() => peer.listen({ port: 0, ssl: { certFile, keyFile, cert: 'x' } }), { code: 'INVALID_ARGUMENT' });
  assert.throws(() => peer.listen({ port: 0, ssl: { certFile, keyFile, watch: -1 } }), { code: 'INVALID_ARGUMENT' });
  // Nothing has happened.
  await peer.listen({ port: 0, host: HOST, ssl: { certFile, keyFile } });
  await dial(network, peer, { ca });
});

beyond('watching keeps no process alive, and ends with the peer', async (network, t) => {
  const files = filesWith(t, issued.a);
  const program = `
    const { certFile, keyFile } = ${JSON.stringify(files.options)};
    const peer = new Peer();
    await peer.listen({ port: 0, host: '${HOST}', ssl: { certFile, keyFile, watch: 10 } });
    peer.close();
  `;
  assert.deepEqual(await network.program(program).end(), { code: 0, signal: null });
});

beyond('a preshared key is taken away', async (network) => {
  const listener = await network.listener();
  listener.addPresharedKey('old', '1').addPresharedKey('new', '2');
  const joins = async (id, key) => {
    const peer = network.peer({ friendly: false }).addPresharedKey(id, key);
    await peer.connect(network.address(listener), { permanent: false });
  };
  await joins('old', '1');
  assert.equal(listener.removePresharedKey('old'), true);
  await assert.rejects(joins('old', '1'), { code: 'AUTH_REFUSED' });
  await joins('new', '2');
  assert.equal(listener.removePresharedKey('old'), false);
  assert.throws(() => listener.removePresharedKey(), /type string/);
  // Those that are connected stay.
  while (listener.units.length < 2) await once(listener, 'unit');
});
