'use strict';

const assert = require('node:assert/strict');

const { Attack } = require('./attack');
const { CASES } = require('./cases');
const { Victim } = require('./victim');

/** How often all cases are run again for the memory to be looked at. */
const PASSES = 2;
/** Bytes that a process may grow by meanwhile: less than 2 KiB for each case, 8 KiB with a heap of JavaScript. */
const GROWTH = { own: 1 << 20, collected: 4 << 20 };

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
    const before = await Promise.all(victims.map((victim) => victim.resident()));
    for (let pass = 0; pass < PASSES; pass++) await this.attackWithAll();
    const after = await Promise.all(victims.map((victim) => victim.resident()));
    const bound = victims[0].can('collect') ? GROWTH.collected : GROWTH.own;
    const growth = after.map((bytes, index) => bytes - before[index]);
    assert.ok(Math.max(...growth) < bound, `grown by ${growth.join(', ')} bytes; ${bound} are allowed`);
    return growth;
  }

  async end() {
    for (const victim of this.started.values()) await victim.end();
  }
}

module.exports = { Victims };
