'use strict';

const { constants } = require('node:os');
const { performance } = require('node:perf_hooks');

const SIGNALS = ['SIGINT', 'SIGTERM'];
/**
 * A SIGINT so soon after another one, in milliseconds, is the same Ctrl-C: the terminal has sent it to the process and
 * to `npm run`, which passes it on.
 */
const ECHO = 500;

/** What stops each of those that serve until a signal. One listener for all: Node warns of more than ten. */
const serving = new Set();
/** The signal that all are stopping for, and since when. */
let first;
let since = 0;

function onSignal(signal) {
  if (first !== undefined) {
    const echo = signal === 'SIGINT' && first === 'SIGINT' && performance.now() - since < ECHO;
    // The second one is from somebody who does not want to wait.
    if (!echo) process.exit(128 + constants.signals[signal]);
    return;
  }
  first = signal;
  since = performance.now();
  for (const stop of [...serving]) stop();
}

/**
 * Calls a function at the first SIGINT or SIGTERM; at the second, the process ends.
 * @returns {() => void} ends both
 */
function onceSignalled(stop) {
  if (serving.size === 0) for (const signal of SIGNALS) process.on(signal, onSignal);
  serving.add(stop);
  return () => {
    serving.delete(stop);
    if (serving.size > 0) return;
    first = undefined;
    for (const signal of SIGNALS) process.off(signal, onSignal);
  };
}

module.exports = { onceSignalled };
