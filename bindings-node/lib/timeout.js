'use strict';

/** The longest that can be told, in milliseconds. */
const LONGEST = 0xfffffffe;

/**
 * A request's time limit as the engine takes it.
 * @param {number | undefined} timeout milliseconds; nothing and 0 stand for the default
 * @returns {number} whole milliseconds, 0 for the default
 */
function toMillis(timeout) {
  const millis = Number(timeout ?? 0);
  if (millis < 0) return 1;
  return millis > 0 ? Math.min(Math.ceil(millis), LONGEST) : 0;
}

module.exports = { LONGEST, toMillis };
