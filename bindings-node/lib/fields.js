'use strict';

// What goes with a payload besides: headers, trace context, how a handler failed. The addon writes and reads it as
// records, see src/fields.rs.

const { checkFields } = require('./addon.js');
const { EMPTY } = require('./data.js');
const { RoletalkError } = require('./errors.js');
const { FIELD_HEADER, Field } = require('./protocol.js');

/** Fields that were received, read when somebody asks for them. */
class Received {
  #records;
  #headers = undefined;
  #pairs = undefined;
  #values = undefined;

  /**
   * @param {Buffer} records their own memory, which values stay a part of
   * @param {number} due when the requester gives up, by the clock of its host; Infinity for never
   */
  constructor(records, due) {
    this.#records = records;
    this.due = due;
  }

  #read() {
    if (this.#pairs !== undefined) return;
    const records = this.#records;
    this.#pairs = [];
    this.#values = [];
    for (let at = 0; at < records.length; ) {
      const field = records[at];
      const from = at + FIELD_HEADER;
      const middle = from + records.readUInt32LE(at + 1);
      const end = middle + records.readUInt32LE(at + 5);
      const value = field === Field.BYTES ? records.subarray(middle, end) : records.utf8Slice(middle, end);
      if (field === Field.TEXT || field === Field.BYTES) this.#pairs.push([records.latin1Slice(from, middle), value]);
      else this.#values[field] = value;
      at = end;
    }
  }

  #value(field) {
    this.#read();
    return this.#values[field];
  }

  /** The headers by their names; of those with the same name, the first. */
  get headers() {
    if (this.#headers === undefined) {
      this.#headers = Object.create(null);
      for (const [name, value] of this.pairs) this.#headers[name] ??= value;
    }
    return this.#headers;
  }

  /** All headers, in the order in which they were set. */
  get pairs() {
    this.#read();
    return this.#pairs;
  }

  get traceparent() {
    return this.#value(Field.TRACEPARENT);
  }

  get tracestate() {
    return this.#value(Field.TRACESTATE);
  }

  get baggage() {
    return this.#value(Field.BAGGAGE);
  }

  /** How the handler failed; undefined when that was not said. */
  get failure() {
    const [code, data, retry, unhandled] = [Field.CODE, Field.DATA, Field.RETRY, Field.UNHANDLED].map((field) =>
      this.#value(field),
    );
    if ((code ?? data ?? retry ?? unhandled) === undefined) return undefined;
    const failure = { unhandled: unhandled !== undefined };
    if (code !== undefined) failure.code = code;
    if (data !== undefined) failure.data = JSON.parse(data);
    if (retry !== undefined) failure.retryAfter = Number(retry);
    return failure;
  }
}

/** What came without any. */
const NOTHING = new Received(EMPTY, Infinity);

/**
 * Fields to be sent, as records.
 * @param {[number, string, string | Uint8Array][]} entries each a `Field`, a name, and a value
 */
function encodeFields(entries) {
  const parts = [];
  for (const [field, name, value] of entries) {
    const header = Buffer.allocUnsafe(FIELD_HEADER);
    const names = Buffer.from(name);
    const bytes = typeof value === 'string' ? Buffer.from(value) : value;
    header[0] = field;
    header.writeUInt32LE(names.length, 1);
    header.writeUInt32LE(bytes.length, 5);
    parts.push(header, names, bytes);
  }
  return Buffer.concat(parts);
}

/** Throws at fields that cannot be sent. */
function check(records) {
  const fault = checkFields(records);
  if (fault !== null) throw faultOf(fault);
}

/** The error that the addon tells of. */
function faultOf([code, text, hint]) {
  return new RoletalkError(code, text, { hint });
}

/** Headers as an application gives them, one entry for each value. */
function headerEntries(headers) {
  if (typeof headers !== 'object') throw new RoletalkError('INVALID_ARGUMENT', 'The headers should be an object');
  const pairs = typeof headers[Symbol.iterator] === 'function' ? headers : Object.entries(headers);
  const entries = [];
  for (const [name, value] of pairs) {
    for (const one of Array.isArray(value) ? value : [value]) entries.push(headerEntry(name, one));
  }
  return entries;
}

function headerEntry(name, value) {
  if (typeof value === 'string') return [Field.TEXT, String(name), value];
  if (value instanceof Uint8Array) return [Field.BYTES, String(name), value];
  throw new RoletalkError('INVALID_ARGUMENT', `The header "${String(name)}" should be a string or bytes`);
}

/** The three parts of a trace context, as far as there are. */
function traceEntries({ traceparent, tracestate, baggage }) {
  const entries = [];
  for (const [field, value] of [
    [Field.TRACEPARENT, traceparent],
    [Field.TRACESTATE, tracestate],
    [Field.BAGGAGE, baggage],
  ]) {
    if (value !== undefined && value !== null) entries.push([field, '', String(value)]);
  }
  return entries;
}

/** How a handler failed, for the requester. */
function failureEntries({ code, data, retryAfter }) {
  const entries = [];
  if (code !== undefined) entries.push([Field.CODE, '', code]);
  const json = data === undefined ? undefined : JSON.stringify(data);
  if (json !== undefined) entries.push([Field.DATA, '', json]);
  if (retryAfter !== undefined) entries.push([Field.RETRY, '', String(retryAfter)]);
  return entries;
}

module.exports = {
  NOTHING,
  Received,
  check,
  encodeFields,
  failureEntries,
  faultOf,
  headerEntries,
  traceEntries,
};
