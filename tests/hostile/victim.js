'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const fs = require('node:fs');
const net = require('node:net');

const { within } = require('../scenarios/deadline');
const { Player } = require('../scenarios/player');
const { KEY, authenticate } = require('./keys');
const { RawConnection, RawListener } = require('./raw');

/** Milliseconds that a single wait may take; only there to fail. */
const LIMIT = 60_000;

/** So that memory that grows is kept: no debug information, one heap, a young generation that is full soon. */
const ENV = { RUST_BACKTRACE: '0', MALLOC_ARENA_MAX: '1', NODE_OPTIONS: '--max-semi-space-size=1' };

/** Somebody well-behaved, on one connection from the first case to the last, who asks all the while. */
class Friend {
  static async join(victim, keyed) {
    const raw = await RawConnection.dial(victim.port);
    raw.answersPings = true;
    if (keyed) await authenticate(raw);
    await raw.handshake({ id: 'friend', name: 'friend', roles: [], friendly: false });
    return new Friend(victim, raw);
  }

  constructor(victim, raw) {
    this.victim = victim;
    this.raw = raw;
    this.asked = 0;
    this.asking = false;
  }

  /** Asks one request after the other until `rest`. */
  ask() {
    this.asking = true;
    this.done = this.askOn();
    this.done.catch(() => {});
  }

  async askOn() {
    while (this.asking) {
      const text = `still there? ${++this.asked}`;
      const answer = await this.raw.request('r', 'ev', text, this.asked & 0xff);
      if (answer !== text) throw new Error(`the friend was answered "${answer}" instead of "${text}"`);
    }
  }

  /** Everything was answered, and one more that is asked from now on is. */
  async rest() {
    this.asking = false;
    await within(this.victim.limit, "the answer to the friend's request", this.done);
    this.asking = true;
    const one = this.askOn();
    this.asking = false;
    await within(this.victim.limit, "the answer to the friend's last request", one);
  }
}

/** The peer under attack: the process of a player, with what it has told of the attacker. */
class Victim {
  static async start(implementation, { keyed, destination }) {
    const victim = new Victim(implementation);
    const { player } = victim;
    const keys = keyed ? [[KEY.id, KEY.secret]] : [];
    await player.ask('start', { name: 'victim', friendly: true, keys, handshakeTimeout: LIMIT });
    await player.ask('events');
    await player.ask('role', { role: 'r' });
    await player.ask('handler', { role: 'r', event: 'ev' });
    if (destination) await player.ask('destination', { role: destination });
    victim.port = await player.ask('listen');
    victim.server = net.createServer().listen(0, '127.0.0.1');
    await once(victim.server, 'listening');
    victim.url = `ws://127.0.0.1:${victim.server.address().port}`;
    victim.dialed = new RawListener(victim.server, victim.url);
    victim.friend = await Friend.join(victim, keyed);
    await player.until('units', {}, (units) => units.length === 1);
    if (implementation.original) return victim;
    victim.before = await player.ask('totals');
    return victim;
  }

  constructor(implementation) {
    this.implementation = implementation;
    this.limit = LIMIT;
    const env = { ...ENV, ...implementation.env };
    this.player = new Player({ ...implementation, env }, `the ${implementation.name} victim`, this);
    this.log = [];
  }

  can(ability) {
    return this.implementation.abilities.includes(ability);
  }

  /** The next that the peer tells for which `wanted` holds; the log has it, and what was told before. */
  async next(what, wanted) {
    for (;;) {
      let event;
      try {
        event = await this.player.observe('peer');
      } catch (error) {
        throw new Error(`${what} is not told: ${error.message}; told: ${JSON.stringify(this.log)}`);
      }
      if (event.unit === 'friend' && event.what === 'unit-opened') continue;
      this.log.push(event);
      if (wanted(event)) return event;
    }
  }

  /** All of the attacks is over, also for the counters. */
  async recovers() {
    const isBefore = (totals) => Object.entries(this.before).every(([name, count]) => totals[name] === count);
    await this.player.until('totals', {}, isBefore);
  }

  /** Memory in bytes: what is resident, on Linux, and what is in use, where there is a heap that is collected. */
  async memory() {
    const used = this.can('collect') ? await this.player.ask('collect') : 0;
    const status = fs.readFileSync(`/proc/${this.player.process.pid}/status`, 'utf8');
    return { resident: Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)[1]) * 1024, used };
  }

  /** The peer closes all connections, and says so. */
  async close() {
    const { player, friend } = this;
    const [{ code }] = await Promise.all([within(this.limit, 'the friend', friend.raw.closed()), player.ask('close')]);
    assert.equal(code, 4000);
  }

  async end() {
    this.friend?.raw.close();
    this.server?.close();
    if (!this.player.dead) await this.player.kill();
  }
}

module.exports = { Victim };
