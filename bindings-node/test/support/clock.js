'use strict';

// A clock that stands still until a test moves it: for what happens after seconds, and what must not
// happen before. It replaces the timers and the monotonic time of its process, which the subject goes
// by. Sockets work as ever, and so does what a test waits for. It is the clock of the whole process, so
// that tests which use it cannot run side by side.

const { performance } = require('node:perf_hooks');
const { setImmediate: turn } = require('node:timers/promises');

const { setTimeout, clearTimeout, setInterval, clearInterval } = globalThis;
const realNow = performance.now.bind(performance);

/** What this process adds to the real time, once a clock of it was ahead or behind. */
let offset = 0;

/** What `setTimeout` and `setInterval` return while a clock stands still. */
class Timer {
  constructor(clock, callback, delay, args, repeats) {
    this.delay = Math.max(1, Number(delay) || 0);
    Object.assign(this, { clock, callback, args, repeats });
    this.refresh();
  }

  refresh() {
    this.at = performance.now() + this.delay;
    this.clock.timers.add(this);
    if (this.clock.closed) this.release();
    return this;
  }

  fire() {
    if (this.repeats) this.refresh();
    else this.close();
    this.callback(...this.args);
  }

  close() {
    this.clock.timers.delete(this);
    clearTimeout(this.real);
  }

  /** Time goes on. */
  release() {
    clearTimeout(this.real);
    this.real = setTimeout(() => this.fire(), this.at - performance.now()).unref();
  }

  ref() {
    return this;
  }

  unref() {
    return this;
  }

  hasRef() {
    return false;
  }
}

class Clock {
  constructor() {
    this.time = performance.now();
    this.closed = false;
    /** In the order in which they were set. */
    this.timers = new Set();
    performance.now = () => this.time;
    const make = (repeats) => (callback, delay, ...args) => new Timer(this, callback, delay, args, repeats);
    const clear = (real) => (timer) => (timer instanceof Timer ? timer.close() : real(timer));
    globalThis.setTimeout = make(false);
    globalThis.setInterval = make(true);
    globalThis.clearTimeout = clear(clearTimeout);
    globalThis.clearInterval = clear(clearInterval);
  }

  /** Lets time pass. What is due meanwhile is done at its time, with all that follows from it. */
  async advance(millis) {
    const end = this.time + millis;
    for (;;) {
      // Timers have turns of their own.
      await turn();
      const timer = this.next(end);
      if (timer === undefined) break;
      this.time = Math.max(this.time, timer.at);
      timer.fire();
    }
    this.time = end;
  }

  /** Lets time pass while nothing can be done, as when a handler blocks the loop. What is due is done late. */
  async jump(millis) {
    this.time += millis;
    await this.advance(0);
  }

  /** The timer that is due first, if any is until `end`. */
  next(end) {
    let first;
    for (const timer of this.timers) {
      if (timer.at <= end && (first === undefined || timer.at < first.at)) first = timer;
    }
    return first;
  }

  /** Lets time go on by itself, from where it is. */
  close() {
    this.closed = true;
    offset = this.time - realNow();
    performance.now = () => realNow() + offset;
    Object.assign(globalThis, { setTimeout, setInterval });
    for (const timer of this.timers) timer.release();
  }
}

module.exports = { Clock };
