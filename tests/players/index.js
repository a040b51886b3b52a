'use strict';

// Which implementations there are, and what their players can do.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const ROOT = path.join(__dirname, '..', '..');
const TARGET = path.resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target');
const WINDOWS = process.platform === 'win32';
const SUFFIX = WINDOWS ? '.exe' : '';
const JS_PLAYER = path.join(__dirname, 'node', 'peer.js');
/** Whether the players of Rust and C are to be optimized, as benchmarks want them. The others always are. */
const OPTIMIZED = process.env.PLAYERS === 'release';
const RUST_PLAYER = path.join(TARGET, OPTIMIZED ? 'release' : 'debug', `roletalk-player${SUFFIX}`);
const PYTHON = path.resolve(
  ROOT,
  process.env.VENV ?? '.venv',
  WINDOWS ? 'Scripts/python.exe' : 'bin/python',
);
const C_PLAYER = path.join(TARGET, 'players', OPTIMIZED ? 'c-player-release' : 'c-player');

/** What a player of ours can do; ../README.md says what each means. */
const ALL = [
  'backPressure',
  'cancel',
  'closings',
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
const OURS = [
  {
    name: 'rust',
    command: [RUST_PLAYER],
    needs: RUST_PLAYER,
    get: 'cargo build -p roletalk-player',
    abilities: [...ALL, 'scopes'],
  },
  {
    name: 'node',
    command: [process.execPath, JS_PLAYER, path.join(ROOT, 'bindings-node')],
    needs: path.join(ROOT, 'bindings-node', 'prebuilds'),
    get: 'make node',
    version: () => `${ours()}, Node ${process.versions.node}`,
    abilities: [...allBut('closings', 'stray'), 'collect', 'scopes'],
  },
  {
    name: 'python',
    command: [PYTHON, path.join(__dirname, 'python', 'peer.py')],
    needs: PYTHON,
    get: 'make python',
    version: pythonVersion,
    abilities: [...ALL, 'scopes'],
  },
  {
    name: 'c',
    command: [C_PLAYER],
    needs: C_PLAYER,
    get: 'make -C bindings-c player',
    abilities: [...ALL, 'scopes'],
  },
];

/**
 * Those that are present, and the reasons for those that are not.
 *
 * @param originals entries for others, see ../../interop/originals.js
 */
function find(originals = []) {
  const present = [];
  const absent = [];
  for (const one of [...OURS, ...originals]) {
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
    throw new Error(`roletalk is not installed for ${PYTHON}: make python`);
  }
}

module.exports = { JS_PLAYER, TARGET, certificate, find };
