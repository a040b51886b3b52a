'use strict';

// How the unit is chosen. The engine chooses, unless a function of the application does.

const { checkBalance } = require('./addon.js');
const { faultOf } = require('./fields.js');
const { messageOf, print } = require('./guard.js');
const { checkOptions, invalid, numberOf } = require('./options.js');

/** The errors of functions that choose. */
const failures = new WeakSet();

/** The most that the addon counts to. */
const MOST_COUNTED = 2 ** 32 - 1;

/**
 * The option `balance`, checked.
 * @returns {string | Function | undefined}
 */
function balanceOf({ balance }) {
  if (balance === undefined || balance === null) return undefined;
  if (typeof balance === 'function') return balance;
  const name = print(balance);
  const fault = checkBalance(name);
  if (fault !== null) throw faultOf(fault);
  return name;
}

const EJECTION = new Set(['failures', 'rejections', 'time', 'most']);

/**
 * The option `eject`, checked.
 * @returns {object | null | undefined} as the addon takes it; null when no unit is left out
 */
function ejectionOf({ eject }) {
  if (eject === undefined || eject === null) return undefined;
  if (typeof eject === 'boolean') return eject ? {} : null;
  if (typeof eject !== 'object') throw invalid('The option "eject" should be true, false or an object');
  checkOptions('eject', eject, EJECTION);
  const { rejections } = eject;
  if (rejections !== undefined && typeof rejections !== 'boolean') {
    throw invalid('The option "eject.rejections" should be true or false');
  }
  return {
    failures: numberOf('eject.failures', eject.failures, { least: 1, most: MOST_COUNTED, whole: true }),
    rejections,
    time: numberOf('eject.time', eject.time),
    most: numberOf('eject.most', eject.most),
  };
}

/**
 * The option `maxInFlight`, checked.
 * @returns {number | null | undefined} null for no bound
 */
function boundOf({ maxInFlight }) {
  if (maxInFlight === undefined || maxInFlight === null) return undefined;
  if (maxInFlight === Infinity) return null;
  return numberOf('maxInFlight', maxInFlight, { most: Number.MAX_SAFE_INTEGER, whole: true });
}

/**
 * The option `prefer`, checked.
 * @returns {string[] | undefined} names and values in turn
 */
function tagsOf({ prefer }) {
  if (prefer === undefined || prefer === null) return undefined;
  const tags = typeof prefer === 'object' && !(Symbol.iterator in prefer) ? Object.entries(prefer).flat() : [null];
  if (tags.every((part) => typeof part === 'string')) return tags;
  throw invalid('The option "prefer" should be an object with a string for each tag');
}

/**
 * The option `key`, checked.
 * @returns {Buffer | null}
 */
function keyOf({ key }) {
  if (key === undefined || key === null) return null;
  // A copy: whoever has given bytes may change them.
  if (typeof key === 'string' || key instanceof Uint8Array) return Buffer.from(key);
  throw invalid('The option "key" should be a string or bytes');
}

/**
 * A choice that the engine does not do by itself as the destination says: one of a single call, or of a function.
 */
class Choice {
  /**
   * @param {string | Function | undefined} balance undefined for that of the peer
   * @param {string[] | undefined} prefer
   * @param {Buffer | null} key in place of the balance
   */
  constructor(balance, prefer, key) {
    this.choose = key === null && typeof balance === 'function' ? balance : null;
    this.balance = key === null && typeof balance === 'string' ? balance : undefined;
    this.prefer = prefer;
    this.key = key;
  }

  /**
   * The unit that something goes to, of those in a list.
   * @param {number} destination its number
   * @param {import('./unit.js').Unit[]} units
   * @param {Uint32Array} numbers those of the units
   * @param {number | undefined} course the engine's number of its way, once it has been anywhere
   * @returns {import('./unit.js').Unit | undefined | null} undefined when there is none, null when the function wants none
   * @throws {RoletalkError} when the function fails, or returns something else
   */
  unitOf(host, destination, units, numbers, takesFields, course) {
    const { choose, balance, prefer, key } = this;
    const wanted = { destination, takesFields, balance, prefer };
    if (choose === null) return units[host.native.chooseBy(wanted, key, numbers, course, host.now())];
    const told = host.native.candidates(wanted, numbers, course, host.now());
    if (told.length === 0) return undefined;
    const candidates = [];
    for (let at = 0; at < told.length; at += 3) {
      candidates.push({ unit: units[told[at]], waiting: told[at + 1], answerTime: told[at + 2] });
    }
    return chosen(choose, candidates);
  }
}

/** What an application's function chooses; null for none. */
function chosen(choose, candidates) {
  // The function may do what it likes with what it is given.
  const units = candidates.map(({ unit }) => unit);
  let unit;
  try {
    unit = choose(candidates);
  } catch (error) {
    // It may be that of a call within it.
    throw failures.has(error) ? error : failed(`failed: ${messageOf(error)}`, { cause: error });
  }
  if (unit === undefined || unit === null) return null;
  if (units.includes(unit)) return unit;
  const hint = 'It should return the `unit` of one of its candidates, at once and no promise of it, or undefined for none.';
  throw failed('returned something that is no candidate', { hint });
}

function failed(text, options) {
  const error = invalid(`The function that chooses a unit ${text}`, options);
  failures.add(error);
  return error;
}

module.exports = { Choice, balanceOf, boundOf, ejectionOf, keyOf, tagsOf };
