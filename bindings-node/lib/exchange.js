'use strict';

const { messageOf, print } = require('./guard.js');

/**
 * One request on its way through the handlers, until it is answered.
 *
 * A handler's answer is not sent at once: handlers of the same level still run, and those that
 * wait for `ctx.next()` go on one after the other, the last one first, each on its own turn of the
 * loop. What `ctx.response` and `ctx.error` hold in the end is sent.
 */
class Exchange {
  constructor(host, ctx, number, generation) {
    this.host = host;
    this.ctx = ctx;
    this.number = number;
    this.generation = generation;
    /** Whether a handler has answered. */
    this.done = false;
    this.sent = false;
    this.resolvers = null;
    /** What a handler failed with and the context does not take. */
    this.failure = undefined;
    this.answer = (error, response) => {
      // This throws where middleware has made the context its own way: then the handler has failed.
      ctx.response = response;
      ctx.error = error;
      this.finish();
    };
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
    this.host.respond(this, response);
  }

  refuse(error) {
    this.host.reject(this, messageOf(error));
  }

  /** A handler threw, or its answer cannot be sent. */
  failed(error) {
    const { ctx } = this;
    if (!this.done) {
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
    this.host.listener._handlerFailed(error, ctx);
  }
}

/** A unit's request for a stream. */
class StreamExchange extends Exchange {
  constructor(host, ctx, number, generation, stream) {
    super(host, ctx, number, generation);
    this.stream = stream;
  }

  accept(response) {
    const { stream } = this;
    // The handler has given it up before: the remote peer is told instead of left waiting.
    if (stream.destroyed) return this.refuse(stream.errored ?? new Error('The stream was closed'));
    stream._channel.accept(this, response);
    process.nextTick(() => stream._channel.accepted());
  }

  refuse(error) {
    this.host.reject(this, print(error));
    this.stream.destroy();
  }
}

module.exports = { Exchange, StreamExchange };
