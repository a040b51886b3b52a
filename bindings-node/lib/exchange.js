'use strict';

const { RoletalkError, cancelledFor, failureOf } = require('./errors.js');
const { check, encodeFields, failureEntries, headerEntries } = require('./fields.js');
const { messageOf, print } = require('./guard.js');
const { NONE } = require('./protocol.js');
const { apart } = require('./scope.js');

const { then } = Promise.prototype;

/** What most requests have nothing of: there are many. */
class Rest {
  constructor(detached) {
    this.detached = detached;
    /** Why nobody waits for the answer any more, if so: the engine's number, and the error once somebody asks. */
    this.cause = null;
    this.cancelled = null;
    this.controller = null;
    /** Whether all promises of the handlers are settled; known of what is cancelled. */
    this.settled = false;
    /** The calls that its handlers wait for. */
    this.calls = null;
    /** When the requester gives up, by the wall clock. */
    this.deadline = undefined;
    /** Headers of the answer, by name, and the same as they are sent. */
    this.headers = null;
    this.records = null;
  }
}

/**
 * One request on its way through the handlers, until it is answered.
 *
 * A handler's answer is not sent at once: handlers of the same level still run, and those that
 * wait for `ctx.next()` go on one after the other, the last one first, each on its own turn of the
 * loop. What `ctx.response` and `ctx.error` hold in the end is sent.
 *
 * It is also what requests that its handlers make inherit from, see `Call`.
 */
class Exchange {
  /**
   * @param {import('./fields.js').Received | null} fields what came with the request
   * @param {boolean} detached whether its handlers go on although nobody waits for them
   */
  constructor(host, ctx, number, generation, fields, detached) {
    this.host = host;
    this.ctx = ctx;
    this.unit = ctx.unit;
    this.number = number;
    this.generation = generation;
    this.fields = fields;
    /** Whether a handler has answered. */
    this.done = false;
    this.sent = false;
    this.resolvers = null;
    /** What a handler failed with and the context does not take. */
    this.failure = undefined;
    /** The promise of the event's handler, or those of several. */
    this.promises = null;
    /** What most requests have nothing of. */
    this.rest = detached ? new Rest(true) : null;
    this.answer = (error, response) => {
      // This throws where middleware has made the context its own way: then the handler has failed.
      ctx.response = response;
      ctx.error = error;
      this.finish();
    };
    host.exchanges[number] = this;
  }

  /** Whether what a handler returns may be its answer. */
  get takesOutcome() {
    return true;
  }

  finish() {
    if (this.done) return;
    this.done = true;
    this.host.answers.push(this);
    this.host.schedule();
  }

  next() {
    return new Promise((resolve) => {
      this.resolvers ??= [];
      this.resolvers.push(resolve);
    });
  }

  // What comes of the handlers.

  /** A handler has returned its answer. */
  returned(value) {
    if (this.done) return;
    try {
      this.answer(null, value);
    } catch (error) {
      this.failed(error);
    }
  }

  /** A handler runs until this promise is settled. */
  awaits(promise) {
    if (this.promises === null) this.promises = promise;
    else this.promises = [this.promises, promise].flat();
  }

  /** A handler threw, or its answer cannot be sent. */
  failed(error) {
    // What says how it failed is an answer, and what ends since nobody waits for it is no failure.
    const expected = this.isCancelled || (!this.done && failureOf(error) !== null);
    this.fail(error);
    if (!expected) this.host.listener._handlerFailed(error, this.ctx);
  }

  fail(error) {
    if (this.done) return;
    const { ctx } = this;
    // What is falsy would be an answer.
    const reason = error || new Error(print(error));
    try {
      ctx.response = undefined;
      ctx.error = reason;
    } catch {
      this.failure = reason;
    }
    this.finish();
  }

  // The answer.

  /** Lets those who wait go on, then sends the answer. */
  commit() {
    if (this.resolvers !== null && this.resolvers.length > 0) {
      setImmediate(() => this.resume());
    } else {
      this.send();
    }
  }

  resume() {
    const resolve = this.resolvers.pop();
    if (resolve === undefined) return this.send();
    resolve();
    // A turn for what the handler does next, then the next handler.
    setImmediate(() => setImmediate(() => this.resume()));
  }

  send() {
    if (this.sent) return;
    this.sent = true;
    const { exchanges } = this.host;
    if (exchanges[this.number] === this) exchanges[this.number] = undefined;
    if (this.isCancelled) return this.host.forget(this);
    if (this.failure !== undefined) return this.refuse(this.failure);
    try {
      const { error, response } = this.ctx;
      if (error) return this.refuse(error);
      this.accept(response);
    } catch (failure) {
      this.refuse(failure);
      this.failed(failure);
    }
  }

  accept(response) {
    this.host.respond(this, response, this.answerFields);
  }

  refuse(error) {
    this.reject(messageOf(error), error);
  }

  reject(text, error) {
    const { host, answerFields: headers } = this;
    const failure = failureOf(error);
    if (failure === null) return host.reject(this, text, headers);
    try {
      const records = encodeFields(failureEntries(failure));
      host.reject(this, text, headers === null ? records : Buffer.concat([headers, records]));
    } catch (fault) {
      // The requester is to have the text at least.
      host.reject(this, text, headers);
      host.listener._handlerFailed(fault, this.ctx);
    }
  }

  /** The headers of the answer, as records. */
  get answerFields() {
    return this.rest === null ? null : this.rest.records;
  }

  setHeader(name, value) {
    if (this.sent) throw new RoletalkError('INVALID_ARGUMENT', 'The answer is sent already');
    this.rest ??= new Rest(false);
    const { rest } = this;
    const headers = new Map(rest.headers);
    headers.set(String(name), value);
    const records = encodeFields(headerEntries(headers));
    check(records);
    rest.headers = headers;
    rest.records = records;
  }

  // Who waits for it.

  /** When the requester gives up, in milliseconds since 1970; undefined for never. */
  get deadline() {
    const left = this.remaining();
    if (left === Infinity) return undefined;
    this.rest ??= new Rest(false);
    this.rest.deadline ??= Math.round(Date.now() + left);
    return this.rest.deadline;
  }

  /** Milliseconds until then, Infinity when it does not say. */
  remaining() {
    if (this.fields === null) return Infinity;
    // To the microsecond: the sum of two clocks has digits that mean nothing.
    return Math.max(0, Math.round((this.fields.due - this.host.now()) * 1e3) / 1e3);
  }

  /** Aborts when nobody waits for the answer any more. */
  get signal() {
    this.rest ??= new Rest(false);
    const { rest } = this;
    if (rest.controller === null) {
      rest.controller = new AbortController();
      if (this.isCancelled) rest.controller.abort(this.cancelled);
    }
    this.giveUp();
    return rest.controller.signal;
  }

  /** Why nobody waits for the answer any more; null while somebody does. */
  get cancelled() {
    if (!this.isCancelled) return null;
    this.rest.cancelled ??= cancelledFor(this.rest.cause);
    return this.rest.cancelled;
  }

  get isCancelled() {
    return this.rest !== null && this.rest.cause !== null;
  }

  /** Whether what its handlers ask for has no more time than it, and is given up with it. */
  get binds() {
    return !this.sent && !this.rest?.detached;
  }

  /** Has a call given up with it. */
  add(call) {
    this.rest ??= new Rest(false);
    this.rest.calls ??= new Set();
    this.rest.calls.add(call);
  }

  /** A call is over. */
  remove(call) {
    this.rest?.calls?.delete(call);
  }

  /** Nobody waits for the answer any more. */
  cancel(reason) {
    if (this.isCancelled || !this.binds) return;
    this.rest ??= new Rest(false);
    this.rest.cause = reason;
    this.tell();
    this.settle();
  }

  /** Tells those who would go on for nothing. */
  tell() {
    const { controller, calls } = this.rest;
    if (controller !== null) apart(controller.abort, controller, this.cancelled);
    if (calls !== null) for (const call of [...calls]) call.giveUp(this.cancelled);
  }

  /** Finds out when its handlers have ended, as far as promises tell that. */
  settle() {
    const { promises: known } = this;
    if (known === null) return this.settled();
    const promises = [known].flat();
    let left = promises.length;
    const settled = () => --left === 0 && this.settled();
    for (const promise of promises) {
      try {
        Reflect.apply(then, promise, [settled, settled]);
      } catch {
        // It may be one of a class that cannot be waited for.
        settled();
      }
    }
  }

  settled() {
    this.rest.settled = true;
    this.giveUp();
  }

  /**
   * Whoever has the signal may not call back any more once it has aborted. Where there is a promise, the handler runs
   * until that is settled.
   */
  giveUp() {
    if (this.rest.settled && this.rest.controller !== null) this.fail(this.cancelled);
  }
}

/** A unit's request for a stream. */
class StreamExchange extends Exchange {
  constructor(host, ctx, number, generation, fields, detached) {
    super(host, ctx, number, generation, fields, detached);
    /** Set before the handlers are called. */
    this.stream = null;
  }

  /** A stream is accepted before it is used, which the handler does until it returns. */
  get takesOutcome() {
    return false;
  }

  accept(response) {
    const { stream } = this;
    if (this.unit._number === NONE) return void stream.destroy(new RoletalkError('CONNECTION_LOST', 'Socket closed'));
    // The handler has given it up before: the remote peer is told instead of left waiting.
    if (stream.destroyed) return this.refuse(stream.errored ?? new Error('The stream was closed'));
    stream._channel.accept(this, response, this.answerFields);
    process.nextTick(() => stream._channel.accepted());
  }

  refuse(error) {
    // As in the original, with the name of the error; what says more of itself than that needs none.
    this.reject(failureOf(error) === null ? print(error) : messageOf(error), error);
    this.stream.destroy();
  }

  tell() {
    this.stream.destroy(this.cancelled);
    super.tell();
  }
}

module.exports = { Exchange, StreamExchange };
