'use strict';

// The originals, as entries of the table in ../tests/players.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const { JS_PLAYER, TARGET } = require('../tests/players');

const ROLETALK_JS = path.resolve(
  process.env.ROLETALK_JS ?? path.join(__dirname, 'node_modules', 'roletalk'),
);
const GO = path.join(__dirname, 'go');
const GO_PLAYER = path.join(
  TARGET,
  'players',
  `go-player${process.platform === 'win32' ? '.exe' : ''}`,
);

const ORIGINALS = [
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

function jsVersion() {
  const { version } = JSON.parse(fs.readFileSync(path.join(ROLETALK_JS, 'package.json'), 'utf8'));
  return `roletalk ${version}, Node ${process.versions.node}`;
}

function goVersion() {
  const manifest = fs.readFileSync(path.join(GO, 'go.mod'), 'utf8');
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
  return execFileSync('go', args, { cwd: GO, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

module.exports = { ORIGINALS };
