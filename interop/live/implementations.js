'use strict';

// Which implementations there are, and what their players can do.

const { execFileSync } = require('child_process');
const fs = require('fs');
const path = require('path');

const ROOT = path.join(__dirname, '..', '..');
const SUFFIX = process.platform === 'win32' ? '.exe' : '';
const JS_PLAYER = inRepository('interop/live/players/peer.js');
const RUST_PLAYER = inRepository(`target/debug/roletalk-interop${SUFFIX}`);
const PYTHON = inRepository(
  process.platform === 'win32' ? '.venv/Scripts/python.exe' : '.venv/bin/python',
);
const C_PLAYER = inRepository('target/interop/c-player');
const GO_PLAYER = inRepository(`target/interop/go-player${SUFFIX}`);
const ROLETALK_JS = path.resolve(
  process.env.ROLETALK_JS ?? inRepository('interop/node_modules/roletalk'),
);

/** What a player of ours can do; ../README.md says what each means. */
const ALL = [
  'backPressure',
  'cancel',
  'disabled',
  'drain',
  'handler',
  'highWaterMark',
  'stray',
  'tls',
];
const allBut = (...missing) => ALL.filter((ability) => !missing.includes(ability));

/**
 * The table of players: a new one is one entry here. `needs` is the file that has to be there and
 * `get` how to make it; `prepare` makes what can be made quickly, and throws when it cannot be had.
 */
const IMPLEMENTATIONS = [
  {
    name: 'rust',
    command: [RUST_PLAYER],
    needs: RUST_PLAYER,
    get: 'cargo build -p roletalk-interop',
    abilities: ALL,
  },
  {
    name: 'node',
    command: [process.execPath, JS_PLAYER, inRepository('bindings-node')],
    needs: inRepository('bindings-node/prebuilds'),
    get: 'make node',
    version: () => `${ours()}, Node ${process.versions.node}`,
    abilities: allBut('stray'),
  },
  {
    name: 'python',
    command: [PYTHON, inRepository('interop/live/players/peer.py')],
    needs: inRepository('bindings-python/python/roletalk/_engine.abi3.so'),
    get: 'make python',
    version: pythonVersion,
    abilities: ALL,
  },
  {
    name: 'c',
    command: [C_PLAYER],
    needs: C_PLAYER,
    get: 'make -C bindings-c player',
    abilities: ALL,
  },
  {
    name: 'js',
    original: true,
    command: [process.execPath, JS_PLAYER, ROLETALK_JS],
    needs: path.join(ROLETALK_JS, 'package.json'),
    get: '`npm install` in interop, or name its directory in ROLETALK_JS',
    version: jsVersion,
    abilities: ['disabled', 'highWaterMark', 'tls'],
  },
  {
    name: 'go',
    original: true,
    command: [GO_PLAYER],
    prepare: buildGo,
    version: goVersion,
    abilities: ['backPressure', 'stray', 'tls'],
  },
];

/** Those that are present, and the reasons for those that are not. */
function find() {
  const present = [];
  const absent = [];
  for (const one of IMPLEMENTATIONS) {
    const { name, original = false, needs, get, prepare, version = ours } = one;
    try {
      if (needs !== undefined && !fs.existsSync(needs)) throw new Error(`not here: ${get}`);
      prepare?.();
      const abilities = original ? one.abilities : [...one.abilities, 'ours'];
      present.push({ ...one, original, abilities, version: version() });
    } catch (error) {
      absent.push({ name, reason: error.message });
    }
  }
  return { present, absent };
}

/** A certificate for localhost and its key, in PEM. */
function certificate() {
  return JSON.parse(execFileSync(RUST_PLAYER, ['certificate'], { encoding: 'utf8' }));
}

function ours() {
  return 'this repository';
}

/** Fails where the environment is there but the package is not. */
function pythonVersion() {
  const script = 'import platform, roletalk; print(platform.python_version())';
  try {
    const version = execFileSync(PYTHON, ['-c', script], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return `${ours()}, CPython ${version.trim()}`;
  } catch {
    throw new Error('roletalk is not installed in .venv: make python');
  }
}

function jsVersion() {
  const { version } = JSON.parse(fs.readFileSync(path.join(ROLETALK_JS, 'package.json'), 'utf8'));
  return `roletalk ${version}, Node ${process.versions.node}`;
}

function goVersion() {
  const manifest = fs.readFileSync(inRepository('interop/go/go.mod'), 'utf8');
  const [, module] = manifest.match(/roletalk-go (v\S+)/);
  return `roletalk-go ${module}, ${go('env', 'GOVERSION').trim()}`;
}

/** Go gets the module by itself. */
function buildGo() {
  try {
    go('version');
  } catch {
    throw new Error('Go is not installed: https://go.dev/dl');
  }
  try {
    go('build', '-o', GO_PLAYER, '.');
  } catch (error) {
    throw new Error(`cannot be built: ${error.stderr.trim().split('\n').pop()}`);
  }
}

function go(...args) {
  const cwd = inRepository('interop/go');
  return execFileSync('go', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

function inRepository(file) {
  return path.join(ROOT, file);
}

module.exports = { certificate, find };
