'use strict';

// One case against a victim: what the attacker does, and what has to come of it.

const assert = require('node:assert/strict');

const { within } = require('../scenarios/deadline');
const { bytesOf, partsOf } = require('./cases');
const { OPCODE, RawConnection } = require('./raw');

/** The commands with which the victim begins something of its own. */
const OPERATIONS = { 'requests': 'request', 'opens-readable': 'download', 'opens-writable': 'upload' };
/** The observations of how streams of its handlers have ended. */
const STREAMS = { 'handles-stream-w': 'received', 'handles-stream-r': 'sent' };
/** How an attacker may be closed, if it is told at all. */
const CODES = { 'auth-refused': [4002], 'closes': [4006, 1002, 1007, 1009, 4002] };
const NO_CODE = 1006;

class Attack {
  constructor(victim, one) {
    this.victim = victim;
    this.case = one;
    this.player = victim.player;
    /** What the placeholders of the steps stand for. */
    this.parts = {};
  }

  async run() {
    const { friend, player } = this.victim;
    this.victim.log = [];
    player.seen = [];
    friend.ask();
    try {
      await this.meet();
      await this.attack();
      await this.outcome();
      await this.operationEnds();
      await this.leave();
    } finally {
      this.raw?.close();
    }
    await friend.rest();
    assert.equal(this.victim.log.filter(({ unit }) => unit === 'friend').length, 0, 'the friend is concerned');
    await this.victim.recovers();
  }

  /** No more than that the process lives and others are served: what is asked of an original. */
  async survive() {
    const { friend, player } = this.victim;
    friend.ask();
    try {
      await this.meet();
      await this.attack();
    } finally {
      this.raw?.close();
    }
    await friend.rest();
    await player.ask('units');
  }

  async meet() {
    const { case: one, player, victim } = this;
    if (one.side === 'listener') {
      this.raw = await RawConnection.dial(victim.port);
    } else {
      // Once: here it counts how this connection ends, not whether there is another.
      this.dialing = player.ask('connect', { url: victim.url, once: true });
      this.raw = await within(victim.limit, 'the victim to dial', victim.dialed.connection());
    }
    this.raw.answersPings = true;
    if (one.phase === 'before-handshake') return;
    const { x } = one;
    await this.waits(this.raw.handshake({ id: 'rawraw', roles: ['r'], friendly: true, name: 'raw', x }));
    await this.opens((unit) => unit === 'rawraw');
    const { setup } = one;
    const command = OPERATIONS[setup?.victim];
    if (!command) return;
    const { role, event } = setup;
    const data = { type: 'number', value: setup.payload };
    const plan = { tag: 'own', size: 1, piece: 1 };
    this.operation = player.ask(command, { role, event, ...(command === 'request' ? { data } : { plan }) });
    this.operation.catch((error) => (this.failure = error));
  }

  async opens(isIt = () => true) {
    if (this.victim.implementation.original) return;
    if (this.unit) return;
    const isOpened = ({ what, unitId }) => what === 'unit-opened' && isIt(unitId);
    this.unit = await this.victim.next("the attacker's unit", isOpened);
  }

  async attack() {
    for (const [index, step] of this.case.steps.entries()) {
      try {
        if (step.do === 'wait-frame') this.parts = partsOf(await this.waits(this.raw.message(step.type)));
        else this.sendAll(step);
      } catch (error) {
        const own = this.failure ? `; the victim's own operation: ${this.failure.message}` : '';
        throw new Error(`step ${index + 1}: ${error.message}${own}`, { cause: error });
      }
    }
  }

  sendAll(step) {
    for (let number = 0; number < (step.times ?? 1); number++) {
      const parts = { ...this.parts, $N: number.toString(16).padStart(4, '0') };
      this.send(step, bytesOf(step.hex ?? '', parts));
    }
  }

  send(step, bytes) {
    const { raw } = this;
    if (step.do === 'tcp-reset') raw.socket.resetAndDestroy();
    else if (step.do === 'tcp-fin') raw.socket.end();
    else if (step.send === 'raw') raw.bytes(bytes);
    else if (step.send === 'close') raw.closeFrame(step.code, step.reason);
    else raw.frame(OPCODE[step.send], bytes);
  }

  waits(promise) {
    return within(this.victim.limit, 'the victim', promise);
  }

  async outcome() {
    switch (this.case.expect) {
      case 'closes':
      case 'auth-refused':
        return this.isClosed();
      case 'remote-closed':
        if (!this.raw.socket.destroyed) await this.waits(this.raw.closed());
        return this.raw.close();
      default:
        return this.isServed();
    }
  }

  /** The connection is closed, and why is told, not with an empty text. */
  async isClosed() {
    const { expect, opens, report } = this.case;
    if (opens) await this.opens();
    const { code } = await this.waits(this.raw.closed());
    assert.ok(code === NO_CODE || CODES[expect].includes(code), `closed with ${code}`);
    this.raw.close();
    if (report) return;
    if (expect === 'closes' && !this.unit && !this.victim.can('closings')) return;
    const what = expect === 'closes' ? 'bad-input' : 'auth-refused';
    const { text } = await this.victim.next('the report', (event) => event.what === what);
    assert.ok(text, `${what} with an empty text`);
  }

  /** The connection works, and the two units are there. */
  async isServed() {
    const { served = true, report } = this.case;
    if (report) await this.victim.next('the report', ({ what, text }) => what === report && text);
    if (served) {
      const answer = await this.waits(this.raw.request('r', 'ev', 'and now?', 0x66));
      assert.equal(answer, 'and now?');
    }
    await this.opens();
    const names = await this.player.ask('units');
    assert.equal(names.length, 2);
    assert.ok(names.includes('friend'));
    // The attacker has taken the victim's own id.
    if (this.parts.$ID) assert.equal(this.unit.unitId, Buffer.from(this.parts.$ID, 'hex').toString());
  }

  /** What the victim had asked of the attacker, and the streams that its handlers had accepted. */
  async operationEnds() {
    const { expect, setup, operation: kind } = this.case;
    if (this.operation) {
      const outcome = await this.operation.then(
        () => 'done',
        (error) => error.kind ?? error.message,
      );
      const expected =
        kind ?? { 'ignored': 'done', 'fails-operation': /^(REJECTED|PROTOCOL)$/ }[expect] ?? 'CONNECTION_LOST';
      if (typeof expected === 'string') assert.equal(outcome, expected, "the victim's own operation");
      else assert.match(outcome, expected, "the victim's own operation");
    }
    const stream = STREAMS[setup?.victim];
    if (stream && expect !== 'ignored') await this.breaks(stream);
  }

  async breaks(stream) {
    const { error } = await this.player.observe(stream);
    assert.ok(error, 'the stream has ended without an error');
  }

  /** The attacker ends the connection, if it is still there; nothing is told of it but what has to be. */
  async leave() {
    const { case: one, dialing, raw, victim } = this;
    raw.close();
    const closings = victim.can('closings');
    const left = new Set([...(this.unit ? ['unit-closed'] : []), ...(closings ? ['connection-closed'] : [])]);
    for (const { what } of victim.log) left.delete(what);
    while (left.size > 0) left.delete((await victim.next([...left].join(' and '), ({ what }) => left.has(what))).what);
    const told = (what) => victim.log.filter((event) => event.what === what);
    const bad = one.expect === 'closes' && !one.report && (this.unit || closings);
    assert.equal(told('bad-input').length, bad ? 1 : 0, `bad input: ${JSON.stringify(victim.log)}`);
    const refusals = one.expect === 'auth-refused' ? 1 : 0;
    assert.equal(told('auth-refused').length, refusals, `refusals: ${JSON.stringify(victim.log)}`);
    if (closings) this.closingsAreRight(told('connection-closed'));
    if (dialing) await this.dialingEnds(dialing);
    const stream = STREAMS[one.setup?.victim];
    if (stream && one.expect === 'ignored') await this.player.observe(stream);
  }

  closingsAreRight(closings) {
    const { expect, report } = this.case;
    const { log } = this.victim;
    assert.equal(closings.length, 1, `closings: ${JSON.stringify(log)}`);
    const [{ kind, text }] = closings;
    if (report && expect === 'closes') assert.ok(text.includes(report), `closed because of "${text}"`);
    else if (expect === 'closes') {
      const reported = log.findIndex(({ what }) => what === 'bad-input');
      assert.ok(reported < log.indexOf(closings[0]), 'the end is told before its reason');
    } else if (expect !== 'auth-refused') assert.equal(kind, 'CONNECTION_LOST', text);
  }

  /** The command that had the victim dial: a handshake that was refused is its error. */
  async dialingEnds(dialing) {
    const outcome = await dialing.then(
      () => 'connected',
      (error) => (error.answered ? 'failed' : Promise.reject(error)),
    );
    assert.equal(outcome, this.unit ? 'connected' : 'failed', 'dialing');
  }
}

module.exports = { Attack };
