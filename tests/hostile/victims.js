'use strict';

const assert = require('node:assert/strict');

const { Attack } = require('./attack');
const { CASES } = require('./cases');
const { Victim } = require('./victim');

/** How often all cases are run again for the memory to be looked at. */
const PASSES = 2;
/** Bytes by which a process may grow meanwhile: about 1 KiB for each case. */
const GROWTH = { resident: 1 << 20, used: 0 };
/** The same for one with a heap that is collected: it grows in steps, and has compiled code in it. */
const GROWTH_OF_HEAP = { resident: 4 << 20, used: 2 << 20 };

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

  /** All cases once more leave the processes no larger than they were. */
  async stayAsTheyAre() {
    if (this.survived.size < CASES.length) await this.attackWithAll();
    const victims = [...this.started.values()];
    const measure = () => Promise.all(victims.map((victim) => victim.memory()));
    const before = await measure();
    for (let pass = 0; pass < PASSES; pass++) await this.attackWithAll();
    const after = await measure();
    const growth = (what) => after.map((one, index) => one[what] - before[index][what]);
    const bounds = victims[0].can('collect') ? GROWTH_OF_HEAP : GROWTH;
    for (const [what, bound] of Object.entries(bounds)) {
      const bytes = growth(what);
      assert.ok(Math.max(...bytes) <= bound, `${what} memory grew by ${bytes.join(', ')} bytes; ${bound} are allowed`);
    }
    return { resident: growth('resident'), used: growth('used') };
  }

  /** The peers close, with all that they have gone through behind them. */
  async close() {
    if (this.started.size === 0) await this.attack(CASES[0]);
    for (const victim of this.started.values()) await victim.close();
  }

  async end() {
    for (const victim of this.started.values()) await victim.end();
  }
}

module.exports = { Victims };
