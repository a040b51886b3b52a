'use strict';

const { Kind, kindName } = require('./data.js');
const { NOTHING } = require('./fields.js');

/** Under this, a context knows how it is answered. */
const kExchange = Symbol('exchange');
/** Under this, that of a message or an answer has the fields that came with it, if any did. */
const kFields = Symbol('fields');
const kSignal = Symbol('signal');

/**
 * Adds properties that are found out when they are read, and that middleware may set to something of its own, as it
 * could when there were none. What can be called needs no `this`, so that handlers can take it out of their argument.
 */
function define(prototype, getters) {
  for (const [name, get] of Object.entries(getters)) {
    Object.defineProperty(prototype, name, {
      get,
      set(value) {
        Object.defineProperty(this, name, { value, writable: true, enumerable: true, configurable: true });
      },
      configurable: true,
    });
  }
}

/** The fields that came with a context's payload. */
function received(ctx) {
  return ctx[kExchange]?.fields ?? ctx[kFields] ?? NOTHING;
}

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

define(Context.prototype, {
  /** All headers, those with the same name included. */
  getAllHeaders() {
    return () => received(this).pairs.map(([name, value]) => [name, value]);
  },
  headers() {
    return received(this).headers;
  },
  traceparent() {
    return received(this).traceparent;
  },
  tracestate() {
    return received(this).tracestate;
  },
  baggage() {
    return received(this).baggage;
  },
});

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

define(MessageContext.prototype, {
  /** Milliseconds that the requester still waits. */
  remaining() {
    return () => Infinity;
  },
  deadline() {
    return undefined;
  },
  /** Nobody gives a message up. */
  signal() {
    this[kSignal] ??= new AbortController().signal;
    return this[kSignal];
  },
});

/** The context of a request, or of a request for a stream. */
class RequestContext extends MessageContext {
  constructor(kind, bytes, names, unit) {
    super(kind, bytes, names, unit);
    this[kExchange] = undefined;
  }

}

define(RequestContext.prototype, {
  remaining() {
    return () => this[kExchange].remaining();
  },
  /** Sets a header of the answer: in place of those of the same name. */
  setHeader() {
    return (name, value) => this[kExchange].setHeader(name, value);
  },
  /** Waits until the next handler has answered. */
  next() {
    return () => this[kExchange].next();
  },
  deadline() {
    return this[kExchange].deadline;
  },
  signal() {
    return this[kExchange].signal;
  },
});

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

module.exports = { AnswerContext, MessageContext, RequestContext, failedContext, kExchange, kFields, reasonOf };
