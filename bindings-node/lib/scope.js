'use strict';

// Whose AsyncLocalStorage user code sees. A batch of events is handed out wherever the loop was told of it, which
// may be in anybody's context. So it is handed out in that in which this package was loaded, and within it

// - handlers and listeners have a scope of their own: what they enter with `enterWith` is nobody else's;
// - callbacks, and what is emitted by a stream, have the scope of the one who gave or made it.

//
// Within the scope of a handler, `current` finds the request that it handles, from which what it asks for inherits.

const { AsyncLocalStorage, AsyncResource } = require('node:async_hooks');

/** Nobody listens for the end of a scope; to have it told would cost a weak reference each time. */
const OPTIONS = { requireManualDestroy: true };

/** The context in which this package was loaded. */
const root = new AsyncResource('RoletalkRoot', OPTIONS);

/** A scope that has the stores of whoever makes it. */
function newScope() {
  return new AsyncResource('Roletalk', OPTIONS);
}

function inScope(fn, self, args) {
  return newScope().runInAsyncScope(fn, self, ...args);
}

/** Calls a function in a scope of its own, with nobody's stores. */
function apart(fn, self, ...args) {
  return root.runInAsyncScope(inScope, undefined, fn, self, args);
}

/** What is being handled: an `Exchange`, or the `Trace` of a message. */
const handled = new AsyncLocalStorage();

/** How many units of this thread's peers offer a role: without one, handlers have nobody to ask. */
let offering = 0;
/** Whether `handled` was ever entered. */
let entered = false;

/** A unit has begun to offer roles, or has ceased to. */
function offers(begins) {
  offering += begins ? 1 : -1;
}

/** What is being handled; undefined outside of handlers. */
function current() {
  return entered ? handled.getStore() : undefined;
}

function enter(what, fn, self, a, b, c, d) {
  handled.enterWith(what);
  return Reflect.apply(fn, self, [a, b, c, d]);
}

/**
 * Calls a function, with up to four arguments, in a scope of its own, where this is what is being handled: unless there
 * is nobody who could be asked, since that costs something, and before Node 24 with every promise of the process.
 *
 * `run` would not do: what the function enters with other storages would stay.
 */
function handling(what, fn, self, a, b, c, d) {
  const scope = newScope();
  if (offering === 0) return scope.runInAsyncScope(fn, self, a, b, c, d);
  entered = true;
  return scope.runInAsyncScope(enter, undefined, what, fn, self, a, b, c, d);
}

module.exports = { apart, current, handling, newScope, offers, root };
