'use strict';

const { EventEmitter } = require('node:events');
const { Socket } = require('node:net');
const { getSystemErrorName } = require('node:util');
const { EMPTY } = require('./data.js');
const { log } = require('./log.js');
const { RoletalkError } = require('./errors.js');
const { bound, call, emit } = require('./guard.js');
const { adopt, restore, stir } = require('./loop-socket.js');
const { NONE } = require('./protocol.js');

/** What the socket is given at once, so that it can be seen how writing goes on. */
const SLICE = 512 * 1024;

/** The most that a ping may carry, and the reason of a close, in bytes. */
const MAX_PING = 125;
const MAX_REASON = 123;

/** The close code that stands for none. */
const NO_CODE = 1005;

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;

/**
 * One connection to a unit. It has the parts of a `ws` WebSocket that make sense for one that carries
 * roletalk: `readyState`, `close`, `terminate`, `ping`, and the events `close` (code, reason),
 * `error`, `ping` and `pong`.
 */
class Connection extends EventEmitter {
  constructor(host, socket, number, url) {
    super();
    this.host = host;
    this.number = number;
    this.url = url;
    this.readyState = OPEN;
    this.protocol = '';
    this.extensions = '';
    this._socket = socket;
    /** For the log: a socket that is closed no longer knows. */
    this._remote = log.enabled ? { remoteAddress: socket.remoteAddress, remotePort: socket.remotePort } : undefined;
    this._code = 1006;
    this._reason = '';
    this._timer = null;
    this._unit = null;
    /** What the other end has shown; null until it is a unit's. */
    this.identity = null;
    this._address = undefined;
    /** Callbacks of messages that are queued, and that are being written. */
    this._queued = [];
    this._writing = [];
    /** The piece that is being written: its length, and what the socket has not been given. */
    this._length = 0;
    this._rest = null;
    /** Whether the connection is to end behind what is being written. */
    this._last = false;
    this._patience = 0;
    /** What the socket has failed with. */
    this._error = null;
    /** Callbacks of the socket for what was found to be written before. */
    this._early = 0;
    /** Whether what is written may be looked at after the write: by TLS, or by somebody's own stream. */
    this._keepsMemory = !(socket instanceof Socket) || Boolean(socket.encrypted);
    this._onWritten = (error) => this._written(error);
    socket.setTimeout(0);
    socket.setNoDelay(true);
    /** Whether the addon reads and writes, see `loop-socket.js`. */
    this._native = adopt(this);
    if (!this._native) this._listen();
    socket.on('end', () => this._ended());
    socket.on('error', (error) => this._failed(error));
    socket.on('close', () => this._closed());
  }

  /** Bytes that wait in the socket. */
  get bufferedAmount() {
    const { writableLength } = this._socket;
    return this._native ? writableLength + this.host.native.pending(this.number) : writableLength;
  }

  /**
   * Closes this connection.
   * @param {number} [code] a WebSocket close code; without one, the other side sees 1005
   * @param {string} [reason] at most 123 bytes
   */
  close(code, reason = '') {
    if (this.readyState !== OPEN) return;
    if (code !== undefined) checkClose(code, reason);
    this.readyState = CLOSING;
    const { host } = this;
    host.native.closeConnection(this.number, code ?? NO_CODE, String(reason), host.now());
    host.schedule();
  }

  /** Destroys the socket without a word. */
  terminate() {
    if (this.readyState === CLOSED) return;
    this.readyState = CLOSING;
    // At once, so that nothing more is sent on it.
    this._gone();
    this._socket.destroy();
  }

  /**
   * Sends a ping; the event `pong` tells of the answer. Masked is what has to be.
   * @param {string | number | Buffer | ArrayBufferView | ArrayBuffer} [data] at most 125 bytes
   */
  ping(data, mask, callback) {
    const done = [data, mask, callback].find((argument) => typeof argument === 'function');
    if (this.readyState !== OPEN) {
      const state = this.readyState === CLOSING ? 'CLOSING' : 'CLOSED';
      done?.(new Error(`WebSocket is not open: readyState ${this.readyState} (${state})`));
      return;
    }
    const payload = typeof data === 'function' ? EMPTY : toBytes(data);
    if (payload.length > MAX_PING) throw new RangeError(`The data size must not be greater than ${MAX_PING} bytes`);
    const { host } = this;
    host.native.ping(this.number, payload, host.now());
    host.schedule();
    if (done) this._onceWritten(bound(done));
  }

  _listen() {
    this._socket.on('data', (chunk) => this._feed(chunk));
  }

  _feed(chunk) {
    if (this.number === NONE) return;
    if (this.host.busy) {
      // User code in the middle of a batch has made the socket emit.
      process.nextTick(() => this._feed(chunk));
      return;
    }
    this.host.feed(this, chunk);
  }

  /** The addon has something to read or can go on writing. */
  _ready() {
    if (this.number === NONE) return;
    stir(this._socket);
    this.host.ready(this);
  }

  /** The addon writes what was queued. */
  _taken() {
    if (this._native) stir(this._socket);
    if (this._queued.length > 0) this._writing = this._takeCallbacks();
  }

  /** It has written that. */
  _sent() {
    for (const callback of this._writing.splice(0)) call(callback, null, this);
  }

  /** The connection has come to its end, or has failed with an error of the system's. */
  _lost(errno) {
    this.number = NONE;
    if (errno !== 0) {
      this._socket.destroy(systemError(-errno));
    } else if (this._native) {
      this._giveBack();
      // Node's socket finds the end itself.
      this._socket.resume();
    } else {
      this._socket.destroy();
    }
  }

  /** Node's socket goes on. */
  _giveBack() {
    if (!this._native) return;
    this._native = false;
    restore(this._socket);
  }

  _onceWritten(callback) {
    this._queued.push(callback);
  }

  /** Writes a piece. Returns whether the socket is done with its memory. */
  _write(piece) {
    this._taken();
    this._length = piece.length;
    this._rest = piece;
    return this._continue();
  }

  /**
   * Writes what is left of a piece, slice by slice, until the socket cannot take more at once.
   * Returns whether the socket is done with all of it.
   */
  _continue() {
    const socket = this._socket;
    while (this._rest !== null) {
      const rest = this._rest;
      this._rest = rest.length > SLICE ? rest.subarray(SLICE) : null;
      const last = this._rest === null;
      socket.write(last ? rest : rest.subarray(0, SLICE), this._onWritten);
      if (socket.writableLength > 0 || socket.destroyed) return false;
      this._early++;
    }
    this._done();
    return true;
  }

  /** The socket has written a slice. */
  _written(error) {
    if (this._early > 0) {
      this._early--;
      return;
    }
    if (error || this._socket.destroyed) return;
    if (this._rest === null) {
      this._done();
      return;
    }
    // A connection over which something large goes out slowly is alive.
    if (this.number !== NONE) this.host.native.writing(this.number, this.host.now());
    this._continue();
  }

  /** The piece is out. */
  _done() {
    const length = this._length;
    this._length = 0;
    this._sent();
    if (this._last) this._finish();
    else if (this.number !== NONE) this.host.written(this, length);
  }

  /** The engine is through with this connection. */
  _closing(code, reason) {
    this._code = code;
    this._reason = reason;
    const sockets = this._unit?._sockets ?? [];
    const at = sockets.indexOf(this);
    if (at >= 0) sockets.splice(at, 1);
    if (this.readyState === OPEN) this.readyState = CLOSING;
  }

  /**
   * Ends the socket behind what is being written.
   * @param {number} patience the milliseconds that the other side has to close, too; 0 when it is not waited for
   */
  _end(patience) {
    this.number = NONE;
    if (this._socket.destroyed) return;
    this._giveBack();
    this._last = true;
    this._patience = patience;
    if (this._length === 0) this._finish();
    // A stranger that does not read.
    else if (patience === 0) this._socket.destroy();
  }

  _finish() {
    const socket = this._socket;
    // What still comes is of no interest, but must be read for the end to be seen.
    socket.resume();
    const callbacks = this._takeCallbacks();
    const done = (error) => {
      for (const callback of callbacks) call(callback, error ? closed() : null, this);
    };
    socket.end(done);
    if (this._patience === 0) {
      socket.destroySoon();
      return;
    }
    this._timer = setTimeout(() => socket.destroy(), this._patience);
    this._timer.unref();
  }

  _ended() {
    this._gone();
    this._socket.end();
  }

  _failed(error) {
    this._error = error;
    if (this.listenerCount('error') > 0) emit(this, 'error', error);
  }

  _closed() {
    clearTimeout(this._timer);
    this._gone();
    this.readyState = CLOSED;
    for (const callback of this._takeCallbacks()) call(callback, closed());
    emit(this, 'close', this._code, this._reason);
    this.host.listener._gone(this);
  }

  _takeCallbacks() {
    return this._writing.splice(0).concat(this._queued.splice(0));
  }

  /** Tells the engine that the socket is no more. */
  _gone() {
    if (this.number === NONE) return;
    const { host } = this;
    const { code = '', message = '' } = this._error ?? {};
    host.native.closed(this.number, String(code), String(message), host.now());
    host.schedule();
  }
}

/** Throws what `ws` throws for close codes and reasons that cannot be sent. */
function checkClose(code, reason) {
  const known = code >= 1000 && code <= 1014 && ![1004, NO_CODE, 1006].includes(code);
  const free = code >= 3000 && code <= 4999;
  if (typeof code !== 'number' || !(known || free)) {
    throw new TypeError('First argument must be a valid error code number');
  }
  if (Buffer.byteLength(String(reason)) > MAX_REASON) {
    throw new RangeError(`The message must not be greater than ${MAX_REASON} bytes`);
  }
}

/** What `ws` takes as the data of a ping. */
function toBytes(data) {
  if (!data && data !== 0) return EMPTY;
  if (Buffer.isBuffer(data)) return data;
  if (ArrayBuffer.isView(data)) return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return Buffer.from(typeof data === 'number' ? String(data) : data);
}

/** An error as Node's sockets have them. */
function systemError(errno) {
  const code = getSystemErrorName(errno);
  const syscall = code === 'EPIPE' ? 'write' : 'read';
  return Object.assign(new Error(`${syscall} ${code}`), { errno, code, syscall });
}

function closed() {
  return new RoletalkError('CONNECTION_LOST', 'Socket closed');
}

for (const [name, value] of Object.entries({ CONNECTING, OPEN, CLOSING, CLOSED })) {
  Object.defineProperty(Connection, name, { value, enumerable: true });
  Object.defineProperty(Connection.prototype, name, { value, enumerable: true });
}

module.exports = { Connection };
