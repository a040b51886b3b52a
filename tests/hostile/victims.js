'use strict';

const assert = require('node:assert/strict');

const { Attack } = require('./attack');
const { CASES } = require('./cases');
const { Victim } = require('./victim');

/** How often all cases are run again for the memory to be looked at. */
const PASSES = 3;
/** Bytes by which a process may grow in every pass: about 1 KiB for each case. */
const GROWTH = { resident: 512 << 10, used: 0 };
/** The same for one with a heap that is collected: it grows in steps, and has compiled code in it. */
const GROWTH_OF_HEAP = { resident: 1 << 20, used: 512 << 10 };

/** The victims of one language: processes that are shared by the cases that need the same of them. */
class Victims {
  constructor(implementation) {
    this.implementation = implementation;
    this.started = new Map();
    /** The cases that the present processes have gone through. */
    this.survived = new Set();
  }

  async attack(one) {
    const { keyed, setup } = one;
    const needs = { keyed, destination: setup?.victim === 'destination' ? setup.role : undefined };
    const key = JSON.stringify(needs);
    let victim = this.started.get(key);
    try {
      if (!victim) this.started.set(key, (victim = await Victim.start(this.implementation, needs)));
      await new Attack(victim, one).run();
      this.survived.add(one);
    } catch (error) {
      // What has failed is no victim for other cases.
      this.started.delete(key);
      this.survived.clear();
      await victim?.end();
      error.message += `\nThe victim said: ${victim?.player.stderr || 'nothing'}`;
      throw error;
    }
  }

  async attackWithAll() {
    for (const one of CASES) await this.attack(one);
  }

  /**
   * All cases again and again leave the processes no larger than they were. What is lost with a case is
   * lost in every pass; a heap that takes another step, or code that is compiled, is not. So the pass in
   * which a process grows least counts.
   */
  async stayAsTheyAre() {
    if (this.survived.size < CASES.length) await this.attackWithAll();
    const victims = [...this.started.values()];
    const measure = () => Promise.all(victims.map((victim) => victim.memory()));
    const measured = [await measure()];
    for (let pass = 0; pass < PASSES; pass++) {
      await this.attackWithAll();
      measured.push(await measure());
    }
    const growths = (what, index) =>
      measured.slice(1).map((after, pass) => after[index][what] - measured[pass][index][what]);
    const bounds = victims[0].can('collect') ? GROWTH_OF_HEAP : GROWTH;
    const report = {};
    for (const [what, bound] of Object.entries(bounds)) {
      report[what] = victims.map((_, index) => growths(what, index));
      for (const bytes of report[what]) {
        const text = `${what} memory grew by ${bytes.join(', ')} bytes in ${PASSES} passes; ${bound} are allowed`;
        assert.ok(Math.min(...bytes) <= bound, text);
      }
    }
    return report;
  }

  /** The peers close, after all that they have gone through. */
  async close() {
    if (this.started.size === 0) await this.attack(CASES[0]);
    for (const victim of this.started.values()) await victim.close();
  }

  async end() {
    for (const victim of this.started.values()) await victim.end();
  }
}

module.exports = { Victims };
