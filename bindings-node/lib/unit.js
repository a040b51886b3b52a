'use strict';

const { EventEmitter } = require('node:events');
const { NONE } = require('./protocol.js');
const { Call, fieldsOf, parentOf } = require('./call.js');
const { bound, checkCallback, ignore } = require('./guard.js');
const { toMillis } = require('./timeout.js');
const { current, offers } = require('./scope.js');
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
    /** Whether it counts as one that offers roles. */
    this._counted = false;
    this._static_tags = new Map(Object.entries(description.tags));
    const { os, runtime, time, uptime, protocol } = description.meta;
    this._metaData = { os, runtime, time, uptime, protocol };
    this._describe(description);
  }

  /** What the unit says of itself when it connects once more. */
  _describe({ name, friendly, roles }) {
    this._name = name;
    this._friendly = friendly;
    this._offers(roles);
  }

  /** It offers these roles now. */
  _offers(roles) {
    this._roles = roles;
    this._count(roles.length > 0);
  }

  _count(offering) {
    if (offering !== this._counted) offers(offering);
    this._counted = offering;
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

  send(options, data, callback) {
    const { role = '', event = '' } = options;
    checkCallback(callback);
    let fields = null;
    if (options.plain !== true || current() !== undefined) {
      options.signal?.throwIfAborted();
      fields = fieldsOf(options, parentOf(options));
    }
    this._peer._core.send(this, role, event, data, fields, callback ? bound(callback) : undefined);
  }

  request(options, data, callback) {
    checkCallback(callback);
    const { _peer: peer } = this;
    if (callback) {
      begin(this, options, data, bound(callback));
      return undefined;
    }
    let call;
    const promise = new Promise((resolve, reject) => {
      call = begin(this, options, data, (error, ctx) => {
        if (error === null) return resolve(ctx);
        // What ends because the application closes its peer need not be looked at, nor what ends because nobody waits
        // for it: a handler may be about to look.
        if (peer._closed || call?.inherited) promise.catch(ignore);
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

/** Sends a request. Returns its call, if it may be given up. */
function begin(unit, options, data, callback) {
  const { _core: host } = unit._peer;
  if (options.plain === true && current() === undefined) {
    host.request(unit, options.role, options.event, data, 0, null, callback);
    return undefined;
  }
  const parent = parentOf(options);
  if (parent?.binds || (options.signal ?? null) !== null) return ask(unit, options, data, callback);
  const { role = '', event = '', timeout } = options;
  host.request(unit, role, event, data, toMillis(timeout), fieldsOf(options, parent), callback);
  return undefined;
}

/** Sends a request that may be given up. */
function ask(unit, options, data, callback) {
  const { role = '', event = '', timeout, signal } = options;
  const { _core: host } = unit._peer;
  const parent = parentOf(options);
  const fields = fieldsOf(options, parent);
  signal?.throwIfAborted();
  const call = new Call(signal, parent, (error, ctx = { unit, data: null }) => callback(error, ctx));
  const limit = call.limit(timeout);
  if (limit === undefined) return call;
  const send = call.bounded ? host.requestWithin : host.request;
  const slot = Reflect.apply(send, host, [unit, role, event, data, limit, fields, call.finish]);
  call.begun(() => host.abandon(slot, call.finish));
  return call;
}

module.exports = { Unit, ask };
