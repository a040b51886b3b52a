'use strict';

const { EventEmitter } = require('node:events');
const { kExchange } = require('./context.js');

const kRejection = Symbol.for('nodejs.rejection');

/** A table of handlers by event. What a handler rejects with goes to the one who asked. */
class Handlers extends EventEmitter {
  constructor() {
    super({ captureRejections: true });
  }

  [kRejection](error, _event, ctx) {
    handlerRejected(error, ctx);
  }
}

function handlerRejected(error, ctx) {
  const exchange = ctx[kExchange];
  if (exchange === undefined) ctx.unit._peer._handlerFailed(error, ctx);
  else exchange.failed(error);
}

/**
 * A service of the local peer. Made by `peer.role(name)`.
 */
class Role extends EventEmitter {
  constructor(name, peer, active) {
    super({ captureRejections: true });
    if (!name || typeof name !== 'string') throw new Error("Role's name should be a string");
    this._peer = peer;
    this.name = name;
    this._active = active !== false;
    this._msgHandler = new Handlers();
    this._reqHandler = new Handlers();
    this._readableHandler = new Handlers();
    this._writableHandler = new Handlers();
  }

  [kRejection](error, _event, ctx) {
    handlerRejected(error, ctx);
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
    const { _peer: peer, _msgHandler: handlers } = this;
    try {
      peer.emit('data', ctx, undefined);
      peer.emit('message', ctx, undefined);
      this.emit('data', ctx, undefined);
      this.emit('message', ctx, undefined);
      if (handlers.listenerCount(ctx.event) > 0) handlers.emit(ctx.event, ctx, undefined);
    } catch (error) {
      peer._handlerFailed(error, ctx);
    }
  }

  /** Hands a request to the handlers: those of the peer first, then the role's, then the event's. */
  _ask(kind, handlers, ctx, exchange) {
    const { _peer: peer } = this;
    const { answer } = exchange;
    try {
      peer.emit('data', ctx, answer);
      exchange.done || peer.emit(kind, ctx, answer);
      exchange.done || this.emit('data', ctx, answer);
      exchange.done || this.emit(kind, ctx, answer);
      exchange.done || handlers.emit(ctx.event, ctx, answer);
    } catch (error) {
      exchange.failed(error);
    }
  }
}

module.exports = { Role, handlerRejected, kRejection };
