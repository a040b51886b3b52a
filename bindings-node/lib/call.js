'use strict';

// What is asked of a unit, besides its payload: the fields, and what ends it before there is an answer. Both come of
// the options, and of what is being handled by whoever asks.

const { onAbort } = require('./abort.js');
const { timeUp } = require('./errors.js');
const { encodeFields, headerEntries, traceEntries } = require('./fields.js');
const { Field } = require('./protocol.js');
const { current } = require('./scope.js');
const { LONGEST, toMillis } = require('./timeout.js');

/** What the handler of a message hands on. */
class Trace {
  /** @param {import('./fields.js').Received} fields */
  constructor(fields) {
    this.fields = fields;
  }

  get binds() {
    return false;
  }
}

/** What a call inherits from; undefined for nothing. */
function parentOf({ inherit }) {
  return inherit === false ? undefined : current();
}

/** The fields of a call, as records; null when there are none. Whether they can be sent is seen by the addon. */
function fieldsOf(options, parent) {
  const { headers, requireHeaders, traceparent, tracestate, baggage } = options;
  const inherited = traceparent == null ? parent?.fields : null;
  const own = (headers ?? traceparent ?? tracestate ?? baggage) != null;
  if (!own && !requireHeaders && inherited?.traceparent === undefined) return null;
  const entries = headers == null ? [] : headerEntries(headers);
  entries.push(
    ...traceEntries({
      traceparent: traceparent ?? inherited?.traceparent,
      tracestate: tracestate ?? inherited?.tracestate,
      baggage: baggage ?? inherited?.baggage,
    }),
  );
  if (requireHeaders) entries.push([Field.REQUIRED, '', '']);
  return encodeFields(entries);
}

/**
 * Something that waits for an answer, and that ends once: with the answer, or before, when its signal aborts, or
 * when nobody waits any more for the request that it was made for.
 */
class Call {
  /**
   * @param {AbortSignal | undefined | null} signal one that is not aborted yet
   * @param {import('./exchange.js').Exchange | Trace | undefined} parent
   * @param {(error: any, ctx?: object) => void} callback without a context when it was given up
   */
  constructor(signal, parent, callback) {
    this.signal = signal;
    this.parent = parent?.binds ? parent : undefined;
    this.forget = null;
    this.abandon = null;
    this.over = false;
    /** Whether the time that it has is what is left of another one's. */
    this.bounded = false;
    this.finish = (error, ctx) => {
      if (this.end()) callback(error, ctx);
    };
  }

  /** Nobody is called back from now on. Returns whether somebody was to be. */
  end() {
    if (this.over) return false;
    this.over = true;
    this.forget?.();
    this.parent?.remove(this);
    return true;
  }

  /**
   * How many milliseconds it may take, 0 for the default. Only what is inherited may have a fraction.
   * @returns {number | undefined} undefined when it cannot begin, which the callback hears
   */
  limit(timeout) {
    const millis = toMillis(timeout);
    const { parent } = this;
    if (parent === undefined) return millis;
    const left = parent.remaining();
    // The time that is sent is whole.
    const over = parent.cancelled ?? (left < 1 ? timeUp() : null);
    if (over !== null) {
      process.nextTick(this.finish, over);
      return undefined;
    }
    this.bounded = left < (millis === 0 ? Infinity : millis);
    return this.bounded ? Math.min(left, LONGEST) : millis;
  }

  /**
   * It has begun.
   * @param {() => void} [abandon] has the other side told that nobody waits any more
   */
  begun(abandon) {
    if (this.over) return;
    this.abandon = abandon;
    const { signal, parent } = this;
    if (signal) this.forget = onAbort(signal, () => this.giveUp(signal.reason));
    parent?.add(this);
  }

  giveUp(reason) {
    if (this.over) return;
    this.abandon?.();
    this.finish(reason);
  }

  /** Whether it ended with the request that it was made for: then nobody has to look at that. */
  get inherited() {
    return this.parent !== undefined && (this.parent.isCancelled || this.parent.remaining() === 0);
  }
}

module.exports = { Call, Trace, fieldsOf, parentOf };
