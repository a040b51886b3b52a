'use strict';

// Every wait of the suite is for an event; the limit is only there to fail.

/**
 * Fails with what was waited for when the promise takes longer than `limit` milliseconds. Who does not
 * look at the result need not handle its failure.
 */
function within(limit, what, promise) {
  const result = race(limit, what, promise);
  result.catch(() => {});
  return result;
}

async function race(limit, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${limit / 1000} s for ${what}`)), limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

module.exports = { within };
