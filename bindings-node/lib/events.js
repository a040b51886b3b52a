'use strict';

const { EMPTY, Kind } = require('./data.js');
const { Received } = require('./fields.js');
const {
  EVENT_HEADER,
  EVENT_WORDS,
  FIELDS_TRAILER,
  Flag,
  Header,
  LARGE,
  NONE,
  OUTPUTS,
  OUTPUT_WORDS,
} = require('./protocol.js');

const EVENTS = 1024;
/** Texts of a batch are cut out of one string when they are this short on average. */
const SHORT = 256;
const POOL = 4 * LARGE;
const POOLED = 1024;

// Shared by all peers of the thread: a batch is used up before the next one is made.
const words = new Uint32Array(EVENT_HEADER + EVENTS * EVENT_WORDS + OUTPUTS * OUTPUT_WORDS);
const bytes = Buffer.allocUnsafeSlow(16 * LARGE);

/** Where bytes of medium size are copied to: one allocation for several. Node has its own for small ones. */
let pool = EMPTY;
let pooled = 0;

/** Reads the events of one engine. */
class EventReader {
  /**
   * @param {object} native the addon's half
   * @param {Map<string, object>} roles the peer's roles, by name
   */
  constructor(native, roles) {
    this.native = native;
    this.roles = roles;
    /** Names that have a number. */
    this.names = [];
    /** The buffer of an event that has its names and its payload in it. */
    this.named = null;
    /** All texts of the batch, when they are read at once. */
    this.texts = null;
  }

  /** A batch was made. Returns how many events it has. */
  begin() {
    const count = words[Header.EVENTS];
    words[Header.EVENTS] = 0;
    const used = words[Header.BYTES];
    const short = count > 3 && words[Header.ASCII] === 1 && used < count * SHORT;
    this.texts = short ? bytes.latin1Slice(0, used) : null;
    return count;
  }

  text(at) {
    const offset = words[at + 5];
    if (words[at] & Flag.IN_BUFFER) return this.native.buffer(offset).toString();
    return bytes.utf8Slice(offset, offset + words[at + 6]);
  }

  /** What failed: its text, and what to try. */
  failure(at, first) {
    const whole = this.whole(at, first);
    const names = first & Flag.NAMED ? words[at + 7] >>> 16 : 0;
    return [whole.utf8Slice(names), whole.utf8Slice(0, names)];
  }

  /** Names and payload of an event. A buffer can be fetched once, and the payload may be needed, too. */
  whole(at, first) {
    const from = words[at + 5];
    this.named = first & Flag.IN_BUFFER ? this.bufferOf(at, first) : bytes.subarray(from, from + words[at + 6]);
    return this.named;
  }

  /** The buffer of an event; it is fetched already when that has fields. */
  bufferOf(at, first) {
    return first & Flag.FIELDS ? this.named : this.native.buffer(words[at + 5]);
  }

  /**
   * Takes the fields off the end of an event's bytes, before anything else of it is read.
   * @returns {Received}
   */
  takeFields(at, first) {
    const inBuffer = (first & Flag.IN_BUFFER) !== 0;
    const from = inBuffer ? 0 : words[at + 5];
    const whole = inBuffer ? this.native.buffer(words[at + 5]) : bytes;
    const end = from + words[at + 6] - FIELDS_TRAILER;
    const length = whole.readUInt32LE(end);
    const due = whole.readDoubleLE(end + 4);
    words[at + 6] = end - length - from;
    if (inBuffer) this.named = whole.subarray(0, end - length);
    const records = length === 0 ? EMPTY : Buffer.from(whole.subarray(end - length, end));
    return new Received(records, Number.isNaN(due) ? Infinity : due);
  }

  /** The payload of an event as text, or as bytes of its own when it is none. */
  payloadOf(at, first) {
    const kind = (first >> 8) & 0xff;
    const from = words[at + 5];
    const len = words[at + 6];
    let names = 0;
    if (first & Flag.NAMED) {
      const lens = words[at + 7];
      names = (lens >>> 16) + (lens & 0xffff);
    }
    if (first & Flag.IN_BUFFER) {
      const whole = first & Flag.NAMED ? this.named : this.bufferOf(at, first);
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
    if (this.texts !== null) return this.texts.slice(start, end);
    return first & Flag.ASCII ? bytes.latin1Slice(start, end) : bytes.utf8Slice(start, end);
  }

  /** The names of something that came in, with the role when this peer has it. */
  namesOf(at, first) {
    const number = words[at + 2];
    if (!(first & Flag.NAMED)) {
      const names = this.names[number];
      if (names.handler === undefined) names.handler = this.roles.get(names.role);
      return names;
    }
    const lens = words[at + 7];
    const middle = lens >>> 16;
    const end = middle + (lens & 0xffff);
    const from = words[at + 5];
    // A buffer can be fetched once, and the payload needs it, too.
    const whole = first & Flag.IN_BUFFER ? this.bufferOf(at, first) : bytes.subarray(from, from + end);
    this.named = whole;
    const role = whole.utf8Slice(0, middle);
    const event = whole.utf8Slice(middle, end);
    const names = { role, event, handler: this.roles.get(role) };
    if (number !== NONE) this.names[number] = names;
    return names;
  }
}

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

module.exports = { EventReader, bytes, words };
