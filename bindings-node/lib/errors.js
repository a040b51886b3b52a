'use strict';

const { errorKinds } = require('./addon.js');

/** Names of the kinds of errors by their fixed numbers, which begin at 1. */
const CODES = [undefined, ...errorKinds()];

/**
 * An error of this package. `code` is one of the names in the README's table.
 *
 * roletalk 1.1.3 gives some of its errors as strings and others as errors. The string form is the
 * same here: with `Error: ` in front where it was an error there, without where it was a string. `hint`,
 * when there is one, says what to try.
 */
class RoletalkError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.code = code;
    if (options?.hint) this.hint = options.hint;
  }
}

Object.defineProperty(RoletalkError.prototype, 'name', { value: 'Error', configurable: true, writable: true });

/** An error that roletalk 1.1.3 has as a string. */
class PlainError extends RoletalkError {
  toString() {
    return this.message;
  }
}

module.exports = { CODES, RoletalkError, PlainError };
