'use strict';

// A page in a real browser (Chromium) that tries to connect to every language. CHROMIUM names the program, if it is not
// one of the usual ones.

const assert = require('node:assert/strict');
const { spawn, spawnSync } = require('node:child_process');
const { createHash } = require('node:crypto');
const { once } = require('node:events');
const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { describe, test } = require('node:test');

const { find } = require('../players');
const { within } = require('../scenarios/deadline');
const { required } = require('../scenarios/options');
const { Player } = require('../scenarios/player');

/** Milliseconds, only there to fail. */
const LIMIT = 120_000;

const NAMES = [process.env.CHROMIUM, 'chromium', 'chromium-browser', 'google-chrome'].filter(Boolean);
const browser = NAMES.find((name) => spawnSync(name, ['--version']).status === 0);
const skip = browser === undefined && !required().includes('chromium') && 'there is no Chromium';

/** A server that opens a WebSocket to whoever asks, and says who did. */
async function openHouse() {
  const seen = [];
  const server = http.createServer();
  server.on('upgrade', ({ headers }, socket) => {
    seen.push(headers.origin);
    const accept = createHash('sha1').update(`${headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
    socket.on('error', () => {});
    socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
        `Sec-WebSocket-Accept: ${accept.digest('base64')}\r\n\r\n`,
    );
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return { server, seen, port: server.address().port };
}

/** Opens a page in the browser that tries these ports; tells which of them have opened a WebSocket. */
async function visit(ports) {
  const page = `<!doctype html><script>
    const visit = (port) => new Promise((resolve) => {
      const socket = new WebSocket('ws://127.0.0.1:' + port);
      socket.onopen = () => resolve('open');
      socket.onclose = ({ code }) => resolve('closed ' + code);
    });
    Promise.all(${JSON.stringify(ports)}.map(visit)).then((told) => fetch('/told', { method: 'POST', body: JSON.stringify(told) }));
  </script>`;
  const server = http.createServer();
  const told = new Promise((resolve, reject) => {
    server.on('request', (request, response) => {
      if (request.url !== '/told') {
        response.setHeader('Content-Type', 'text/html').end(page);
        return;
      }
      let body = '';
      request.on('data', (chunk) => (body += chunk));
      request.on('end', () => {
        response.end();
        resolve(JSON.parse(body));
      });
    });
    server.on('error', reject);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const origin = `http://127.0.0.1:${server.address().port}`;
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'roletalk-browser-'));
  const quiet = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'];
  quiet.push('--disable-background-networking', '--disable-component-update', '--disable-sync', '--mute-audio');
  const child = spawn(browser, [...quiet, `--user-data-dir=${profile}`, origin], { stdio: 'ignore' });
  try {
    const ended = once(child, 'exit').then(([code]) => {
      throw new Error(`the browser has ended with ${code}`);
    });
    ended.catch(() => {});
    return { origin, outcomes: await within(LIMIT, "the page's report", Promise.race([told, ended])) };
  } finally {
    if (child.exitCode === null) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    server.closeAllConnections();
    server.close();
    fs.rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
  }
}

describe('a page in a browser', { skip }, () => {
  test('opens no connection to any peer', { timeout: 2 * LIMIT }, async () => {
    const { present } = find();
    const players = [];
    const house = await openHouse();
    try {
      const ports = [];
      for (const implementation of present) {
        const player = new Player(implementation, implementation.name, { limit: LIMIT });
        players.push(player);
        await player.ask('start', { name: implementation.name, friendly: false, keys: [] });
        ports.push(await player.ask('listen'));
      }
      const { origin, outcomes } = await visit([house.port, ...ports]);
      assert.deepEqual(house.seen, [origin], 'the browser reaches others and says whose page it is');
      const expected = ['open', ...present.map(() => 'closed 1006')];
      assert.deepEqual(outcomes, expected, `open house, ${present.map(({ name }) => name).join(', ')}`);
      for (const player of players) assert.deepEqual(await player.ask('units'), []);
    } finally {
      house.server.closeAllConnections?.();
      house.server.close();
      await Promise.all(players.map((player) => player.kill()));
    }
  });
});
