'use strict';

const { Choice } = require('./choice.js');
const { failedContext } = require('./context.js');
const { faultOf } = require('./fields.js');
const { Step } = require('./protocol.js');

/** As the destination does. */
const AS_EVER = new Choice(undefined, undefined, null);

/** The longest that a timer of Node's can have, in milliseconds. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** What a way waits for: the end of an attempt, another unit, or the time of a further attempt. */
const [ATTEMPT, UNIT, TIME] = [0, 1, 2];

/** What is asked for, at one unit, in a slot of its own. */
class Attempt {
  constructor(way, number, unit) {
    const { host, slot: asked, since } = way;
    const { destination, options, kind, length, fields, limit, channel } = asked;
    this.way = way;
    this.number = number;
    this.callback = (error, ctx) => way.ended(this, { error, ctx, lost: false }, false);
    host.schedule();
    this.slot = host.takeSlot(unit, this.callback);
    this.slot.sent = host.time;
    this.slot.attempt = this;
    const settings = {
      role: destination._name,
      event: options.event,
      kind,
      timeout: limit,
      since,
      bound: destination._bound,
      writable: channel?.writable,
    };
    const data = typeof asked.data === 'string' ? asked.data : asked.data.subarray(0, length);
    const stream = host.ask(this.slot, unit, settings, data, fields);
    if (stream !== null) channel.attach(stream);
  }
}

/**
 * The way of a request, or of a request for a stream, to a unit that takes it. The engine decides: whether it goes on to
 * another unit, waits for one, or is made again, see `Attempts` there. Most requests are answered by their first unit,
 * and have none.
 */
class Way {
  /**
   * @param {import('./host.js').Slot} slot who waits for the answer, and what is asked
   * @param {import('./retry.js').Retry | null} retry
   * @param {number} since when its time began
   */
  constructor(slot, retry, since) {
    const { destination, options, limit } = slot;
    this.slot = slot;
    this.destination = destination;
    this.host = destination._peer._core;
    this.since = since;
    this.course = this.host.native.course(retry?._native, destination._mayWait(options), limit, since);
    /** Those that are under way, and what the others have failed with, by their numbers. */
    this.attempts = new Set();
    this.outcomes = [];
    this.waitsFor = ATTEMPT;
    this.timer = undefined;
    /** Whether a function is choosing a unit. */
    this.choosing = false;
    this.over = false;
  }

  /** @param {import('./unit.js').Unit | null} unit the first one; null when it is to be waited for */
  begin(unit) {
    const { host, course, destination, since } = this;
    if (unit === null) host.native.nowhere(course, String(destination._name), false, since);
    else this.ask(unit);
    this.run(since);
  }

  /** The first unit, which was asked without a way, has surely not begun it. */
  goOn(outcome) {
    const { host, course, slot } = this;
    this.failed(host.native.asks(course, slot.unit._number, host.now()), outcome, true);
  }

  /** Does what the engine says, until there is something to wait for. */
  run(now = this.host.now()) {
    const { host, course, destination } = this;
    const { _peer: peer } = destination;
    // A function that chooses may do anything. What it is called for goes on behind it.
    if (this.choosing) return;
    while (!this.over) {
      const step = course.step(now);
      if (step === Step.CHOOSE) {
        this.choose();
      } else if (step === Step.END) {
        const { outcome } = course;
        this.end(typeof outcome === 'number' ? this.outcomes[outcome] : this.failure(faultOf(outcome)));
      } else {
        const idle = step === Step.PARK ? UNIT : TIME;
        const waitsFor = this.attempts.size > 0 ? ATTEMPT : idle;
        if (waitsFor !== ATTEMPT && peer._closed) course.peerClosed();
        else if (waitsFor === UNIT && this.waitsFor !== UNIT && host.isCrowded) course.tooManyWait(host.mostParked);
        else return void this.wait(waitsFor, course.until);
      }
      now = host.now();
    }
  }

  choose() {
    const { host, slot, course, destination } = this;
    const { choice, requireHeaders } = slot.options;
    const { _set: units } = destination;
    const required = Boolean(requireHeaders);
    let unit;
    this.choosing = true;
    try {
      if (choice === null) unit = units.nextBy(AS_EVER, required, course);
      else unit = slot.scope.runInAsyncScope(units.nextBy, units, choice, required, course);
    } catch (error) {
      if (!this.over) this.end(this.failure(error));
    } finally {
      this.choosing = false;
    }
    if (this.over) return;
    if (unit) this.ask(unit);
    else host.native.nowhere(course, String(destination._name), required && unit !== null, host.now());
  }

  ask(unit) {
    const { host, slot, course } = this;
    const number = host.native.asks(course, unit._number, host.now());
    if (number === null) return;
    slot.unit = unit;
    this.attempts.add(new Attempt(this, number, unit));
  }

  /**
   * An attempt has ended.
   * @param {import('./host.js').Outcome} outcome
   * @param {boolean} unhandled whether surely no handler was begun
   */
  ended(attempt, outcome, unhandled) {
    this.attempts.delete(attempt);
    if (outcome.error !== null) return this.failed(attempt.number, outcome, unhandled);
    this.course.answered(this.host.now());
    this.end(outcome);
  }

  failed(number, outcome, unhandled) {
    const { code, message: text, failure } = outcome.error;
    this.slot.channel?.detach();
    this.outcomes[number] = outcome;
    this.course.failed(number, { code, text, unhandled, retryAfter: failure?.retryAfter }, this.host.now());
    this.run();
  }

  // The wait, also while it is at no unit.

  wait(waitsFor, until) {
    this.stay(waitsFor);
    clearTimeout(this.timer);
    if (until === Infinity) return;
    this.timer = setTimeout(() => this.run(), Math.min(Math.ceil(until - this.host.now()), LONGEST_TIMER));
    // A connection that is there keeps the process alive, or does not.
    if (waitsFor !== UNIT) this.timer.unref();
  }

  /** Has the peer know of it while it is at no unit. */
  stay(waitsFor) {
    const { host, destination, waitsFor: before } = this;
    const { _peer: peer, _ways: ways } = destination;
    this.waitsFor = waitsFor;
    host.parked += Number(waitsFor === UNIT) - Number(before === UNIT);
    if ((waitsFor === ATTEMPT) === (before === ATTEMPT)) return;
    if (waitsFor === ATTEMPT) {
      ways.delete(this);
      peer._hold.release();
    } else {
      ways.add(this);
      peer._hold.take();
    }
  }

  /** There are other units. */
  look() {
    this.course.look();
    this.run();
  }

  /** The peer is closed while it is at no unit. */
  closed() {
    this.course.peerClosed();
    // Nobody is called back within `close`.
    process.nextTick(() => this.run());
  }

  // Its end.

  /** Gives up all attempts. */
  giveUp() {
    this.over = true;
    this.stay(ATTEMPT);
    clearTimeout(this.timer);
    for (const { slot, callback } of this.attempts) this.host.abandon(slot, callback);
    this.attempts.clear();
  }

  end(outcome) {
    this.giveUp();
    this.host.tell(this.slot, outcome);
  }

  /** What it ends with that is no attempt's. */
  failure(error) {
    const ctx = failedContext(this.slot.unit ?? undefined, Math.ceil(this.host.now() - this.since));
    return { error, ctx, lost: false };
  }
}

module.exports = { Way };
