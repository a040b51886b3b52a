'use strict';

const { TriedUnits, timedOutAfter } = require('./addon.js');
const { Choice, NOWHERE } = require('./choice.js');
const { failedContext } = require('./context.js');
const { peerClosed } = require('./errors.js');
const { faultOf } = require('./fields.js');
const { Parked, parkFault } = require('./parked.js');
const { NONE } = require('./protocol.js');

/** As the destination does. */
const AS_EVER = new Choice(undefined, undefined, null);

/**
 * The way of a request, or of a request for a stream, to a unit that takes it: it goes on to the next one as long as
 * surely no handler was begun, to each once, as the engine says. Only where a destination chooses the unit. Most
 * requests are answered by their first unit, and have none.
 */
class Way {
  /**
   * @param {import('./host.js').Slot} slot who waits for the answer, and what is asked
   * @param {import('./streams.js').Channel | null} channel of a stream
   */
  constructor(slot, channel) {
    this.slot = slot;
    this.destination = slot.destination;
    this.channel = channel;
    /** When it was first sent, or began to wait. */
    this.since = NaN;
    this.tried = NOWHERE;
    /** The unit that it has failed at last. */
    this.from = null;
    /** What it has failed with first. */
    this.outcome = null;
    /** While it waits for a unit. */
    this.parked = null;
    /** Whether a function is choosing a unit. */
    this.choosing = false;
    /** Whether it has ended while that did. */
    this.over = false;
  }

  get host() {
    return this.destination._peer._core;
  }

  /** Waits for the first unit. */
  begin() {
    this.since = this.host.now();
    this.parked = new Parked(this.destination, this, this.left());
  }

  /**
   * A unit has surely not begun it.
   * @param {import('./host.js').Outcome} outcome what it ends with when nobody else does
   * @param {number} since when it was sent, unless it has failed before
   */
  failed(outcome, since) {
    const { host, slot, destination } = this;
    if (Number.isNaN(this.since)) this.since = since;
    this.outcome ??= outcome;
    this.from = slot.unit;
    if (this.tried === NOWHERE) this.tried = new TriedUnits();
    const goesOn = host.native.noteTried(this.tried, slot.unit._number, outcome.error.message);
    this.channel?.detach();
    if (!goesOn) return host.fail(slot, outcome);
    if (this.left() <= 0) return host.fail(slot, this.timedOut());
    const unit = this.next();
    if (this.over) return;
    if (unit) this.goTo(unit);
    else if (destination._mayWait(slot.options) && !destination._peer._closed) this.wait();
    else host.fail(slot, this.outcome);
  }

  /** The unit that it goes to next, if there is one. It may be over afterwards. */
  next() {
    const { host, slot, destination, tried } = this;
    const { choice, requireHeaders } = slot.options;
    const { _set: units } = destination;
    const required = Boolean(requireHeaders);
    if (choice === null) return units.nextBy(AS_EVER, required, tried);
    this.choosing = true;
    try {
      return slot.scope.runInAsyncScope(units.nextBy, units, choice, required, tried);
    } catch (error) {
      if (this.over) return undefined;
      const failure = this.failure(error);
      this.giveUp();
      host.fail(slot, failure);
      return undefined;
    } finally {
      this.choosing = false;
    }
  }

  goTo(unit) {
    const { host, slot, channel } = this;
    const { data } = slot;
    const { from } = this;
    if (from !== null && from._number !== NONE) host.native.noteRerouted(from._number, host.now());
    host.schedule();
    slot.goTo(unit, host.time);
    const settings = {
      unit: unit._number,
      slot: slot.number,
      writable: channel?.writable,
      role: String(this.destination._name),
      event: String(slot.options.event),
      kind: slot.kind,
      timeout: slot.limit,
      since: this.since,
      bound: this.destination._bound,
    };
    const bytes = typeof data === 'string' ? Buffer.from(data) : data.subarray(0, slot.length);
    const number = host.native.ask(settings, bytes, slot.fields, host.now());
    if (number !== null) channel.attach(number);
  }

  // The wait for a unit.

  wait() {
    const { host, slot, destination } = this;
    const fault = parkFault(host);
    if (fault === null) this.parked = new Parked(destination, this, this.left());
    else host.fail(slot, this.failure(fault));
  }

  /** It waits no more. */
  leave() {
    this.parked.leave();
    this.parked = null;
  }

  /** There are other units. */
  look() {
    if (this.parked === null || this.choosing) return;
    const unit = this.next();
    if (this.over || !unit) return;
    this.leave();
    this.goTo(unit);
  }

  /** Whether the engine has nothing of it. */
  get isIdle() {
    return this.parked !== null || this.choosing;
  }

  /** It ends while it is idle. */
  giveUp() {
    this.over = true;
    if (this.parked !== null) this.leave();
  }

  late() {
    const outcome = this.timedOut();
    this.giveUp();
    this.host.fail(this.slot, outcome);
  }

  /** The peer is closed. */
  closed() {
    this.giveUp();
    // Nobody is called back within `close`.
    process.nextTick(() => this.host.fail(this.slot, this.failure(peerClosed())));
  }

  // Its time.

  /** Milliseconds that it has. */
  get most() {
    const { limit } = this.slot;
    return limit === 0 ? this.host.native.requestTimeout : limit;
  }

  left() {
    return this.since + this.most - this.host.now();
  }

  timedOut() {
    const { host, destination, tried, most } = this;
    const late = this.parked === null ? timedOutAfter(most) : host.native.late(tried, String(destination._name), most);
    return this.failure(faultOf(late));
  }

  failure(error) {
    const ctx = failedContext(this.slot.unit ?? undefined, Math.ceil(this.host.now() - this.since));
    return { error, ctx, lost: false };
  }
}

module.exports = { AS_EVER, Way };
