'use strict';

const { EventEmitter } = require('node:events');

/** The events under which handlers are called for whatever comes in. */
const FOR_ALL = new Set(['data', 'message', 'request', 'readable', 'writable']);

/**
 * An emitter that knows whether it has ever been given a handler for all events: most have not, and would be asked
 * several times for each message.
 */
class MiddlewareEmitter extends EventEmitter {
  constructor() {
    super();
    this._middleware = false;
  }

  on(event, listener) {
    this._middleware ||= FOR_ALL.has(event);
    return super.on(event, listener);
  }

  addListener(event, listener) {
    return this.on(event, listener);
  }

  prependListener(event, listener) {
    this._middleware ||= FOR_ALL.has(event);
    return super.prependListener(event, listener);
  }
}

module.exports = { MiddlewareEmitter };
