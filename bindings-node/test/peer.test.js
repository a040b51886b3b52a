'use strict';

// A peer by itself: options, properties, tags, roles and destinations as objects.

const assert = require('node:assert/strict');
const { check, roletalk } = require('./support/subject');

check('without options a peer has no name and is friendly', (network) => {
  const peer = network.peer();
  assert.equal(peer.name, '');
  assert.equal(peer.friendly, true);
  assert.deepEqual([peer.units, peer.roles, peer.destinations], [[], [], []]);
  assert.deepEqual(peer.getTags(), {});
});

check('name and friendly are taken from the options', (network) => {
  const peer = network.peer({ name: 'N', friendly: false });
  assert.equal(peer.name, 'N');
  assert.equal(peer.friendly, false);
});

check('a name that is not a string is no name, and only false makes unfriendly', (network) => {
  assert.equal(network.peer({ name: 5 }).name, '');
  assert.equal(network.peer({ friendly: 0 }).friendly, true);
  assert.equal(network.peer({ friendly: undefined }).friendly, true);
});

check('every peer has an id of its own, which stays', (network) => {
  const [one, other] = [network.peer(), network.peer()];
  assert.match(one.id, /^[0-9a-f]{32}$/);
  assert.notEqual(one.id, other.id);
  assert.equal(one.id, one.id);
});

check('name and friendly can be set until the peer connects', async (network) => {
  const [listener, dialer] = [await network.listener(), network.peer({ name: 'before' })];
  dialer.name = 'after';
  const { peerUnit } = await network.join(dialer, listener);
  assert.equal(peerUnit.name, 'after');
});

check('addPresharedKey can be chained, takes strings, and is on auth, too', (network) => {
  const peer = network.peer();
  assert.equal(peer.addPresharedKey('a', '1').addPresharedKey('b', '2'), peer);
  peer.auth.addPresharedKey('c', '3');
  const wrong = { message: 'both id and key should be of type string' };
  assert.throws(() => peer.addPresharedKey('a'), wrong);
  assert.throws(() => peer.addPresharedKey(1, 'x'), wrong);
  assert.throws(() => peer.auth.addPresharedKey('a', Buffer.from('x')), wrong);
});

check('tags are strings, replaced by key, and given out as a copy', (network) => {
  const peer = network.peer();
  assert.equal(peer.setTag('zone', 'a'), undefined);
  peer.setTag('zone', 'b');
  peer.setTag('', '');
  assert.deepEqual(peer.getTags(), { zone: 'b', '': '' });
  peer.getTags().zone = 'c';
  assert.deepEqual(peer.getTags(), { zone: 'b', '': '' });
  const wrong = { message: 'Provide string arguments' };
  assert.throws(() => peer.setTag('zone'), wrong);
  assert.throws(() => peer.setTag('zone', 5), wrong);
  assert.throws(() => peer.setTag(5, 'x'), wrong);
  assert.deepEqual(peer.getTags(), { zone: 'b', '': '' });
});

check('a role is made once, and then it is the same', (network) => {
  const peer = network.peer();
  const role = peer.role('a');
  assert.ok(role instanceof roletalk.Role);
  assert.equal(role.name, 'a');
  assert.equal(role.peer, peer);
  assert.equal(role.active, true);
  assert.equal(peer.role('a', false), role);
  assert.equal(role.active, true, 'the second argument only counts when the role is made');
  const inactive = peer.role('b', false);
  assert.equal(inactive.active, false);
  assert.deepEqual(peer.roles, [role, inactive]);
});

check("the event 'role' comes with each new role, at once", (network) => {
  const peer = network.peer();
  const seen = [];
  peer.on('role', (role) => seen.push(role));
  const roles = [peer.role('a'), peer.role('b', false), peer.role('a')];
  assert.deepEqual(seen, roles.slice(0, 2));
});

check("a role's name must be a string with something in it", (network) => {
  const peer = network.peer();
  let told = 0;
  peer.on('role', () => told++);
  for (const name of ['', undefined, null, 5, {}]) {
    assert.throws(() => peer.role(name), { message: "Role's name should be a string" });
  }
  assert.deepEqual(peer.roles, []);
  assert.equal(told, 0);
});

check('a role is switched off and on', (network) => {
  const role = network.peer().role('a');
  assert.equal(role.disable(), undefined);
  assert.equal(role.active, false);
  role.disable();
  assert.equal(role.active, false);
  assert.equal(role.enable(), undefined);
  assert.equal(role.active, true);
});

check('a destination is made once, and then it is the same', (network) => {
  const peer = network.peer();
  const destination = peer.destination('a');
  assert.ok(destination instanceof roletalk.Destination);
  assert.equal(destination.name, 'a');
  assert.equal(destination.peer, peer);
  assert.equal(destination.ready, false);
  assert.deepEqual(destination.units, []);
  assert.equal(peer.destination('a'), destination);
  assert.deepEqual(peer.destinations, [destination]);
});

check('the lists are copies', (network) => {
  const peer = network.peer();
  peer.role('a');
  peer.destination('b');
  for (const list of ['units', 'roles', 'destinations']) {
    const before = [...peer[list]];
    peer[list].push('x');
    assert.deepEqual(peer[list], before, list);
  }
});
