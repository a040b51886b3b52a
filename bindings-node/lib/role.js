'use strict';

const { EventEmitter } = require('node:events');
const { isPromise } = require('node:util').types;
const { kExchange } = require('./context.js');
const { MiddlewareEmitter } = require('./middleware.js');
const { newScope } = require('./scope.js');

const { then } = Promise.prototype;

/**
 * Calls the handlers of an event, as `emit` does. What one of them throws goes to the caller; what
 * the promise of one is rejected with goes to the one who asked.
 *
 * Only promises are looked at, not everything that has a `then`: to ask a lazy query for its outcome
 * would run it. Not even their own `then` is called, which may call back as often as it likes.
 */
function run(peer, emitter, event, ctx, answer) {
  if (emitter.listenerCount(event) === 0) return;
  const handlers = emitter.rawListeners(event);
  for (let i = 0; i < handlers.length; i++) {
    const result = Reflect.apply(handlers[i], emitter, [ctx, answer]);
    if (result !== undefined && isPromise(result)) Reflect.apply(then, result, [undefined, (error) => rejected(peer, error, ctx)]);
  }
}

function rejected(peer, error, ctx) {
  const exchange = ctx[kExchange];
  if (exchange === undefined) peer._handlerFailed(error, ctx);
  else exchange.failed(error);
}

/**
 * A service of the local peer. Made by `peer.role(name)`.
 */
class Role extends MiddlewareEmitter {
  constructor(name, peer, active) {
    super();
    if (!name || typeof name !== 'string') throw new Error("Role's name should be a string");
    this._peer = peer;
    this.name = name;
    this._active = active !== false;
    this._msgHandler = new EventEmitter();
    this._reqHandler = new EventEmitter();
    this._readableHandler = new EventEmitter();
    this._writableHandler = new EventEmitter();
  }

  onMessage(event, handler) {
    if (typeof event === 'string') return this._msgHandler.on(event, handler);
    this.on('message', event);
  }

  onRequest(event, handler) {
    if (typeof event === 'string') return this._reqHandler.on(event, handler);
    this.on('request', event);
  }

  onReadable(event, handler) {
    if (typeof event === 'string') return this._readableHandler.on(event, handler);
    this.on('readable', event);
  }

  onWritable(event, handler) {
    if (typeof event === 'string') return this._writableHandler.on(event, handler);
    this.on('writable', event);
  }

  onData(handler) {
    this.on('data', handler);
  }

  disable() {
    this._setActive(false);
  }

  enable() {
    this._setActive(true);
  }

  get active() {
    return this._active;
  }

  get peer() {
    return this._peer;
  }

  _setActive(active) {
    this._active = active;
    this._peer._roleChanged(this);
  }

  _emitMsg(ctx) {
    newScope().runInAsyncScope(this._tell, this, ctx);
  }

  /** Hands a message to the handlers. */
  _tell(ctx) {
    const { _peer: peer } = this;
    try {
      if (peer._middleware) {
        run(peer, peer, 'data', ctx, undefined);
        run(peer, peer, 'message', ctx, undefined);
      }
      if (this._middleware) {
        run(peer, this, 'data', ctx, undefined);
        run(peer, this, 'message', ctx, undefined);
      }
      run(peer, this._msgHandler, ctx.event, ctx, undefined);
    } catch (error) {
      peer._handlerFailed(error, ctx);
    }
  }

  /** Hands a request to the handlers: those of the peer first, then the role's, then the event's. */
  _ask(kind, handlers, ctx, exchange) {
    const { _peer: peer } = this;
    const { answer } = exchange;
    try {
      if (peer._middleware) {
        run(peer, peer, 'data', ctx, answer);
        exchange.done || run(peer, peer, kind, ctx, answer);
      }
      if (this._middleware) {
        exchange.done || run(peer, this, 'data', ctx, answer);
        exchange.done || run(peer, this, kind, ctx, answer);
      }
      exchange.done || run(peer, handlers, ctx.event, ctx, answer);
    } catch (error) {
      exchange.failed(error);
    }
  }
}

module.exports = { Role };
