'use strict';

// Peers that begin to drain in one turn, such as a service and a client of it when their program ends, go by one timer,
// and those whose time is over are told in one turn. When one of them closed a little earlier, the other would take
// that for a loss of its connection, and requests would fail that nobody looks at any more.

const { performance } = require('node:perf_hooks');

/** How often it is looked whether peers are done, in milliseconds. */
const POLL = 20;

/** Those that begin in this turn. */
let beginning = null;

class Drain {
  constructor() {
    /** When the last of them has begun. */
    this.since = 0;
    this.waiting = [];
    process.nextTick(() => {
      beginning = null;
      this.wait();
    });
  }

  add(core, limit) {
    this.since = performance.now();
    return new Promise((resolve) => this.waiting.push({ core, limit, resolve }));
  }

  wait() {
    setTimeout(() => this.look(), POLL);
  }

  look() {
    // One time for all of them.
    const now = performance.now();
    this.waiting = this.waiting.filter(({ core, limit, resolve }) => {
      const goesOn = core.native.busy(now) > 0 && now < this.since + limit;
      if (!goesOn) resolve();
      return goesOn;
    });
    if (this.waiting.length > 0) this.wait();
  }
}

/**
 * Waits until a peer has nothing under way.
 * @param {import('./host.js').Host} core
 * @param {number} limit milliseconds after which it waits no longer
 */
function drained(core, limit) {
  beginning ??= new Drain();
  return beginning.add(core, limit);
}

module.exports = { drained };
