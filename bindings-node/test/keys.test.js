'use strict';

// Preshared keys: who gets in, and what both sides are told otherwise.

const assert = require('node:assert/strict');
const { createHmac } = require('node:crypto');
const { once } = require('node:events');
const { FRAME } = require('./support/raw');
const { check, differs } = require('./support/subject');

async function withKeys(network, listenerKeys, dialerKeys) {
  const listener = await network.listener({ name: 'listener' });
  const dialer = network.peer({ name: 'dialer' });
  for (const [id, key] of listenerKeys) listener.addPresharedKey(id, key);
  for (const [id, key] of dialerKeys) dialer.addPresharedKey(id, key);
  return { listener, dialer };
}

const ACCEPTED = {
  'one key': [[['a', '1']], [['a', '1']]],
  'the same keys': [
    [['a', '1'], ['b', '2']],
    [['a', '1'], ['b', '2']],
  ],
  'one key in common': [
    [['a', '1'], ['b', '2']],
    [['c', '3'], ['b', '2']],
  ],
  'a key that replaced a wrong one': [[['a', '1']], [['a', '0'], ['a', '1']]],
  'ids and keys beyond ASCII': [[['ключ', 'ключ 🔑']], [['ключ', 'ключ 🔑']]],
};

for (const [name, [listenerKeys, dialerKeys]] of Object.entries(ACCEPTED)) {
  check(`peers with ${name} connect`, async (network) => {
    const { listener, dialer } = await withKeys(network, listenerKeys, dialerKeys);
    const { unit, peerUnit } = await network.join(dialer, listener);
    assert.equal(unit.id, listener.id);
    assert.equal(peerUnit.id, dialer.id);
  });
}

// What the dialer's promise rejects with, and the event 'auth_error' of both.
const REFUSED = {
  'a different key': {
    listenerKeys: [['a', '1']],
    dialerKeys: [['a', '2']],
    own: 'Preshared key mismatch. Chosen id: a',
  },
  'no id in common': {
    listenerKeys: [['a', '1'], ['a2', '1']],
    dialerKeys: [['b', '1']],
    dialerOwn: 'The peer has not such proofs: a,a2',
    listenerOwn: 'The peer has not such proofs: b',
  },
  'keys at the listener only': {
    listenerKeys: [['a', '1']],
    dialerKeys: [],
    dialerOwn: 'The peer has not such proofs: a',
  },
  'keys at the dialer only': {
    listenerKeys: [],
    dialerKeys: [['a', '1']],
    listenerOwn: 'The peer has not such proofs: a',
  },
};

for (const [name, { listenerKeys, dialerKeys, own, dialerOwn = own, listenerOwn = own }] of Object.entries(REFUSED)) {
  check(`peers with ${name} refuse each other`, async (network) => {
    const { listener, dialer } = await withKeys(network, listenerKeys, dialerKeys);
    const texts = (mine, theirs) =>
      [mine, theirs && `remote peer rejected auth: ${theirs}`].filter((text) => text !== undefined);
    const first = Promise.all([once(listener, 'auth_error'), once(dialer, 'auth_error')]);
    await assert.rejects(dialer.connect(network.address(listener)), (error) => {
      const possible = [
        dialerOwn && `Verification error: ${dialerOwn}`,
        listenerOwn && `Auth error: ${listenerOwn}`,
      ];
      assert.ok(possible.includes(String(error)), String(error));
      return true;
    });
    const [[atListener], [atDialer]] = await first;
    assert.ok(texts(listenerOwn, dialerOwn).includes(String(atListener)), String(atListener));
    assert.ok(texts(dialerOwn, listenerOwn).includes(String(atDialer)), String(atDialer));
    assert.deepEqual([listener.units, dialer.units], [[], []]);
  });
}

check('a listener serves those with the key while others are refused', async (network) => {
  const { listener, dialer } = await withKeys(network, [['a', '1']], [['a', '1']]);
  await assert.rejects(network.peer().connect(network.address(listener)));
  const { peerUnit } = await network.join(dialer, listener);
  assert.deepEqual(listener.units, [peerUnit]);
});

check('a dialer that is refused goes on trying, and gets in with the key', async (network) => {
  const { listener, dialer } = await withKeys(network, [['a', '1']], []);
  await assert.rejects(dialer.connect(network.address(listener)));
  dialer.addPresharedKey('a', '1');
  const [unit] = await once(dialer, 'unit');
  assert.equal(unit.id, listener.id);
});

check('the proof is the HMAC of the challenge as it was received', async (network) => {
  const listener = await network.listener();
  listener.addPresharedKey('first', 'x').addPresharedKey('second', 'secret');
  const raw = await network.raw(listener);
  const challenge = JSON.parse((await raw.message(FRAME.challenge)).subarray(1));
  assert.deepEqual(challenge.ids, ['first', 'second']);
  raw.json(FRAME.challenge, { challenge: 'any text', ids: ['unknown', 'second'] });
  const response = JSON.parse((await raw.message(FRAME.response)).subarray(1));
  const proof = (text) => createHmac('sha256', 'secret').update(text).digest('hex');
  assert.deepEqual(response, { proof: proof('any text'), id: 'second' });
  raw.json(FRAME.response, { proof: proof(challenge.challenge), id: 'second' });
  const accepted = once(listener, 'unit');
  await raw.handshake({ id: 'by hand' });
  assert.equal((await accepted)[0].id, 'by hand');
});

check('a handshake that stops is given up after 4 s, on both sides', async (network) => {
  const clock = network.clock();
  const listener = await network.listener();
  listener.addPresharedKey('a', '1');
  const text = 'Authentication time elapsed. proved: false, confirmed: false, challenge received: false';
  const refused = once(listener, 'auth_error');
  const silent = await network.raw(listener);
  const rawListener = await network.rawListener();
  const dialer = network.peer().addPresharedKey('a', '1');
  let given = 0;
  const connecting = dialer.connect(rawListener.address).catch((error) => {
    given++;
    return String(error);
  });
  listener.on('auth_error', () => given++);
  // Both sides have sent their challenge, and wait for the other one.
  await Promise.all([silent, await rawListener.connection()].map((raw) => raw.message(FRAME.challenge)));
  await clock.advance(3_900);
  assert.equal(given, 0);
  await clock.advance(200);
  assert.equal(await connecting, `Verification error: ${text}`);
  assert.equal(String((await refused)[0]), text);
  assert.equal((await silent.closed()).code, 4002);
});

check("a refusal by the other side is told by the event 'auth_error'", async (network) => {
  const listener = await network.listener();
  const refused = once(listener, 'auth_error');
  const raw = await network.raw(listener);
  raw.json(FRAME.error, 'because');
  assert.equal(String((await refused)[0]), 'remote peer rejected auth: because');
  await raw.closed();
  assert.deepEqual(listener.units, []);
});

check('an unknown frame in the handshake is refused', async (network) => {
  const listener = await network.listener();
  const refused = once(listener, 'auth_error');
  const raw = await network.raw(listener);
  raw.json(FRAME.message, {});
  assert.equal(String((await refused)[0]), 'Incorrect event during handshake process: 100');
  assert.equal((await raw.closed()).code, 4002);
});

differs('a challenge of our own is never answered', 'it proves to itself whatever a stranger relays', async (network) => {
  const listener = await network.listener();
  listener.addPresharedKey('a', '1');
  const [one, other] = [await network.raw(listener), await network.raw(listener)];
  const challenge = JSON.parse((await one.message(FRAME.challenge)).subarray(1));
  other.json(FRAME.challenge, challenge);
  await other.message(FRAME.error);
  assert.equal((await other.closed()).code, 4002);
});

differs("a refused connect is an Error with the code 'AUTH_REFUSED'", 'it rejects with strings', async (network) => {
  const { listener, dialer } = await withKeys(network, [['a', '1']], [['a', '2']]);
  await assert.rejects(dialer.connect(network.address(listener)), (error) => {
    assert.ok(error instanceof Error);
    assert.equal(error.code, 'AUTH_REFUSED');
    return true;
  });
});
