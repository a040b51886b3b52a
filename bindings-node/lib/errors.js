'use strict';

const { cancelReasons, errorKinds } = require('./addon.js');

/** Names of the kinds of errors by their fixed numbers, which begin at 1. */
const CODES = [undefined, ...errorKinds()];

/** Why requests are given up, by the numbers of the engine: a code, a text and a name each. */
const REASONS = cancelReasons();
/** Of those, that its time is up. */
const TIME_UP = REASONS.find(([code]) => code === 'TIMEOUT');

/** On the prototype of errors that say how a handler failed, those of another copy of this package included. */
const kFailure = Symbol.for('roletalk.failure');

let asPlain;

/**
 * An error of this package. `code` is one of the names in the README's table.
 *
 * roletalk 1.1.3 gives some of its errors as strings and others as errors. The string form is the
 * same here: with `Error: ` in front where it was an error there, without where it was a string. `hint`,
 * when there is one, says what to try; `failure` what the handler said besides the text, see `HandlerError`.
 */
class RoletalkError extends Error {
  #plain = false;

  constructor(code, message, options) {
    super(message, options);
    this.code = code;
    if (options?.hint) this.hint = options.hint;
    if (options?.failure) this.failure = options.failure;
  }

  toString() {
    const { message } = this;
    if (this.#plain) return String(message);
    return message === '' ? 'Error' : `Error: ${message}`;
  }

  static {
    asPlain = (error) => {
      error.#plain = true;
      return error;
    };
  }
}

Object.defineProperty(RoletalkError.prototype, 'name', {
  value: 'RoletalkError',
  configurable: true,
  writable: true,
});

/**
 * What a handler fails with to have the requester told more than the text: a code for programs, data that belongs to
 * it, and after how many milliseconds to try again. The requester finds them as `error.failure`.
 */
class HandlerError extends Error {
  constructor(message, { code, data, retryAfter, ...options } = {}) {
    super(message, options);
    if (code !== undefined) this.code = String(code);
    if (data !== undefined) this.data = data;
    if (retryAfter !== undefined) this.retryAfter = retryAfter;
  }
}

for (const [name, value] of [['name', 'HandlerError'], [kFailure, true]]) {
  Object.defineProperty(HandlerError.prototype, name, { value, configurable: true, writable: true });
}

/** What a handler's error tells the requester besides its text; null for one that says nothing of that. */
function failureOf(error) {
  try {
    if (!error?.[kFailure]) return null;
    const { code, data, retryAfter } = error;
    const millis = Number(retryAfter);
    return {
      code: code === undefined ? undefined : String(code),
      data,
      retryAfter: retryAfter !== undefined && millis >= 0 ? Math.ceil(Math.min(millis, 2 ** 48)) : undefined,
    };
  } catch {
    // It may be anything.
    return null;
  }
}

/**
 * Why a handler need not go on, or what it has asked for in the meantime: the reason of its signal. The names are
 * those that Node's own reasons have.
 */
function cancelled([code, text, reason]) {
  const error = new RoletalkError(code, text);
  error.reason = reason;
  const value = code === 'TIMEOUT' ? 'TimeoutError' : 'AbortError';
  return Object.defineProperty(error, 'name', { value, configurable: true, writable: true });
}

/** A request was given up, for the reason with this number. */
function cancelledFor(number) {
  return cancelled(REASONS[number]);
}

/** What is asked for in the time of a request that is up. */
function timeUp() {
  return cancelled(TIME_UP);
}

function roletalkError(code, message, options) {
  return new RoletalkError(code, message, options);
}

/** An error that roletalk 1.1.3 has as a string. */
function plainError(code, message, options) {
  return asPlain(new RoletalkError(code, message, options));
}

/** What waits for a peer that is closed. */
function peerClosed() {
  return new RoletalkError('CLOSED', 'The peer is closed');
}

module.exports = {
  CODES,
  HandlerError,
  RoletalkError,
  cancelledFor,
  failureOf,
  peerClosed,
  plainError,
  roletalkError,
  timeUp,
};
