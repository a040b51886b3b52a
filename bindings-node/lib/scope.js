'use strict';

// Whose AsyncLocalStorage user code sees. A batch of events is handed out wherever the loop was told of it, which
// may be in anybody's context. So it is handed out in that in which this package was loaded, and within it

// - handlers and listeners have a scope of their own: what they enter with `enterWith` is nobody else's;
// - callbacks, and what is emitted by a stream, have the scope of the one who gave or made it.

const { AsyncResource } = require('node:async_hooks');

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

module.exports = { apart, newScope, root };
