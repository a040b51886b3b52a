'use strict';

// Not those of `globalThis`: a test may have the time of its process stand still.
const { clearInterval, setInterval } = require('node:timers');

/** The longest that a timer of Node's can have, in milliseconds. */
const LONGEST = 0x7fffffff;

/**
 * Keeps the process alive while a peer has something to do that no socket stands for: addresses that it dials,
 * and those who wait for a unit.
 */
class Hold {
  #count = 0;
  #referenced = true;
  #timer = null;

  /** One thing more to do. */
  take() {
    this.#count++;
    this.#settle();
  }

  /** One thing less. */
  release() {
    this.#count--;
    this.#settle();
  }

  ref() {
    this.#referenced = true;
    this.#settle();
  }

  unref() {
    this.#referenced = false;
    this.#settle();
  }

  #settle() {
    const wanted = this.#referenced && this.#count > 0;
    if (wanted === (this.#timer !== null)) return;
    if (wanted) {
      this.#timer = setInterval(() => {}, LONGEST);
    } else {
      clearInterval(this.#timer);
      this.#timer = null;
    }
  }
}

module.exports = { Hold };
