'use strict';

const { EventEmitter } = require('node:events');
const { NONE } = require('./protocol.js');
const { onAbort } = require('./abort.js');
const { bound, checkCallback, ignore } = require('./guard.js');
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
    this._peer._core.send(this, role, event, data, callback ? bound(callback) : undefined);
  }

  request({ role = '', event = '', timeout, signal }, data, callback) {
    checkCallback(callback);
    const { _peer: peer } = this;
    const { _core: host } = peer;
    const millis = toMillis(timeout);
    if (callback) {
      start(host, this, role, event, data, millis, signal, bound(callback));
      return undefined;
    }
    const promise = new Promise((resolve, reject) => {
      start(host, this, role, event, data, millis, signal, (error, ctx) => {
        if (error === null) return resolve(ctx);
        // What ends because the application closes its peer need not be looked at.
        if (peer._closed) promise.catch(ignore);
        reject(error);
      });
    });
    return promise;
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
  let forget = null;
  const slot = host.request(unit, role, event, data, millis, (error, ctx) => {
    forget();
    callback(error, ctx);
  });
  forget = onAbort(signal, () => {
    host.abandon(slot);
    callback(signal.reason, { unit, data: null });
  });
}

module.exports = { Unit };
