'use strict';

const { RoletalkError } = require('./errors.js');
const { check, faultOf } = require('./fields.js');
const { Command, COMMAND_HEADER, COMMAND_WORDS, LARGE, NONE } = require('./protocol.js');

const COMMANDS = 512;
const PAYLOAD = 4 * LARGE;
/** Names of what goes out that are numbered; further ones are sent along each time. */
const MAX_ROUTES = 4096;
/** Short texts are cheaper to write here than by a call into Node. */
const INLINE_TEXT = 48;

/** The commands for one engine, in memory that it reads. */
class Commands {
  constructor() {
    this.words = new Uint32Array(COMMAND_HEADER + COMMANDS * COMMAND_WORDS);
    this.payload = Buffer.allocUnsafeSlow(PAYLOAD);
    /** The addon's half; set once it is made. */
    this.native = null;
    this.routes = new Map();
    this.routeCount = 0;
  }

  /** Takes up a command. Returns where its words begin. */
  place() {
    let count = this.words[0];
    if (count === COMMANDS) {
      this.native.run(performance.now());
      count = 0;
    }
    this.words[0] = count + 1;
    return COMMAND_HEADER + count * COMMAND_WORDS;
  }

  /** A command without a payload. */
  plain(op, target, second) {
    const at = this.place();
    const { words } = this;
    words[at] = op;
    words[at + 1] = target;
    words[at + 2] = second;
    words[at + 5] = 0;
    words[at + 4] = 0;
  }

  /**
   * A command with a payload.
   * @param {number} second the route, or the generation of a responder
   * @param {string | Buffer} data the payload, encoded
   * @param {Buffer | null} fields what goes with it, as records
   * @throws {RoletalkError} when the fields cannot be sent
   */
  write(op, target, second, slot, timeout, names, data, kind, fields = null) {
    const length = data.length;
    const text = typeof data === 'string';
    const most = text ? length * 3 : length;
    if (names !== null || fields !== null || most > LARGE) {
      const buffer = text ? Buffer.from(data) : data;
      if (names !== null || fields !== null || buffer.length > LARGE) {
        return this.writeApart(op, target, second, slot, timeout, names, buffer, kind, fields);
      }
    }
    if (this.words[1] + most > PAYLOAD) this.native.run(performance.now());
    const at = this.place();
    const { words, payload } = this;
    const from = words[1];
    let len = length;
    if (text) {
      len = writeText(payload, from, data);
    } else if (length > 0) {
      data.copy(payload, from);
    }
    words[1] = from + len;
    words[at] = op | (kind << 8);
    words[at + 1] = target;
    words[at + 2] = second;
    words[at + 3] = slot;
    words[at + 4] = from;
    words[at + 5] = len;
    words[at + 6] = timeout;
    words[at + 7] = 0;
  }

  writeApart(op, target, second, slot, timeout, names, buffer, kind, fields) {
    const [command, payload] = apart(op, target, second, slot, timeout, names, buffer, kind);
    const fault = this.native.runApart(command, payload, fields, performance.now());
    if (fault !== null) throw faultOf(fault);
  }

  /**
   * A message, sent at once.
   * @returns {RoletalkError | null} the error when the unit has gone and another one may be asked
   * @throws {RoletalkError} when the fields cannot be sent
   */
  sendAtOnce(target, second, slot, names, data, kind, fields) {
    if (fields !== null) check(fields);
    const buffer = typeof data === 'string' ? Buffer.from(data) : data;
    const [command, payload] = apart(Command.SEND, target, second, slot, 1, names, buffer, kind);
    const gone = this.native.sendTo(command, payload, fields, performance.now());
    return gone === null ? null : faultOf(gone);
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
}

/** A command in memory of its own, and its payload. */
function apart(op, target, second, slot, timeout, names, buffer, kind) {
  let payload = buffer;
  let lens = 0;
  if (names !== null) {
    const role = Buffer.from(names.role);
    const event = Buffer.from(names.event);
    payload = Buffer.concat([role, event, buffer]);
    lens = (role.length << 16) | event.length;
  }
  const words = Uint32Array.of(1, 0, op | (kind << 8), target, second, slot, 0, payload.length, timeout, lens);
  return [words, payload];
}

/** Names have a length of 16 bits on the wire. */
function checkName(name) {
  if (name.length > 21845 && Buffer.byteLength(name) > 65535) {
    throw new RoletalkError('INVALID_ARGUMENT', `the name is ${Buffer.byteLength(name)} bytes long, the limit is 65535`);
  }
}

/** Writes a text as UTF-8. Returns its length in bytes. */
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

module.exports = { Commands, checkName };
