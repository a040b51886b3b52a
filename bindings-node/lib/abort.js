'use strict';

/** What waits for each signal. One listener on a signal serves all: Node warns of more than ten. */
const waiting = new WeakMap();

class Waiting extends Set {
  constructor(signal) {
    super();
    this._signal = signal;
    this._fire = () => {
      const callbacks = [...this];
      this.clear();
      for (const callback of callbacks) callback();
    };
  }
}

/**
 * Calls a function, which does not throw, when a signal aborts.
 * @param {AbortSignal} signal one that is not aborted yet
 * @returns {() => void} has it called no more
 */
function onAbort(signal, callback) {
  let callbacks = waiting.get(signal);
  if (callbacks === undefined) waiting.set(signal, (callbacks = new Waiting(signal)));
  if (callbacks.size === 0) signal.addEventListener('abort', callbacks._fire, { once: true });
  callbacks.add(callback);
  return () => {
    if (callbacks.delete(callback) && callbacks.size === 0) signal.removeEventListener('abort', callbacks._fire);
  };
}

module.exports = { onAbort };
