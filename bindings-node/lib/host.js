'use strict';

const { performance } = require('node:perf_hooks');
const { NativePeer, tooManyWaiting } = require('./addon.js');
const { Commands } = require('./commands.js');
const { Kind, encode, kindOf } = require('./data.js');
const { AnswerContext, MessageContext, RequestContext, failedContext, kFields, reasonOf } = require('./context.js');
const { EventReader, bytes, words } = require('./events.js');
const { emit, ignore } = require('./guard.js');
const { CODES, RoletalkError, plainError, roletalkError } = require('./errors.js');
const { check, faultOf } = require('./fields.js');
const { newScope, root } = require('./scope.js');
const { copyOf, release } = require('./store.js');
const { Way } = require('./way.js');
const {
  Command,
  ENDING,
  EVENT_HEADER,
  EVENT_WORDS,
  Flag,
  GONE,
  Header,
  LARGE,
  NONE,
  NOT_SENT,
  OUTPUT_WORDS,
  OUTPUTS,
  Op,
  PAUSE,
  REJECTED,
  RESUME,
  TAKEN,
  WRITTEN,
} = require('./protocol.js');

const OUTPUT = 4 * LARGE;
/** Above this, the engine is told at once that something is written. */
const BULK = 16384;

/** Time limits below this can be told in microseconds. */
const FINE = 2 ** 32 / 1e3;

/** A timer that fires so many milliseconds too late belongs to a loop that was blocked. */
const LATE = 100;

const OUTPUTS_AT = words.length - OUTPUTS * OUTPUT_WORDS;
/** Where small output is taken to; shared by all peers of the thread. */
let output = Buffer.allocUnsafeSlow(OUTPUT);
/** Whether a batch is being handed out, by any peer of the thread. */
let busy = false;

/** Who waits for an answer. */
class Slot {
  constructor(number) {
    this.number = number;
    this.unit = null;
    this.callback = null;
    this.sent = 0;
    /** Whether the unit was gone already when it was asked. */
    this.late = false;
    /** What may choose another unit, and what that is asked then. */
    this.destination = null;
    this.options = null;
    this.kind = 0;
    this.data = null;
    this.length = 0;
    this.fields = null;
    this.limit = 0;
    /** What a function that chooses among them is called in, if there is one. */
    this.scope = null;
    /** The stream that is asked for, if there is one. */
    this.channel = null;
    /** Once it goes to others, waits for one, or may be made again. */
    this.way = null;
    /** What it is of another slot's way. */
    this.attempt = null;
  }

  /**
   * Keeps what is asked, for other units.
   * @param {object} options those of the call, which nobody changes any more
   * @param {string | Buffer} data the payload
   * @param {number} limit milliseconds, 0 for the default
   * @param {boolean} surely whether it has to be kept
   */
  keep(destination, options, kind, data, fields, limit, surely) {
    if (kind === Kind.BINARY) {
      // To copy large bytes costs too much where there is no other unit, and none is waited for.
      const large = data.length > LARGE && destination._set.size < 2 && !destination._mayWait(options);
      if (large && !surely) return;
      // Whoever has given them may change them afterwards.
      this.data = copyOf(data);
    } else {
      this.data = data;
    }
    this.length = data.length;
    this.destination = destination;
    this.options = options;
    this.kind = kind;
    this.fields = fields;
    this.limit = limit;
    if (options.choice !== null) this.scope = newScope();
  }

  /** It is over. */
  end() {
    this.unit = null;
    this.callback = null;
    this.attempt = null;
    if (this.destination === null) return;
    if (this.kind === Kind.BINARY) release(this.data);
    this.destination = null;
    this.options = null;
    this.data = null;
    this.fields = null;
    this.scope = null;
    this.channel = null;
    this.way = null;
  }
}

/**
 * What a request ends with: `lost` when the unit's connection was lost.
 * @typedef {{ error: Error | null, ctx: object, lost: boolean }} Outcome
 */

/**
 * The engine of one peer on the event loop: writes commands for it, hands out what it says, and
 * keeps its time.
 *
 * Commands are collected and done together: at the end of a batch of events, or of the present turn
 * of the loop.
 */
class Host {
  /**
   * @param {object} settings as the addon takes them
   * @param {object} listener what is told of connections and units, see `Peer`
   */
  constructor(settings, listener) {
    this.listener = listener;
    this.time = performance.now();
    this.epoch = this.time;
    this.commands = new Commands();
    const { words: commandWords, payload } = this.commands;
    this.native = new NativePeer({ ...settings, now: this.time }, commandWords, payload, words, bytes);
    this.commands.native = this.native;
    this.events = new EventReader(this.native, listener._roles);
    this.conns = [];
    this.units = [];
    this.streams = [];
    this.slots = [];
    this.freeSlots = [];
    /** How many wait for a unit, and how many may. */
    this.parked = 0;
    this.mostParked = this.native.mostParked;
    /** Requests that handlers were called for and that are not answered, by the addon's number. */
    this.exchanges = [];
    /** Requests that were answered and whose answers are not sent yet. */
    this.answers = [];
    /** Whether the commands are worth a visit to the engine. */
    this.urgent = false;
    /** Whether a flush is under way, or will be at the end of the turn. */
    this.scheduled = false;
    this.timer = null;
    this.timerAt = Infinity;
    this.immediate = null;
    this.onTurn = () => this.flush();
    this.onTimer = () => {
      const late = performance.now() - this.timerAt > LATE;
      this.timer = null;
      this.timerAt = Infinity;
      // After the loop was blocked, what has come meanwhile is read before anyone is given up.
      if (late) this.immediate ??= setImmediate(this.onImmediate);
      else this.tick();
    };
    this.onImmediate = () => {
      this.immediate = null;
      this.tick();
    };
  }

  /** The clock that the engine goes by, in milliseconds. */
  now() {
    return performance.now();
  }

  // Commands.

  /** Something was asked of the engine: fetch what follows from it at the end of the turn. */
  schedule() {
    this.urgent = true;
    if (this.scheduled) return;
    this.scheduled = true;
    this.time = performance.now();
    process.nextTick(this.onTurn);
  }

  /**
   * Sends a message. The callback hears when it is written, or why it is not.
   * @param {number} destination 1 more than the number of the one that chooses another unit, should this one be gone;
   * 0 when no other one will do
   */
  send(unit, role, event, value, fields, callback, destination) {
    const route = this.commands.route(role, event);
    const kind = kindOf(value);
    const data = encode(kind, value);
    const slot = callback === undefined ? NONE : this.takeSlot(unit, callback).number;
    const names = route === NONE ? { role, event } : null;
    try {
      this.commands.write(Command.SEND, unit._number, route, slot, destination, names, data, kind, fields);
    } catch (error) {
      if (slot !== NONE) this.freeSlot(slot);
      throw error;
    }
    this.schedule();
  }

  /**
   * The same, before anything else can happen.
   * @returns {Error | null} the error when the unit has gone and another one may be asked: the callback hears nothing
   */
  sendAtOnce(unit, role, event, value, fields, callback) {
    const route = this.commands.route(role, event);
    const kind = kindOf(value);
    const data = encode(kind, value);
    const slot = callback === undefined ? NONE : this.takeSlot(unit, callback).number;
    const names = route === NONE ? { role, event } : null;
    let sent = false;
    try {
      const gone = this.commands.sendAtOnce(unit._number, route, slot, names, data, kind, fields);
      sent = gone === null;
      return gone;
    } finally {
      if (!sent && slot !== NONE) this.freeSlot(slot);
      this.schedule();
    }
  }

  /**
   * Sends a request. The callback gets the error or null, and the context.
   * @param {import('./unit.js').Unit | null} unit null when one is to be waited for
   * @param {number} timeout whole milliseconds, 0 for the default
   * @param {import('./destination.js').Destination | null} destination what has chosen the unit, and may choose another
   * @param {import('./retry.js').Retry | null} [retry] how it is made again
   */
  request(unit, options, value, timeout, fields, callback, destination, retry = null, op = Command.REQUEST) {
    const { role = '', event = '' } = options;
    const route = this.commands.route(role, event);
    const kind = kindOf(value);
    const data = encode(kind, value);
    const setsOut = unit === null || retry !== null;
    const bounded = destination !== null && destination._bound !== undefined;
    if ((setsOut || bounded) && fields !== null) check(fields);
    this.schedule();
    const slot = this.takeSlot(unit, callback);
    slot.sent = this.time;
    if (destination !== null) {
      const limit = op === Command.REQUEST ? timeout : timeout / 1e3;
      slot.keep(destination, options, kind, data, fields, limit, setsOut);
      if (setsOut) {
        this.setOut(slot, unit, retry);
        return slot;
      }
      if (bounded) {
        this.ask(slot, unit, { role, event, kind, timeout: limit, bound: destination._bound }, data, fields);
        return slot;
      }
    }
    const names = route === NONE ? { role, event } : null;
    try {
      this.commands.write(op, unit._number, route, slot.number, timeout, names, data, kind, fields);
    } catch (error) {
      this.freeSlot(slot.number);
      throw error;
    }
    return slot;
  }

  /** Has what a slot keeps find its way, to this unit first; null when it is to be waited for. */
  setOut(slot, unit, retry) {
    slot.way = new Way(slot, unit, retry, this.now());
    slot.way.begin(unit);
  }

  /** Whether so many wait for a unit that no more may. */
  get isCrowded() {
    return this.parked >= this.mostParked;
  }

  /** The error of what is to wait where so many wait already; null when it may. */
  parkFault() {
    return this.isCrowded ? faultOf(tooManyWaiting(this.mostParked)) : null;
  }

  /**
   * Sends a request at once: one that has to do with others.
   * @param {Slot} slot
   * @param {object} settings as the addon takes them, without unit and slot
   * @param {string | Buffer} data the payload
   */
  ask(slot, unit, { role, event, kind, timeout, since, bound, writable }, data, fields) {
    const settings = {
      unit: unit._number,
      slot: slot.number,
      writable,
      role: String(role),
      event: String(event),
      kind,
      timeout,
      since,
      bound,
    };
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    return this.native.ask(settings, bytes, fields, this.now());
  }

  /**
   * Sends a request that has this time from now on.
   * @param {number} limit milliseconds
   */
  requestWithin(unit, options, value, limit, fields, callback, destination) {
    const fine = limit < FINE;
    const timeout = Math.floor(fine ? limit * 1e3 : limit);
    const op = fine ? Command.REQUEST_WITHIN : Command.REQUEST;
    const slot = this.request(unit, options, value, timeout, fields, callback, destination, null, op);
    // Not at the end of the turn, which may be late: it is sent as what is left then.
    this.native.run(performance.now());
    return slot;
  }

  /**
   * Waits no more for the answer that this callback was given for. The slot is free when the engine says so.
   * @returns {import('./unit.js').Unit | null} who was asked last
   */
  abandon(slot, callback) {
    // It may have been answered, and the callback wait for its unit to close.
    if (slot.callback !== callback) return null;
    const { unit, way } = slot;
    if (way !== null) {
      way.giveUp();
      this.freeSlot(slot.number);
      return unit;
    }
    slot.callback = ignore;
    this.commands.plain(Command.ABANDON, slot.number, 0);
    this.schedule();
    return unit;
  }

  respond({ number, generation }, value, fields) {
    const kind = kindOf(value);
    this.commands.write(Command.RESPOND, number, generation, NONE, 0, null, encode(kind, value), kind, fields);
    this.schedule();
  }

  reject({ number, generation }, reason, fields) {
    this.commands.write(Command.REJECT, number, generation, NONE, 0, null, reason, Kind.STRING, fields);
    this.schedule();
  }

  /**
   * Rejects what has no handler.
   * @param {string[]} events those that have one, of the kind that was asked for
   */
  refuse(number, generation, why, name, events) {
    this.native.refuse(number, generation, why, name, events, this.now());
    this.schedule();
  }

  /** Takes back what nobody waits for any more. */
  forget({ number, generation }) {
    this.commands.plain(Command.FORGET, number, generation);
    this.schedule();
  }

  takeSlot(unit, callback) {
    let slot = this.freeSlots.pop();
    if (slot === undefined) this.slots.push((slot = new Slot(this.slots.length)));
    slot.unit = unit;
    slot.callback = callback;
    slot.late = unit !== null && unit._number === NONE;
    return slot;
  }

  freeSlot(number) {
    const slot = this.slots[number];
    slot.end();
    this.freeSlots.push(slot);
  }

  // Connections.

  /** Bytes came. */
  feed(conn, chunk) {
    this.begin();
    try {
      this.native.feed(conn.number, chunk, output, this.time);
      this.drain();
    } finally {
      this.end();
    }
  }

  /** A loop-native socket is ready. */
  ready(conn) {
    this.begin();
    try {
      this.native.ready(conn.number, output, this.time);
      this.drain();
    } finally {
      this.end();
    }
  }

  /** What was taken for a connection is written. */
  written(conn, length) {
    const time = busy ? this.time : performance.now();
    this.commands.plain(Command.WRITTEN, conn.number, (time - this.epoch) >>> 0);
    // What was queued while it was being written waits for that, and so does what comes last.
    if (!busy || length > BULK || conn.readyState !== conn.OPEN) this.schedule();
  }

  // Events.

  begin() {
    busy = true;
    this.scheduled = true;
    this.time = performance.now();
  }

  end() {
    this.scheduled = false;
    busy = false;
    // What the end of the batch has asked for.
    if (this.urgent) this.schedule();
  }

  /** Whether a batch is being handed out, by this peer or another one of the thread. */
  get busy() {
    return busy;
  }

  /** Does what is due. */
  tick() {
    this.native.timeout(performance.now());
    this.flush();
  }

  /** Does what was asked for, and hands out what follows. */
  flush() {
    this.begin();
    try {
      this.commitAnswers();
      this.urgent = false;
      this.native.poll(output, this.time);
      this.drain();
    } finally {
      this.end();
    }
  }

  /** Hands out a batch, and those that follow from it. */
  drain() {
    root.runInAsyncScope(this.handOut, this);
  }

  handOut() {
    for (;;) {
      this.dispatch();
      this.writeOutput();
      this.commitAnswers();
      if (!this.urgent && words[Header.MORE] === 0) break;
      this.urgent = false;
      this.native.poll(output, this.time);
    }
    this.arm(words[Header.DEADLINE]);
  }

  /** Sets the timer for the engine's deadline, unless it fires before that. */
  arm(millis) {
    if (millis === NONE) {
      // A peer that nobody holds any more must not wait for its timer.
      clearTimeout(this.timer);
      this.timer = null;
      this.timerAt = Infinity;
      return;
    }
    if (millis === 0) {
      this.immediate ??= setImmediate(this.onImmediate);
      return;
    }
    const at = this.time + millis;
    if (at >= this.timerAt) return;
    if (this.timer !== null) clearTimeout(this.timer);
    this.timerAt = at;
    this.timer = setTimeout(this.onTimer, millis);
    this.timer.unref();
  }

  commitAnswers() {
    const { answers } = this;
    if (answers.length === 0) return;
    this.answers = [];
    for (const exchange of answers) exchange.commit();
  }

  writeOutput() {
    const count = words[Header.OUTPUTS];
    words[Header.OUTPUTS] = 0;
    const region = output;
    for (let i = 0, at = OUTPUTS_AT; i < count; i++, at += OUTPUT_WORDS) {
      const flags = words[at + 3];
      const length = words[at + 2];
      const conn = this.conns[words[at]];
      if (flags & ~Flag.IN_BUFFER) {
        this.progress(conn, flags, words[at], words[at + 1]);
        continue;
      }
      let piece;
      let own = (flags & Flag.IN_BUFFER) !== 0;
      if (own) {
        piece = this.native.buffer(words[at + 1]);
      } else {
        piece = region.subarray(words[at + 1], words[at + 1] + length);
        if (conn._keepsMemory) {
          piece = Buffer.from(piece);
          own = true;
        }
      }
      if (!conn._write(piece) && !own) this.keep(region);
    }
  }

  /** What a connection is told apart from output. */
  progress(conn, flags, number, detail) {
    if (flags & TAKEN) conn._taken();
    if (flags & WRITTEN) conn._sent();
    if (flags & PAUSE) conn._socket.pause();
    if (flags & RESUME) conn._socket.resume();
    if (flags & (ENDING | GONE)) {
      this.conns[number] = undefined;
      if (flags & ENDING) conn._end(detail);
      else conn._lost(detail);
    }
  }

  /** A socket still needs the memory that output was taken to. */
  keep(region) {
    if (output === region) output = Buffer.allocUnsafeSlow(OUTPUT);
  }

  dispatch() {
    const count = this.events.begin();
    for (let i = 0, at = EVENT_HEADER; i < count; i++, at += EVENT_WORDS) {
      const first = words[at];
      switch (first & 0xff) {
        case Op.MESSAGE:
          this.incoming(at, first);
          break;
        case Op.REQUEST:
        case Op.OFFER_READABLE:
        case Op.OFFER_WRITABLE:
          this.question(at, first);
          break;
        case Op.ANSWER:
          this.answer(at, first);
          break;
        case Op.STREAM:
          this.stream(this.streams[words[at + 1]], at, first);
          break;
        case Op.SENT:
          this.sent(at, first);
          break;
        case Op.CANCELLED:
          this.cancelled(at);
          break;
        case Op.ABANDONED:
          this.freeSlot(words[at + 1]);
          break;
        case Op.CLOSED:
          this.conns[words[at + 1]]._closing(words[at + 2], this.events.text(at));
          break;
        case Op.PING:
          this.heard('ping', at, first);
          break;
        case Op.PONG:
          this.heard('pong', at, first);
          break;
        default:
          this.peerEvent(at, first);
      }
    }
  }

  /** Emits a ping or pong that has arrived, if there is a listener. */
  heard(name, at, first) {
    const conn = this.conns[words[at + 1]];
    if (conn.listenerCount(name) > 0) emit(conn, name, this.events.payloadOf(at, first));
  }

  peerEvent(at, first) {
    const { listener } = this;
    const a = words[at + 1];
    const b = words[at + 2];
    const c = words[at + 3];
    const d = words[at + 4];
    const address = b * 0x100000000 + a;
    switch (first & 0xff) {
      case Op.ATTACHED: {
        const description = JSON.parse(this.events.text(at));
        this.units[b] = listener._attached(this.conns[a], this.units[b], b, description);
        break;
      }
      case Op.UNIT_CLOSED: {
        const unit = this.units[a];
        this.units[a] = undefined;
        // Their handlers may go on, but there is nobody to answer.
        this.exchangesOf(unit).forEach(({ number }) => (this.exchanges[number] = undefined));
        this.commands.plain(Command.RELEASE_UNIT, a, 0);
        unit._number = NONE;
        listener._unitClosed(unit);
        const { _lost: lost } = unit;
        unit._lost = [];
        for (const fail of lost) fail();
        break;
      }
      case Op.UNIT_ROLES:
        listener._unitRoles(this.units[a], JSON.parse(this.events.text(at)));
        break;
      case Op.EJECTED:
        listener._ejected(this.units[a], b !== 0, this.events.text(at));
        break;
      case Op.DENIED:
        listener._denied(this.units[a], JSON.parse(this.events.text(at)));
        break;
      case Op.ADDRESS_IGNORED:
        listener._addressIgnored(this.units[a], this.events.text(at));
        break;
      case Op.AUTH_REFUSED:
        listener._authRefused(plainError('AUTH_REFUSED', this.events.text(at)));
        break;
      case Op.EVICT:
        listener._evict(address, c !== 0);
        break;
      case Op.ACCEPT_FAILED:
        listener._acceptFailed(this._failure(roletalkError, at, first));
        break;
      case Op.DIAL:
        listener._dial(address, this.events.text(at));
        break;
      case Op.DIALED: {
        const error = first & Flag.FAILED ? this._failure(plainError, at, first) : null;
        const conn = d === NONE ? null : this.conns[d];
        listener._dialed(address, c, (first & Flag.AGAIN) !== 0, error, conn);
        break;
      }
      case Op.SLOW_CONSUMER:
        listener._slowConsumer(this.units[a], b, c);
        break;
      case Op.UNSENT: {
        const error = this._failure(roletalkError, at, first);
        listener._unsent(this.units[a], error, b, c);
        break;
      }
      case Op.CONNECTION_CLOSED: {
        const error = this._failure(roletalkError, at, first);
        listener._connectionClosed(this.conns[a], b === NONE ? null : this.units[b], error);
        break;
      }
    }
  }

  stream(stream, at, first) {
    // It may be closed already. Reading and writing call the user's listeners.
    if (stream === undefined) return;
    const { _channel: channel } = stream;
    if (first & Flag.FAILED) {
      const code = CODES[(first >> 8) & 0xff];
      const [text] = this.events.failure(at, first);
      channel.within(() => stream._broken(code, text));
    } else {
      channel.within(() => stream._wake());
    }
  }

  incoming(at, first) {
    const unit = this.units[words[at + 1]];
    const fields = first & Flag.FIELDS ? this.events.takeFields(at, first) : null;
    const names = this.events.namesOf(at, first);
    const { handler } = names;
    if (handler === undefined || !handler._active) return;
    let ctx;
    try {
      ctx = new MessageContext((first >> 8) & 0xff, this.events.payloadOf(at, first), names, unit);
    } catch (error) {
      return this.listener._handlerFailed(error, { unit, role: names.role, event: names.event });
    }
    if (fields !== null) ctx[kFields] = fields;
    handler._emitMsg(ctx);
  }

  question(at, first) {
    const unit = this.units[words[at + 1]];
    const number = words[at + 3];
    const generation = words[at + 4];
    const fields = first & Flag.FIELDS ? this.events.takeFields(at, first) : null;
    const names = this.events.namesOf(at, first);
    const op = first & 0xff;
    let ctx;
    try {
      ctx = new RequestContext((first >> 8) & 0xff, this.events.payloadOf(at, first), names, unit);
    } catch (error) {
      this.reject({ number, generation }, error.message, null);
      return this.listener._handlerFailed(error, { unit, role: names.role, event: names.event });
    }
    this.listener._question(op, ctx, names.handler, number, generation, fields);
  }

  /** Nobody waits any more for the answer to a request, or to all of a unit. */
  cancelled(at) {
    const number = words[at + 2];
    const generation = words[at + 3];
    const reason = words[at + 4];
    if (number === NONE) {
      for (const exchange of this.exchangesOf(this.units[words[at + 1]])) exchange.cancel(reason);
      return;
    }
    const exchange = this.exchanges[number];
    if (exchange !== undefined && exchange.generation === generation) exchange.cancel(reason);
  }

  exchangesOf(unit) {
    return this.exchanges.filter((exchange) => exchange !== undefined && exchange.unit === unit);
  }

  answer(at, first) {
    const slot = this.slots[words[at + 1]];
    const fields = first & Flag.FIELDS ? this.events.takeFields(at, first) : null;
    if (first & Flag.FAILED || words[at + 2] === REJECTED) return this.unanswered(slot, at, first, fields);
    const { unit, callback } = slot;
    const rtt = Math.ceil(this.time - slot.sent);
    this.freeSlot(slot.number);
    let ctx;
    try {
      ctx = new AnswerContext((first >> 8) & 0xff, this.events.payloadOf(at, first), unit, rtt);
    } catch (error) {
      return callback(unreadable(error), failedContext(unit, rtt));
    }
    if (fields !== null) ctx[kFields] = fields;
    callback(null, ctx);
  }

  /** A request was rejected, or has failed. */
  unanswered(slot, at, first, fields) {
    const outcome = first & Flag.FAILED ? this.failed(slot, at, first, fields) : this.rejected(slot, at, first, fields);
    const { attempt, callback } = slot;
    const unhandled = (first & Flag.NOT_BEGUN) !== 0;
    // What was given up goes nowhere.
    if (callback === ignore) return this.tell(slot, outcome);
    if (attempt !== null) {
      this.freeSlot(slot.number);
      return attempt.way.ended(attempt, outcome, unhandled);
    }
    // Who has chosen the unit meant that one.
    if (!unhandled || slot.destination === null || slot.options.unit) return this.tell(slot, outcome);
    const age = words[at + 4] * 0x100000000 + words[at + 3];
    slot.way = new Way(slot, slot.unit, null, this.time - age / 1e3);
    slot.way.failed(0, outcome, true);
  }

  /** @returns {Outcome} */
  failed({ unit, sent, late }, at, first, fields) {
    const code = CODES[(first >> 8) & 0xff];
    const unsent = words[at + 2] === NOT_SENT;
    const error = late && unsent ? noSockets(code) : this._failure(roletalkError, at, first);
    const failure = fields?.failure;
    if (failure !== undefined) error.failure = failure;
    const ctx = failedContext(unit, Math.ceil(this.time - sent));
    return { error, ctx, lost: code === 'CONNECTION_LOST' && !unsent };
  }

  /** @returns {Outcome} */
  rejected({ unit, sent }, at, first, fields) {
    const rtt = Math.ceil(this.time - sent);
    // Before the payload, which is behind it.
    const hint = first & Flag.NAMED ? this.events.failure(at, first)[1] : undefined;
    let ctx;
    try {
      ctx = new AnswerContext((first >> 8) & 0xff, this.events.payloadOf(at, first), unit, rtt);
    } catch (error) {
      return { error: unreadable(error), ctx: failedContext(unit, rtt), lost: false };
    }
    if (fields !== null) ctx[kFields] = fields;
    const error = new RoletalkError('REJECTED', reasonOf(ctx), { hint, failure: fields?.failure });
    return { error, ctx, lost: false };
  }

  /**
   * Tells who waits.
   * @param {Outcome} outcome
   */
  tell(slot, { error, ctx, lost }) {
    const { callback } = slot;
    this.freeSlot(slot.number);
    // Those who wait hear of it after the unit has closed.
    if (lost && ctx.unit._number !== NONE) ctx.unit._lost.push(() => callback(error, ctx));
    else callback(error, ctx);
  }

  _failure(make, at, first) {
    const [text, hint] = this.events.failure(at, first);
    return make(CODES[(first >> 8) & 0xff], text, { hint });
  }

  sent(at, first) {
    const number = words[at + 1];
    const { callback, late } = this.slots[number];
    this.freeSlot(number);
    if (first & Flag.FAILED) {
      const code = CODES[(first >> 8) & 0xff];
      callback(late ? noSockets(code) : this._failure(roletalkError, at, first));
    } else {
      this.conns[words[at + 2]]._onceWritten(callback);
    }
  }
}

/** The error of an answer that cannot be read. */
function unreadable(error) {
  return new RoletalkError('DATA', error.message, { cause: error });
}

/** Something was for a unit that had closed before. */
function noSockets(code) {
  return plainError(code, 'Missing underlying sockets to send data');
}

module.exports = { Host };
