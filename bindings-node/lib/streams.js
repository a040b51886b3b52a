'use strict';

const { Readable, Writable } = require('node:stream');
const { Call, fieldsOf, parentOf } = require('./call.js');
const { EMPTY, encode, kindOf } = require('./data.js');
const { call, ignore, messageOf, print } = require('./guard.js');
const { CODES, RoletalkError, peerClosed } = require('./errors.js');
const { check } = require('./fields.js');
const { NONE, StreamState } = require('./protocol.js');
const { newScope } = require('./scope.js');

/** The payload of a request as bytes. */
function payload(value) {
  const kind = kindOf(value);
  const data = encode(kind, value);
  return { kind, data: typeof data === 'string' ? Buffer.from(data) : data };
}

/**
 * What the two kinds of streams have in common: the engine's stream behind them.
 *
 * A stream is opened by this peer, which asks a unit, or accepted by it, when a handler answers.
 */
class Channel {
  /**
   * @param {Readable | Writable} stream
   * @param {'readable' | 'writable'} kind
   * @param {import('./unit.js').Unit | null} unit null when one is to be waited for
   * @param {import('node:async_hooks').AsyncResource | undefined} scope what it calls its listeners in: the handler's, or else that of this call
   * @param {import('./destination.js').Destination | null} destination what has chosen the unit, and may choose another
   */
  constructor(stream, kind, unit, scope = newScope(), destination = null) {
    this.stream = stream;
    this.kind = kind;
    this.unit = unit;
    this.destination = destination;
    this.host = (unit ?? destination)._peer._core;
    this.number = NONE;
    this.slot = null;
    /** While it is being opened. */
    this.call = null;
    this.scope = scope;
  }

  /** Calls a function that may call the user's listeners. What they throw is theirs. */
  within(fn) {
    this.scope.runInAsyncScope(call, undefined, fn);
  }

  /** Whether this peer writes. */
  get writable() {
    return this.kind === 'writable';
  }

  /** Asks a unit for the stream. */
  open(options, value = {}) {
    const { role = '', event = '', timeout, signal } = options;
    const { host, unit, destination } = this;
    const { kind: type, data } = payload(value);
    const parent = parentOf(options);
    const fields = fieldsOf(options, parent);
    if (fields !== null) check(fields);
    const call = new Call(signal, parent, (error, ctx) => this.within(() => this.opened(error, ctx)));
    if (signal?.aborted) return void process.nextTick(call.finish, signal.reason);
    if (unit === null && destination._peer._closed) return void process.nextTick(call.finish, peerClosed());
    const limit = call.limit(timeout);
    if (limit === undefined) return;
    this.call = call;
    const slot = host.takeSlot(unit, call.finish);
    this.slot = slot;
    host.schedule();
    slot.sent = host.time;
    if (destination !== null) {
      slot.keep(destination, options, type, data, fields, limit, unit === null);
      if (slot.destination !== null) slot.channel = this;
    }
    if (unit === null) {
      host.setOut(slot, null, null);
    } else {
      const { writable } = this;
      const settings = { role, event, kind: type, timeout: limit, bound: destination?._bound, writable };
      const number = host.ask(slot, unit, settings, data, fields);
      if (number !== null) this.attach(number);
    }
    call.begun();
  }

  opened(error, ctx) {
    // It was given up; closing it tells the other side.
    if (ctx === undefined) return void this.stream.destroy(error);
    this.slot = null;
    if (error === null) {
      this.ready(ctx);
      return;
    }
    // As in the original, only what came as text becomes an error on the way.
    const reason = ctx.type === undefined || ctx.type === 'string' ? error : error.message;
    const message = `Unit rejected request for ${this.kind} stream: ${reason}`;
    const { code, hint, failure } = error;
    this.stream.destroy(new RoletalkError(code, message, { hint, failure }));
  }

  ready(ctx) {
    try {
      this.stream.emit('ready', ctx);
    } finally {
      this.stream._wake();
    }
  }

  /** Accepts the stream that a unit has asked for. */
  accept({ number, generation }, value, fields) {
    const { host } = this;
    const { kind, data } = payload(value);
    this.attach(host.native.acceptStream(number, generation, kind, data, fields, host.now()));
    host.schedule();
  }

  /** It was accepted in the turn before. */
  accepted() {
    const { unit } = this;
    this.within(() => this.ready({ unit }));
  }

  attach(number) {
    this.number = number;
    this.host.streams[number] = this.stream;
  }

  /** The unit that it was asked of has not begun, and it is asked of another one. */
  detach() {
    const { host, number } = this;
    if (number === NONE) return;
    this.number = NONE;
    host.streams[number] = undefined;
    host.native.closeStream(number, '', host.now());
  }

  /** Whether the remote peer has accepted the stream, and this one has not closed it. */
  get isOpen() {
    return this.number !== NONE && this.slot === null;
  }

  /** The error of the last call to the engine. */
  lastError() {
    const { native } = this.host;
    return this.error(CODES[native.lastErrorKind], native.lastError);
  }

  /** The error that the engine's stream broke with. */
  error(code, text) {
    const lost = code === 'CONNECTION_LOST' && this.kind === 'readable';
    return new RoletalkError(code, lost ? 'Underlying socket closed' : text);
  }

  close(reason) {
    const { host, number, slot } = this;
    this.number = NONE;
    // Nobody waits for the answer any more.
    if (slot !== null) {
      this.slot = null;
      this.call.end();
      host.abandon(slot, this.call.finish);
    }
    if (number === NONE) return;
    host.streams[number] = undefined;
    host.native.closeStream(number, reason, host.now());
    host.schedule();
  }
}

/**
 * The reading end of a stream.
 *
 * Data is taken from the engine when somebody reads, so that a reader that pauses makes the remote
 * writer wait.
 */
class PeerReadable extends Readable {
  constructor(options, unit, headers, data, scope, destination) {
    super(options);
    this._wanted = false;
    this._channel = new Channel(this, 'readable', unit, scope, destination);
    // Applications that were written for roletalk 1.1.3 do not listen for errors: there, a stream that breaks
    // off does not end the process.
    this.on('error', ignore);
    // Also for those that are not destroyed by themselves: the writer waits for it.
    this.once('end', () => this._channel.close(''));
    if (headers !== undefined) this._channel.open(headers, data);
  }

  _read() {
    this._wanted = true;
    this._wake();
  }

  /** There may be something to read. */
  _wake() {
    const { _channel: channel } = this;
    const { host } = channel;
    if (!channel.isOpen) return;
    while (this._wanted) {
      const piece = host.native.readStream(channel.number, host.now());
      if (piece === StreamState.PENDING) break;
      if (typeof piece === 'number') {
        this._wanted = false;
        if (piece === StreamState.ENDED) this.push(null);
        else this.destroy(channel.lastError());
        break;
      }
      this._wanted = this.push(piece);
      if (channel.number === NONE) break;
    }
    // What was read may have to be granted again.
    host.schedule();
  }

  /** The stream broke off, whether anybody reads at the moment or not. */
  _broken(code, text) {
    if (this._channel.isOpen) this.destroy(this._channel.error(code, text));
  }

  _destroy(error, callback) {
    this._channel.close(error ? messageOf(error) : '');
    callback(error);
  }
}

/**
 * The writing end of a stream. A write is done when the engine has taken it, the stream is finished
 * when all of it was handed to the operating system.
 */
class PeerWritable extends Writable {
  constructor(options, unit, headers, data, scope, destination) {
    super(options);
    /** What is being written, and how far it went. */
    this._chunk = EMPTY;
    this._offset = 0;
    this._callback = null;
    this._finishing = null;
    /** Whether the end is queued. */
    this._ended = false;
    this._channel = new Channel(this, 'writable', unit, scope, destination);
    this.on('error', ignore);
    if (headers !== undefined) this._channel.open(headers, data);
  }

  _write(chunk, encoding, callback) {
    this._chunk = Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk, encoding);
    this._offset = 0;
    this._callback = callback;
    this._wake();
  }

  _writev(chunks, callback) {
    const buffers = chunks.map(({ chunk, encoding }) =>
      Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk, encoding),
    );
    this._write(Buffer.concat(buffers), undefined, callback);
  }

  _final(callback) {
    this._finishing = callback;
    this._wake();
  }

  /** There may be room to write. */
  _wake() {
    const { _channel: channel } = this;
    const { host } = channel;
    if (!channel.isOpen) return;
    if (this._callback !== null) this._continue(channel, host);
    else if (this._finishing !== null && !this._ended) this._finish(channel, host);
    host.schedule();
  }

  _continue(channel, host) {
    const at = host.native.writeStream(channel.number, this._chunk, this._offset, host.now());
    if (at >= 0 && at < this._chunk.length) {
      this._offset = at;
      return;
    }
    const { _callback: callback } = this;
    this._chunk = EMPTY;
    this._callback = null;
    callback(at < 0 ? channel.lastError() : null);
  }

  _finish(channel, host) {
    const conn = host.native.finishStream(channel.number, host.now());
    if (conn < 0) return this._finished(channel.lastError());
    this._ended = true;
    host.conns[conn]._onceWritten((error) => channel.within(() => this._finished(error)));
  }

  _finished(error) {
    const { _finishing: callback } = this;
    this._finishing = null;
    callback?.(error);
  }

  _broken(code, text) {
    // Behind the end, only the socket knows whether everything went out.
    if (!this._channel.isOpen || (this._ended && code === 'CONNECTION_LOST')) return;
    this.destroy(this._channel.error(code, text));
  }

  _destroy(error, callback) {
    this._channel.close(error ? print(error) : '');
    const pending = this._callback ?? this._finishing;
    this._callback = null;
    this._finishing = null;
    callback(error);
    pending?.(error ?? new RoletalkError('STREAM_CLOSED', 'The stream was destroyed'));
  }
}

module.exports = { PeerReadable, PeerWritable };
