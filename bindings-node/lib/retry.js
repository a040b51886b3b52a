'use strict';

const { NativeRetry } = require('./addon.js');
const { checkOptions, invalid, numberOf } = require('./options.js');

const RETRY = new Set(['attempts', 'backoff', 'longest', 'budget', 'hedge']);
const HEDGE = new Set(['after', 'quantile']);
/** The most that the addon counts to. */
const MOST_COUNTED = 2 ** 32 - 1;

/**
 * How requests are made again that may be handled more than once. The engine decides; a value has an account of how
 * many there may be.
 */
class Retry {
  constructor(options = {}) {
    if (typeof options !== 'object' || options === null) throw invalid('The options of Retry should be an object');
    checkOptions('Retry', options, RETRY);
    this._native = new NativeRetry({
      attempts: numberOf('attempts', options.attempts, { least: 1, most: MOST_COUNTED, whole: true }),
      backoff: numberOf('backoff', options.backoff),
      longest: numberOf('longest', options.longest),
      budget: numberOf('budget', options.budget, { most: 1 }),
      ...hedgeOf(options),
    });
  }

  /** Requests that were made again after a failure. */
  get retried() {
    return this._native.retried;
  }

  /** Requests that were made besides one that was slow. */
  get hedged() {
    return this._native.hedged;
  }

  /** Requests that were not made again because the account was empty. */
  get refused() {
    return this._native.refused;
  }
}

function hedgeOf({ hedge }) {
  if (hedge === undefined || hedge === null) return {};
  const { after, quantile } = hedge;
  if (typeof hedge !== 'object' || (after === undefined) === (quantile === undefined)) {
    throw invalid('The option "hedge" should be an object with either "after" or "quantile"');
  }
  checkOptions('hedge', hedge, HEDGE);
  return {
    hedgeAfter: numberOf('hedge.after', after),
    hedgeQuantile: numberOf('hedge.quantile', quantile, { most: 1 }),
  };
}

/**
 * The option `retry`, checked.
 * @returns {Retry | null | undefined} null when nothing is made again
 */
function retryOf({ retry }) {
  if (retry === undefined || retry === null) return undefined;
  if (retry === false) return null;
  if (retry instanceof Retry) return retry;
  throw invalid('The option "retry" should be a Retry, or false');
}

module.exports = { Retry, retryOf };
