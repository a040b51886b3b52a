'use strict';

const { EventEmitter } = require('node:events');
const { NONE } = require('./protocol.js');
const { call, checkCallback } = require('./guard.js');
const { toMillis } = require('./timeout.js');
const { PeerReadable, PeerWritable } = require('./streams.js');

/**
 * A connected remote peer.
 */
class Unit extends EventEmitter {
  constructor({ peer, number, description }) {
    super();
    this.id = description.id;
    this._peer = peer;
    this._number = number;
    this._sockets = [];
    /** What fails once the unit has closed. */
    this._lost = [];
    /** Messages that could not be queued and whose senders were not told. */
    this._unsent = 0;
    this._static_tags = new Map(Object.entries(description.tags));
    const { os, runtime, time, uptime, protocol } = description.meta;
    this._metaData = { os, runtime, time, uptime, protocol };
    this._describe(description);
  }

  /** What the unit says of itself when it connects once more. */
  _describe({ name, friendly, roles }) {
    this._name = name;
    this._friendly = friendly;
    this._roles = roles;
  }

  getRoles() {
    return this._roles;
  }

  getTags() {
    return Object.fromEntries(this._static_tags);
  }

  get name() {
    return this._name;
  }

  get meta() {
    return this._metaData;
  }

  /** Counters of this unit; undefined when it is closed. */
  stats() {
    if (this._number === NONE) return undefined;
    const { _core: host } = this._peer;
    const stats = host.native.unitStats(this._number, host.now());
    return stats === null ? undefined : JSON.parse(stats);
  }

  close() {
    if (this._number === NONE) return;
    const { _core: host } = this._peer;
    host.native.closeUnit(this._number, host.now());
    host.schedule();
  }

  send({ role = '', event = '' }, data, callback) {
    checkCallback(callback);
    const written = callback ? (...args) => call(callback, ...args) : undefined;
    this._peer._core.send(this, role, event, data, written);
  }

  request({ role = '', event = '', timeout, signal }, data, callback) {
    checkCallback(callback);
    const { _core: host } = this._peer;
    const millis = toMillis(timeout);
    if (callback) {
      start(host, this, role, event, data, millis, signal, (error, ctx) => call(callback, error, ctx));
      return undefined;
    }
    return new Promise((resolve, reject) => {
      start(host, this, role, event, data, millis, signal, (error, ctx) => {
        if (error !== null) reject(error);
        else resolve(ctx);
      });
    });
  }

  Readable(headers, data, options) {
    return new PeerReadable(options, this, headers, data);
  }

  Writable(headers, data, options) {
    return new PeerWritable(options, this, headers, data);
  }
}

function start(host, unit, role, event, data, millis, signal, callback) {
  if (signal === undefined || signal === null) {
    host.request(unit, role, event, data, millis, callback);
    return;
  }
  signal.throwIfAborted();
  let onAbort = null;
  const slot = host.request(unit, role, event, data, millis, (error, ctx) => {
    signal.removeEventListener('abort', onAbort);
    callback(error, ctx);
  });
  onAbort = () => {
    host.abandon(slot);
    callback(signal.reason, { unit, data: null });
  };
  signal.addEventListener('abort', onAbort, { once: true });
}

module.exports = { Unit };
