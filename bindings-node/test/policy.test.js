'use strict';

// Policies: who may call and serve what; and identities, which they go by.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const fs = require('node:fs/promises');
const os = require('node:os');
const path = require('node:path');
const { until } = require('./support/network');
const { FRAME } = require('./support/raw');
const { beyond } = require('./support/subject');

const NOT_ALLOWED = 'Not allowed by the policy of the peer';

/** What a handler does with each kind, and how that is called. `what` is the name that policies have for the kind. */
const CALLS = {
  message: { what: 'message', call: (destination) => void destination.send('e') },
  broadcast: { what: 'message', call: (destination) => destination.broadcast('e') },
  request: { what: 'request', call: (destination) => destination.request('e') },
  survey: {
    what: 'request',
    call: async (destination) => {
      for await (const { error } of destination.survey('e')) if (error) throw error;
    },
  },
  'a stream that the requester writes': {
    what: 'readable',
    call: async (destination) => {
      const writable = destination.Writable('e');
      await once(writable, 'ready');
      writable.end();
      await once(writable, 'close');
    },
  },
  'a stream that the requester reads': {
    what: 'writable',
    call: async (destination) => {
      const readable = destination.Readable('e');
      await once(readable, 'ready');
      readable.resume();
      await once(readable, 'close');
    },
  },
};

const KINDS = ['message', 'request', 'readable', 'writable'];

/** Rules about the calls of one kind, and whether it is allowed. */
const POLICIES = {
  'no policy': () => [null, true],
  'a rule that allows it': () => [{ rules: [{ who: { key: 'a' }, call: ['role/e'] }] }, true],
  'a pattern that allows it': () => [{ rules: [{ who: 'any', call: ['ro*'] }] }, true],
  'a rule for its kind': (what) => [{ rules: [{ who: 'any', call: [{ role: 'role', kinds: [what] }] }] }, true],
  'a rule for other kinds': (what) => {
    const kinds = KINDS.filter((kind) => kind !== what);
    return [{ rules: [{ who: 'any', call: [{ role: 'role', kinds }] }] }, false];
  },
  'a rule for another event': () => [{ rules: [{ who: 'any', call: ['role/f'] }] }, false],
  'a rule for another key': () => [{ rules: [{ who: { key: 'b' }, call: ['*'] }] }, false],
  'no rule': () => [{ rules: [] }, false],
  'no rule, and all allowed': () => [{ default: 'allow' }, true],
  'no rule, and all allowed but calls': () => [{ default: { serve: 'allow' } }, false],
  'a rule that denies what another one allows': () => [
    { default: 'allow', rules: [{ who: 'any', call: ['*'] }, { who: { key: 'a' }, deny: { call: ['role/e'] } }] },
    false,
  ],
};

/** `fence` is always allowed. */
function withFence(policy) {
  return policy && { ...policy, rules: [...(policy.rules ?? []), { who: 'any', call: ['role/fence'] }] };
}

/** A pair with a key, whose listener has a role with a handler for each kind, which note what they were called for. */
async function governed(network, policy) {
  const listener = network.peer({ name: 'listener', policy });
  listener.addPresharedKey('a', '1');
  await listener.listen({ port: 0, host: '127.0.0.1' });
  const dialer = network.peer({ name: 'dialer' });
  dialer.addPresharedKey('a', '1');
  const called = [];
  const role = listener.role('role');
  role.onMessage('e', () => called.push('message'));
  role.onRequest('e', () => called.push('request'));
  role.onReadable('e', ({ readable }, accept) => {
    called.push('readable');
    readable.resume();
    accept(null);
  });
  role.onWritable('e', ({ writable }, accept) => {
    called.push('writable');
    accept(null);
    writable.end();
  });
  role.onRequest('fence', () => null);
  const { peerUnit } = await network.join(dialer, listener);
  return { listener, dialer, unit: peerUnit, destination: dialer.destination('role'), called };
}

for (const [name, { what, call }] of Object.entries(CALLS)) {
  for (const [policyName, make] of Object.entries(POLICIES)) {
    const [policy, isAllowed] = make(what);
    beyond(`${name}, with ${policyName}: ${isAllowed ? 'allowed' : 'denied'}`, async (network) => {
      const { listener, unit, destination, called } = await governed(network, withFence(policy));
      const denials = [];
      listener.on('denied', (...args) => denials.push(args));
      const error = await Promise.resolve(call(destination)).then(
        () => null,
        (error) => error,
      );
      // What was sent before is handled before.
      await destination.request('fence');
      if (isAllowed) {
        assert.equal(error, null);
        assert.deepEqual(called, [what]);
        assert.deepEqual(denials, []);
        assert.equal(unit.stats().denied, 0);
        return;
      }
      if (what === 'message') {
        assert.equal(error, null);
      } else {
        assert.equal(error.code, 'REJECTED');
        assert.ok(error.message.includes(NOT_ALLOWED), error.message);
        assert.equal(error.failure.code, 'NOT_ALLOWED');
        assert.equal(error.failure.unhandled, true);
      }
      assert.deepEqual(called, []);
      assert.deepEqual(denials, [[unit, { what, role: 'role', event: 'e', count: 1 }]]);
      assert.equal(unit.stats().denied, 1);
    });
  }
}

beyond('what was denied goes on to a unit that allows it', async (network) => {
  const dialer = network.peer();
  const peers = [network.peer({ policy: { rules: [] } }), network.peer()];
  for (const peer of peers) {
    peer.role('role').onRequest('e', () => peers.indexOf(peer));
    await peer.listen({ port: 0, host: '127.0.0.1' });
    await network.join(dialer, peer);
  }
  const destination = dialer.destination('role');
  for (let n = 0; n < 4; n++) assert.equal((await destination.request('e')).data, 1);
});

beyond('who announces a role without permission gets no request, until the policy allows it', async (network) => {
  const policy = { default: { call: 'allow' }, rules: [{ who: { key: 'good' }, serve: ['payments'] }] };
  const listener = network.peer({ policy });
  listener.addPresharedKey('good', '1').addPresharedKey('other', '2');
  await listener.listen({ port: 0, host: '127.0.0.1' });
  const serving = async (id, key) => {
    const peer = network.peer({ name: id });
    peer.addPresharedKey(id, key);
    peer.role('payments').onRequest('pay', () => id);
    return (await network.join(peer, listener)).peerUnit;
  };
  const payments = listener.destination('payments');
  const denied = once(listener, 'denied');
  const stranger = await serving('other', '2');
  assert.deepEqual(await denied, [stranger, { what: 'serve', role: 'payments', event: '', count: 1 }]);
  assert.deepEqual([payments.units, stranger.getRoles()], [[], []]);
  assert.throws(() => payments.request('pay'), { code: 'NO_UNIT' });
  const good = await serving('good', '1');
  assert.deepEqual(payments.units, [good]);
  for (let n = 0; n < 4; n++) assert.equal((await payments.request('pay')).data, 'good');

  const joined = once(payments, 'unit');
  listener.setPolicy(null);
  assert.equal((await joined)[0], stranger);
  const asked = new Set();
  for (let n = 0; n < 4; n++) asked.add((await payments.request('pay')).data);
  assert.deepEqual([...asked].sort(), ['good', 'other']);

  const again = once(listener, 'denied');
  listener.setPolicy(JSON.stringify(policy));
  assert.equal((await again)[0], stranger);
  assert.deepEqual(payments.units, [good]);
});

beyond('a policy is set for those who are connected', async (network) => {
  const { listener, destination } = await governed(network, null);
  await destination.request('e');
  const refused = { code: 'REJECTED', message: NOT_ALLOWED };
  listener.setPolicy({ rules: [] });
  await assert.rejects(destination.request('e'), refused);
  listener.setPolicy('{ "default": "allow" }');
  await destination.request('e');
  listener.setPolicy({ default: 'deny' });
  await assert.rejects(destination.request('e'), refused);
  listener.setPolicy(null);
  await destination.request('e');
});

const circle = {};
circle.self = circle;

const UNUSABLE = {
  'no JSON': ['{', /^The policy cannot be read: .*line 1/],
  'an unknown member': [{ rule: [] }, /unknown field `rule`/],
  'a rule about nobody': [{ rules: [{ who: {}, call: ['*'] }] }, /^The policy has a fault in rule 1: `who` names nobody/],
  'a list': [[], /^The policy cannot be read/],
  'a number': [5, /^The policy cannot be read/],
  'nothing': [undefined, /^The policy should be an object or its JSON; null stands for none$/],
  'a function': [() => {}, /^The policy should be an object or its JSON/],
  'a circle': [circle, /^The policy cannot be written as JSON/],
};

for (const [name, [policy, message]] of Object.entries(UNUSABLE)) {
  beyond(`a policy that is ${name} is refused, and changes nothing`, async (network) => {
    const { listener, destination } = await governed(network, { rules: [] });
    assert.throws(() => listener.setPolicy(policy), { name: 'RoletalkError', code: 'INVALID_ARGUMENT', message });
    await assert.rejects(destination.request('e'), { message: NOT_ALLOWED });
    if (policy !== undefined) assert.throws(() => network.peer({ policy }), { code: 'INVALID_ARGUMENT', message });
  });
}

const OPTIONS = {
  'origins that are no list': [{ origins: 'https://a.example' }, /"origins" should be an array of strings/],
  'origins that are no strings': [{ origins: [5] }, /"origins" should be an array of strings/],
  'an origin with a path': [{ origins: ['https://a.example/x'] }, /`https:\/\/a\.example\/x` is no origin/],
  'headers that are no list': [{ identityHeaders: 'x-team' }, /"identityHeaders" should be an array of strings/],
  'a header that is none': [{ identityHeaders: ['x team'] }, /`x team` is no name of a header/],
  'another channel binding': [{ channelBinding: 'always' }, /`always` is neither disable, prefer nor require/],
  'a key that is no buffer': [{ peerKey: 'x'.repeat(32) }, /"peerKey" should be a Buffer of 32 bytes/],
  'a key that is too short': [{ peerKey: Buffer.alloc(31) }, /has 31 bytes instead of 32/],
  'an authenticate that is no function': [{ authenticate: true }, /"authenticate" should be a function/],
};

for (const [name, [options, message]] of Object.entries(OPTIONS)) {
  beyond(`${name}: the option is refused`, (network) => {
    assert.throws(() => network.peer(options), { name: 'RoletalkError', code: 'INVALID_ARGUMENT', message });
  });
}

beyond('options that are undefined or null are not given', async (network) => {
  const names = ['policy', 'origins', 'identityHeaders', 'authenticate', 'channelBinding', 'peerKey'];
  for (const value of [undefined, null]) {
    const listener = network.peer(Object.fromEntries(names.map((name) => [name, value])));
    await listener.listen({ port: 0, host: '127.0.0.1' });
    await network.join(network.peer(), listener);
  }
});

/** A directory with a policy's file, which `replace` replaces at once. */
async function fileOf(network, policy) {
  const directory = await fs.mkdtemp(path.join(os.tmpdir(), 'roletalk-policy-'));
  network.keep({ close: () => fs.rm(directory, { recursive: true }) });
  const file = path.join(directory, 'policy.json');
  const replace = async (text) => {
    await fs.writeFile(`${file}.new`, typeof text === 'string' ? text : JSON.stringify(text));
    await fs.rename(`${file}.new`, file);
  };
  await replace(policy);
  return { file, replace };
}

const ALLOW = { default: 'allow' };
const DENY = { default: 'deny' };

beyond('a file that is replaced is in force; one with a fault changes nothing, and is told of once', async (network) => {
  const { file, replace } = await fileOf(network, DENY);
  const { listener, destination } = await governed(network, null);
  const told = [];
  listener.on('policy_loaded', (name) => told.push(['loaded', name]));
  listener.on('policy_failed', (error, name) => told.push(['failed', name, error]));
  const clock = network.clock();
  /** Lets the peer look at the file so many times. */
  const look = async (times) => {
    for (let n = 0; n < times; n++) {
      await clock.advance(500);
      await until(() => listener._policyReads.size === 0);
    }
  };
  assert.equal(await listener.watchPolicy(file), undefined);
  await assert.rejects(destination.request('e'), { message: NOT_ALLOWED });
  await look(2);
  assert.deepEqual(told, []);

  await replace(ALLOW);
  await look(2);
  assert.deepEqual(told.splice(0), [['loaded', file]]);
  await destination.request('e');

  await replace('{ "default": "none" }');
  await look(3);
  const [[failed, name, error], ...others] = told.splice(0);
  assert.deepEqual([failed, name, others], ['failed', file, []]);
  assert.equal(error.code, 'INVALID_ARGUMENT');
  assert.ok(error.message.startsWith(`The policy ${file} cannot be read: `), error.message);
  assert.match(error.hint, /^Nothing has changed/);
  await destination.request('e');

  await fs.rm(file);
  await look(3);
  const [[, , missing], ...further] = told.splice(0);
  assert.match(missing.message, /cannot be read: ENOENT/);
  assert.deepEqual(further, []);
  await destination.request('e');

  // Not UTF-8, as text or JSON would have it.
  await fs.writeFile(file, Buffer.from([0x22, 0xff, 0x22]));
  await look(2);
  assert.match(told.splice(0)[0][2].message, /invalid utf-8/);

  await replace(DENY);
  await look(2);
  assert.deepEqual(told.splice(0), [['loaded', file]]);
  await assert.rejects(destination.request('e'), { message: NOT_ALLOWED });

  // Another policy is in force now, and the file is so no more.
  listener.setPolicy(null);
  await replace(ALLOW);
  await clock.advance(2_000);
  assert.equal(listener._policyReads.size, 0);
  assert.deepEqual(told, []);
});

beyond('a file without a usable policy cannot be watched, and changes nothing', async (network) => {
  const { file, replace } = await fileOf(network, 'nonsense');
  const { listener, destination } = await governed(network, DENY);
  const error = { name: 'RoletalkError', code: 'INVALID_ARGUMENT' };
  await assert.rejects(listener.watchPolicy(file), { ...error, message: /nonsense|cannot be read/ });
  await assert.rejects(listener.watchPolicy(`${file}.not`), { ...error, message: /ENOENT/ });
  for (const wrong of [undefined, null, '', 5, {}]) {
    await assert.rejects(listener.watchPolicy(wrong), { ...error, message: 'The path of the policy should be a string' });
  }
  await assert.rejects(destination.request('e'), { message: NOT_ALLOWED });
  await replace(ALLOW);
  await listener.watchPolicy(file);
  await destination.request('e');
});

beyond('a file is not looked at while the peer is closed, and at once when it is not any more', async (network) => {
  const { file, replace } = await fileOf(network, DENY);
  const peer = network.peer();
  const clock = network.clock();
  await peer.watchPolicy(file);
  await new Promise((resolve) => peer.close(resolve));
  await replace(ALLOW);
  await clock.advance(2_000);
  assert.equal(peer._policyReads.size, 0);
  await assert.rejects(peer.watchPolicy(file), { code: 'CLOSED' });
  const loaded = once(peer, 'policy_loaded');
  await peer.listen({ port: 0, host: '127.0.0.1' });
  assert.deepEqual(await loaded, [file]);
});

beyond('a read that is under way when the peer is closed is waited for, and nobody has to look at it', async (network) => {
  const { file } = await fileOf(network, DENY);
  const peer = network.peer();
  const watching = peer.watchPolicy(file);
  await new Promise((resolve) => peer.close(resolve));
  assert.equal(peer._policyReads.size, 0);
  await assert.rejects(watching, { code: 'CLOSED' });
  peer.prepareWSServer();
  peer.watchPolicy(file);
  peer.close();
});

beyond('a watched file keeps no process alive', async (network) => {
  const { file } = await fileOf(network, DENY);
  const program = network.program(`await new Peer().watchPolicy(${JSON.stringify(file)}); tell('watched');`);
  assert.equal(await program.told(), 'watched');
  assert.deepEqual(await program.end(), { code: 0, signal: null });
});

beyond('denials, loads and failures are in the log', async (network) => {
  const { file, replace } = await fileOf(network, DENY);
  const source = `
    const listener = new Peer({ name: 'listener', policy: '{}' });
    listener.addPresharedKey('k', 'hush');
    await listener.listen({ port: 0, host: '127.0.0.1' });
    listener.role('role').onRequest('e', () => null);
    const dialer = new Peer({ name: 'dialer' });
    dialer.addPresharedKey('k', 'hush');
    await dialer.connect('ws://127.0.0.1:' + listener.port);
    await dialer.destination('role').whenReady();
    await dialer.destination('role').request('e').catch(() => {});
    await listener.watchPolicy(${JSON.stringify(file)});
    tell('watched');
    await once(listener, 'policy_failed');
    tell('failed');
    await once(listener, 'policy_loaded');
    tell('loaded');
    process.exit();
  `;
  const program = network.program(source, { env: { NODE_DEBUG: 'roletalk' } });
  assert.equal(await program.told(), 'watched');
  await replace('nonsense');
  assert.equal(await program.told(), 'failed');
  await replace(ALLOW);
  assert.equal(await program.told(), 'loaded');
  await program.end();
  const patterns = [
    /warn: denied: dialer \(\S+\), "key k", may not call "role" \/ "e" \(request\) \(1\)/,
    /warn: policy failed: The policy \S+ cannot be read: /,
    /info: policy loaded from \S+policy\.json/,
  ];
  for (const pattern of patterns) assert.match(program.stderr, pattern);
  assert.doesNotMatch(program.stderr, /hush/);
});

// Identities.

beyond('the identity of a unit and of its connections is what was shown', async (network) => {
  const listener = network.peer({ identityHeaders: ['X-Team', 'constructor'] });
  listener.addPresharedKey('a', '1');
  await listener.listen({ port: 0, host: '127.0.0.1' });
  const dialer = network.peer();
  dialer.addPresharedKey('a', '1');
  const headers = { 'x-team': 'red', 'x-other': 'left out' };
  let early;
  listener.on('unit', (unit) => (early = unit.identity));
  const { unit, ws, peerUnit } = await network.join(dialer, listener, { headers });
  const [accepted] = peerUnit._sockets;
  const { remoteAddress, remotePort } = accepted._socket;
  const common = { key: 'a', peer: null, certificate: null, claims: {} };
  assert.deepEqual(peerUnit.identity, {
    ...common,
    address: `${remoteAddress}:${remotePort}`,
    headers: [['x-team', 'red']],
    dialed: false,
  });
  assert.deepEqual(unit.identity, { ...common, address: `127.0.0.1:${listener.port}`, headers: [], dialed: true });
  assert.equal(accepted.identity, peerUnit.identity);
  assert.equal(ws.identity, unit.identity);
  assert.equal(early, peerUnit.identity);
  for (const part of [unit.identity, peerUnit.identity.headers, peerUnit.identity.headers[0], unit.identity.claims]) {
    assert.ok(Object.isFrozen(part));
  }
  // Another connection of the same unit has its own, and the unit that of the last.
  const { ws: second } = await dialer.connect(`ws://127.0.0.1:${listener.port}/second`, { headers: { 'x-team': 'blue' } });
  assert.equal(second.identity, unit.identity);
  await until(() => peerUnit._sockets.length === 2);
  assert.deepEqual(peerUnit.identity.headers, [['x-team', 'blue']]);
  assert.deepEqual(accepted.identity.headers, [['x-team', 'red']]);
});

beyond('headers that are kept: as many as there is room for, and those that are text', async (network) => {
  const listener = network.peer({ identityHeaders: ['x-a', 'x-b', 'x-none', 'x-odd', 'x-list'] });
  await listener.listen({ port: 0, host: '127.0.0.1' });
  const large = 'x'.repeat(5_000);
  const lists = await network.join(network.peer(), listener, { headers: { 'x-list': ['1', '2'], 'x-odd': 'ä' } });
  assert.deepEqual(lists.peerUnit.identity.headers, [['x-list', '1, 2']]);
  const { peerUnit } = await network.join(network.peer(), listener, { headers: { 'x-a': large, 'x-b': large } });
  assert.deepEqual(peerUnit.identity.headers, [['x-a', large]]);
});

beyond('nobody joins a unit who shows another key', async (network) => {
  const listener = network.peer();
  listener.addPresharedKey('a', '1').addPresharedKey('b', '2').addPresharedKey('a#2', '3');
  await listener.listen({ port: 0, host: '127.0.0.1' });
  const { createHmac } = require('node:crypto');
  const join = async (id, key) => {
    const raw = await network.raw(listener);
    const { challenge } = JSON.parse((await raw.message(FRAME.challenge)).subarray(1));
    raw.json(FRAME.response, { id, proof: createHmac('sha256', key).update(challenge).digest('hex') });
    await raw.handshake({ id: 'by hand' });
    return raw;
  };
  const unit = once(listener, 'unit');
  await join('a', '1');
  const [known] = await unit;
  assert.equal(known.identity.key, 'a');
  const refused = once(listener, 'auth_error');
  const other = await join('b', '2');
  assert.equal(String((await refused)[0]), 'A unit with this id has shown another identity');
  await other.closed();
  assert.equal(known._sockets.length, 1);
  // Another version of the same key.
  await join('a#2', '3');
  await until(() => known._sockets.length === 2);
  assert.equal(known.identity.key, 'a#2');
});
