'use strict';

const { EventEmitter } = require('node:events');
const { onAbort } = require('./abort.js');
const { Choice, balanceOf, keyOf, tagsOf } = require('./choice.js');
const { RoletalkError, peerClosed } = require('./errors.js');
const { faultOf } = require('./fields.js');
const { bound, checkCallback, emit, ignore } = require('./guard.js');
const { ALL, EMIT, REQUEST, STREAM, WAIT, checkOptions } = require('./options.js');
const { Step } = require('./protocol.js');
const { retryOf } = require('./retry.js');
const { PeerReadable, PeerWritable } = require('./streams.js');
const { toMillis } = require('./timeout.js');
const { Survey } = require('./survey.js');
const { request } = require('./unit.js');

/** Units in the order of their arrival, and the choice among them. */
class Units extends Set {
  constructor(core, name) {
    super();
    this._core = core;
    // Nobody can serve a role without a name, but asking for one is no error in the original.
    const role = typeof name === 'string' && name !== '' ? name : null;
    /** The engine's number of the destination. */
    this._destination = core.native.addDestination(role, core.now());
    this._list = [];
    this._numbers = new Uint32Array(0);
  }

  add(unit) {
    super.add(unit);
    this._changed();
    return this;
  }

  delete(unit) {
    const deleted = super.delete(unit);
    this._changed();
    return deleted;
  }

  _changed() {
    this._list = [...this];
    this._numbers = Uint32Array.from(this._list, (unit) => unit._number);
  }

  /** The unit that what is sent next goes to; perhaps only one that takes headers will do. */
  next(takesFields) {
    const { _core: core, _list: list } = this;
    // One candidate is no choice.
    if (list.length < 2 && !takesFields) return list[0];
    return list[core.native.choose(this._destination, this._numbers, takesFields, core.now())];
  }

  /**
   * The same, in another way, or where it has not been.
   * @param {Choice} choice
   * @param {number | undefined} course the engine's number of its way, once it has been anywhere
   * @returns as `Choice.unitOf`
   */
  nextBy(choice, takesFields, course) {
    const { _core: core, _list: list, _numbers: numbers } = this;
    return choice.unitOf(core, this._destination, list, numbers, takesFields, course);
  }

  /** How they stand. */
  standings() {
    const { _core: core, _list: list, _numbers: numbers } = this;
    const told = core.native.standings(this._destination, numbers, core.now());
    return list.map((unit, n) => {
      const [waiting, answerTime, unanswered, rejected, ejected] = told.slice(5 * n, 5 * n + 5);
      return { unit, waiting, answerTime, unanswered, rejected, ejected: ejected < 0 ? undefined : ejected };
    });
  }
}

/**
 * A role that units offer. Made by `peer.destination(name)`.
 */
class Destination extends EventEmitter {
  constructor(name, peer) {
    super();
    this._name = name;
    this._peer = peer;
    this._ready = false;
    this._set = new Units(peer._core, name);
    /** Its own balance, the tags that it prefers, and which units it leaves out, if any of it was said. */
    this._balance = undefined;
    this._prefer = undefined;
    this._eject = undefined;
    /** How the unit is chosen where that is not said: null when the engine does so by itself. */
    this._choice = null;
    this._chooseBy();
    /** What settles the promises of those who wait for a unit. */
    this._waiting = new Set();
    /** What is asked for and waits for a unit. */
    this._ways = new Set();
    /** Whether that waits where it is not said. */
    this._waits = false;
    /** How requests are made again where it is not said; null when they are not. */
    this._retry = null;
    /** The bound of requests in flight, and its number for the addon; undefined when there is none. */
    this._maxInFlight = null;
    this._bound = undefined;
  }

  /** Has units chosen in this way from now on. What is undefined stays as it is. */
  _chooseBy(balance = this._balance, prefer = this._prefer, eject = this._eject) {
    const { _peer: peer } = this;
    this._balance = balance;
    this._prefer = prefer;
    this._eject = eject;
    // Nothing is null, too.
    const ejection = eject === undefined ? peer._eject : eject;
    const inForce = balance ?? peer._balance;
    const isFunction = typeof inForce === 'function';
    this._choice = isFunction ? new Choice(inForce, prefer, null) : null;
    if (balance === undefined && prefer === undefined && ejection === undefined) return;
    const { _core: core } = peer;
    const name = isFunction ? null : balance;
    core.native.setBalance(this._set._destination, name, prefer ?? [], ejection, core.now());
  }

  /** Has so many requests in flight at most from now on. */
  _setBound(most) {
    if (most === this._maxInFlight) return;
    const { _core: core } = this._peer;
    this._maxInFlight = most;
    this._bound = most === null ? undefined : this._set._destination;
    core.native.setBound(this._set._destination, most, core.now());
  }

  get units() {
    return [...this._set];
  }

  /** How the units stand that serve it. */
  standings() {
    return this._set.standings();
  }

  get name() {
    return this._name;
  }

  get peer() {
    return this._peer;
  }

  get ready() {
    return this._ready;
  }

  /**
   * Waits until a unit serves the role. The process is kept alive meanwhile, and the peer's `close` ends it.
   * @param {{signal?: AbortSignal}} [options]
   */
  whenReady(options = {}) {
    checkOptions('whenReady', options, WAIT);
    const { signal, timeout } = options;
    const { _peer: peer } = this;
    const promise = new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const closed = () => {
        // It may be what a program ends with, and is nothing to be looked at then.
        promise.catch(ignore);
        reject(peerClosed());
      };
      if (peer._closed) return void process.nextTick(closed);
      if (this._ready) return resolve(this);
      let forget;
      let timer;
      const finish = (settle) => {
        this._waiting.delete(waiter);
        peer._hold.release();
        forget?.();
        clearTimeout(timer);
        settle();
      };
      const waiter = {
        ready: () => finish(() => resolve(this)),
        closed: () => finish(closed),
      };
      if (signal) forget = onAbort(signal, () => finish(() => reject(signal.reason)));
      // As for requests: nothing and 0 are no limit here. Beyond what Node's timers hold, there is none either.
      const limit = toMillis(timeout);
      if (limit > 0 && limit < 2 ** 31) timer = setTimeout(() => finish(() => reject(this._late())), limit);
      this._waiting.add(waiter);
      peer._hold.take();
    });
    return promise;
  }

  /** Nobody serves it in time. */
  _late() {
    const { hint } = this._nobody(false);
    return new RoletalkError('TIMEOUT', `No unit serves the role "${this._name}" yet`, { hint });
  }

  /** The peer is closed. */
  _peerClosed() {
    for (const { closed } of this._waiting) closed();
    for (const way of this._ways) way.closed();
  }

  send(event, data, callback) {
    const headers = this._headers(event, 'send');
    const wanted = headers.unit;
    if (headers.choice !== null && !wanted) return this._sendBy(headers, data, callback);
    const required = Boolean(headers.requireHeaders);
    const unit = wanted ? (this._set.has(wanted) ? wanted : undefined) : this._set.next(required);
    if (unit) unit.send(headers, data, callback, wanted ? 0 : this._set._destination + 1);
    else if (callback) this._notSent(callback, this._nobody(required));
    return unit;
  }

  /** The same, where the engine does not choose by itself. */
  _sendBy(headers, data, callback) {
    checkCallback(callback);
    const { _core: core } = this._peer;
    const { native } = core;
    const required = Boolean(headers.requireHeaders);
    let failed;
    let course;
    let step = Step.CHOOSE;
    try {
      while (step === Step.CHOOSE) {
        const unit = this._set.nextBy(headers.choice, required, course);
        if (!unit) {
          failed ??= this._nobody(required && unit !== null);
          break;
        }
        const gone = unit._sendAtOnce(headers, data, callback);
        if (gone === null) return unit;
        // It was closed since it was chosen, which only a function can do.
        failed ??= gone;
        const now = core.now();
        course ??= native.setOut(null, false, 0, now);
        const attempt = native.asks(course, unit._number, now);
        step = native.attemptFailed(course, attempt, [gone.code, gone.message], true, undefined, now);
      }
    } finally {
      if (course !== undefined) native.arrived(course);
    }
    if (callback) this._notSent(callback, failed);
    return undefined;
  }

  _notSent(callback, error) {
    checkCallback(callback);
    process.nextTick(bound(callback), error);
  }

  broadcast(event, data) {
    const headers = this._headers(event, 'broadcast', ALL);
    for (const unit of this._set) unit.send(headers, data);
  }

  request(event, data, callback) {
    const headers = this._headers(event, 'request', REQUEST);
    const retry = this._retry === null && headers.plain ? null : this._retryOf(event, headers);
    return request(this._pick(headers), headers, data, callback, this._chooser(headers), retry);
  }

  /** Asks every unit. Without a callback the answers can be iterated over. */
  survey(event, data, callback) {
    const headers = this._headers(event, 'survey', ALL);
    if (!callback) return new Survey([...this._set], headers, data);
    const { size } = this._set;
    for (const unit of this._set) unit.request(headers, data, callback);
    return size;
  }

  Readable(event, data, options) {
    const headers = this._headers(event, 'Readable');
    checkOptions('Readable', options, STREAM);
    return new PeerReadable(options, this._pick(headers), headers, data, undefined, this._chooser(headers));
  }

  Writable(event, data, options) {
    const headers = this._headers(event, 'Writable');
    checkOptions('Writable', options, STREAM);
    return new PeerWritable(options, this._pick(headers), headers, data, undefined, this._chooser(headers));
  }

  _headers(event, where, known = EMIT) {
    // Nearly all: nobody has to look for further options.
    if (typeof event !== 'object' || event === null) {
      return { role: this._name, event: event ?? '', plain: true, choice: this._choice };
    }
    checkOptions(where, event, known);
    // Always the same members: what reads them is much faster so than where some have none.
    return {
      role: this._name,
      event: event.event ?? '',
      plain: false,
      choice: known === ALL ? null : this._choiceOf(event),
      timeout: event.timeout,
      unit: event.unit,
      waitForUnit: event.waitForUnit,
      signal: event.signal,
      headers: event.headers,
      requireHeaders: event.requireHeaders,
      traceparent: event.traceparent,
      tracestate: event.tracestate,
      baggage: event.baggage,
      inherit: event.inherit,
    };
  }

  /** How the unit is chosen; null when the engine does so by itself. */
  _choiceOf(options) {
    const { balance, prefer, key, unit } = options;
    if ((balance ?? prefer ?? key ?? null) === null || unit) return this._choice;
    // What is not said of one is as ever. The key of a call comes before any balance.
    return new Choice(
      balanceOf(options) ?? this._balance ?? this._peer._balance,
      tagsOf(options) ?? this._prefer,
      keyOf(options),
    );
  }

  /** How a request is made again; null when it is not, or the caller has chosen the unit. */
  _retryOf(event, { plain, unit }) {
    const retry = plain ? undefined : retryOf(event);
    if (unit) return null;
    return retry === undefined ? this._retry : retry;
  }

  /**
   * What chooses other units, too, should the first not begin, and has the bound of requests in flight; null when
   * there is neither, since the caller has chosen.
   */
  _chooser({ unit: wanted }) {
    return wanted && this._bound === undefined ? null : this;
  }

  /** The unit that is asked for, which need not serve the role, or the next one; null when it is to be waited for. */
  _pick(options) {
    const { unit: wanted, requireHeaders, choice } = options;
    const required = Boolean(requireHeaders);
    let unit;
    if (wanted) unit = this._peer._units.get(wanted._number) === wanted ? wanted : undefined;
    else if (choice === null) unit = this._set.next(required);
    else unit = this._set.nextBy(choice, required, undefined);
    if (unit) return unit;
    const nobody = this._nobody(required && unit !== null);
    if (wanted || !this._mayWait(options) || nobody.code !== 'NO_UNIT') throw nobody;
    const fault = this._peer._core.parkFault();
    if (fault !== null) throw fault;
    return null;
  }

  /** Whether it waits when there is no unit. */
  _mayWait({ waitForUnit }) {
    return Boolean(waitForUnit ?? this._waits);
  }

  _nobody(takesFields) {
    return faultOf(this._peer._core.native.noChoice(this._name, takesFields));
  }

  _addUnit(unit) {
    if (this._set.has(unit)) return;
    this._set.add(unit);
    const wasReady = this._ready;
    this._ready = true;
    if (!wasReady) {
      emit(this, 'open');
      for (const { ready } of this._waiting) ready();
    }
    this._look();
    emit(this, 'unit', unit);
  }

  _deleteUnit(unit) {
    if (!this._set.delete(unit)) return;
    if (this._set.size > 0) return this._look();
    this._ready = false;
    emit(this, 'close');
  }

  /** Those that wait for a unit look again. */
  _look() {
    // Functions that choose may have others wait meanwhile.
    if (this._ways.size > 0) for (const way of [...this._ways]) way.look();
  }
}

module.exports = { Destination };
