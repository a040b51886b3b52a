'use strict';

const { jsonHint } = require('./addon.js');
const { Kind } = require('./protocol.js');

/** The names that contexts have for the type bytes of payloads, in the order of those. */
const NAMES = Object.keys(Kind).map((name) => name.toLowerCase());
const EMPTY = Buffer.alloc(0);

/**
 * @param {number} kind a type byte
 * @returns {string} the name that contexts have for it
 */
function kindName(kind) {
  return NAMES[kind] ?? '?';
}

/**
 * The type byte that a value travels with. Buffers and other `Uint8Array`s are binary, which is what they are
 * for; further typed arrays are objects, as in the original, since bytes would not say what they are of.
 */
function kindOf(value) {
  switch (typeof value) {
    case 'string':
      return Kind.STRING;
    case 'number':
      return Kind.NUMBER;
    case 'boolean':
      return Kind.BOOLEAN;
    case 'object':
      if (value === null) return Kind.NULL;
      return value instanceof Uint8Array ? Kind.BINARY : Kind.OBJECT;
    default:
      return Kind.NULL;
  }
}

/**
 * The text or bytes that a value travels as.
 * @returns {string | Buffer}
 */
function encode(kind, value) {
  switch (kind) {
    case Kind.STRING:
      return value;
    case Kind.BINARY:
      return Buffer.isBuffer(value) ? value : Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    case Kind.NUMBER:
      return String(value);
    case Kind.BOOLEAN:
      return value ? '\x01' : '\x00';
    case Kind.OBJECT:
      return encodeObject(value);
    default:
      return '';
  }
}

function encodeObject(value) {
  try {
    const json = JSON.stringify(value);
    if (json === undefined) throw new TypeError('The data has no JSON form');
    return json;
  } catch (error) {
    // `toJSON` may throw anything.
    if (error instanceof TypeError && Object.isExtensible(error)) error.hint ??= jsonHint();
    throw error;
  }
}

module.exports = { EMPTY, Kind, encode, kindName, kindOf };
