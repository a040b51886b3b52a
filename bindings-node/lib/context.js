'use strict';

const { Kind, kindName } = require('./data.js');

/** Under this, a context knows how it is answered. */
const kExchange = Symbol('exchange');

/** The payload as it came in. Its bytes are made when asked for. */
class Origin {
  constructor(bytes, type) {
    this._bytes = bytes;
    this.type = type;
  }

  /** The payload's bytes. */
  get raw() {
    if (typeof this._bytes === 'string') this._bytes = Buffer.from(this._bytes);
    return this._bytes;
  }
}

Object.defineProperty(Origin.prototype, 'raw', { enumerable: true });

const TRUE = '\x01';
const FALSE = '\x00';

/**
 * What a handler gets, and what a request is answered with.
 */
class Context {
  /**
   * @param {number} kind the payload's type byte
   * @param {string | Buffer} bytes its text, or its bytes
   */
  constructor(kind, bytes) {
    const type = kindName(kind);
    this.data = valueOf(kind, bytes);
    this.type = type;
    this.origin = new Origin(bytes, type);
  }
}

function valueOf(kind, bytes) {
  switch (kind) {
    case Kind.BINARY:
      return bytes;
    case Kind.STRING:
      return typeof bytes === 'string' ? bytes : bytes.toString();
    case Kind.NUMBER:
      return Number(bytes.toString());
    case Kind.BOOLEAN:
      if (bytes === FALSE || bytes === TRUE) return bytes === TRUE;
      return typeof bytes === 'string' ? bytes.charCodeAt(0) !== 0 : bytes[0] !== 0;
    case Kind.OBJECT:
      return JSON.parse(bytes.toString());
    default:
      return null;
  }
}

/** The context of a message. */
class MessageContext extends Context {
  constructor(kind, bytes, names, unit) {
    super(kind, bytes);
    this.role = names.role;
    this.event = names.event;
    this.unit = unit;
  }
}

/** The context of a request, or of a request for a stream. */
class RequestContext extends MessageContext {
  constructor(kind, bytes, names, unit) {
    super(kind, bytes, names, unit);
    this[kExchange] = undefined;
  }

  /** Waits until the next handler has answered. */
  get next() {
    return () => this[kExchange].next();
  }

  set next(next) {
    Object.defineProperty(this, 'next', { value: next, writable: true, enumerable: true, configurable: true });
  }
}

/** The context of an answer. */
class AnswerContext extends Context {
  constructor(kind, bytes, unit, rtt) {
    super(kind, bytes);
    this.rtt = rtt;
    this.unit = unit;
  }
}

/** The text of what a request was rejected with. */
function reasonOf({ type, data, origin }) {
  return type === 'object' || type === 'binary' ? origin.raw.toString() : String(data);
}

/** The context of a request that came to nothing. */
function failedContext(unit, rtt) {
  return { unit, data: null, rtt };
}

module.exports = { AnswerContext, MessageContext, RequestContext, failedContext, kExchange, reasonOf };
