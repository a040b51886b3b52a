'use strict';

// Which implementations there are, and what their players can do.

const { execFileSync } = require('child_process');
const fs = require('fs');
const path = require('path');

const ROOT = path.join(__dirname, '..', '..');
const JS_PLAYER = path.join(__dirname, 'players', 'peer.js');

// Abilities: `drain`; `tls`, to listen with it; `disabled`, to make a role that is disabled from the
// start; `highWaterMark`, to set it on the streams that it asks for; `stray`, to send a message to a
// unit that does not serve the role.

/** Those that are present, and the reasons for those that are not. */
function find() {
  const present = [];
  const absent = [];
  for (const one of [rust, node, js, go]) {
    try {
      present.push(one());
    } catch (error) {
      absent.push({ name: one.name, reason: error.message });
    }
  }
  return { present, absent };
}

function rust() {
  const program = path.join(ROOT, 'target', 'debug', `roletalk-interop${suffix()}`);
  if (!fs.existsSync(program)) throw new Error('not built: cargo build -p roletalk-interop');
  return {
    name: 'rust',
    original: false,
    version: 'this repository',
    command: [program],
    abilities: ['drain', 'tls', 'disabled', 'stray'],
    certificate: () => JSON.parse(execFileSync(program, ['certificate'], { encoding: 'utf8' })),
  };
}

function node() {
  const directory = path.join(ROOT, 'bindings-node');
  if (!fs.existsSync(path.join(directory, 'prebuilds'))) throw new Error('not built: make node');
  return {
    name: 'node',
    original: false,
    version: `this repository, Node ${process.versions.node}`,
    command: [process.execPath, JS_PLAYER, directory],
    abilities: ['drain', 'tls', 'disabled', 'highWaterMark'],
  };
}

function js() {
  const directory = process.env.ROLETALK_JS
    ? path.resolve(process.env.ROLETALK_JS)
    : path.join(ROOT, 'interop', 'node_modules', 'roletalk');
  const manifest = path.join(directory, 'package.json');
  if (!fs.existsSync(manifest)) {
    throw new Error('`npm install` in interop, or name its directory in ROLETALK_JS');
  }
  const { version } = JSON.parse(fs.readFileSync(manifest, 'utf8'));
  return {
    name: 'js',
    original: true,
    version: `roletalk ${version}, Node ${process.versions.node}`,
    command: [process.execPath, JS_PLAYER, directory],
    abilities: ['tls', 'disabled', 'highWaterMark'],
  };
}

/** Go gets the module by itself. */
function go() {
  const source = path.join(ROOT, 'interop', 'go');
  const program = path.join(ROOT, 'target', 'interop', `go-player${suffix()}`);
  const run = (...args) =>
    execFileSync('go', args, { cwd: source, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  let version;
  try {
    version = run('env', 'GOVERSION').trim();
  } catch {
    throw new Error('Go is not installed: https://go.dev/dl');
  }
  try {
    run('build', '-o', program, '.');
  } catch (error) {
    throw new Error(`cannot be built: ${error.stderr.trim().split('\n').pop()}`);
  }
  const manifest = fs.readFileSync(path.join(source, 'go.mod'), 'utf8');
  const [, module] = manifest.match(/roletalk-go (v\S+)/);
  return {
    name: 'go',
    original: true,
    version: `roletalk-go ${module}, ${version}`,
    command: [program],
    abilities: ['stray'],
  };
}

function suffix() {
  return process.platform === 'win32' ? '.exe' : '';
}

module.exports = { find };
