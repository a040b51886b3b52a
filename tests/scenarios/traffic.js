'use strict';

// Requests that go on whatever happens, each of which is accounted for: it has one outcome where it was
// asked, and was not handled twice.

const assert = require('assert/strict');

const { ROLE } = require('./stage');

/** Requests of a wave, and how many of them at a time. */
const WAVE = 250;
const IN_FLIGHT = 100;
/**
 * Milliseconds after which a request that has no answer has failed: one that was sent on a connection that is
 * lost is not told so while its unit has another one.
 */
const TIMEOUT = 30_000;
/** The least that a traffic asks. */
const LEAST = 500;

/** How many numbers were taken: each is asked once. */
let numbers = 0;

/** The first of so many numbers that nobody else has. */
function take(count) {
  numbers += count;
  return numbers - count;
}

/** How often these have handled the request, as far as their observations have been read. */
function timesHandled(number, responders) {
  return responders.reduce((sum, { counted }) => sum + (counted.get(number) ?? 0), 0);
}

/** What one player asks, from now on until `isEnough` or `end`. */
class Traffic {
  constructor(player, { size = 0, inFlight = IN_FLIGHT } = {}) {
    this.player = player;
    this.options = { role: ROLE, count: WAVE, size, inFlight, timeout: TIMEOUT };
    this.asked = [];
    this.failed = new Set();
    this.errors = {};
    this.running = this.run();
    this.running.catch(() => {});
  }

  async run() {
    while (!this.over || this.asked.length < LEAST) {
      const from = take(WAVE);
      const wave = Array.from({ length: WAVE }, (_, i) => from + i);
      this.asked.push(...wave);
      let failed;
      try {
        failed = await this.wave(from);
      } catch (error) {
        if (!this.player.ending) throw error;
        // Nobody knows any more what has come of them.
        for (const number of wave) this.failed.add(number);
        return;
      }
      // Without a pause it would only fail until the connection is there again.
      if (failed === WAVE) await this.player.until('units', { role: ROLE }, ({ length }) => length > 0);
    }
  }

  async wave(from) {
    const { answered, failed, wrong, errors } = await this.player.ask('flow', { ...this.options, from });
    assert.deepEqual(wrong, [], 'answered with something else, or twice');
    assert.equal(answered + failed.length, WAVE, 'requests without an outcome');
    assert.equal(new Set(failed).size, failed.length, 'failed twice');
    for (const number of failed) this.failed.add(number);
    for (const [kind, count] of Object.entries(errors)) {
      this.errors[kind] = (this.errors[kind] ?? 0) + count;
    }
    return failed.length;
  }

  /** Asks no more than it has to: while heartbeats are waited for, the machine has other things to do. */
  isEnough() {
    this.over = true;
  }

  /** Lets it finish, and compares with what these have handled, those that have died among them. */
  async end(responders) {
    this.over = true;
    await this.running;
    // What was observed before this answer has been read by now.
    await Promise.all(responders.map((one) => (one.dead ? one.closed : one.ask('units'))));
    for (const number of this.asked) {
      const times = timesHandled(number, responders);
      const [outcome, right] = this.failed.has(number) ? ['failed', times <= 1] : ['answered', times === 1];
      assert.ok(right, `${this.player.name}'s request ${number} ${outcome}, and was handled ${times} times`);
    }
  }

  /** Fails when a request has failed so far. */
  assertNoneFailed() {
    assert.deepEqual(this.errors, {}, `${this.player.name}'s requests failed`);
  }
}

module.exports = { Traffic, take, timesHandled };
