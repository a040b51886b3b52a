'use strict';

// Requests at a rate that does not fall when answers are late, each of which is accounted for.

const { setTimeout: sleep } = require('node:timers/promises');

const { ROLE } = require('./stage');
const { take, timesHandled } = require('./traffic');

/** Milliseconds after which a request without an answer has failed. */
const TIMEOUT = 30_000;

/** What one player asks, from now on until `end`. */
class Steady {
  /** @param rate requests a second */
  constructor(player, rate) {
    this.player = player;
    this.rate = rate;
    this.numbers = [];
    /** Those without an outcome. */
    this.pending = new Set();
    /** Milliseconds until the answer, as seen from here: with the way to the asking process and back. */
    this.times = [];
    this.failed = new Set();
    this.errors = {};
    this.began = performance.now();
    this.running = this.run();
    this.running.catch(() => {});
  }

  async run() {
    while (!this.over) {
      const due = ((performance.now() - this.began) * this.rate) / 1000;
      while (this.numbers.length < due) {
        const asked = this.request();
        this.pending.add(asked);
        asked.finally(() => this.pending.delete(asked));
      }
      await sleep(1);
    }
    this.seconds = (performance.now() - this.began) / 1000;
  }

  async request() {
    const number = take(1);
    this.numbers.push(number);
    const data = { type: 'string', value: `${number} ` };
    const began = performance.now();
    try {
      const { value } = await this.player.ask('request', { role: ROLE, event: 'count', data, timeout: TIMEOUT });
      if (parseInt(value, 10) !== number) throw new Error(`answered with ${value}`);
      this.times.push(performance.now() - began);
    } catch (error) {
      this.failed.add(number);
      const kind = error.kind ?? error.message;
      this.errors[kind] = (this.errors[kind] ?? 0) + 1;
    }
  }

  /** Waits for the outcome of all that is asked by now. */
  async settled() {
    await Promise.all(this.pending);
  }

  /** Lets it finish. Result: how many were handled twice, and how many were answered but not handled. */
  async end(responders) {
    this.over = true;
    await this.running;
    await this.settled();
    // What was observed before this answer has been read by now.
    await Promise.all(responders.map((one) => (one.dead ? one.closed : one.ask('units'))));
    const times = this.numbers.map((number) => timesHandled(number, responders));
    return {
      twice: times.filter((count) => count > 1).length,
      unhandled: this.numbers.filter((number, i) => times[i] === 0 && !this.failed.has(number)).length,
    };
  }
}

module.exports = { Steady };
