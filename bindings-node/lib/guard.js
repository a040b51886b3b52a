'use strict';

// User code that is called in the middle of a batch must not take the rest of the batch with it. What
// it throws is thrown again with nothing around it, so that it is uncaught as it would be without
// this package.

function rethrow(error) {
  throw error;
}

/** Calls a user's function. */
function call(fn, ...args) {
  try {
    fn(...args);
  } catch (error) {
    process.nextTick(rethrow, error);
  }
}

/** Throws at what is no callback. Anything false stands for none. */
function checkCallback(callback) {
  if (callback && typeof callback !== 'function') throw new Error('Argument should be a function (if provided)');
}

/** Emits an event to a user's listeners. */
function emit(emitter, ...args) {
  try {
    return emitter.emit(...args);
  } catch (error) {
    process.nextTick(rethrow, error);
    return true;
  }
}

const UNPRINTABLE = 'an error that cannot be printed';

/** What `String` makes of a value that a user has given as an error, which may be anything. */
function print(value) {
  try {
    return String(value);
  } catch {
    return UNPRINTABLE;
  }
}

/** The message of an error; of any other value, what `String` makes of it. */
function messageOf(value) {
  try {
    return String(value instanceof Error ? value.message : value);
  } catch {
    return UNPRINTABLE;
  }
}

module.exports = { call, checkCallback, emit, messageOf, print };
