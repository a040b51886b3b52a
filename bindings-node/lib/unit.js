'use strict';

const { EventEmitter } = require('node:events');
const { NONE } = require('./protocol.js');
const { Call, fieldsOf, parentOf } = require('./call.js');
const { peerClosed } = require('./errors.js');
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
  _describe({ name, friendly, roles, identity }) {
    this._name = name;
    this._friendly = friendly;
    this._identity = identity;
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

  /** What the unit has shown, on the connection that was opened last, rather than said. */
  get identity() {
    return this._identity;
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

  send(options, data, callback, destination = 0) {
    const { role = '', event = '' } = options;
    checkCallback(callback);
    const fields = fieldsOfMessage(options);
    this._peer._core.send(this, role, event, data, fields, callback ? bound(callback) : undefined, destination);
  }

  /**
   * Sends a message that was meant for this unit before any other could be asked.
   * @returns {Error | null} the error when this unit has gone: then nobody is called back
   */
  _sendAtOnce(options, data, callback) {
    const { role, event } = options;
    const fields = fieldsOfMessage(options);
    return this._peer._core.sendAtOnce(this, role, event, data, fields, callback ? bound(callback) : undefined);
  }

  request(options, data, callback) {
    return request(this, options, data, callback, null);
  }

  Readable(headers, data, options) {
    return new PeerReadable(options, this, headers, data);
  }

  Writable(headers, data, options) {
    return new PeerWritable(options, this, headers, data);
  }
}

/** What goes with a message, as records; null for nothing. */
function fieldsOfMessage(options) {
  if (options.plain === true && current() === undefined) return null;
  options.signal?.throwIfAborted();
  return fieldsOf(options, parentOf(options));
}

/**
 * Asks a unit.
 * @param {Unit | null} unit null when one is to be waited for
 * @param {import('./destination.js').Destination | null} destination what has chosen the unit, and may choose another
 * @param {import('./retry.js').Retry | null} [retry] how it is made again
 */
function request(unit, options, data, callback, destination, retry = null) {
  checkCallback(callback);
  const { _peer: peer } = unit ?? destination;
  if (callback) {
    begin(peer, unit, options, data, bound(callback), destination, retry);
    return undefined;
  }
  let call;
  const promise = new Promise((resolve, reject) => {
    const told = (error, ctx) => {
      if (error === null) return resolve(ctx);
      // What ends because the application closes its peer need not be looked at, nor what ends because nobody waits
      // for it: a handler may be about to look.
      if (peer._closed || call?.inherited) promise.catch(ignore);
      reject(error);
    };
    call = begin(peer, unit, options, data, told, destination, retry);
  });
  return promise;
}

/** Sends a request. Returns its call, if it may be given up. */
function begin(peer, unit, options, data, callback, destination, retry) {
  const { _core: host } = peer;
  // Nobody comes to a peer that is closed.
  if (unit === null && peer._closed) return void process.nextTick(callback, peerClosed(), { unit: undefined, data: null });
  if (retry !== null) return ask(unit, options, data, callback, destination, retry);
  if (options.plain === true && current() === undefined) {
    host.request(unit, options, data, 0, null, callback, destination);
    return undefined;
  }
  const parent = parentOf(options);
  if (parent?.binds || (options.signal ?? null) !== null) return ask(unit, options, data, callback, destination);
  host.request(unit, options, data, toMillis(options.timeout), fieldsOf(options, parent), callback, destination);
  return undefined;
}

/** Sends a request that may be given up. */
function ask(unit, options, data, callback, destination = null, retry = null) {
  const { timeout, signal } = options;
  const { _core: host } = (unit ?? destination)._peer;
  const parent = parentOf(options);
  const fields = fieldsOf(options, parent);
  signal?.throwIfAborted();
  let asked = unit ?? undefined;
  const call = new Call(signal, parent, (error, ctx = { unit: asked, data: null }) => callback(error, ctx));
  const limit = call.limit(timeout);
  if (limit === undefined) return call;
  const send = call.bounded && retry === null ? host.requestWithin : host.request;
  const slot = Reflect.apply(send, host, [unit, options, data, limit, fields, call.finish, destination, retry]);
  call.begun(() => {
    asked = host.abandon(slot, call.finish) ?? asked;
  });
  return call;
}

module.exports = { Unit, ask, request };
