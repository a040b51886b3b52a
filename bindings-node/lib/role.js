'use strict';

const { EventEmitter } = require('node:events');
const { isPromise } = require('node:util').types;
const { kExchange, kFields } = require('./context.js');
const { MiddlewareEmitter } = require('./middleware.js');
const { HANDLER, checkOptions } = require('./options.js');
const { handling, newScope } = require('./scope.js');
const { Trace } = require('./call.js');

const { then } = Promise.prototype;

/**
 * Calls the handlers of an event, as `emit` does. What one of them throws goes to the caller; what
 * the promise of one is rejected with goes to the one who asked.
 *
 * Only promises are looked at, not everything that has a `then`: to ask a lazy query for its outcome
 * would run it. Not even their own `then` is called, which may call back as often as it likes.
 *
 * @param {import('./exchange.js').Exchange} [exchange] for handlers of the event itself; middleware has no outcome
 */
function run(peer, emitter, event, ctx, answer, exchange) {
  if (emitter.listenerCount(event) === 0) return;
  const handlers = emitter.rawListeners(event);
  for (let i = 0; i < handlers.length; i++) {
    const result = Reflect.apply(handlers[i], emitter, [ctx, answer]);
    if (result === undefined) continue;
    if (exchange !== undefined) settle(result, exchange, handlers, i);
    else if (isPromise(result)) Reflect.apply(then, result, [undefined, (error) => rejected(peer, error, ctx)]);
  }
}

/** A handler of an event has returned something. */
function settle(result, exchange, handlers, at) {
  const answers = exchange.takesOutcome && !declareCallback(handlers);
  if (!isPromise(result)) {
    if (answers) exchange.returned(result);
    return;
  }
  exchange.awaits(result);
  const fulfilled = answers ? answering(exchange, handlers, at) : undefined;
  Reflect.apply(then, result, [fulfilled, (error) => exchange.failed(error)]);
}

function answering(exchange, handlers, at) {
  return (value) => {
    if (value !== undefined) exchange.returned(value);
    else if (handlers.length === 1 && knowsNoCallback(handlers[at])) exchange.returned(null);
  };
}

/**
 * Handlers that were written for roletalk 1.1.3 call back, and return whatever they like: where one of an event declares
 * a callback, what they return means nothing.
 */
function declareCallback(handlers) {
  for (let i = 0; i < handlers.length; i++) {
    const handler = handlers[i];
    if (handler.length > 1 || handler.listener?.length > 1) return true;
  }
  return false;
}

/** A source text without parameters. */
const NO_PARAMETERS = /^(async\b)?\s*(function\b)?\s*[\w$]*\s*\(\s*\)/;

/**
 * Whether a handler surely cannot call back later: not so where it has all arguments, as what wraps another one.
 */
function knowsNoCallback(handler) {
  const { length } = handler;
  const text = Function.prototype.toString.call(handler);
  return (length === 1 || NO_PARAMETERS.test(text)) && !/\barguments\b|\[native code\]/.test(text);
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
    /** The detached handlers of each of these emitters, when there are any. */
    this._detached = null;
  }

  onMessage(event, handler) {
    if (typeof event === 'string') return this._msgHandler.on(event, handler);
    this.on('message', event);
  }

  onRequest(event, options, handler) {
    if (typeof event === 'string') return this._handle('onRequest', this._reqHandler, event, options, handler);
    this.on('request', event);
  }

  onReadable(event, options, handler) {
    if (typeof event === 'string') return this._handle('onReadable', this._readableHandler, event, options, handler);
    this.on('readable', event);
  }

  onWritable(event, options, handler) {
    if (typeof event === 'string') return this._handle('onWritable', this._writableHandler, event, options, handler);
    this.on('writable', event);
  }

  /** Adds a handler of an event; options may be left out. */
  _handle(where, emitter, event, options, handler) {
    if (typeof options !== 'object' || options === null) return emitter.on(event, options);
    checkOptions(where, options, HANDLER);
    emitter.on(event, handler);
    if (options.detached) {
      this._detached ??= new Map();
      if (!this._detached.has(emitter)) this._detached.set(emitter, new WeakSet());
      this._detached.get(emitter).add(handler);
    }
    return emitter;
  }

  /** Whether a handler of an event goes on although nobody waits for its answer any more. */
  _isDetached(emitter, event) {
    const detached = this._detached?.get(emitter);
    return detached !== undefined && emitter.listeners(event).some((handler) => detached.has(handler));
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
    const fields = ctx[kFields];
    if (fields === undefined) newScope().runInAsyncScope(this._tell, this, ctx);
    else handling(new Trace(fields), this._tell, this, ctx);
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
      exchange.done || run(peer, handlers, ctx.event, ctx, answer, exchange);
    } catch (error) {
      exchange.failed(error);
    }
  }
}

module.exports = { Role };
