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
    asked.unit = unit;
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
   * @param {import('./unit.js').Unit | null} unit the first one; null when it is to be waited for
   * @param {import('./retry.js').Retry | null} retry
   * @param {number} since when its time began
   */
  constructor(slot, unit, retry, since) {
    const { destination, options, limit } = slot;
    this.slot = slot;
    this.destination = destination;
    this.host = destination._peer._core;
    this.native = this.host.native;
    this.since = since;
    const waits = destination._mayWait(options);
    /** The engine's number of it. */
    this.course = this.native.setOut(retry?._native, waits, limit, since, unit?._number);
    /** Those that are under way, and what the others have failed with, by their numbers. */
    this.attempts = new Set();
    this.outcomes = [];
    this.waitsFor = ATTEMPT;
    this.timer = undefined;
    /** Whether a function is choosing a unit. */
    this.choosing = false;
    this.over = false;
  }

  /** Asks the first unit, or waits for one. */
  begin(unit) {
    if (unit === null) return this.follow(this.nowhere(false));
    this.attempts.add(new Attempt(this, 0, unit));
    this.run();
  }

  /** Does what the engine says now. */
  run() {
    // A function that chooses may do anything. What it is called for goes on behind it.
    if (!this.choosing && !this.over) this.follow(this.native.step(this.course, this.host.now()));
  }

  /** Does what the engine says, until there is something to wait for. */
  follow(step) {
    while (step !== undefined) {
      switch (step) {
        case Step.CHOOSE:
          step = this.choose();
          break;
        case Step.PARK:
          step = this.rest(UNIT);
          break;
        case Step.END:
          return this.end(this.outcome());
        default:
          step = this.attempts.size > 0 ? this.wait(ATTEMPT, step === Step.WAIT_UNTIL) : this.rest(TIME);
      }
    }
  }

  /** @returns {number | undefined} the next step; undefined when it is over */
  choose() {
    const { slot, course, destination } = this;
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
    if (this.over) return undefined;
    if (!unit) return this.nowhere(required && unit !== null);
    const attempt = this.native.asks(course, unit._number, this.host.now());
    if (attempt !== null) this.attempts.add(new Attempt(this, attempt, unit));
    return this.native.step(course, this.host.now());
  }

  nowhere(takesFields) {
    return this.native.nowhere(this.course, String(this.destination._name), takesFields, this.host.now());
  }

  /**
   * An attempt has ended.
   * @param {import('./host.js').Outcome} outcome
   * @param {boolean} unhandled whether surely no handler was begun
   */
  ended(attempt, outcome, unhandled) {
    this.attempts.delete(attempt);
    if (outcome.error === null) this.end(outcome, this.host.now());
    else this.failed(attempt.number, outcome, unhandled);
  }

  failed(number, outcome, unhandled) {
    const { code, message, failure } = outcome.error;
    const { course, host } = this;
    this.slot.channel?.detach();
    this.outcomes[number] = outcome;
    const told = [code, message];
    this.follow(this.native.attemptFailed(course, number, told, unhandled, failure?.retryAfter, host.now()));
  }

  // The wait.

  /** Waits while it is at no unit, unless that makes no sense. */
  rest(waitsFor) {
    const { host, native, course, destination } = this;
    if (destination._peer._closed) return native.peerClosed(course, host.now());
    const comes = waitsFor === UNIT && this.waitsFor !== UNIT;
    if (comes && host.isCrowded) return native.tooManyWait(course, host.mostParked, host.now());
    return this.wait(waitsFor, true);
  }

  wait(waitsFor, isTimed) {
    this.stay(waitsFor);
    clearTimeout(this.timer);
    if (!isTimed) return undefined;
    const left = Math.ceil(this.native.until(this.course) - this.host.now());
    this.timer = setTimeout(() => this.run(), Math.min(left, LONGEST_TIMER));
    // A connection that is there keeps the process alive, or does not.
    if (waitsFor !== UNIT) this.timer.unref();
    return undefined;
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
    if (!this.choosing && !this.over) this.follow(this.native.look(this.course, this.host.now()));
  }

  /** The peer is closed while it is at no unit. */
  closed() {
    this.native.peerClosed(this.course, this.host.now());
    // Nobody is called back within `close`.
    process.nextTick(() => this.run());
  }

  // Its end.

  /** @param {number} [answered] when it was answered, if so */
  giveUp(answered) {
    this.over = true;
    this.native.arrived(this.course, answered);
    this.stay(ATTEMPT);
    clearTimeout(this.timer);
    for (const { slot, callback } of this.attempts) this.host.abandon(slot, callback);
    this.attempts.clear();
  }

  end(outcome, answered) {
    this.giveUp(answered);
    this.host.tell(this.slot, outcome);
  }

  outcome() {
    const outcome = this.native.outcome(this.course);
    return typeof outcome === 'number' ? this.outcomes[outcome] : this.failure(faultOf(outcome));
  }

  /** What it ends with that is no attempt's. */
  failure(error) {
    const ctx = failedContext(this.slot.unit ?? undefined, Math.ceil(this.host.now() - this.since));
    return { error, ctx, lost: false };
  }
}

module.exports = { Way };
