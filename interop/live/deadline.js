'use strict';

// Every wait of the suite is for an event; the limit is only there to fail.

/** Fails with what was waited for when the promise takes longer than `limit` milliseconds. */
async function within(limit, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    const error = new Error(`waited ${limit / 1000} s for ${what}`);
    timer = setTimeout(() => reject(Object.assign(error, { late: true })), limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

module.exports = { within };
