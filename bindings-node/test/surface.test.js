'use strict';

// The names that an application can see, compared with a list.

const assert = require('node:assert/strict');
const { EventEmitter } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { execFile } = require('node:child_process');
const { promisify } = require('node:util');
const { beyond, check, roletalk, root } = require('./support/subject');

const EXPORTS = [
  'Destination',
  'PEER_RECONNECT_FAIL_EVENT',
  'PEER_RECONNECT_SUCCESS_EVENT',
  'Peer',
  'Role',
  'Singleton',
  'Unit',
];

const MEMBERS = {
  Peer: {
    methods: [
      'addPresharedKey',
      'close',
      'connect',
      'destination',
      'getTags',
      'handleUpgrade',
      'listen',
      'onData',
      'onMessage',
      'onReadable',
      'onRequest',
      'onWritable',
      'prepareWSServer',
      'role',
      'setTag',
    ],
    getters: ['destinations', 'id', 'roles', 'units'],
  },
  Role: {
    methods: ['disable', 'enable', 'onData', 'onMessage', 'onReadable', 'onRequest', 'onWritable'],
    getters: ['active', 'peer'],
  },
  Destination: {
    methods: ['Readable', 'Writable', 'broadcast', 'request', 'send', 'survey'],
    getters: ['name', 'peer', 'ready', 'units'],
  },
  Unit: {
    methods: ['close', 'getRoles', 'getTags'],
    getters: ['meta', 'name'],
  },
};

check('every export is there', () => {
  assert.deepEqual(EXPORTS.filter((name) => !(name in roletalk)), []);
});

check('the names of the reconnect events are exported', () => {
  assert.equal(roletalk.PEER_RECONNECT_SUCCESS_EVENT, 'reconnect_success');
  assert.equal(roletalk.PEER_RECONNECT_FAIL_EVENT, 'reconnect_fail');
});

for (const [name, { methods, getters }] of Object.entries(MEMBERS)) {
  check(`${name} is an EventEmitter with every method and getter`, () => {
    const { prototype } = roletalk[name];
    assert.ok(prototype instanceof EventEmitter);
    assert.equal(roletalk[name].name, name);
    const descriptor = (member) => Object.getOwnPropertyDescriptor(prototype, member);
    assert.deepEqual(methods.filter((m) => typeof descriptor(m)?.value !== 'function'), []);
    assert.deepEqual(getters.filter((m) => typeof descriptor(m)?.get !== 'function'), []);
  });
}

check('the instances are of the exported classes', async (network) => {
  const { listener, dialer, unit, dialerUnit, role, destination } = await network.service();
  assert.ok(listener instanceof roletalk.Peer && dialer instanceof roletalk.Peer);
  assert.ok(unit instanceof roletalk.Unit && dialerUnit instanceof roletalk.Unit);
  assert.ok(role instanceof roletalk.Role);
  assert.ok(destination instanceof roletalk.Destination);
});

check('Peer is a class that can be extended', (network) => {
  assert.throws(() => roletalk.Peer(), TypeError);
  class Service extends roletalk.Peer {
    constructor() {
      super({ name: 'service' });
      this.own = 1;
    }
  }
  const service = new Service();
  network.peers.push(service);
  assert.equal(service.name, 'service');
  assert.equal(service.own, 1);
});

check('Singleton makes one peer, from the options of the first call', () => {
  const peer = roletalk.Singleton({ name: 'first' });
  assert.ok(peer instanceof roletalk.Peer);
  assert.equal(peer.name, 'first');
  assert.equal(roletalk.Singleton({ name: 'second' }), peer);
  assert.equal(roletalk.Singleton(), peer);
  assert.equal(peer.name, 'first');
});

check('an application that depends on the name roletalk loads it, as CommonJS and as a module', async (network, t) => {
  const application = fs.mkdtempSync(path.join(os.tmpdir(), 'roletalk-application-'));
  t.after(() => fs.rmSync(application, { recursive: true }));
  fs.mkdirSync(path.join(application, 'node_modules'));
  fs.symlinkSync(root, path.join(application, 'node_modules', 'roletalk'), 'dir');
  const say = 'console.log(typeof Peer, typeof Singleton, new Peer({ name: "n" }).name)';
  const programs = {
    'required.cjs': `const { Peer, Singleton } = require('roletalk'); ${say}`,
    'imported.mjs': `import { Peer, Singleton } from 'roletalk'; ${say}`,
    'default.mjs': `import roletalk from 'roletalk'; const { Peer, Singleton } = roletalk; ${say}`,
    'dynamic.cjs': `import('roletalk').then(({ Peer, Singleton }) => ${say})`,
    'same.mjs': `import { createRequire } from 'node:module'; import { Peer, Singleton } from 'roletalk';
      if (createRequire(import.meta.url)('roletalk').Peer !== Peer) throw new Error('two classes'); ${say}`,
  };
  for (const [file, source] of Object.entries(programs)) {
    fs.writeFileSync(path.join(application, file), source);
    const { stdout } = await promisify(execFile)(process.execPath, [path.join(application, file)]);
    assert.equal(stdout.trim(), 'function function n', file);
  }
});

beyond('where there is no binary for the platform, the error says which, and what to do', async (_network, t) => {
  const copy = fs.mkdtempSync(path.join(os.tmpdir(), 'roletalk-elsewhere-'));
  t.after(() => fs.rmSync(copy, { recursive: true }));
  fs.cpSync(path.join(root, 'lib'), path.join(copy, 'lib'), { recursive: true });
  assert.throws(() => require(path.join(copy, 'lib/index.js')), (error) => {
    assert.match(error.message, new RegExp(`no binary for ${process.platform}-${process.arch}`));
    assert.match(error.message, /make node/);
    assert.ok(error.message.includes(path.join(copy, 'prebuilds')), 'it says where it has looked');
    assert.doesNotMatch(error.message, /bundle/);
    assert.equal(error.cause.code, 'MODULE_NOT_FOUND');
    return true;
  });
  // One that is there and cannot be loaded is another matter.
  for (const directory of fs.readdirSync(path.join(root, 'prebuilds'))) {
    fs.mkdirSync(path.join(copy, 'prebuilds', directory), { recursive: true });
    fs.writeFileSync(path.join(copy, 'prebuilds', directory, 'roletalk.node'), 'no library');
  }
  assert.throws(() => require(path.join(copy, 'lib/index.js')), (error) => {
    assert.match(error.message, /cannot load its binary/);
    assert.ok(error.message.includes(error.cause.message));
    return true;
  });
});

beyond('in the file of a bundler, the error says where it has looked, and what the bundler must be told', async (_network, t) => {
  const application = fs.mkdtempSync(path.join(os.tmpdir(), 'roletalk-bundled-'));
  t.after(() => fs.rmSync(application, { recursive: true }));
  const file = path.join(application, 'dist/app.js');
  fs.mkdirSync(path.dirname(file));
  // What bundlers make of a module.
  fs.writeFileSync(file, `(function () {${fs.readFileSync(path.join(root, 'lib/addon.js'))}})();`);
  assert.throws(() => require(file), (error) => {
    assert.ok(error.message.includes(path.join(application, 'prebuilds')), error.message);
    assert.match(error.message, /bundled into .*app\.js/);
    assert.match(error.message, /mark `roletalk-native` as external/);
    assert.match(error.message, /esbuild --external:roletalk-native/);
    return true;
  });
});
