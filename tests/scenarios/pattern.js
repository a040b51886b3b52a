'use strict';

const { createHash } = require('crypto');

/** What the players stream: each byte is its position modulo a prime. */
const PERIOD = Buffer.from(Array.from({ length: 251 }, (_, i) => i));

/** The bytes of a stream from a position on. */
function pattern(at, length) {
  const shift = at % PERIOD.length;
  return Buffer.alloc(length + shift, PERIOD).subarray(shift);
}

/** The digest of a whole stream. */
function sha256(size) {
  return createHash('sha256').update(pattern(0, size)).digest('hex');
}

module.exports = { pattern, sha256 };
