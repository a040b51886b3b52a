'use strict';

// Copies of bytes that are needed for a while. Their memory is used again: to allocate it costs more than to copy.

/** Bytes of memory that is kept for later. */
const MOST = 8 << 20;
/** The least that is allocated, as a power of two. */
const LEAST = 6;

/** What is free, by the power of two of its size. */
const free = Array.from({ length: 33 }, () => []);
let kept = 0;

const powerOf = (length) => Math.max(LEAST, 32 - Math.clz32(length - 1));

/**
 * Copies bytes.
 * @returns {Buffer} their copy, and what there is behind it; to be given back with `release`
 */
function copyOf(bytes) {
  const power = powerOf(bytes.length);
  let store = free[power].pop();
  if (store === undefined) store = Buffer.allocUnsafeSlow(2 ** power);
  else kept -= store.length;
  bytes.copy(store);
  return store;
}

/** Nobody needs a copy any more. */
function release(store) {
  if (kept + store.length > MOST) return;
  kept += store.length;
  free[powerOf(store.length)].push(store);
}

module.exports = { copyOf, release };
