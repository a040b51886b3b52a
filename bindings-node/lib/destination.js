'use strict';

const { EventEmitter } = require('node:events');
const { RoletalkError } = require('./errors.js');
const { Survey } = require('./survey.js');

/** Units in the order of their arrival, and the engine's choice among them. */
class Units extends Set {
  constructor(core) {
    super();
    this._core = core;
    this._policy = core.native.addPolicy();
    this._list = [];
    this._numbers = new Uint32Array(0);
  }

  add(unit) {
    super.add(unit);
    this._changed();
    return this;
  }

  delete(unit) {
    const deleted = super.delete(unit);
    this._changed();
    return deleted;
  }

  _changed() {
    this._list = [...this];
    this._numbers = Uint32Array.from(this._list, (unit) => unit._number);
  }

  /** The unit that what is sent next goes to. */
  next() {
    const { _core: core, _list: list } = this;
    // One candidate is no choice.
    if (list.length < 2) return list[0];
    return list[core.native.choose(this._policy, this._numbers, core.now())];
  }
}

/**
 * A role that units offer. Made by `peer.destination(name)`.
 */
class Destination extends EventEmitter {
  constructor(name, peer) {
    super();
    this._name = name;
    this._peer = peer;
    this._ready = false;
    this._set = new Units(peer._core);
  }

  get units() {
    return [...this._set];
  }

  get name() {
    return this._name;
  }

  get peer() {
    return this._peer;
  }

  get ready() {
    return this._ready;
  }

  /**
   * Waits until a unit serves the role.
   * @param {{signal?: AbortSignal}} [options]
   */
  whenReady({ signal } = {}) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (this._ready) return resolve(this);
      const finish = () => {
        this.removeListener('open', finish);
        signal?.removeEventListener('abort', finish);
        if (signal?.aborted) reject(signal.reason);
        else resolve(this);
      };
      this.once('open', finish);
      signal?.addEventListener('abort', finish);
    });
  }

  send(event, data, callback) {
    const headers = this._headers(event);
    const wanted = headers.unit;
    const unit = wanted ? (this._set.has(wanted) ? wanted : undefined) : this._set.next();
    if (unit) unit.send(headers, data, callback);
    return unit;
  }

  broadcast(event, data) {
    const headers = this._headers(event);
    for (const unit of this._set) unit.send(headers, data);
  }

  request(event, data, callback) {
    const headers = this._headers(event);
    return this._pick(headers).request(headers, data, callback);
  }

  /** Asks every unit. Without a callback the answers can be iterated over. */
  survey(event, data, callback) {
    const headers = this._headers(event);
    if (!callback) return new Survey([...this._set], headers, data);
    const { size } = this._set;
    for (const unit of this._set) unit.request(headers, data, callback);
    return size;
  }

  Readable(event, data, options) {
    const headers = this._headers(event);
    return this._pick(headers).Readable(headers, data, options);
  }

  Writable(event, data, options) {
    const headers = this._headers(event);
    return this._pick(headers).Writable(headers, data, options);
  }

  _headers(event) {
    if (typeof event !== 'object' || event === null) return { role: this._name, event: event ?? '' };
    return { ...event, event: event.event ?? '', role: this._name };
  }

  /** The unit that is asked for, which need not serve the role, or the next one. */
  _pick({ unit: wanted }) {
    const unit = wanted
      ? this._peer._units.get(wanted.id) === wanted
        ? wanted
        : undefined
      : this._set.next();
    if (!unit) {
      const [text, hint] = this._peer._core.native.noUnit(this._name);
      throw new RoletalkError('NO_UNIT', text, { hint });
    }
    return unit;
  }

  _addUnit(unit) {
    if (this._set.has(unit)) return;
    this._set.add(unit);
    const wasReady = this._ready;
    this._ready = true;
    if (!wasReady) this.emit('open');
    this.emit('unit', unit);
  }

  _deleteUnit(unit) {
    if (!this._set.delete(unit) || this._set.size > 0) return;
    this._ready = false;
    this.emit('close');
  }
}

module.exports = { Destination };
