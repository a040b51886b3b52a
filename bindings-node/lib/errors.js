'use strict';

const { errorKinds } = require('./addon.js');

/** Names of the kinds of errors by their fixed numbers, which begin at 1. */
const CODES = [undefined, ...errorKinds()];

let asPlain;

/**
 * An error of this package. `code` is one of the names in the README's table.
 *
 * roletalk 1.1.3 gives some of its errors as strings and others as errors. The string form is the
 * same here: with `Error: ` in front where it was an error there, without where it was a string. `hint`,
 * when there is one, says what to try.
 */
class RoletalkError extends Error {
  #plain = false;

  constructor(code, message, options) {
    super(message, options);
    this.code = code;
    if (options?.hint) this.hint = options.hint;
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

module.exports = { CODES, RoletalkError, peerClosed, plainError, roletalkError };
