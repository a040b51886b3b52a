'use strict';

// The attempts of a request that may be handled more than once. The engine decides whether there is a further one, when,
// and whether one is made besides a slow one: see `Retry`. What surely was not begun goes on as ever, at no cost.

const { TriedUnits, timedOutAfter } = require('./addon.js');
const { NOWHERE } = require('./choice.js');
const { failedContext } = require('./context.js');
const { encode, kindOf, Kind } = require('./data.js');
const { peerClosed } = require('./errors.js');
const { check, faultOf } = require('./fields.js');
const { Parked, parkFault } = require('./parked.js');
const { NONE } = require('./protocol.js');
const { newScope } = require('./scope.js');
const { AS_EVER } = require('./way.js');

/** The longest that a timer of Node's can have, in milliseconds. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** One attempt: the request at one unit. */
class Attempt {
  constructor(attempts, unit) {
    const { host, destination, kind, data, fields } = attempts;
    this.attempts = attempts;
    this.unit = unit;
    this.callback = (error, ctx) => attempts.ended(this, error, ctx, false);
    host.schedule();
    this.slot = host.takeSlot(unit, this.callback);
    this.slot.sent = host.time;
    this.slot.accompany(this, destination, attempts.options);
    const settings = {
      role: destination._name,
      event: attempts.options.event,
      kind,
      timeout: attempts.limit,
      since: attempts.since,
      bound: destination._bound,
    };
    host.ask(this.slot, unit, settings, data, fields);
  }

  /** The engine has it. */
  get isIdle() {
    return false;
  }

  /** The unit has surely not begun it. */
  failed({ error, ctx }) {
    this.attempts.host.freeSlot(this.slot.number);
    this.attempts.ended(this, error, ctx, true);
  }

  giveUp() {
    this.attempts.host.abandon(this.slot, this.callback);
  }
}

/** All attempts of one request, which has one outcome. */
class Attempts {
  /**
   * @param {import('./retry.js').Retry} retry
   * @param {import('./destination.js').Destination} destination
   * @param {number} limit milliseconds, 0 for the default
   * @param {(error: any, ctx: object) => void} callback
   */
  constructor(retry, destination, options, value, fields, limit, callback) {
    this.retry = retry._native;
    this.destination = destination;
    this.host = destination._peer._core;
    this.options = options;
    this.kind = kindOf(value);
    const data = encode(this.kind, value);
    // Whoever has given bytes may change them afterwards.
    this.data = this.kind === Kind.BINARY ? Buffer.from(data) : data;
    if (fields !== null) check(fields);
    this.fields = fields;
    this.limit = limit;
    this.callback = callback;
    this.scope = options.choice === null ? null : newScope();
    this.since = this.host.now();
    this.tried = NOWHERE;
    /** Attempts in all, and those that are under way. */
    this.made = 1;
    this.running = new Set();
    /** The unit of the last one, and when the first of those that are under way was begun. */
    this.unit = null;
    this.begun = 0;
    this.timer = undefined;
    /** While it waits for a unit, and what it ends with when none comes; null for the error that says so. */
    this.parked = null;
    this.otherwise = null;
    /** While it waits for the time of a further attempt. */
    this.pausing = false;
    this.choosing = false;
    this.over = false;
  }

  /** @param {import('./unit.js').Unit | null} unit null when one is to be waited for */
  begin(unit) {
    this.retry.begin();
    if (unit === null) this.parked = new Parked(this.destination, this, this.left());
    else this.start(unit);
  }

  /** Asks a unit, while no other attempt is under way. */
  start(unit) {
    this.unit = unit;
    this.begun = this.host.now();
    this.running.add(new Attempt(this, unit));
    const after = this.retry.hedgeAfter();
    if (after === null || after > LONGEST_TIMER) return;
    this.timer = setTimeout(() => this.hedge(), after);
    // A connection that is there keeps the process alive, or does not.
    this.timer.unref();
  }

  /** It takes long. */
  hedge() {
    const { host, retry, tried, unit } = this;
    const other = this.next(host.native.passingOver(tried, unit._number));
    if (this.over || !other || this.running.size === 0 || !retry.mayHedge()) return;
    this.made++;
    this.running.add(new Attempt(this, other));
  }

  /** An attempt has ended. */
  ended(attempt, error, ctx, unhandled) {
    if (!this.running.delete(attempt) || this.over) return;
    const { host, retry, running } = this;
    if (error === null) {
      retry.answered(host.now() - this.begun);
      return this.end(null, ctx);
    }
    const failure = { code: error.code, unhandled, retryAfter: error.failure?.retryAfter };
    // The other one may still be answered.
    const other = running.size > 0 && retry.mayHelp(failure);
    const goesOn = this.note(attempt.unit, error);
    if (other) return;
    clearTimeout(this.timer);
    if (unhandled && goesOn) {
      if (this.left() <= 0) return this.end(faultOf(timedOutAfter(this.most)), ctx);
      const unit = this.next(this.tried);
      if (this.over) return;
      if (unit) {
        if (attempt.unit._number !== NONE) host.native.noteRerouted(attempt.unit._number, host.now());
        return this.start(unit);
      }
      if (this.mayWait) return this.park(null);
    }
    this.again(attempt.unit, failure, { error, ctx });
  }

  /** @returns {boolean} whether it may go on if it was not begun */
  note(unit, error) {
    if (this.tried === NOWHERE) this.tried = new TriedUnits();
    return this.host.native.noteTried(this.tried, unit._number, error.message);
  }

  /** Asks once more, if that may help and is allowed. */
  again(failed, failure, outcome) {
    const wait = this.retry.again(this.made, failure, this.left(), Math.random());
    if (wait === null) return this.end(outcome.error, outcome.ctx);
    this.otherwise = outcome;
    this.pausing = true;
    this.destination._ways.add(this);
    this.destination._peer._hold.take();
    this.timer = setTimeout(() => this.resume(failed), Math.min(wait, LONGEST_TIMER));
    this.timer.unref();
  }

  resume(failed) {
    const { host, otherwise } = this;
    this.leave();
    this.made++;
    let unit = this.next(this.tried);
    if (this.over) return;
    if (!unit) {
      // Those that have failed long ago may do better now.
      host.native.forgetAllBut(this.tried, failed._number);
      unit = this.next(this.tried);
      if (this.over) return;
    }
    if (unit) this.start(unit);
    else if (this.mayWait) this.park(otherwise);
    else this.end(otherwise.error, otherwise.ctx);
  }

  /** A unit to ask, if there is one. It may be over afterwards. */
  next(tried) {
    const { destination, options, scope } = this;
    const { _set: units } = destination;
    const required = Boolean(options.requireHeaders);
    if (scope === null) return units.nextBy(AS_EVER, required, tried);
    this.choosing = true;
    try {
      return scope.runInAsyncScope(units.nextBy, units, options.choice, required, tried);
    } catch (error) {
      this.end(error);
      return undefined;
    } finally {
      this.choosing = false;
    }
  }

  // The wait for a unit.

  get mayWait() {
    return this.destination._mayWait(this.options) && !this.destination._peer._closed;
  }

  /** @param {{ error: Error, ctx: object } | null} otherwise what it ends with, unless a unit comes */
  park(otherwise) {
    const fault = parkFault(this.host);
    if (fault !== null) return this.end(otherwise?.error ?? fault, otherwise?.ctx);
    this.otherwise = otherwise;
    this.parked = new Parked(this.destination, this, this.left());
  }

  /** It waits no more, for a unit or for its time. */
  leave() {
    this.parked?.leave();
    this.parked = null;
    clearTimeout(this.timer);
    if (!this.pausing) return;
    this.pausing = false;
    this.destination._ways.delete(this);
    this.destination._peer._hold.release();
  }

  /** There are other units. */
  look() {
    if (this.parked === null || this.choosing) return;
    const unit = this.next(this.tried);
    if (this.over || !unit) return;
    this.leave();
    this.start(unit);
  }

  /** The time is up while it waits for a unit. */
  late() {
    const { host, destination, tried, otherwise } = this;
    const error = otherwise?.error ?? faultOf(host.native.late(tried, String(destination._name), this.most));
    this.end(error, otherwise?.ctx);
  }

  /** The peer is closed while it waits. */
  closed() {
    const { otherwise } = this;
    this.leave();
    // Nobody is called back within `close`.
    process.nextTick(() => this.end(otherwise?.error ?? peerClosed(), otherwise?.ctx));
  }

  // Its end.

  /** Gives up all attempts. */
  giveUp() {
    if (this.over) return;
    this.over = true;
    this.leave();
    for (const attempt of this.running) attempt.giveUp();
    this.running.clear();
  }

  end(error, ctx = this.context()) {
    if (this.over) return;
    this.giveUp();
    this.callback(error, ctx);
  }

  context() {
    return failedContext(this.unit ?? undefined, Math.ceil(this.host.now() - this.since));
  }

  // Its time.

  /** Milliseconds that it has. */
  get most() {
    return this.limit === 0 ? this.host.native.requestTimeout : this.limit;
  }

  left() {
    return this.since + this.most - this.host.now();
  }
}

module.exports = { Attempts };
