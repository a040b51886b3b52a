'use strict';

const { RoletalkError } = require('./errors.js');
const { ask } = require('./unit.js');

/**
 * The answers of all units, in the order in which they come: `for await (const answer of survey)`.
 * An answer is `{ unit, ctx }`, or `{ unit, error }` from a unit that rejected or did not answer.
 * Whoever leaves the loop before the end gives up what is not answered yet.
 *
 * In arithmetic and comparisons it counts as the number of units that were asked.
 */
class Survey {
  constructor(units, headers, data) {
    /** How many units were asked. */
    this.size = units.length;
    this._answers = [];
    this._waiting = null;
    this._left = units.length;
    this._calls = units.map((unit) =>
      ask(unit, headers, data, (error, ctx) => {
        this._answers.push(error ? { unit, error } : { unit, ctx });
        this._waiting?.();
      }),
    );
  }

  valueOf() {
    return this.size;
  }

  async *[Symbol.asyncIterator]() {
    try {
      while (this._left > 0) {
        if (this._answers.length === 0) {
          await new Promise((resolve) => {
            this._waiting = resolve;
          });
          this._waiting = null;
          continue;
        }
        this._left--;
        yield this._answers.shift();
      }
    } finally {
      for (const call of this._calls) call.giveUp(new RoletalkError('CANCELLED', 'The survey was given up'));
    }
  }
}

module.exports = { Survey };
