'use strict';

// A peer with a preshared key, its clients, and its attackers, which are separate processes.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const path = require('node:path');
const { createInterface } = require('node:readline');

const { certificate } = require('../players');
const { within } = require('../scenarios/deadline');
const { Player } = require('../scenarios/player');
const { KEY, authenticate } = require('./keys');
const { RawConnection } = require('./raw');

/** Milliseconds that a single wait may take; only there to fail. */
const LIMIT = 60_000;
/** File descriptors of an attacker, which keeps thousands of connections. */
const DESCRIPTORS = 16_384;

/** The command with a limit on its file descriptors; unchanged on Windows. */
function limited(command, descriptors) {
  if (process.platform === 'win32') return command;
  return ['sh', '-c', `ulimit -n ${descriptors} && exec "$@"`, 'sh', ...command];
}

/** An attack that goes on until it is stopped. */
class Assault {
  static async begin(kind, port, options = {}) {
    const assault = new Assault(kind, port, options);
    await within(LIMIT, `the attack "${kind}" to be on`, assault.ready);
    return assault;
  }

  constructor(kind, port, options) {
    const program = [process.execPath, path.join(__dirname, 'attackers.js'), kind, String(port)];
    const [command, ...args] = limited([...program, JSON.stringify({ keyed: true, ...options })], DESCRIPTORS);
    this.process = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: this.process.stdout });
    this.closed = once(this.process, 'close');
    const first = once(lines, 'line');
    const died = this.closed.then(() => Promise.reject(new Error(`the attack "${kind}" has ended by itself`)));
    died.catch(() => {});
    this.ready = Promise.race([first, died]);
    lines.on('line', (line) => (this.last = line));
  }

  /** Ends the attack. Returns its counters. */
  async stop() {
    this.process.stdin.end();
    await within(LIMIT, 'the attack to end', this.closed);
    return JSON.parse(this.last);
  }

  kill() {
    this.process.kill('SIGKILL');
  }
}

/** A client with the key, which sends one request after the other. */
class Client {
  static async join(port, name, secure) {
    const raw = await RawConnection.dial(port, undefined, secure);
    raw.answersPings = true;
    await authenticate(raw);
    await raw.handshake({ id: name, name, roles: [], friendly: false });
    return new Client(raw);
  }

  constructor(raw) {
    this.raw = raw;
    this.asked = 0;
    this.times = [];
  }

  /** One request. Its time is among `times`, in milliseconds. */
  async ask() {
    const text = `request ${++this.asked}`;
    const begun = process.hrtime.bigint();
    const answer = await within(LIMIT, 'an answer', this.raw.request('r', 'ev', text, this.asked & 0xff));
    if (answer !== text) throw new Error(`answered "${answer}" instead of "${text}"`);
    this.times.push(Number(process.hrtime.bigint() - begun) / 1e6);
  }

  /** Asks so many times. */
  async askOften(count) {
    for (let number = 0; number < count; number++) await this.ask();
  }

  /** Sends requests for `millis` ms, with a pause after each. Returns their times in milliseconds. */
  async askFor(millis, pause = 2) {
    this.times = [];
    for (const end = Date.now() + millis; Date.now() < end; ) {
      await this.ask();
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
    return this.times;
  }

  leave() {
    this.raw.close();
  }
}

/** The peer under siege. */
class Besieged {
  /**
   * @param {{ descriptors?: number, secure?: boolean }} [options] the limit on file descriptors of its process; whether
   * it listens with TLS
   */
  static async start(implementation, { descriptors, secure = false } = {}) {
    const peer = new Besieged(implementation, descriptors, secure);
    try {
      await peer.begin();
    } catch (error) {
      await peer.end();
      throw error;
    }
    return peer;
  }

  constructor(implementation, descriptors, secure) {
    this.limit = LIMIT;
    this.secure = secure;
    const command = descriptors ? limited(implementation.command, descriptors) : implementation.command;
    const env = { RUST_BACKTRACE: '0', MALLOC_ARENA_MAX: '1', ...implementation.env };
    this.player = new Player({ ...implementation, command, env }, `the besieged ${implementation.name}`, this);
    this.assaults = [];
    this.clients = [];
  }

  async begin() {
    const { player } = this;
    await player.ask('start', { name: 'besieged', friendly: false, keys: [[KEY.id, KEY.secret]] });
    await player.ask('events');
    await player.ask('role', { role: 'r' });
    await player.ask('handler', { role: 'r', event: 'ev' });
    if (this.secure) this.certificate = certificate();
    this.port = await player.ask('listen', { tls: this.certificate });
  }

  /** Connects a client. */
  async join(name) {
    const client = await within(LIMIT, `${name} to get in`, Client.join(this.port, name, this.secure));
    this.clients.push(client);
    return client;
  }

  /** @param {number} [port] the target, if that is not the peer */
  async attack(kind, options, port = this.port) {
    const assault = await Assault.begin(kind, port, { secure: this.secure, ...options });
    this.assaults.push(assault);
    return assault;
  }

  /** Waits until only these units are connected, and no unauthenticated connection is left. */
  async settles(names) {
    const wanted = JSON.stringify([...names].sort());
    await this.player.until('units', {}, (units) => JSON.stringify(units) === wanted);
    await this.player.until('totals', {}, ({ handshakes, waiting, running }) => handshakes + waiting + running === 0);
  }

  /** Bytes in memory. */
  memory() {
    const status = fs.readFileSync(`/proc/${this.player.process.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)[1]) * 1024;
  }

  /** Descriptors that are open. */
  descriptors() {
    return fs.readdirSync(`/proc/${this.player.process.pid}/fd`).length;
  }

  async end() {
    for (const assault of this.assaults) assault.kill();
    for (const client of this.clients) client.leave();
    if (!this.player.dead) await this.player.kill();
  }
}

module.exports = { Besieged, limited };
