'use strict';

const { performance } = require('node:perf_hooks');
const { NativePeer } = require('./addon.js');
const { Kind, encode, kindOf } = require('./data.js');
const { AnswerContext, EMPTY, MessageContext, RequestContext, failedContext } = require('./context.js');
const { call, emit } = require('./guard.js');
const { CODES, PlainError, RoletalkError } = require('./errors.js');
const {
  Command,
  COMMAND_HEADER,
  COMMAND_WORDS,
  ENDING,
  EVENT_HEADER,
  EVENT_WORDS,
  Flag,
  Header,
  LARGE,
  NONE,
  OUTPUT_WORDS,
  OUTPUTS,
  Op,
} = require('./protocol.js');

const COMMANDS = 512;
const PAYLOAD = 4 * LARGE;
const EVENTS = 1024;
const OUTPUT = 4 * LARGE;
/** Names of what goes out that are numbered; further ones are sent along each time. */
const MAX_ROUTES = 4096;
/** Texts of a batch are cut out of one string when they are this short on average. */
const SHORT = 256;
const POOL = 4 * LARGE;
const POOLED = 1024;
/** Above this, the engine is told at once that something is written. */
const BULK = 16384;

// Shared by all peers of the thread: a batch is used up before the next one is made.
const words = new Uint32Array(EVENT_HEADER + EVENTS * EVENT_WORDS + OUTPUTS * OUTPUT_WORDS);
const bytes = Buffer.allocUnsafeSlow(16 * LARGE);
const OUTPUTS_AT = words.length - OUTPUTS * OUTPUT_WORDS;
let output = Buffer.allocUnsafeSlow(OUTPUT);
let busy = false;
/** Where bytes of medium size are copied to: one allocation for several. Node has its own for small ones. */
let pool = EMPTY;
let pooled = 0;

/** Who waits for an answer. */
class Slot {
  constructor(number) {
    this.number = number;
    this.unit = null;
    this.callback = null;
    this.sent = 0;
  }
}

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
    this.commands = new Uint32Array(COMMAND_HEADER + COMMANDS * COMMAND_WORDS);
    this.payload = Buffer.allocUnsafeSlow(PAYLOAD);
    this.time = performance.now();
    this.native = new NativePeer({ ...settings, now: this.time }, this.commands, this.payload, words, bytes);
    this.conns = [];
    this.units = [];
    this.streams = [];
    this.names = [];
    this.slots = [];
    this.freeSlots = [];
    this.routes = new Map();
    this.routeCount = 0;
    /** Requests that were answered and whose answers are not sent yet. */
    this.answers = [];
    this.named = null;
    /** Whether the commands are worth a visit to the engine. */
    this.urgent = false;
    /** Whether a flush is under way, or will be at the end of the turn. */
    this.scheduled = false;
    this.timer = null;
    this.timerAt = Infinity;
    this.immediate = null;
    this.onTurn = () => this.flush();
    this.onTimer = () => {
      this.timer = null;
      this.timerAt = Infinity;
      this.tick();
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

  /** Takes up a command. Returns where its words begin. */
  place() {
    let count = this.commands[0];
    if (count === COMMANDS) {
      this.native.run(performance.now());
      count = 0;
    }
    this.commands[0] = count + 1;
    return COMMAND_HEADER + count * COMMAND_WORDS;
  }

  /** A command without a payload. */
  plain(op, target) {
    const at = this.place();
    const { commands } = this;
    commands[at] = op;
    commands[at + 1] = target;
    commands[at + 5] = 0;
    commands[at + 4] = 0;
  }

  /**
   * A command with a payload.
   * @param {number} second the route, or the generation of a responder
   */
  write(op, target, second, slot, timeout, names, value, kind) {
    const data = encode(kind, value);
    const length = data.length;
    const text = typeof data === 'string';
    const most = text ? length * 3 : length;
    if (names !== null || most > LARGE) {
      const buffer = text ? Buffer.from(data) : data;
      if (names !== null || buffer.length > LARGE) {
        return this.writeLarge(op, target, second, slot, timeout, names, buffer, kind);
      }
    }
    if (this.commands[1] + most > PAYLOAD) this.native.run(performance.now());
    const at = this.place();
    const { commands, payload } = this;
    const from = commands[1];
    let len = length;
    if (text) {
      len = writeText(payload, from, data);
    } else if (length > 0) {
      data.copy(payload, from);
    }
    commands[1] = from + len;
    commands[at] = op | (kind << 8);
    commands[at + 1] = target;
    commands[at + 2] = second;
    commands[at + 3] = slot;
    commands[at + 4] = from;
    commands[at + 5] = len;
    commands[at + 6] = timeout;
    commands[at + 7] = 0;
  }

  writeLarge(op, target, second, slot, timeout, names, buffer, kind) {
    let payload = buffer;
    let lens = 0;
    if (names !== null) {
      const role = Buffer.from(names.role);
      const event = Buffer.from(names.event);
      payload = Buffer.concat([role, event, buffer]);
      lens = (role.length << 16) | event.length;
    }
    const command = Uint32Array.of(
      1,
      0,
      op | (kind << 8),
      target,
      second,
      slot,
      0,
      payload.length,
      timeout,
      lens,
    );
    this.native.runLarge(command, payload, performance.now());
  }

  /** The number of the names of what goes out, or NONE. */
  route(role, event) {
    let events = this.routes.get(role);
    if (events === undefined) this.routes.set(role, (events = new Map()));
    const known = events.get(event);
    if (known !== undefined) return known;
    if (typeof event !== 'string') throw new TypeError('The event should be a string');
    checkName(role);
    checkName(event);
    if (this.routeCount === MAX_ROUTES) return NONE;
    this.routeCount++;
    const number = this.native.addRoute(role, event);
    events.set(event, number);
    return number;
  }

  /** Sends a message. The callback hears when it is written, or why it is not. */
  send(unit, role, event, value, callback) {
    const route = this.route(role, event);
    const kind = kindOf(value);
    const slot = callback === undefined ? NONE : this.takeSlot(unit, callback).number;
    const names = route === NONE ? { role, event } : null;
    try {
      this.write(Command.SEND, unit._number, route, slot, 0, names, value, kind);
    } catch (error) {
      if (slot !== NONE) this.freeSlot(slot);
      throw error;
    }
    this.schedule();
  }

  /** Sends a request. The callback gets the error or null, and the context. */
  request(unit, role, event, value, timeout, callback) {
    const route = this.route(role, event);
    const kind = kindOf(value);
    this.schedule();
    const slot = this.takeSlot(unit, callback);
    slot.sent = this.time;
    const names = route === NONE ? { role, event } : null;
    try {
      this.write(Command.REQUEST, unit._number, route, slot.number, timeout, names, value, kind);
    } catch (error) {
      this.freeSlot(slot.number);
      throw error;
    }
    return slot;
  }

  /** Waits no more for an answer. The slot is free when the engine says so. */
  abandon(slot) {
    slot.callback = ignore;
    this.plain(Command.ABANDON, slot.number);
    this.schedule();
  }

  respond(exchange, value) {
    const kind = kindOf(value);
    this.write(Command.RESPOND, exchange.number, exchange.generation, NONE, 0, null, value, kind);
    this.schedule();
  }

  reject(exchange, reason) {
    this.write(Command.REJECT, exchange.number, exchange.generation, NONE, 0, null, reason, Kind.STRING);
    this.schedule();
  }

  takeSlot(unit, callback) {
    let slot = this.freeSlots.pop();
    if (slot === undefined) this.slots.push((slot = new Slot(this.slots.length)));
    slot.unit = unit;
    slot.callback = callback;
    return slot;
  }

  freeSlot(number) {
    const slot = this.slots[number];
    slot.unit = null;
    slot.callback = null;
    this.freeSlots.push(slot);
  }

  // Connections.

  /** Bytes came. Returns whether the connection is to be read no more for now. */
  feed(conn, chunk) {
    this.begin();
    let clogged;
    try {
      clogged = this.native.feed(conn.number, chunk, output, this.time);
      this.drain();
    } finally {
      this.end();
    }
    return clogged;
  }

  /** What was taken for a connection is written. */
  written(conn, length) {
    this.plain(Command.WRITTEN, conn.number);
    if (length > BULK) this.schedule();
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
      let piece = null;
      const own = (flags & Flag.IN_BUFFER) !== 0;
      if (own) {
        piece = this.native.buffer(words[at + 1]);
      } else if (length > 0) {
        piece = region.subarray(words[at + 1], words[at + 1] + length);
      }
      if (flags & ENDING) {
        this.conns[words[at]] = undefined;
        conn._end(piece);
        if (piece !== null && !own) this.keep(region);
      } else if (!conn._write(piece) && !own) {
        this.keep(region);
      }
    }
  }

  /** A socket still needs the memory that output was taken to. */
  keep(region) {
    if (output === region) output = Buffer.allocUnsafeSlow(OUTPUT);
  }

  dispatch() {
    const count = words[Header.EVENTS];
    words[Header.EVENTS] = 0;
    if (count === 0) return;
    const used = words[Header.BYTES];
    const texts =
      count > 3 && words[Header.ASCII] === 1 && used < count * SHORT ? bytes.latin1Slice(0, used) : null;
    for (let i = 0, at = EVENT_HEADER; i < count; i++, at += EVENT_WORDS) {
      const first = words[at];
      switch (first & 0xff) {
        case Op.MESSAGE:
          this.incoming(at, first, texts);
          break;
        case Op.REQUEST:
        case Op.OFFER_READABLE:
        case Op.OFFER_WRITABLE:
          this.question(at, first, texts);
          break;
        case Op.ANSWER:
          this.answer(at, first, texts);
          break;
        case Op.STREAM:
          this.wake(this.streams[words[at + 1]]);
          break;
        case Op.SENT:
          this.sent(at, first);
          break;
        case Op.ABANDONED:
          this.freeSlot(words[at + 1]);
          break;
        case Op.CLOSED:
          this.conns[words[at + 1]]._closing(words[at + 2], this.text(at));
          break;
        case Op.PING:
          emit(this.conns[words[at + 1]], 'ping', EMPTY);
          break;
        case Op.PONG:
          emit(this.conns[words[at + 1]], 'pong', EMPTY);
          break;
        default:
          this.peerEvent(at, first);
      }
    }
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
        const description = JSON.parse(this.text(at));
        this.units[b] = listener._attached(this.conns[a], this.units[b], b, description);
        break;
      }
      case Op.UNIT_CLOSED: {
        const unit = this.units[a];
        this.units[a] = undefined;
        this.plain(Command.RELEASE_UNIT, a);
        unit._number = NONE;
        listener._unitClosed(unit);
        const { _lost: lost } = unit;
        unit._lost = [];
        for (const fail of lost) fail();
        break;
      }
      case Op.UNIT_ROLES:
        listener._unitRoles(this.units[a], JSON.parse(this.text(at)));
        break;
      case Op.AUTH_REFUSED:
        listener._authRefused(new PlainError('AUTH_REFUSED', this.text(at)));
        break;
      case Op.DIAL:
        listener._dial(address, this.text(at));
        break;
      case Op.DIALED: {
        const error = first & Flag.FAILED ? new PlainError(CODES[(first >> 8) & 0xff], this.text(at)) : null;
        const conn = d === NONE ? null : this.conns[d];
        listener._dialed(address, c, (first & Flag.AGAIN) !== 0, error, conn);
        break;
      }
      case Op.SLOW_CONSUMER:
        listener._slowConsumer(this.units[a], b, c);
        break;
      case Op.CONNECTION_CLOSED: {
        const error = new RoletalkError(CODES[(first >> 8) & 0xff], this.text(at));
        listener._connectionClosed(b === NONE ? null : this.units[b], error);
        break;
      }
    }
  }

  text(at) {
    const offset = words[at + 5];
    if (words[at] & Flag.IN_BUFFER) return this.native.buffer(offset).toString();
    return bytes.utf8Slice(offset, offset + words[at + 6]);
  }

  /** The payload of an event as text, or as bytes of its own when it is none. */
  payloadOf(at, first, texts) {
    const kind = (first >> 8) & 0xff;
    const from = words[at + 5];
    let len = words[at + 6];
    let names = 0;
    if (first & Flag.NAMED) {
      const lens = words[at + 7];
      names = (lens >>> 16) + (lens & 0xffff);
    }
    if (first & Flag.IN_BUFFER) {
      const whole = first & Flag.NAMED ? this.named : this.native.buffer(from);
      const buffer = whole.subarray(names);
      if (kind === Kind.BINARY || kind > Kind.OBJECT) return buffer;
      const text = buffer.toString();
      return Buffer.byteLength(text) === buffer.length && !text.includes('\ufffd') ? text : buffer;
    }
    const start = from + names;
    const end = from + len;
    if (kind === Kind.BINARY || kind > Kind.OBJECT || first & Flag.NOT_UTF8) {
      return copyOut(start, end);
    }
    if (texts !== null) return texts.slice(start, end);
    return first & Flag.ASCII ? bytes.latin1Slice(start, end) : bytes.utf8Slice(start, end);
  }

  /** The names of something that came in, with the role when this peer has it. */
  namesOf(at, first) {
    const number = words[at + 2];
    if (!(first & Flag.NAMED)) {
      const names = this.names[number];
      if (names.handler === undefined) names.handler = this.listener._roles.get(names.role);
      return names;
    }
    const lens = words[at + 7];
    const middle = lens >>> 16;
    const end = middle + (lens & 0xffff);
    const from = words[at + 5];
    // A buffer can be fetched once, and the payload needs it, too.
    const whole = first & Flag.IN_BUFFER ? this.native.buffer(from) : bytes.subarray(from, from + end);
    this.named = whole;
    const role = whole.utf8Slice(0, middle);
    const event = whole.utf8Slice(middle, end);
    const names = { role, event, handler: this.listener._roles.get(role) };
    if (number !== NONE) this.names[number] = names;
    return names;
  }

  wake(stream) {
    // It may be closed already. Reading and writing call the user's listeners.
    if (stream !== undefined) call(() => stream._wake());
  }

  incoming(at, first, texts) {
    const unit = this.units[words[at + 1]];
    const names = this.namesOf(at, first);
    const { handler } = names;
    if (handler === undefined || !handler._active) return;
    let ctx;
    try {
      ctx = new MessageContext((first >> 8) & 0xff, this.payloadOf(at, first, texts), names, unit);
    } catch (error) {
      return this.listener._handlerFailed(error, { unit, role: names.role, event: names.event });
    }
    handler._emitMsg(ctx);
  }

  question(at, first, texts) {
    const unit = this.units[words[at + 1]];
    const number = words[at + 3];
    const generation = words[at + 4];
    const names = this.namesOf(at, first);
    const op = first & 0xff;
    let ctx;
    try {
      ctx = new RequestContext((first >> 8) & 0xff, this.payloadOf(at, first, texts), names, unit);
    } catch (error) {
      this.reject({ number, generation }, error.message);
      return this.listener._handlerFailed(error, { unit, role: names.role, event: names.event });
    }
    this.listener._question(op, ctx, names.handler, number, generation);
  }

  answer(at, first, texts) {
    const number = words[at + 1];
    const slot = this.slots[number];
    const { unit, callback, sent } = slot;
    const rtt = Math.ceil(this.time - sent);
    this.freeSlot(number);
    if (first & Flag.FAILED) {
      const code = CODES[(first >> 8) & 0xff];
      const error =
        unit._number === NONE && words[at + 2] === 1
          ? new PlainError(code, 'Missing underlying sockets to send data')
          : new RoletalkError(code, this.text(at));
      const ctx = failedContext(unit, rtt);
      if (code === 'REJECTED') {
        ctx.data = error.message;
        ctx.type = 'string';
      }
      if (code === 'CONNECTION_LOST' && words[at + 2] === 0) {
        // Those who wait hear of it after the unit has closed.
        unit._lost.push(() => callback(error, ctx));
        return;
      }
      return callback(error, ctx);
    }
    let ctx;
    try {
      ctx = new AnswerContext((first >> 8) & 0xff, this.payloadOf(at, first, texts), unit, rtt);
    } catch (error) {
      return callback(new RoletalkError('DATA', error.message, { cause: error }), failedContext(unit, rtt));
    }
    callback(null, ctx);
  }

  sent(at, first) {
    const number = words[at + 1];
    const { callback } = this.slots[number];
    this.freeSlot(number);
    if (first & Flag.FAILED) {
      callback(new RoletalkError(CODES[(first >> 8) & 0xff], this.text(at)));
    } else {
      this.conns[words[at + 2]]._onceWritten(callback);
    }
  }
}

function ignore() {}

/** Bytes of the batch that outlive it. */
function copyOut(start, end) {
  const length = end - start;
  if (length < POOLED) return length === 0 ? EMPTY : Buffer.from(bytes.subarray(start, end));
  if (pooled + length > pool.length) {
    pool = Buffer.allocUnsafeSlow(POOL);
    pooled = 0;
  }
  const from = pooled;
  pooled += length;
  bytes.copy(pool, from, start, end);
  return pool.subarray(from, pooled);
}

/** Names have a length of 16 bits on the wire. */
function checkName(name) {
  if (name.length > 21845 && Buffer.byteLength(name) > 65535) {
    throw new RoletalkError('INVALID_ARGUMENT', `the name is ${Buffer.byteLength(name)} bytes long, the limit is 65535`);
  }
}

/** Short texts are cheaper to write here than by a call into Node. */
const INLINE_TEXT = 48;

function writeText(buffer, from, text) {
  const { length } = text;
  if (length <= INLINE_TEXT) {
    let i = 0;
    for (; i < length; i++) {
      const code = text.charCodeAt(i);
      if (code > 127) break;
      buffer[from + i] = code;
    }
    if (i === length) return length;
  }
  return buffer.utf8Write(text, from, length * 3);
}

module.exports = { Host, checkName };
