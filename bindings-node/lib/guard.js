'use strict';

// User code that is called in the middle of a batch must not take the rest of the batch with it. What
// it throws is thrown again with nothing around it, so that it is uncaught as it would be without
// this package.

const { apart, newScope } = require('./scope.js');

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

/** What calls a user's callback, in the asynchronous context of the one who has given it. */
function bound(callback) {
  const scope = newScope();
  return (...args) => scope.runInAsyncScope(call, undefined, callback, ...args);
}

/** Throws at what is no callback. Anything false stands for none. */
function checkCallback(callback) {
  if (callback && typeof callback !== 'function') throw new Error('Argument should be a function (if provided)');
}

function emitGuarded(emitter, args) {
  try {
    return emitter.emit(...args);
  } catch (error) {
    process.nextTick(rethrow, error);
    return true;
  }
}

/** Emits an event to a user's listeners, apart from everybody's asynchronous context. */
function emit(emitter, ...args) {
  return apart(emitGuarded, undefined, emitter, args);
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

/** For what is rejected or emitted where nobody may listen. */
function ignore() {}

module.exports = { bound, call, checkCallback, emit, ignore, messageOf, print };
